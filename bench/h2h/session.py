# SPDX-License-Identifier: Apache-2.0
"""One run: what is up, what is known, what failed; and how a stack that fails is put aside while the rest goes on.

Happy path: bring_up() starts each stack, checks it, fills it; the phases (micro, macro, scenes, budget) use ready();
tear_down() ends everything, whatever happened before.
Failure modes: an error of one stack becomes one line, a failure record, and a stack record with state "failed".
"""
import os
import re
import subprocess
import sys
import time

import proc
from h2h import flushcheck, loads, plan, preflight
from h2h.reference import Reference
from h2h.stackdir import Site, Stack
from stacks import BenchError

SETTLE_SHARE, SETTLE_S, SAY_S = 0.05, 60, 20


class Session:
    """The state of a run that all phases share."""

    def __init__(self, options, results, work_dir, progress, build):
        self.options, self.results, self.work_dir, self.progress, self.build = options, results, work_dir, progress, build
        self.stacks, self.titles = {}, {}
        self.reference, self.said = None, 0.0
        self.method = results.run()["method"]
        self.eta = plan.Eta({"up": 5, "fill": 6, "micro": self.method["seconds"] + self.method["warmup_s"] + 1.2,
                             "macro": self.method["macro_seconds"] + 2.5, "mount": 3, "scene": 45, "guest": 40, "budget": 28})

    # -- telling

    def say(self, text):
        self.progress.say(f"{self.eta.text()}; {text}")
        if not self.progress.shown and time.monotonic() - self.said > SAY_S:  # a log, not a terminal: now and then
            self.said = time.monotonic()
            print(f"[{self.said - self.progress.started:4.0f} s] {self.eta.text()}; {text}", file=sys.stderr, flush=True)

    def line(self, text):
        """One clear line, kept on the screen."""
        self.progress.clear()
        print(text, file=sys.stderr, flush=True)

    def fail(self, stack, where, what, error):
        self.results.fail(stack, where, what, error)
        self.line(f"bench/headtohead: {stack}: {where}{f' {what}' if what else ''}: {error}")

    def give_up(self, name, where, what, error):
        """A stack that can't be used any more: the rest goes on."""
        self.fail(name, where, what, error)
        self.results.append("stack", stack=name, state="failed", why=str(error), **self.titles.get(name, {}))
        stack = self.stacks.pop(name, None)
        if stack:
            self._down(stack)

    def still_answers(self, stack):
        if stack.uri.startswith("file:"):
            return True
        try:
            return subprocess.run(["nbdinfo", "--size", stack.uri], capture_output=True, timeout=10, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def ready(self):
        return list(self.stacks.values())

    # -- up and down

    def bring_up(self):
        names = self.options.stacks
        site = Site(self.work_dir, self.method["size_bytes"], preflight.store_bytes(names, self.method["size_bytes"]),
                    self.method["link_rate"], self.options.custom)
        self.eta.add("up", len(names))
        self.eta.add("fill", len(names))
        for name in names:
            self.say(f"starting {name}")
            begin = time.monotonic()
            self._start(name, site.environment)
            self.eta.finished("up", time.monotonic() - begin)
        if not self.stacks:
            raise BenchError("no stack came up")
        self.settle()
        self.reference = Reference(self.work_dir)
        for stack in self.ready():
            self.say(f"filling and checking {stack.name}")
            begin = time.monotonic()
            self._fill_and_check(stack)
            self.eta.finished("fill", time.monotonic() - begin)
        self.settle()

    def _start(self, name, environment):
        stack = Stack(name, environment)
        if os.path.exists(os.path.join(stack.folder, "not-built")):
            with open(os.path.join(stack.folder, "not-built"), encoding="utf-8") as f:
                why = f.read().strip()
            self.results.append("stack", stack=name, state="not-built", why=why, title=name, role="rival")
            self.line(f"bench/headtohead: {name}: not built: {why}")
            return
        try:
            lacks = preflight.check_stack(name, self.build, self.options.custom)
            if lacks:
                self.give_up(name, "preflight", None, lacks)
                return
            self.stacks[name] = stack  # from here on it is to be taken down
            stack.up()
            self.titles[name] = stack.facts()
            self.results.append("stack", stack=name, state="ready", **self.titles[name])
        except (BenchError, OSError) as e:
            self.give_up(name, "up", None, e)

    def _fill_and_check(self, stack):
        where = "fill"
        try:
            loads.fill(stack, self.work_dir)
            where = "flush-check"
            found = flushcheck.check(stack, self.work_dir)
            self.results.append("flush-check", stack=stack.name, **found)
            if found["verdict"] != flushcheck.REACHES:
                self.line(f"bench/headtohead: {stack.name}: flush {found['verdict']}: {found['text']}")
        except (BenchError, OSError) as e:
            self.give_up(stack.name, where, None, e)

    def settle(self, stacks=None):
        """Waits until no stack works in the background: what was just filled may still be merged."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            pids = {f"{s.name}/{label}": pid for s in stacks or self.ready() for label, pid in s.pids().items()}
            meter = proc.CpuMeter(pids)
            time.sleep(0.5)
            busiest = max(meter.stop()[0].values(), default=0) / 0.5e6
            if busiest < SETTLE_SHARE:
                return
            self.say(f"waiting for the stacks to settle ({busiest:.0%} of a core)")

    def _down(self, stack):
        try:
            stack.down()
        except (BenchError, OSError) as e:
            self.fail(stack.name, "down", None, e)

    def tear_down(self):
        self.progress.say("taking everything down")
        if self.reference:
            self.reference.close()
        for name in reversed(list(self.stacks)):
            self._down(self.stacks.pop(name))
        self.progress.clear()


def drop_caches():
    """This machine's page cache: the servers' and ours, so that a read is read from the drive."""
    subprocess.run(["sync", "-f", "/var/tmp"], check=False)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("1")


def short_name(text):
    return re.sub(r"[^\w.-]", "-", text)
