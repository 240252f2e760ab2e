#!/usr/bin/env bash
# Guess: a notebook with `:dep candle-core` is one program: variables made in two cells are two variables to candle's autograd.
# Found: evcxr_jupyter 0.22.0 links each cell with a copy of the library of its own, statics included. candle counts its tensors
#        in a static, so the first variable of each cell has the same id, and their gradients are added up: for sum(2 w b) both
#        are 22, 44, 66, where those of w are 20, 40, 60 and those of b 2, 4, 6. No error, no warning. A library that is built as
#        a dylib, and candle reached only through it, makes it one program.
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

CELLS = [
    ':dep candle-core = "=0.11.1"',
    "let w = candle_core::Var::new(&[1f32, 2.0, 3.0], &candle_core::Device::Cpu).unwrap();",
    "let b = candle_core::Var::new(&[10f32, 20.0, 30.0], &candle_core::Device::Cpu).unwrap();",
    """let sum = (w.as_tensor() * b.as_tensor()).unwrap().affine(2.0, 0.0).unwrap().sum_all().unwrap();
    let gradients = sum.backward().unwrap();
    for (name, variable) in [("w", &w), ("b", &b)] {
        println!("{name} {:?} {:?}", variable.id(), gradients.get(variable).unwrap().to_vec1::<f32>().unwrap());
    }""",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
nbclient.NotebookClient(notebook, kernel_name="rust", timeout=900).execute()
said = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
print(said, end="")
w, b = said.splitlines()
assert w[1:] == b[1:] and w.endswith("[22.0, 44.0, 66.0]"), "this is no longer so"
PYTHON
venv/bin/python finding.py
