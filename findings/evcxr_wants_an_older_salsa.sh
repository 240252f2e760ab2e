#!/usr/bin/env bash
# Guess: `cargo add evcxr` (0.22.0, its latest release) builds: cargo takes compatible versions of what it depends on.
# Found: it does not. Of its rust-analyzer crates, ra_ap_span 0.0.347 accepts any salsa 0.28 from 0.28.2 on, but writes out by
#        hand what a macro of 0.28.2 expands to, and 0.28.5 has other insides. `cargo install --locked evcxr_jupyter` is not
#        touched; who builds on the library, or leaves out --locked, must pin salsa and its two macro crates.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cargo --version
export CARGO_TARGET_DIR="$work/target"
cargo init --quiet --lib --name finding .
echo 'ra_ap_span = "=0.0.347"' >>Cargo.toml

check() {
    cargo check --quiet >"$1.log" 2>&1 && result=builds || result="does not build ($(grep -c '^error\[' "$1.log") errors)"
    echo "$1: $result; $(cargo tree --prefix none --edges normal | grep -oE '^salsa[a-z-]* v[0-9.]+' | sort -u | paste -sd ' ')"
}

check "as cargo resolves it"
newest=$result
printf '%s\n' 'salsa = "=0.28.2"' 'salsa-macros = "=0.28.2"' 'salsa-macro-rules = "=0.28.2"' >>Cargo.toml
check "with salsa 0.28.2"
case "$newest;$result" in
"does not build"*";builds") ;;
*) echo "this is no longer so" && exit 1 ;;
esac
