#!/usr/bin/env bash
# Guess: a notebook that is executed without a person at hand (nbclient, `jupyter execute`, nbconvert) stops at the first cell
#        that fails, with any kernel: the kernel answers "error", as IPython does for an exception.
# Found: evcxr_jupyter 0.22.0 answers "ok" to a cell that panics and to one whose `?` meets an error; only what does not
#        compile is an "error". Execution goes on to the end and reports success; that something failed stands on stderr.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export JUPYTER_DATA_DIR="$work/share"
CARGO_TARGET_DIR="$work/target" cargo install --quiet --locked --root "$work" evcxr_jupyter@0.22.0
mkdir -p share/kernels/rust
cat >share/kernels/rust/kernel.json <<JSON
{"argv": ["$work/bin/evcxr_jupyter", "--control_file", "{connection_file}"], "display_name": "Rust", "language": "rust"}
JSON
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nbclient==0.11.0 nbformat==5.11.1

cat >finding.py <<'PYTHON'
import nbclient
import nbformat


def execute(code):
    """What a cell is answered, whether the cell after it runs, and what stands on stderr."""
    cells = [nbformat.v4.new_code_cell(source) for source in (code, 'println!("went on");')]
    notebook = nbformat.v4.new_notebook(cells=cells)
    answers = []
    client = nbclient.NotebookClient(notebook, kernel_name="rust", timeout=300)
    client.on_cell_executed = lambda cell, cell_index, execute_reply: answers.append(execute_reply["content"]["status"])
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError:
        answers.append("stopped")
    said = "".join(output.get("text", "") for output in cells[0].outputs if output.get("name") == "stderr")
    return answers, said.strip().splitlines()[:2]


panics = execute('let empty: Vec<i32> = vec![]; println!("{}", empty[0]);')
fails = execute('let number: i32 = "seven".parse()?;')
typo = execute("let number: i32 = seven;")
print("panics:          ", *panics)
print("? with an error: ", *fails)
print("does not compile:", *typo)
assert panics[0] == fails[0] == ["ok", "ok"] and typo[0][-1] == "stopped", "this is no longer so"
PYTHON
venv/bin/python finding.py
