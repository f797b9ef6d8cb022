"""redis-cli as a person uses it, in a terminal: redis_cli_pty.py HOST PORT. Prints what the screen showed.

The transcript is the same against any server that looks like a standalone one; the port, times and addresses are masked.
"""

import re
import subprocess
import time

from terminal import HOST, PATIENCE, PORT, Screen

def show(text):
    text = text.replace("\r", "").replace(PORT, "PORT")
    # It shows the time only of what took half a second, which on a busy machine is anything.
    text = re.sub(r"\(\d+\.\d+s\)\n", "", text)
    text = re.sub(r'("id"(?: =>|\n *8\)) \(integer\)) \d+', r"\1 ID", text)
    text = re.sub(r"^\d{10}\.\d{6} \[0 [^]]*\]", "STAMP [0 ADDRESS]", text, flags=re.M)
    print(text, end="", flush=True)


def interrupted(cli):
    """Ctrl-C ends what it waits for, and the next command goes over a new connection."""
    cli.type("\x03")
    found = cli.prompt()
    cli.type("ECHO alive\n")
    found += cli.prompt()
    cli.type("QUIT\n")
    return found + cli.end()


def other(*arguments):
    return subprocess.run(["redis-cli", "-h", HOST, "-p", PORT, *arguments], capture_output=True, text=True, check=True).stdout


COMMANDS = r"""
FLUSHALL
PING
SET a 1
GET a
GET missing
SET "with space" "tab\there \x00 and \"quotes\""
GET "with space"
GET "unbalanced
3 INCR a
MULTI
INCR a
GET a
LPUSH a x
EXEC
MULTI
GET
SET a 5
EXEC
MULTI
INCR a
DISCARD
EXEC
WATCH a
UNWATCH
HSET h f1 v1 f2 v2
HGETALL h
ZADD z 1.5 m 2 n
ZRANGE z 0 -1 WITHSCORES
LPUSH l 1 2 3
LRANGE l 0 -1
BLPOP l 1
BLPOP none 1
HELLO 3
HGETALL h
ZRANGE z 0 -1 WITHSCORES
GET missing
MULTI
HGETALL h
EXEC
HELLO 2
EVAL "return {1, 'two', {3}, redis.status_reply('FINE')}" 0
EVAL "return redis.error_reply('MINE no')" 0
SELECT 0
SELECT 1
GET a
TYPE z
OBJECT ENCODING a
CLIENT SETNAME me
CLIENT GETNAME
CLUSTER INFO
NOSUCH a b
AUTH nobody nothing
LPUSH a x
XADD s 1-1 f v
XREAD COUNT 1 STREAMS s 0
DBSIZE
RESET
CLIENT GETNAME
KEYS z*
""".strip().splitlines()

cli = Screen()
show(cli.prompt())
for command in COMMANDS:
    cli.type(command + "\n")
    show(cli.prompt())
ident = [line for line in other("CLIENT", "LIST").splitlines() if " cmd=keys " in line][0].split()[0].removeprefix("id=")
assert other("CLIENT", "KILL", "ID", ident) == "1\n"
for command in ["GET a", "GET a"]:
    cli.type(command + "\n")
    show(cli.prompt())
cli.type("QUIT\n")
show(cli.end())

print("--- hints and completion")
cli = Screen("xterm")
cli.prompt()
cli.type("ZREVRANGEBYS\t")
cli.read(re.compile(b"(?i)ZREVRANGEBYSCORE"), "the completed name")
cli.type(" ")
cli.read(re.compile(rb"key max min"), "the hint of arguments")
cli.type("\x15HELP LMPOP\r")
cli.read(re.compile(rb"summary:.* elements from a list"), "the help text")
cli.type("\x04")
cli.end()
print("shown")

print("--- subscribed")
cli = Screen()
cli.prompt()
cli.type("SUBSCRIBE one two\n")
show(cli.read(re.compile(rb"\(integer\) 2\r\n"), "both confirmations"))
assert other("PUBLISH", "one", "hello") == "1\n"
show(cli.read(re.compile(rb'"hello"\r\n'), "the message"))
show(interrupted(cli))

print("--- subscribed in RESP3")
cli = Screen("dumb", "-3")
cli.prompt()
cli.type("PSUBSCRIBE o*\n")
show(cli.read(re.compile(rb"\(integer\) 1\r\n"), "the confirmation"))
assert other("PUBLISH", "one", "again") == "1\n"
show(cli.read(re.compile(rb'"again"\r\n'), "the message"))
show(interrupted(cli))

print("--- monitoring")
cli = Screen()
cli.prompt()
cli.type("MONITOR\n")
show(cli.read(re.compile(rb"OK\r\n"), "OK"))
other("SET", "monitored", "1")
show(cli.read(re.compile(rb'"SET" "monitored" "1"\r\n'), "the command"))
show(interrupted(cli))

print("--- waiting")
cli = Screen()
cli.prompt()
cli.type("BLPOP late 20\n")
time.sleep(0.3)
other("RPUSH", "late", "v")
show(cli.prompt())
cli.type("BLPOP late 0\n")
time.sleep(0.2)
cli.type("\x03")
cli.end()
deadline = time.monotonic() + PATIENCE
while any(" cmd=blpop " in line for line in other("CLIENT", "LIST").splitlines()):
    assert time.monotonic() < deadline, "the connection of a redis-cli that is gone is still there"
    time.sleep(0.05)
print("gone")
