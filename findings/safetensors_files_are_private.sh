#!/usr/bin/env bash
# Guess: `safetensors` writes a file as every other writer does, so that with the usual umask of 022 others may read it, as
#        they may read the config.json beside it.
# Found: with safetensors 0.8.0 (Python) the file has mode 600 and with 0.7.0 it had 644. 0.8 writes a temporary file, whose
#        mode is 600 whatever the umask, and gives it its name when it is whole. A teacher who saves a model into a folder
#        that a class may read hands out a directory of which the class can read all but the weights.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mode() {
    python3 -m venv "$work/$1"
    "$work/$1/bin/pip" install --quiet --disable-pip-version-check "safetensors==$1" numpy==2.2.6
    "$work/$1/bin/python" - "$work/$1" <<'PYTHON'
import json, pathlib, sys
import numpy, safetensors.numpy

folder = pathlib.Path(sys.argv[1])
(folder / "config.json").write_text(json.dumps({}))
safetensors.numpy.save_file({"weight": numpy.zeros(4, numpy.float32)}, folder / "model.safetensors")
print(*(f"{(folder / name).stat().st_mode & 0o777:o}" for name in ("config.json", "model.safetensors")))
PYTHON
}

declare -A modes
for version in 0.7.0 0.8.0; do
    found=$(mode $version)
    echo "safetensors $version: config.json and model.safetensors have the modes $found"
    modes[$version]=$found
done
[ "${modes[0.7.0]}" = "644 644" ] && [ "${modes[0.8.0]}" = "644 600" ] || {
    echo "this is no longer so"
    exit 1
}
