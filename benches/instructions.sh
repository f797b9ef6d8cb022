#!/usr/bin/env bash
# Instructions that the engine needs for one request, counted by callgrind: unlike time, the same under every load. Each
# workload is played for N and for 2N turns, and the difference is what counts: no start, no warm-up. What the drive
# itself needs to read and write for 50 clients is in the figure (it shows as Drive::play).
#
#   benches/instructions.sh [WORKLOAD ...]     get_p1 get_p16 set_p1 mget_10 mget_100 mset_10 by default
#   TOP=20 benches/instructions.sh get_p1      and where they are spent: the 20 most expensive functions
#
# valgrind comes with benches/install.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "benches/instructions.sh: $*" >&2; exit 1; }
command -v valgrind >/dev/null || fail "valgrind is missing: run benches/install.sh"
workloads=("$@")
[ $# -gt 0 ] || workloads=(get_p1 get_p16 set_p1 mget_10 mget_100 mset_10)

# cargo says where it put the binary.
binary=$(cargo bench --bench engine --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/engine-[^"]*\)".*/\1/p' | tail -1)
[ -x "$binary" ] || fail "the engine bench does not build: cargo bench --bench engine --no-run"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Plays $2 turns of workload $1; prints how many requests they held.
play() {
  valgrind --tool=callgrind --callgrind-out-file="$folder/$1.$2" --log-file="$folder/log" "$binary" --turns "$1" "$2"
}

# Instructions of a run by function: "function<TAB>count".
by_function() {
  callgrind_annotate --tree=none --auto=no --threshold=100 "$1" |
    sed -nE 's/^ *([0-9,]+) \( *[0-9.]+%\)  [^ ]*:(.*)$/\1\t\2/p' | sed -E 's/ \[[^]]*\]$//' |
    awk -F'\t' '{ gsub(",", "", $1); count[$2] += $1 } END { for (name in count) print name "\t" count[name] }'
}

printf '| workload | instructions per request |\n| --- | --- |\n'
for workload in "${workloads[@]}"; do
  # Turns that make some 20,000 requests; 50 clients send 50 requests in a turn, or 800.
  turns=400
  case $workload in *_p16 | mget_100) turns=40 ;; esac
  first=$(play "$workload" "$turns")
  second=$(play "$workload" "$((2 * turns))")
  echo "$((second - first))" > "$folder/$workload.requests"
  awk -F'\t' -v requests="$((second - first))" -v name="$workload" '
    NR == FNR { count -= $2; next } { count += $2 } END { printf "| %s | %.0f |\n", name, count / requests }
  ' <(by_function "$folder/$workload.$turns") <(by_function "$folder/$workload.$((2 * turns))")
done

[ -n "${TOP:-}" ] || exit 0
for workload in "${workloads[@]}"; do
  printf '\n%s:\n' "$workload"
  mapfile -t runs < <(ls -v "$folder/$workload".[0-9]*)
  awk -F'\t' -v requests="$(cat "$folder/$workload.requests")" '
    NR == FNR { before[$1] = $2; next } { printf "%10.1f  %s\n", ($2 - before[$1]) / requests, $1 }
  ' <(by_function "${runs[0]}") <(by_function "${runs[1]}") | sort -rn | head -n "$TOP" || true
done
