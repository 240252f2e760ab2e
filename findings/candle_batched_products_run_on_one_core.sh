#!/usr/bin/env bash
# Guess: a batched product, thousands of small matrices at once as in attention, is spread over the cores like one large product.
# Found: candle-core 0.11.1 takes the matrices of a batch one after the other, and gemm 0.19, which multiplies each, takes a
#        second thread only from 48 * 48 * 256 multiplications on. So a product of 4,096 pairs of 32 x 16 and 16 x 32 runs on
#        one core however many there are, and one product of as many multiplications runs on all of them.
set -euo pipefail
cores=$(getconf _NPROCESSORS_ONLN)
[ "$cores" -ge 2 ] || { echo "it takes two cores to see it"; exit; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export CARGO_TARGET_DIR="$work/target"
cargo init --quiet --name finding .
cat >>Cargo.toml <<'TOML'
candle-core = "=0.11.1"
gemm = "=0.19.0"
TOML
cat >src/main.rs <<'RUST'
use candle_core::{Device, Result, Tensor};

fn main() -> Result<()> {
    // As many multiplications, 2^26, in one batch of small products or in one large product.
    let (left, right) = match std::env::args().nth(1).as_deref() {
        Some("small") => ((4096, 32, 16), (4096, 16, 32)),
        _ => ((1, 512, 256), (1, 256, 512)),
    };
    let left = Tensor::rand(-1f32, 1.0, left, &Device::Cpu)?;
    let right = Tensor::rand(-1f32, 1.0, right, &Device::Cpu)?;
    for _ in 0..1000 {
        left.matmul(&right)?;
    }
    Ok(())
}
RUST
cargo build --quiet --release
busy=()
TIMEFORMAT='%R %U %S'
for size in small large; do
    read -r wall user kernel < <({ time "$work/target/release/finding" $size; } 2>&1)
    busy+=("$(awk -v wall="$wall" -v user="$user" -v kernel="$kernel" \
        'BEGIN { printf "%.0f", 100 * (user + kernel) / wall }')")
    echo "$size products: $wall s, of which the program kept the cores busy for $user + $kernel s"
done
echo "cores at work, in percent: ${busy[0]} with small products, ${busy[1]} with one large one"
[ "${busy[0]}" -le 120 ] && [ "${busy[1]}" -ge 140 ] || { echo "this is no longer so"; exit 1; }
