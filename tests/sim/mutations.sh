#!/usr/bin/env bash
# Breaks the engine on purpose, one rule at a time, in a copy, and expects the simulator to notice within 2,000 seeds.
# It builds the engine once for each mutation (some minutes in all), so it is not a part of the test run: call it by hand after
# changing the simulator or the engine. `tests/sim/mutations.sh NAME...` tries only these.
#
# A mutation is a name, a file under src/engine, and a Perl expression over the whole file that must change it.
set -euo pipefail
cd "$(dirname "$0")/../.."

mutations() {
    cat <<'LIST'
order-hold      forward.rs   s/if meets \{ Err\(Pause::Order\) \} else \{ Ok\(\(\)\) \}/Ok(())/
plain-order     plain.rs     s/ \|\| !session.is_settled\(table.version\)//
plain-once      lane.rs      s/retry == NONE && lead == 0 && /lead == 0 \&\& /
resend-order    pump.rs      s/ahead == Some\(Ahead::Blocked\)/false/
asking          send.rs      s/if asking \{\n/if asking \&\& retry_index == NONE {\n/
asking-alone    send.rs      s/(encode::command\(out, &\[b"ASKING"\]\);)/$1 encode::command(out, &[b"PING"]);/
written-write   retry.rs     s/if !wholly_written \|\| asked.read_only/if true/
lost-unwritten  retry.rs     s/if !wholly_written \|\| asked.read_only/if asked.read_only/
open-door       refused.rs   s/None => self.await_confirmation\(retry, addr, false\),/None => { if let Some(addr) = addr { let via = retry.via; let node = \&mut self.table.nodes[0]; node.addr = addr; node.set_lane(via, false, NONE); self.table.patch(slot, NodeId(0), self.now); } }/
reply-order     session.rs   s/if index > 0 \{/if index > 1 {/
silent-reply    session.rs   s/let silent = active.replies\[index\].silent \|\| gone;/let silent = gone;/
script-twice    refused.rs   s/retry.wrapped \|= script;//
redirect-leak   retry.rs     s/b"TRYAGAIN" if asked.slot.is_some\(\) => Verdict::TryAgain/b"TRYAGAIN" if false => Verdict::TryAgain/
readonly-leak   retry.rs     s/b"LOADING" => Verdict::Hold\(Held::Loading\)/b"LOADING" => Verdict::Deliver/
unit-lead       answer.rs    s/lane.lead_seen = 0;//
protocol-change identity/hello.rs  s/if logs_in \|\| proto.is_some_and\(\|proto\| proto != [^\)]*\) \{/if logs_in {/
gone-client     agenda.rs    s/if session.ending != Ending::No \{\n\s*self.touched.push\(client\);/if false {\n self.touched.push(client);/
barrier         forward.rs   s/if self.clients\[index as usize\].owed\(\) > 0 && self.captured.is_none\(\) \{ Err\(Pause::Barrier\) \}/if false { Err(Pause::Barrier) }/
mget-places     merge.rs     s/places\[\*key as usize\] = Span \{ start: start as u32/let at = found; places[at] = Span { start: start as u32/
scan-receivers  scan_cursor.rs s/Some\(moving\) if moving.is_empty\(\) => Step::Done/Some(_) => Step::Done/
deadline        pump.rs      s/if now >= retry.deadline \{/if now + 1_000_000 >= retry.deadline {/
output-limit    answer.rs    s/if session.output_held\(\) > self/if false \&\& session.output_held() > self/
unit-twice      lost.rs    s/=> only_reads\(&frame\)/=> true/
unit-asking     send.rs      s/if asking \{\n(\s*encode::command\(out, &\[b"ASKING"\]\);)/let inside = asking \&\& frame.starts_with(b"*1\\r\\n\$5\\r\\nMULTI"); if inside { out.extend_from_slice(\&frame[..15]); encode::command(out, \&[b"ASKING"]); out.extend_from_slice(\&frame[15..]); return; }\nif asking {\n$1/
unit-any-lane   transaction/exec.rs s/match watch \{\n/match watch.filter(|_| false) {\n/
watch-lost      transaction/exec.rs s/if idle && last.watch_failed\(\) \{/if idle \&\& last.reply == LANE_LOST { job.groups[0].watch = None; job.answered = 0; merge.next_stage(Job::Exec(job)); return false; } if idle \&\& last.watch_failed() {/
wait-twice      blocking/mod.rs s/if !written \|\| block.again/if true || block.again/
wait-longer     blocking/block.rs s/until.saturating_sub\(now\).max\(1\)/until.saturating_sub(self.started).max(1)/
wait-lost       blocking/mod.rs s/return self.give_back_popped\(ticket.client, takes, via, reply\);/return;/
wait-shared     private.rs   s/if lane.unblocks > 0 \{/if false {/
unsubscribed    pubsub/upstream.rs s/(self.counters.resubscriptions \+= 1;\s*\}\s*)self.pubsub.look_at\(index\);/$1/ && s/topic.not_before = 0;\s*self.pubsub.look_at\(index\);//
told-twice      pubsub/fan_out.rs s/for client in &subscribers \{/for client in subscribers.iter().chain(subscribers.first().filter(|_| push.len() % 7 == 0)) {/
other-user      session.rs   s/user: self.rides \}/user: UserId::default() }/
login-overtaken identity.rs  s/self.raise_barrier\(index\);\n\s*self.login_stage/self.login_stage/
stranger        identity.rs  s/self.clients\[index as usize\].modes.has\(Modes::LOCKED_OUT\) && !self.awaits_default\(\)/false/
message-early   transaction/exec.rs s/\(group.message.is_some\(\), group.watch.is_none\(\), !group.pieces.is_empty\(\)\)/(group.message.is_none(), group.watch.is_none(), !group.pieces.is_empty())/
LIST
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src" "$work/tests"
cp -r tests/sim "$work/tests/"
cp Cargo.lock "$work/"
# The pure core needs no more than these, and builds in seconds without the rest.
{
    printf '[package]\nname = "keyway"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\n'
    grep -v opt-level Cargo.toml | grep -E '^(bytes|crc16|dashmap|fastrand|memchr|phf|rustc-hash|sha1_smol|sha2|slab|subtle|thiserror|zeroize) = '
    printf '\n[[test]]\nname = "sim"\npath = "tests/sim/main.rs"\n\n[profile.test]\nopt-level = 1\n'
} > "$work/Cargo.toml"
printf 'pub mod access;\npub mod cluster;\npub mod command;\npub mod engine;\npub mod resp;\n' > "$work/src/lib.rs"
export CARGO_TARGET_DIR="$work/target" KEYWAY_SIM_SEEDS="${KEYWAY_SIM_SEEDS:-2000}" RUSTFLAGS=-Awarnings

renew() { for part in access resp command cluster engine; do rm -rf "$work/src/$part" && cp -r "src/$part" "$work/src/$part"; done; }
build() { (cd "$work" && cargo test --quiet --test sim --no-run > "$work/build.txt" 2>&1); }
try() { (cd "$work" && timeout 300 cargo test --quiet --test sim -- --nocapture > "$work/run.txt" 2>&1); }

renew
build || { cat "$work/build.txt"; exit 1; }
try || { echo "the simulator fails without any mutation:"; grep '^seed' "$work/run.txt"; exit 1; }

escaped=0
while read -r name file change; do
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    renew
    perl -0pi -e "$change" "$work/src/engine/$file"
    if cmp -s "src/engine/$file" "$work/src/engine/$file"; then
        echo "STALE    $name: changes nothing in $file"; escaped=$((escaped + 1)); continue
    fi
    if ! build; then
        echo "STALE    $name: does not build"; grep -m1 -A4 '^error' "$work/build.txt"; escaped=$((escaped + 1)); continue
    fi
    if try; then
        echo "ESCAPED  $name"; escaped=$((escaped + 1))
    else
        echo "caught   $name: $(grep -om1 "seed [0-9]* fails.*" "$work/run.txt" | cut -c1-150)"
    fi
done < <(mutations)
exit $((escaped > 0))
