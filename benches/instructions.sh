#!/usr/bin/env bash
# Instructions that the engine needs for one request, counted by callgrind: unlike time, the same on every machine and
# under every load. Each workload is run for N and for 2N turns; the difference holds no start and no warm-up.
#
#   benches/instructions.sh [WORKLOAD ...]     get_p1 get_p16 set_p1 mget_10 mget_100 mset_10 by default
#   TOP=12 benches/instructions.sh get_p1      and where they are spent: the 12 most expensive functions
#   LINES_SHOWN=40 benches/instructions.sh get_p1    and the 40 most expensive source lines
#
# valgrind comes from the system's packages (apt-get install valgrind).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v valgrind >/dev/null || { echo "benches/instructions.sh: valgrind is missing (apt-get install valgrind)" >&2; exit 1; }
workloads=("$@")
[ $# -gt 0 ] || workloads=(get_p1 get_p16 set_p1 mget_10 mget_100 mset_10)

binary=${ENGINE_BENCH:-$(cargo bench --bench engine --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/engine-[^"]*\)".*/\1/p' | tail -1)}
[ -x "$binary" ] || { echo "benches/instructions.sh: the engine bench could not be built" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Sets `requests` and `instructions` of a run of $2 turns of workload $1.
count() {
  requests=$(valgrind --tool=callgrind --callgrind-out-file="$folder/$1.$2" --log-file="$folder/log" "$binary" --turns "$1" "$2")
  instructions=$(sed -n 's/^summary: //p; s/^totals: //p' "$folder/$1.$2" | head -1)
}

printf '| workload | instructions per request |\n| --- | --- |\n'
for workload in "${workloads[@]}"; do
  # As many turns as make 20,000 requests or so; a turn of 50 clients holds 50, or 800.
  turns=400
  [[ $workload == *_p16 || $workload == mget_100 ]] && turns=40
  count "$workload" "$turns"; first=$instructions first_requests=$requests
  count "$workload" "$((2 * turns))"
  printf '| %s | %d |\n' "$workload" "$(((instructions - first) / (requests - first_requests)))"
done

for workload in "${workloads[@]}"; do
  if [ -n "${TOP:-}" ]; then
    printf '\n%s, of %d turns and the start:\n' "$workload" "$((2 * turns))"
    callgrind_annotate "$(ls -t "$folder/$workload".* | head -1)" | grep -E '^ *[0-9,]+ \(' | head -n "$((TOP + 1))"
  fi
  if [ -n "${LINES_SHOWN:-}" ]; then
    callgrind_annotate --auto=yes "$(ls -t "$folder/$workload".* | head -1)" |
      grep -E '^ *[0-9,]+ \( *[0-9.]+%\)' | sort -t'(' -k1,1 -rn | head -n "$LINES_SHOWN"
  fi
done
