#!/usr/bin/env bash
# Guess: a token that is added to a vocabulary gets an id of its own; and if added_tokens.json names one, that one.
# Found: with transformers 5.24.0 it gets the number of different tokens in the vocabulary, whatever added_tokens.json says. Of a
#        vocab.txt in which a line stands twice that number is the id of the last line: two tokens have one id, and so one
#        embedding, and the text that comes back has the one where the other was. Nothing is said.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0

"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || { cat "$work/stderr"; echo "this is no longer so"; exit 1; }
import json, pathlib, sys
import transformers

lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "cat", "dog", "fox"]
folder = pathlib.Path(sys.argv[1], "model")
folder.mkdir()
(folder / "vocab.txt").write_text("\n".join(lines) + "\n")
(folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
(folder / "added_tokens.json").write_text(json.dumps({"zebra": len(lines)}))
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
ids = tokenizer("fox zebra", add_special_tokens=False)["input_ids"]
print(f"fox and zebra, for which added_tokens.json says {len(lines)}: {ids}, and back: {tokenizer.decode(ids)}")
assert ids == [8, 8] and tokenizer.decode(ids) == "zebra zebra"
PYTHON
