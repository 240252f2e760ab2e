#!/usr/bin/env bash
# Guess: a layer of candle-nn can be trained: what it computes with has a gradient after `backward`, or `backward` fails.
# Found: candle-nn 0.11.1 computes LayerNorm and softmax_last_dim with fused operations that have no backward. Nothing fails:
#        LayerNorm's weight and bias, and every layer before it, have no gradient, and an optimizer leaves them as they are.
#        `candle_nn::ops::softmax`, of the same values, has one. What costs the gradient is that the input is contiguous: a
#        LayerNorm of the same numbers that lie transposed in memory is computed by another path, and trains.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export CARGO_TARGET_DIR="$work/target"
cargo init --quiet --name finding .
cat >>Cargo.toml <<'TOML'
candle-core = "=0.11.1"
candle-nn = "=0.11.1"
TOML
cat >src/main.rs <<'RUST'
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{LayerNorm, Module, ops};

fn main() -> Result<()> {
    let cpu = Device::Cpu;
    let before = Var::rand(0f32, 1.0, (4, 4), &cpu)?;
    let weight = Var::ones(4, DType::F32, &cpu)?;
    let bias = Var::zeros(4, DType::F32, &cpu)?;
    let norm = LayerNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), 1e-12);
    let slopes = Tensor::arange(0f32, 16.0, &cpu)?.reshape((4, 4))?.sqr()?;
    // Which of the three have a gradient once the weighted sum of the result is followed back.
    let gradients = |result: &Tensor| -> Result<[bool; 3]> {
        let gradients = (result * &slopes)?.sum_all()?.backward()?;
        Ok([&before, &weight, &bias].map(|var| gradients.get(var).is_some()))
    };
    let x = before.affine(2.0, 0.0)?;
    let contiguous = gradients(&norm.forward(&x)?)?;
    let transposed = gradients(&norm.forward(&x.t()?)?)?;
    let fused = gradients(&ops::softmax_last_dim(&x)?)?;
    let plain = gradients(&ops::softmax(&x, D::Minus1)?)?;
    println!("gradients of               input  weight  bias");
    println!("LayerNorm, contiguous      {contiguous:?}");
    println!("LayerNorm, transposed      {transposed:?}");
    println!("softmax_last_dim           {:?}", &fused[..1]);
    println!("softmax                    {:?}", &plain[..1]);
    assert!(contiguous == [false; 3] && transposed == [true; 3], "this is no longer so");
    assert!(!fused[0] && plain[0], "this is no longer so");
    Ok(())
}
RUST
cargo run --quiet
