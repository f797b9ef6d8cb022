"""redis-cli as an operator uses it, in a terminal, on the admin port: redis_cli_admin.py HOST PORT NODE_PORT OTHER_ID.

The node owns slot 5, which it is made to give away to the other and to keep, so that there is something to tell.
"""

import re
import subprocess
import sys

from terminal import HOST, PORT, Screen

NODE_PORT, OTHER_ID = sys.argv[3], sys.argv[4]


def call(port, *arguments):
    subprocess.run(["redis-cli", "-e", "-h", HOST, "-p", port, *arguments], stdout=subprocess.DEVNULL, check=True)


def shows(typed, shown, what):
    """What is shown while this is typed, before it is sent."""
    cli.type(typed)
    cli.read(re.compile(shown), what)
    cli.type("\x15")


cli = Screen("xterm")
cli.prompt()
shows("PROXY TOP\t", rb"PROXY TOPOLOGY", "a completed subcommand")
shows("proxy slots ", rb"\[HOT count\] \[JSON\]", "the hint of arguments")
shows("PROXY SLOT ", rb"slot\|KEY", "the hint of a choice")
shows("PROXY MIGRATE PAU\t ", rb"PROXY MIGRATE PAUSE \x1b\[0;90;49mplan \[JSON\]", "a completed third word and its hint")
shows("proxy migrate ", rb"LIST \[JSON\]\|LOG plan \[count\]", "what may follow")
shows("SUBSC\t", rb"SUBSCRIBE", "a completed name")
cli.type("HELP PROXY CHECK\r")
cli.read(re.compile(rb"summary:.*speaks against moving slots"), "the help text")
# What is typed while it prints is thrown away.
cli.prompt()
cli.type("HELP @keyway\r")
cli.read(re.compile(rb"PROXY VERSION"), "the help of the group")
cli.type("\x04")
cli.end()

for arguments in [[], ["-3"]]:
    cli = Screen("dumb", *arguments)
    cli.prompt()
    cli.type("SUBSCRIBE keyway:topology\n")
    cli.read(re.compile(rb"\(integer\) 1\r\n"), "the confirmation")
    call(NODE_PORT, "CLUSTER", "SETSLOT", "5", "MIGRATING", OTHER_ID)
    call(PORT, "PROXY", "REFRESH")
    cli.read(re.compile(rb'"message"\r\n2\) "keyway:topology"\r\n3\) "[^"]* slot 5 begins to move from [^"]*"\r\n'), "a line")
    call(NODE_PORT, "CLUSTER", "SETSLOT", "5", "STABLE")
    call(PORT, "PROXY", "REFRESH")
    cli.read(re.compile(rb'slot 5 stays where it is"\r\n'), "the next line")
    cli.type("\x03")
    cli.prompt()
    cli.type("PING\n")
    cli.read(re.compile(rb"PONG"), "an answer after it")
    cli.prompt()
    cli.type("QUIT\n")
    cli.end()
