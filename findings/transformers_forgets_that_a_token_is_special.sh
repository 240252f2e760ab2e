#!/usr/bin/env bash
# Guess: what special_tokens_map.json lists under additional_special_tokens is special, as it was for as long as there has been
#        that file: it is found in the text as it is written, and left out where special tokens are skipped.
# Found: with transformers 5.24.0 not if added_tokens.json, which was written beside it, has the token too. Which of its tokens are
#        special is looked up under the new name, extra_special_tokens, before the old one is read from that file. The token is
#        then an ordinary word: of an uncased tokenizer it is found in lower case ("[ent]") and stays in a text without special
#        tokens. Listed in tokenizer_config.json instead, it is special.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0

"$work/venv/bin/python" - "$work" 2>"$work/stderr" <<'PYTHON' || { cat "$work/stderr"; echo "this is no longer so"; exit 1; }
import json, pathlib, sys
import transformers

lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]
found = {}
for file in ("special_tokens_map.json", "tokenizer_config.json"):
    folder = pathlib.Path(sys.argv[1], file.removesuffix(".json"))
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "added_tokens.json").write_text(json.dumps({"[ENT]": len(lines)}))
    (folder / file).write_text(json.dumps({"additional_special_tokens": ["[ENT]"]}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("[ENT] cat")["input_ids"]
    found[file] = (tokenizer.decode(ids, skip_special_tokens=True), len(lines) in tokenizer("[ent]")["input_ids"])
    print(f"listed in {file}: without special tokens {found[file][0]!r}; found as [ent]: {found[file][1]}")
assert found["special_tokens_map.json"] == ("[ent] cat", True)
assert found["tokenizer_config.json"] == ("cat", False)
PYTHON
