#!/usr/bin/env python3
"""Generate table.rs: one row per command, and the perfect hash that finds it.

    python3 src/command/table.py ../shared/commands.json > src/command/table.rs

commands.json holds what four servers say about their own commands (COMMAND, COMMAND DOCS, HELP) and how
a proxy should route each. This script merges the servers' answers, so that a command known to any of
them is known to the proxy: the most permissive arity, WRITE as soon as one server says so.
"""

import json
import sys

LOCAL_REFUSED = "-ERR This instance has cluster support disabled"
# The inline parser closes the connection on these words; no multibulk command has these names.
NOT_COMMANDS = {"POST", "host:"}
# Local answers whose name is not the command's own.
LOCAL_NAMES = {"ASKING": "ClusterRefused", "READONLY": "ClusterRefused", "READWRITE": "ClusterRefused",
               "CLUSTERSCAN": "ClusterRefused"}
# Refused by default in commands.json, and answered here: who may is the servers' own ACL's to say.
ANSWERED = {"MONITOR"}
SPLITS = {"DEL": "Sum", "EXISTS": "Sum", "TOUCH": "Sum", "UNLINK": "Sum", "MGET": "Mget", "MSET": "Mset",
          "PUBSUB|SHARDNUMSUB": "ShardNumsub"}
# One merge of commands.json, by the words its text begins with, is one variant of Fan.
FANS = [("sum per channel", "SumPerChannel"), ("sum", "Sum"), ("all-ok", "AllOk"),
        ("first if all equal", "FirstEqual"), ("first (all are the same", "FirstEqual"),
        ("one_succeeded", "OneSucceeded"), ("logical and per element", "AndPerElement"),
        ("concat newest first; RESET", "AclLog"), ("concat, newest first by timestamp", "Newest"),
        ("concat/special: per event", None), ("concat", "Concat"), ("union", "Union"), ("min", "Min"),
        ("special: running_script", "FunctionStats"), ("special: pick a master", "RandomKey"),
        ("special: sum numbers", "MemoryStats"), ("special: see semantics.md", "Info")]
# Where the key specs of COMMAND say less than the server's own code does.
KEYS = {
    "SORT": "Keys::Special(Special::Sort)",
    "GEORADIUS": "Keys::Special(Special::Georadius)",
    "GEORADIUSBYMEMBER": "Keys::Special(Special::Georadius)",
    "XREAD": "Keys::Special(Special::Streams)",
    "XREADGROUP": "Keys::Special(Special::Streams)",
    "STRALGO": "Keys::Special(Special::Stralgo)",
    "MIGRATE": "Keys::Special(Special::Migrate)",
    # Containers of 6.2: the key belongs to their subcommands, which are rows of their own.
    "MEMORY": "Keys::None",
    # BY and GET name patterns, not keys; SORT_RO knows no STORE.
    "SORT_RO": "Keys::First",
    # One key, but its count is the proxy's business: it does not take the way of plain single keys.
    "SPUBLISH": "Keys::Range { first: 1, last: 1, step: 1 }",
    # Not keys to the server, which does not check them, but it knows only the channels of its own slots.
    "PUBSUB|SHARDNUMSUB": "Keys::Range { first: 2, last: -1, step: 1 }",
}
FLAGS = {"write": "WRITE", "denyoom": "DENYOOM", "admin": "ADMIN", "pubsub": "PUBSUB", "noscript": "NOSCRIPT",
         "blocking": "BLOCKING", "loading": "LOADING", "stale": "STALE", "fast": "FAST", "no_auth": "NO_AUTH",
         "no_multi": "NO_MULTI", "movablekeys": "MOVABLE_KEYS", "allow_busy": "ALLOW_BUSY", "module": "MODULE"}
# Refused by default in commands.json, and open here: the server's own ACL decides who may.
OPENED = {"ACL|SETUSER": "AllOk", "ACL|DELUSER": "Max", "ACL|LOAD": "AllOk", "ACL|SAVE": "AllOk"}
SCRIPTS = {"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"}
MAY_BLOCK = {"XREAD", "XREADGROUP"}

BUCKETS, SLOTS = 128, 1024
MASK = (1 << 64) - 1


def camel(name):
    return "".join(word.capitalize() for word in name.replace("|", "-").replace("_", "-").split("-"))


def answers(command, field):
    """The values of one field over all servers that know the command."""
    return [command[field]] + [d[field] for d in command["differs"].values() if field in d]


def arity(command):
    values = answers(command, "arity")
    least = min(abs(value) for value in values)
    return -least if min(values) < 0 or len(set(values)) > 1 else least


def flags(command):
    sets = [set(value) for value in answers(command, "flags")]
    names = [rust for flag, rust in FLAGS.items() if any(flag in s for s in sets)]
    if "WRITE" not in names and "readonly" in command["flags"]:
        names.insert(0, "READONLY")
    if command["route"] == "pinned_transaction" and "NO_MULTI" in names:
        names.remove("NO_MULTI")  # what these answer inside MULTI is a rule of the transaction, not of the flag
    names += ["SCRIPT"] * (command["name"] in SCRIPTS) + ["MAY_BLOCK"] * (command["name"] in MAY_BLOCK)
    return " | ".join(names) or "0"


def fan(command):
    for words, name in FANS:
        if command["merge"].startswith(words):
            return name or camel(command["name"])
    sys.exit(f"no merge for {command['name']}: {command['merge']}")


def class_of(command, containers):
    name, route = command["name"], command["route"]
    if name in ANSWERED:
        return f"Class::Local(Local::{camel(name)})"
    if name in OPENED:
        return f"Class::AllNodes(Fan::{OPENED[name]})"
    if name in ("WAIT", "WAITAOF") or route == "pinned_blocking":
        return "Class::Blocking"
    if route in ("keyed", "unsupported_cross_slot"):
        return "Class::Keyed"
    if route == "split":
        return f"Class::Split(SplitKind::{SPLITS[name]})"
    if route in ("all_masters", "all_nodes"):
        return f"Class::{camel(route.replace('_', '-'))}(Fan::{fan(command)})"
    if route == "any_node":
        return "Class::AnyNode"
    if route == "pinned_transaction":
        return f"Class::Transaction(Transaction::{camel(name)})"
    if route == "pubsub":
        return f"Class::PubSub(PubSub::{camel(name)})"
    if route == "scan_cursor":
        return "Class::ScanCursor"
    if route == "admin_blocked":
        reason = command["reason"].removeprefix("refused by default: ").split(";")[0]
        return f"Class::Blocked({json.dumps(reason)})"
    assert route == "local", (name, route)
    if command["how"].startswith(LOCAL_REFUSED) or name in LOCAL_NAMES:
        return "Class::Local(Local::ClusterRefused)"
    if name in containers:
        return "Class::Container"
    return f"Class::Local(Local::{camel(name)})"


def categories_of(command):
    return sorted({category.removeprefix("@") for answer in answers(command, "acl") for category in answer})


def keys_of(command):
    name, specs = command["name"], command["key_specs"]
    if name in KEYS:
        return KEYS[name]
    numbered = [s for s in specs if "keynum" in s["find"]]
    if numbered:
        (spec,) = numbered
        at, find = spec["begin"]["index"]["index"], spec["find"]["keynum"]
        assert (find["keynumidx"], find["firstkey"]) == (0, 1), name
        dest = len(specs) == 2
        assert not dest or specs[0]["begin"] == {"index": {"index": 1}}, name
        return f"Keys::Numkeys {{ at: {at}, step: {find['keystep']}, dest: {str(dest).lower()} }}"
    first, last, step = command["first_key"], command["last_key"], command["step"]
    assert not command["movablekeys"], name
    if first == 0:
        return "Keys::None"
    if (first, last) == (1, 1):
        return "Keys::First"
    return f"Keys::Range {{ first: {first}, last: {last}, step: {step} }}"


def hash_of(name):
    """The same function as lookup.rs: names fold to upper case by clearing a bit of every byte."""
    data = name.upper().encode()
    count = len(data)
    if count >= 8:
        head, tail = int.from_bytes(data[:8], "little"), int.from_bytes(data[-8:], "little")
    elif count >= 4:
        head, tail = int.from_bytes(data[:4], "little"), int.from_bytes(data[-4:], "little")
    else:
        head, tail = data[0] | data[count // 2] << 8 | data[-1] << 16, 0
    fold = 0xDFDFDFDFDFDFDFDF
    mixed = ((head & fold) + count) * 0x9E3779B97F4A7C15 & MASK
    mixed = (mixed << 32 | mixed >> 32) & MASK ^ (tail & fold)
    return mixed * 0xD6E8FEB86659FD93 & MASK


def perfect_hash(names):
    """Displacements of the buckets, largest bucket first, and the slot table they make free of collisions."""
    buckets = [[] for _ in range(BUCKETS)]
    for row, name in enumerate(names):
        buckets[hash_of(name) >> 57].append((hash_of(name) >> 32 & SLOTS - 1, row))
    slots, displacements = [None] * SLOTS, [0] * BUCKETS
    for index in sorted(range(BUCKETS), key=lambda i: -len(buckets[i])):
        for displacement in range(SLOTS):
            wanted = {slot ^ displacement: row for slot, row in buckets[index]}
            if len(wanted) == len(buckets[index]) and all(slots[slot] is None for slot in wanted):
                displacements[index] = displacement
                for slot, row in wanted.items():
                    slots[slot] = row
                break
        else:
            sys.exit("no perfect hash: change a multiplier in hash_of and in lookup.rs")
    return displacements, [row or 0 for row in slots]


def numbers(values):
    lines = [values[i:i + 20] for i in range(0, len(values), 20)]
    return "\n".join("    " + ", ".join(str(value) for value in line) + "," for line in lines)


def main():
    commands = [c for c in json.load(open(sys.argv[1]))["commands"] if c["name"] not in NOT_COMMANDS]
    commands.sort(key=lambda c: c["name"])
    tops = [c for c in commands if not c["parent"]]
    containers = {c["parent"] for c in commands if c["parent"]}
    ids = {c["name"]: number for number, c in enumerate(tops + [c for c in commands if c["parent"]])}

    def row(c):
        subs = f"&{c['name']}_SUBS" if c["name"] in containers else "&[]"
        return (f'    row({ids[c["name"]]}, "{c["name"]}", {arity(c)}, {flags(c)}, {class_of(c, containers)}, '
                f'{keys_of(c)}, {subs}),')

    out = ["//! The command table: generated data, do not edit.",
           "//!",
           "//! Made by `python3 src/command/table.py ../shared/commands.json > src/command/table.rs` from what",
           "//! Redis 6.2, 7.0, 8.2 and Valkey 9.1 say about their own commands. A row is: number, name, arity, flags,",
           "//! class, key positions, subcommands.",
           "",
           "use super::class::{Class, Fan, Local, PubSub, SplitKind, Transaction};",
           "use super::flags::bits::*;",
           "use super::row::{Command, Keys, Special, row};",
           "",
           "/// How many commands and subcommands there are; their numbers are below it.",
           f"pub const COMMAND_COUNT: usize = {len(commands)};",
           "",
           "#[rustfmt::skip]",
           f"pub(super) static COMMANDS: [Command; {len(tops)}] = [",
           *map(row, tops), "];"]
    for container in sorted(containers):
        subs = [c for c in commands if c["parent"] == container]
        out += ["", "#[rustfmt::skip]", f"static {container}_SUBS: [Command; {len(subs)}] = [", *map(row, subs), "];"]
    categories = sorted({category for c in commands for category in categories_of(c)})
    masks = [sum(1 << categories.index(category) for category in categories_of(c)) for c in sorted(commands, key=lambda c: ids[c["name"]])]
    out += ["", "/// The servers' ACL categories; bit i of a command's mask stands for the i-th.",
            f"pub(super) static CATEGORIES: [&str; {len(categories)}] = [", *(f'    "{category}",' for category in categories), "];",
            "", "/// Every command's categories, united over the servers, by its number.", "#[rustfmt::skip]",
            "pub(super) static COMMAND_CATEGORIES: [u32; COMMAND_COUNT] = [", numbers(masks), "];"]
    displacements, slots = perfect_hash([c["name"] for c in tops])
    out += ["", "/// Moves the names of one bucket to free slots.", "#[rustfmt::skip]",
            f"pub(super) static DISPLACEMENTS: [u16; {BUCKETS}] = [", numbers(displacements), "];",
            "", "/// Rows of `COMMANDS`; an unused slot names the first row.", "#[rustfmt::skip]",
            f"pub(super) static SLOTS: [u16; {SLOTS}] = [", numbers(slots), "];"]
    print("\n".join(out))


main()
