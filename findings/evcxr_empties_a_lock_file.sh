#!/usr/bin/env bash
# Guess: a Cargo.lock in the folder where evcxr compiles (EVCXR_TMPDIR) keeps a notebook to the versions in it, as in any crate.
# Found: evcxr_jupyter 0.22.0 takes the packages of `:dep` into its manifest when the cell with it is compiled, and cargo removes
#        from the lock file what the manifest does not name. So each cell before that, and what evcxr compiles when it starts,
#        empties the lock file, and `:dep` gets the newest versions there are, without a word: another model of a library in
#        each session. A lock file that is put there when the cell with `:dep` is next to be run is kept to, also later on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export JUPYTER_DATA_DIR="$work/share" EVCXR_TMPDIR="$work/cells"
CARGO_TARGET_DIR="$work/target" cargo install --quiet --locked --root "$work" evcxr_jupyter@0.22.0
mkdir -p share/kernels/rust
cat >share/kernels/rust/kernel.json <<JSON
{"argv": ["$work/bin/evcxr_jupyter", "--control_file", "{connection_file}"], "display_name": "Rust", "language": "rust"}
JSON
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nbclient==0.11.0 nbformat==5.11.1

# A lock file in which itoa is not the newest 1.
mkdir -p cells locked/src
touch locked/src/lib.rs
printf '[package]\nname = "ctx"\nversion = "1.0.0"\n[dependencies]\nitoa = "1"\n' >locked/Cargo.toml
(cd locked && cargo generate-lockfile --quiet && cargo update --quiet itoa --precise 1.0.10)

cat >finding.py <<'PYTHON'
import pathlib
import re
import shutil

import nbclient
import nbformat

LOCK = pathlib.Path("cells/Cargo.lock")


def version():
    return (re.findall(r'name = "itoa"\nversion = "(.+)"', LOCK.read_text()) or [None])[0]


def put_back():
    shutil.copy("locked/Cargo.lock", LOCK)
    assert version() == "1.0.10"


def versions(*steps):
    """What the lock file has after each cell of a new kernel."""
    put_back()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(step) for step in steps if isinstance(step, str)])
    client, cells, found = nbclient.NotebookClient(notebook, kernel_name="rust", timeout=300), iter(notebook.cells), []
    with client.setup_kernel():
        for step in steps:
            if isinstance(step, str):
                client.execute_cell(next(cells), 0)
                found.append(version())
            else:
                step()
    return found


LOADS, USES = ':dep itoa = "1"', "println!(\"{}\", itoa::Buffer::new().format(1u8));"
there_before = versions(LOADS, USES)
emptied_again = versions("1 + 1", put_back, "2 + 2", LOADS, USES)
just_in_time = versions("1 + 1", put_back, LOADS, USES)
print(f"itoa in the lock file after each cell, which has 1.0.10:\n  there before the start  {there_before}")
print(f"  put back, then a cell  {emptied_again}\n  put back, then :dep    {just_in_time}")
assert None not in there_before and "1.0.10" not in there_before, "this is no longer so"
assert emptied_again[:2] == [None, None] and "1.0.10" not in emptied_again, "this is no longer so"
assert just_in_time == [None, "1.0.10", "1.0.10"], "this is no longer so"
PYTHON
venv/bin/python finding.py
