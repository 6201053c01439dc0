# SPDX-License-Identifier: Apache-2.0
"""Does a flush reach the drive? Counted in the kernel, not asked from the stack.

Happy path: fio writes 4 KiB blocks with a flush after each, at depth 1, so that no two flushes can become one. Meanwhile
- the drive's own counter of flush requests (/sys/dev/block/*/stat) has to grow by as many;
- the trace point ext4_sync_file_enter tells which process asked for each: the stack's own have to be among them for
  as many (an idle neighbour's flushes prove nothing).

Failure modes: without the trace point (another file system, no tracefs) only the drive's counter speaks, and the verdict
is "undecided" when other processes flush at the same time; a stack that serves another machine can't be checked.
"""
import os
import re
from collections import Counter

import proc
from h2h import loads

WRITES = 200
TRACING = "/sys/kernel/tracing"
EVENT = "events/ext4/ext4_sync_file_enter"
REACHES, DOES_NOT, UNDECIDED = "reaches the drive", "does not reach the drive", "undecided"
LINE = re.compile(r"^\s*(?P<comm>.+)-(?P<tid>\d+)\s+\[\d+\].*ext4_sync_file_enter:")


def drive_flushes(directory):
    """Flush requests that the drive below a directory has completed; None if it does not count them."""
    number = os.stat(directory).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat", encoding="ascii") as f:
            fields = f.read().split()
    except OSError:
        return None
    return int(fields[15]) if len(fields) > 15 else None


class SyncTrace:
    """Who calls fsync and its like on ext4, while it is open. A trace instance of our own: nobody else's is touched."""

    def __init__(self):
        self.path = os.path.join(TRACING, "instances", f"ashlar-bench-{os.getpid()}")
        self.works = False

    def _write(self, name, text):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as f:
            f.write(text)

    def __enter__(self):
        try:
            os.mkdir(self.path)
            self._write(f"{EVENT}/enable", "1")
            self.works = True
        except OSError:
            pass
        return self

    def calls(self):
        """[(name of the thread, thread id)]"""
        with open(os.path.join(self.path, "trace"), encoding="utf-8", errors="replace") as f:
            found = [LINE.match(line) for line in f]
        return [(m["comm"], int(m["tid"])) for m in found if m]

    def __exit__(self, *_):
        try:
            if self.works:
                self._write(f"{EVENT}/enable", "0")
            os.rmdir(self.path)
        except OSError:
            pass


def threads_of(pids):
    """{thread id: label}"""
    found = {}
    for label, pid in pids.items():
        try:
            found.update({int(tid): label for tid in os.listdir(f"/proc/{pid}/task")})
        except OSError:
            continue
    return found


def judge(writes, at_drive, by_stack, strangers, traced):
    """The verdict and why; pure."""
    if at_drive is None:
        return UNDECIDED, "the drive does not count flush requests"
    if at_drive < 0.9 * writes:
        return DOES_NOT, f"{writes} flushed writes made only {at_drive} flush requests at the drive"
    if traced and by_stack < 0.9 * writes:
        return DOES_NOT, f"{writes} flushed writes made the stack's processes sync their files only {by_stack} times"
    if not traced and strangers:
        return UNDECIDED, f"the drive saw {at_drive} flush requests, but not only this stack may have sent them"
    own = f"the stack's processes synced their files {by_stack} times, and " if traced else ""
    return REACHES, f"of {writes} flushed writes {own}the drive completed {at_drive} flush requests"


def check(stack, work_dir):
    """The fields of a flush-check record."""
    pids = stack.pids()
    local = stack.uri.startswith("file:")
    if not pids and not local:
        return {"writes": 0, "flushes_seen": None, "by_process": {}, "method": "none", "verdict": UNDECIDED,
                "text": "no process of the stack is known here"}
    fio_before = set(proc.all_pids())
    with SyncTrace() as trace:
        before = drive_flushes(stack.directory)
        loads.run_fio(stack.uri, stack.size_bytes, "", f"[flush]\nrw=randwrite\nbs=4k\niodepth=1\nfdatasync=1\n"
                      f"number_ios={WRITES}\n", work_dir, loads.HANG_GUARD_S)
        after = drive_flushes(stack.directory)
        threads = threads_of(pids)
        calls = trace.calls() if trace.works else []
        traced = trace.works
    own = Counter(threads[tid] for comm, tid in calls if tid in threads)
    if local:  # the load itself is the stack: its threads are gone by now, and are new
        own.update("fio" for comm, tid in calls if tid not in threads and tid not in fio_before and
                   comm.startswith(("fio", "iou-wrk")))
    at_drive = None if before is None or after is None else after - before
    word, text = judge(WRITES, at_drive, sum(own.values()), True, traced)
    return {"writes": WRITES, "flushes_seen": at_drive, "by_process": dict(own), "verdict": word, "text": text,
            "method": "flush counter of the drive" + (" and trace point ext4_sync_file_enter" if traced else "")}
