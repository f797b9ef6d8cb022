"""redis-cli in a terminal of its own, of which every byte is seen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

HOST, PORT = sys.argv[1], sys.argv[2]
PATIENCE = 20
PROMPT = re.compile(rb"(?:127\.0\.0\.1:\d+(?:\[\d+\])?(?:\(TX\))?|not connected)> (?:\x1b\[0K)?(?:\r\x1b\[\d+C)?$")


class Screen:
    """One redis-cli. Where the terminal is `dumb` it prints a prompt and reads a line, with `xterm` it edits it in place."""

    def __init__(self, terminal="dumb", *arguments):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.environ.update(TERM=terminal, REDISCLI_RCFILE="/dev/null", REDISCLI_HISTFILE="/dev/null", HOME="/nonexistent")
            os.execvp("redis-cli", ["redis-cli", "-h", HOST, "-p", PORT, *arguments])
        # Without a size it asks the terminal where its cursor is.
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        self.shown = b""

    def type(self, text):
        os.write(self.file, text.encode())

    def read(self, until, what):
        """What is shown up to a match of `until`, which is taken off the screen."""
        deadline = time.monotonic() + PATIENCE
        while not (match := until.search(self.shown)):
            ready, _, _ = select.select([self.file], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{what} is not shown: {self.shown!r}"
            try:
                self.shown += os.read(self.file, 65536)
            except OSError:
                raise AssertionError(f"redis-cli ended before {what}: {self.shown!r}")
        found, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return found.decode()

    def prompt(self):
        return self.read(PROMPT, "a prompt")

    def end(self):
        """Until it has ended; returns the last words."""
        deadline, found = time.monotonic() + PATIENCE, self.shown
        while select.select([self.file], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                if not (more := os.read(self.file, 65536)):
                    break
            except OSError:
                break
            found += more
        os.close(self.file)
        os.waitpid(self.pid, 0)
        return found.decode()
