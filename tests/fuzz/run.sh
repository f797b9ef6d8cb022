#!/usr/bin/env bash
# Fuzzes each target (or those named) for so many seconds, one after the other: tests/fuzz/run.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds="${1:?usage: tests/fuzz/run.sh SECONDS [TARGET...]}"
shift
[ "$#" -gt 0 ] || set -- requests replies inline nodes redirects config engine
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --version 0.13.2

for target in "$@"; do
  printf '\n== %s\n' "$target"
  extra=()
  case "$target" in
    requests | replies | engine) extra=(-dict=tests/fuzz/resp.dict) ;;
    config) extra=(-seed_inputs=config.toml -max_len=16384) ;;
  esac
  mkdir -p "tests/fuzz/corpus/$target"
  # No sanitizer: Keyway has no unsafe code, and stable Rust has none to offer.
  cargo fuzz run --fuzz-dir tests/fuzz -s none "$target" "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -print_final_stats=1 "${extra[@]}"
done
