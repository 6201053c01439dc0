# SPDX-License-Identifier: Apache-2.0
"""A stack of its own for one scenario: where a rebuild is timed, nothing but its own volume is to be rebuilt.

Happy path: Fresh(...) is the same folder of programs in another directory (so another cluster), up with an empty volume;
write() makes it dense, or holed: every other 4 KiB written; down() ends it.
Failure modes: BenchError; the note of the site lets the next run end what one that was killed left behind.
"""
import json
import os
import shutil

from h2h import loads, preflight
from h2h.stackdir import Stack
from stacks import BenchError

MIB = 1 << 20
JOBS = {"dense": (1, "rw=write\nbs=1m\niodepth=4\n"), "holed": (2, "rw=write:4k\nbs=4k\niodepth=32\n")}
DIRECTORY = "fresh"


class Fresh:
    """Looks like the stack it copies."""

    def __init__(self, session, stack, how, size_mib):
        if how not in JOBS:
            raise BenchError(f"a fresh volume is {' or '.join(JOBS)}, not '{how}'")
        self.share, self.job = JOBS[how]
        self.work_dir, self.place = session.work_dir, os.path.join(session.work_dir, DIRECTORY)
        size_bytes = int(size_mib) * MIB
        os.makedirs(self.place, exist_ok=True)
        environment = {**stack.environment, "H2H_SHARED": self.place, "H2H_SIZE": str(size_bytes),
                       "H2H_STORE": str(preflight.store_bytes([stack.name], size_bytes))}
        with open(os.path.join(self.place, "site.json"), "w", encoding="utf-8") as f:
            json.dump(environment, f)
        self.stack = Stack(stack.name, environment)
        self.written_mib = int(size_mib) / self.share

    def __enter__(self):
        try:
            self.stack.up()
            loads.run_fio(self.stack.uri, self.stack.size_bytes, "", f"[fresh]\n{self.job}refill_buffers\nend_fsync=1\n",
                          self.work_dir, loads.HANG_GUARD_S + self.written_mib)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stack.down()
        shutil.rmtree(self.place, ignore_errors=True)
