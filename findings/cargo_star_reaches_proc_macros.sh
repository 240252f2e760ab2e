#!/usr/bin/env bash
# Guess: `[profile.dev.package."*"] opt-level = 3` is for the libraries that a program links, and proc macros and build scripts,
#        which run once, are compiled as `[profile.dev.build-override]` says (opt-level 0 by default).
# Found: "*" wins over build-override, so syn, quote and every derive are optimised as hard as the tensor library, which costs
#        more than they save. What does it right is an opt-level in [profile.dev] itself, which build-override does win over.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cargo --version
export CARGO_TARGET_DIR="$work/target"

# How cargo calls rustc for thiserror-impl, a proc macro, and for thiserror, which programs link.
levels() {
    cargo init --quiet --lib --name "$1" "$1"
    cat >>"$1/Cargo.toml" <<TOML
thiserror = "=2.0.17"

$2
TOML
    (cd "$1" && cargo build --verbose 2>&1) | grep -E "Running .*--crate-name (thiserror|thiserror_impl) " |
        sed -E 's/.*--crate-name ([a-z_]+) .*/\1 &/; s/^([a-z_]+) (.*opt-level=([0-9]).*|.*)$/\1 \3/' | sort -u | tr '\n' ';'
    rm -rf target
}

star=$(levels star $'[profile.dev.package."*"]\nopt-level = 3\n[profile.dev.build-override]\nopt-level = 0')
plain=$(levels plain $'[profile.dev]\nopt-level = 3')
echo "with package.\"*\" at 3 and build-override at 0:  $star"
echo "with profile.dev at 3:                          $plain"
[ "$star" = "thiserror 3;thiserror_impl 3;" ] && [ "$plain" = "thiserror 3;thiserror_impl ;" ] || {
    echo "this is no longer so"
    exit 1
}
