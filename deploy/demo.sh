#!/bin/sh
# Installs what is missing, builds Keyway and runs `keyway demo` with the options given here:
# a whole cluster on this machine with the proxy before it, all gone again after Ctrl-C.
set -eu
cd "$(dirname "$0")/.."

say() { echo "demo.sh: $*" >&2; }
fail() { say "$@"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        say "running: sudo $*"
        sudo "$@"
    else
        fail "cannot install without root rights: run as root: $*"
    fi
}

# What is missing, in words that every package manager below translates into its own.
missing() {
    case " $* " in
        *" --server-bin"*) ;;
        *) has redis-server || has valkey-server || echo server ;;
    esac
    has redis-cli || has valkey-cli || echo client
    has cc || echo compiler
}

# Fedora and Alpine have versions that come with Valkey only; --cluster of its client is the same.
install() {
    if has apt-get; then
        packages=""
        for what in "$@"; do
            case $what in
                server) packages="$packages redis-server" ;;
                client) packages="$packages redis-tools" ;;
                compiler) packages="$packages gcc libc6-dev" ;;
            esac
        done
        as_root apt-get update
        # shellcheck disable=SC2086 # a list of words
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y $packages
    elif has dnf; then
        case " $* " in *" compiler "*) as_root dnf install -y gcc ;; esac
        case " $* " in *" server "* | *" client "*) as_root dnf install -y redis || as_root dnf install -y valkey ;; esac
    elif has apk; then
        case " $* " in *" compiler "*) as_root apk add gcc musl-dev ;; esac
        case " $* " in *" server "* | *" client "*) as_root apk add redis || as_root apk add valkey valkey-cli ;; esac
    elif has brew; then
        case " $* " in *" compiler "*) fail "there is no C compiler: run xcode-select --install, then this again" ;; esac
        # Homebrew refuses to run as root.
        brew install redis
    else
        fail "missing: $*, and there is no apt-get, dnf, apk or brew to install it with." \
            "Install redis-server (or valkey-server), redis-cli and a C compiler, then run this again"
    fi
}

has cargo || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
has cargo || fail "there is no cargo: install Rust 1.88 or later (https://rustup.rs), then run this again"

needed=$(missing "$@")
if [ -n "$needed" ]; then
    say "installing what is missing:" $needed
    case "$needed" in *server*) say "(the package may also start a server of its own, on port 6379; the demo does not use it)" ;; esac
    # shellcheck disable=SC2086 # a list of words
    install $needed
    still=$(missing "$@")
    [ -z "$still" ] || fail "still missing after the installation:" $still
fi

cargo build --release --locked
exec "${CARGO_TARGET_DIR:-target}/release/keyway" demo "$@"
