#!/bin/sh
# Moves slots through Keyway's coordinator, one gate after the other; made for CI, usable by hand.
#
#   reshard.sh check                      every pre-flight check; fails on a blocker
#   reshard.sh plan GOAL...               makes a plan and shows it; fails if there is nothing to move
#   reshard.sh start PLAN [CODE]          starts it: the canary first; large plans need the approval code that `plan` printed
#   reshard.sh wait PLAN [SECONDS]        waits until its slots have moved; fails when it pauses, and says why
#   reshard.sh verify PLAN                looks whether everything is where it should be, and checks the cluster once more
#   reshard.sh all GOAL...                all of these in turn, for plans that need no approval
#
# GOAL is what stands behind PROXY MIGRATE PLAN: `DRAIN node`, `REBALANCE BY keys`, `MOVE 0-99 FROM a TO b CANARY 2%`.
#
# KEYWAY_ADMIN           admin.listen of a proxy: host:port, or unix:PATH; 127.0.0.1:6390 unless it is set
# KEYWAY_ADMIN_USER      a user of admin.users who is an operator; the default user unless it is set
# KEYWAY_ADMIN_PASSWORD  its password, if there are any
# RESHARD_SECONDS        how long `all` waits for the slots to move; 7200 unless it is set
#
# Exit codes: 0 done; 1 refused, blocked, paused or not reachable; 2 called wrongly; 3 not done in time (the plan goes on).
# A step that fails never undoes anything: the last lines say what to do. Needs redis-cli 7.0 or later (or valkey-cli), and jq.
set -eu

admin=${KEYWAY_ADMIN:-127.0.0.1:6390}

say() { echo "reshard.sh: $*" >&2; }
fail() { say "$@"; exit 1; }
usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }

# One command. -e makes every refusal an exit code, and the password stays out of the list of processes.
proxy() {
    case $admin in
        unix:*) set -- -s "${admin#unix:}" PROXY "$@" ;;
        *) set -- -h "${admin%:*}" -p "${admin##*:}" PROXY "$@" ;;
    esac
    if [ -n "${KEYWAY_ADMIN_USER:-}" ]; then
        set -- --user "$KEYWAY_ADMIN_USER" "$@"
    fi
    if [ -n "${KEYWAY_ADMIN_PASSWORD:-}" ]; then
        REDISCLI_AUTH=$KEYWAY_ADMIN_PASSWORD $cli -e "$@"
    else
        $cli -e "$@"
    fi
}

# What is asked for and shown is told on standard error; standard output is for what the next step needs.
asked() {
    answer=$(proxy "$@" JSON) || fail "PROXY $* is refused, see above"
}
field() { printf '%s\n' "$answer" | jq -r "$1"; }

# Findings that are not ok, the gravest last.
show_findings() {
    field '.findings[] | select(.severity != "ok") | "\(.severity)\t\(.check)\t\(.found)\n\t\tdo: \(.advice)"' >&2
}

check() {
    asked CHECK
    show_findings
    verdict=$(field .verdict)
    say "pre-flight: $verdict"
    [ "$verdict" != blocked ] || fail "a blocker stands in the way: mend it first, then run this step again"
}

plan() {
    asked MIGRATE PLAN "$@"
    field '.moves[] | "move  \(.source[0:8]) -> \(.target[0:8])  \(.mode)  \(.slots) slots, \(.keys) keys, \(.bytes) bytes"' >&2
    field '.risks[]? | "\(.severity)\t\(.check)\t\(.found)\n\t\tdo: \(.advice)"' >&2
    plan=$(field '.plan // empty')
    [ -n "$plan" ] || fail "there is nothing to move"
    approve=$(field '.approve // empty')
    echo "plan=$plan"
    echo "approve=$approve"
    if [ -n "$approve" ]; then
        say "plan $plan is large: it needs the approval code $approve to start"
    else
        say "plan $plan"
    fi
}

start() {
    if [ -n "${2:-}" ]; then
        asked MIGRATE START "$1" APPROVE "$2"
    else
        asked MIGRATE START "$1"
    fi
    say "started $1: $(field .state)"
}

wait_for() {
    plan=$1
    deadline=$(($(date +%s) + $2))
    shown=
    while :; do
        asked MIGRATE STATUS "$plan"
        state=$(field .state)
        line=$(field '"\(.state): \(.slots_done) of \(.slots_total) slots, \(.keys_moved) keys, \(.eta_seconds) s left"')
        [ "$line" = "$shown" ] || say "$line"
        shown=$line
        case $state in
            observing | done) return 0 ;;
            drafted | canary | running | verifying) ;;
            *)
                proxy MIGRATE LOG "$plan" 20 >&2 || true
                say "plan $plan is $state: $(field .reason)"
                fail "PROXY MIGRATE RESUME $plan goes on, ROLLBACK $plan takes back what has moved, ABORT $plan leaves it"
                ;;
        esac
        if [ "$(date +%s)" -ge "$deadline" ]; then
            say "plan $plan has not moved its slots within $2 s: it goes on; wait again, or PROXY MIGRATE PAUSE $plan"
            exit 3
        fi
        sleep 1
    done
}

verify() {
    asked MIGRATE VERIFY "$1"
    show_findings
    [ "$(field .verdict)" != blocked ] || fail "what $1 has moved is not as it should be: PROXY MIGRATE STATUS $1 and PROXY MIGRATE LOG $1 tell more"
    check
    say "verified $1; its gates stay armed until the observation window is over: PROXY MIGRATE STATUS $1"
}

has() { command -v "$1" >/dev/null 2>&1; }
has jq || fail "jq is not in PATH"
# Fedora and Alpine have versions that come with Valkey only; its client reads the same environment.
if has redis-cli; then cli=redis-cli; else cli=valkey-cli; fi
has "$cli" || fail "redis-cli is not in PATH"
step=${1:-}
[ "$#" -eq 0 ] || shift
case $step:$# in
    check:0) check ;;
    plan:0 | all:0) usage ;;
    plan:*) plan "$@" ;;
    start:[12]) start "$@" ;;
    wait:1) wait_for "$1" 7200 ;;
    wait:2) wait_for "$1" "$2" ;;
    verify:1) verify "$1" ;;
    all:*)
        check
        plan "$@"
        [ -z "$approve" ] || fail "let somebody look at it, then: reshard.sh start $plan $approve"
        start "$plan"
        wait_for "$plan" "${RESHARD_SECONDS:-7200}"
        verify "$plan"
        ;;
    *) usage ;;
esac
