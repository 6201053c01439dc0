# SPDX-License-Identifier: Apache-2.0
"""What the tools of bench/ share as programs: a work directory, progress, one-line errors, clean ends.

Happy path: with WorkDir(...) as directory, Progress().say(...) on a terminal, run(name, body) around all.
Failure modes: BenchError and OSError become one line and status 1; a signal unwinds everything (status 128 + n);
directories left behind by a run that was killed outright are removed by the next one.
"""
import os
import re
import shutil
import signal
import sys
import tempfile
import time

import proc
from stacks import BenchError

PREFIX = "ashlar-bench-"


class Progress:
    """One line on a terminal, nothing elsewhere."""

    def __init__(self):
        self.shown = sys.stderr.isatty()
        self.started = time.monotonic()

    def say(self, text):
        if self.shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{f'[{time.monotonic() - self.started:4.0f} s] {text}'[:width]}", end="",
                  file=sys.stderr, flush=True)

    def clear(self):
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class WorkDir:
    """A new directory below the given one (default /var/tmp), removed at the end."""

    def __init__(self, parent):
        self.parent = parent or "/var/tmp"
        self.path = None

    def __enter__(self):
        if not os.path.isdir(self.parent):
            raise BenchError(f"{self.parent} is not a directory")
        for name in os.listdir(self.parent):
            owner = re.fullmatch(rf"{PREFIX}(\d+)-\w+", name)
            if owner and not proc.is_alive(int(owner.group(1))):
                shutil.rmtree(os.path.join(self.parent, name), ignore_errors=True)
        self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=self.parent)
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def stop_all(name, stops):
    """Calls each, whatever the others do; tells what could not be stopped."""
    for stop in stops:
        try:
            stop()
        except (BenchError, OSError) as e:
            print(f"{name}: while cleaning up: {e}", file=sys.stderr)


def _on_signal(number, _frame):
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def run(name, body):
    """Runs a tool's body(progress), which returns its status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    progress = Progress()
    try:
        return body(progress)
    except (BenchError, OSError) as e:
        progress.clear()
        print(f"{name}: {e}", file=sys.stderr)
        return 1
