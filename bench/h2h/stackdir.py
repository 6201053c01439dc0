# SPDX-License-Identifier: Apache-2.0
"""A stack is a folder of programs, bench/stacks/NAME/{up,down,uri,facts} and, if it can, break, mend, snapshot, ...

Happy path: up() starts it in its own directory; uri() is an NBD URI or file:PATH; facts() describes it; down() ends it,
at any time, and twice. What the programs get told is in their environment (see bench/stacks/serve.sh).

Failure modes: a program that fails, hangs or prints nonsense raises BenchError with its last line.
"""
import json
import os
import random
import re
import shutil
import signal
import subprocess

import proc
from stacks import BenchError, last_line

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "stacks")
UP_DEADLINE_S, VERB_DEADLINE_S = 180, 60
ORDER = ["bare", "local-raw", "local-qcow2", "array-nfs-qcow2", "array-iscsi", "ashlar-x1", "ashlar-x2", "ashlar-x3",
         "ashlar-x3-remote", "ceph-rbd-x3", "custom"]


def known_stacks():
    """Names of all folders: the usual ones in their order, then anybody's own."""
    found = [d for d in os.listdir(HERE) for file in ("up", "not-built") if os.path.exists(os.path.join(HERE, d, file))]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


class Site:
    """What the stacks of one run share."""

    def __init__(self, directory, size_bytes, store_bytes, link, custom_uri=None):
        self.directory, self.size_bytes, self.link = directory, size_bytes, link
        chooser = random.SystemRandom()
        # An interface's name has 15 characters: h2h + this + a short name.
        tag = "".join(chooser.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(4))
        self.environment = {
            "H2H_SHARED": directory, "H2H_SIZE": str(size_bytes), "H2H_STORE": str(store_bytes), "H2H_LINK": link,
            "H2H_TAG": tag, "H2H_NET": f"10.{chooser.randrange(64, 250)}.{chooser.randrange(1, 250)}",
            "H2H_CUSTOM_URI": custom_uri or "",
        }
        self.note_path = os.path.join(directory, "site.json")
        with open(self.note_path, "w", encoding="utf-8") as f:
            json.dump(self.environment, f)


class Stack:
    """One folder, in use for one run."""

    def __init__(self, name, environment):
        self.name = name
        self.folder = os.path.join(HERE, name)
        self.directory = os.path.join(environment["H2H_SHARED"], name)
        self.environment = {**environment, "H2H_DIR": self.directory}
        self.size_bytes = int(environment["H2H_SIZE"])
        self.uri = None

    def can(self, verb):
        return os.access(os.path.join(self.folder, verb), os.X_OK)

    def call(self, verb, *argv, deadline_s=VERB_DEADLINE_S):
        """Runs one of its programs; what it printed."""
        with open(os.path.join(self.directory, f"{verb}.log"), "w+", encoding="utf-8", errors="replace") as errors:
            # A file, not a pipe: servers started by `up` may keep it open.
            child = subprocess.Popen([os.path.join(self.folder, verb), *argv], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE if verb != "up" else errors, stderr=errors, text=True,
                                     env={**os.environ, **self.environment}, start_new_session=True)
            try:
                output, _ = child.communicate(timeout=deadline_s)
            except subprocess.TimeoutExpired:
                raise BenchError(f"{verb} did not end in {deadline_s} s") from None
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            if child.returncode != 0:
                errors.seek(0)
                raise BenchError(f"{verb}: {last_line(errors.read())}")
        return (output or "").strip()

    def up(self):
        os.makedirs(self.directory, exist_ok=True)
        self.call("up", deadline_s=UP_DEADLINE_S)
        self.uri = self.call("uri")
        if not re.match(r"(nbds?(\+unix|\+vsock)?://|file:/)", self.uri):
            raise BenchError(f"uri printed '{self.uri[:80]}', not an NBD URI or file:PATH")

    def facts(self):
        try:
            facts = json.loads(self.call("facts"))
            return {"title": facts.pop("title"), "role": facts.pop("role"), "facts": facts}
        except (ValueError, KeyError, AttributeError) as e:
            raise BenchError(f"facts did not print what it should: {e}") from None

    def pids(self):
        """{label: pid} of the processes behind it, from the files that its programs keep."""
        found = {}
        for name in ("pids", "measure"):
            try:
                with open(os.path.join(self.directory, name), encoding="ascii") as f:
                    for line in f.read().splitlines():
                        label, pid = line.split()[:2]
                        found[label] = int(pid)
            except (OSError, ValueError):
                continue
        return {label: pid for label, pid in found.items() if proc.is_alive(pid)}

    def down(self):
        if os.path.isdir(self.directory):
            self.call("down")
            shutil.rmtree(self.directory, ignore_errors=True)


def sweep(directory):
    """Ends what a run that was killed outright left behind in its directory."""
    if os.path.isdir(os.path.join(directory, "fresh")):
        sweep(os.path.join(directory, "fresh"))
    try:
        with open(os.path.join(directory, "site.json"), encoding="utf-8") as f:
            environment = json.load(f)
    except (OSError, ValueError):
        return
    for name in reversed(known_stacks()):
        stack = Stack(name, environment)
        try:
            stack.down()
        except (BenchError, OSError):
            pass
