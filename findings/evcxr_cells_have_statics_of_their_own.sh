#!/usr/bin/env bash
# Guess: a notebook with `:dep candle-core` is one program: variables made in two cells are two variables to candle's autograd.
# Found: evcxr 0.22.0 links each cell with a copy of the library of its own, statics included. candle counts its tensors in a
#        static, so the first variable of each cell has the same id, and their gradients are added up: for sum(2 w b) both are
#        22, 44, 66, where those of w are 20, 40, 60 and those of b 2, 4, 6. No error, no warning. A library that is built as a
#        dylib, and candle reached only through it, makes it one program.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export CARGO_TARGET_DIR="$work/target"
cargo init --quiet --name finding .
echo 'evcxr = "=0.22.0"' >>Cargo.toml
cat >src/main.rs <<'RUST'
use evcxr::EvalContext;

const CELLS: [&str; 4] = [
    ":dep candle-core = \"=0.11.1\"",
    "let w = candle_core::Var::new(&[1f32, 2.0, 3.0], &candle_core::Device::Cpu)?;",
    "let b = candle_core::Var::new(&[10f32, 20.0, 30.0], &candle_core::Device::Cpu)?;",
    "let gradients = (w.as_tensor() * b.as_tensor())?.affine(2.0, 0.0)?.sum_all()?.backward()?;
     for variable in [&w, &b] {
         println!(\"{:?} {:?}\", variable.id(), gradients.get(variable).unwrap().to_vec1::<f32>()?);
     }",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    evcxr::runtime_hook();
    let (mut context, outputs) = EvalContext::new()?;
    for cell in CELLS {
        context.eval(cell)?;
    }
    let lines = [outputs.stdout.recv()?, outputs.stdout.recv()?];
    println!("w {}\nb {}", lines[0], lines[1]);
    assert!(lines[0] == lines[1] && lines[0].contains("[22.0, 44.0, 66.0]"), "this is no longer so");
    Ok(())
}
RUST
cargo run --quiet
