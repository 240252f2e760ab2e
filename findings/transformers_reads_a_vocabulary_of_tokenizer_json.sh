#!/usr/bin/env bash
# Guess: `AutoTokenizer` reads a tokenizer.json as it stands: how text is normalized, and how long a word may be, stands in it.
# Found: with transformers 5.24.0 not in the directory of a BERT. Where the class is BertTokenizer,
#        as `"model_type": "bert"` alone makes it, only vocabulary, added tokens and post-processor are taken from the file. The
#        normalizer is built anew from tokenizer_config.json, in lower case where that says nothing, and max_input_chars_per_word
#        is 100. A cased tokenizer.json without settings beside it is read in lower case, and no word with a capital is known;
#        one without a config.json beside it is read as it stands.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0

"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || { cat "$work/stderr"; echo "this is no longer so"; exit 1; }
import json, pathlib, sys
import tokenizers, transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Paris", "paris", "Copenhagen", "copenhagen"]
vocabulary = {word: nth for nth, word in enumerate(words)}
cased = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=6))
cased.normalizer = normalizers.BertNormalizer(lowercase=False)
cased.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
cased.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
cased.add_special_tokens(words[:5])

found = {}
for name, config in {"tokenizer.json alone": None, "beside a config.json of a BERT": {"model_type": "bert"}}.items():
    folder = pathlib.Path(sys.argv[1], name)
    folder.mkdir()
    cased.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found[name] = [words[id] for id in tokenizer("Paris Copenhagen")["input_ids"][1:-1]]
    print(f"{name}: {type(tokenizer).__name__} reads Paris Copenhagen as {found[name]}")
assert found["tokenizer.json alone"] == ["Paris", "[UNK]"]
assert found["beside a config.json of a BERT"] == ["paris", "copenhagen"]
PYTHON
