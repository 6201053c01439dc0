# SPDX-License-Identifier: Apache-2.0
"""The reference job: the same small piece of work beside every run, on a file of its own, to see the machine drift.

Happy path: run() takes some 50 ms: random 4 KiB reads, 4 KiB writes each with fdatasync, and hashing; medians of each.
drift() tells how far the references of one run spread: differences between stacks below that are not called.
"""
import hashlib
import mmap
import os
import random
import time
from statistics import median, quantiles

FILE_BYTES, READS, SYNCS, HASH_BYTES = 64 << 20, 100, 40, 2 << 20


class Reference:
    """Its file, open with O_DIRECT."""

    text = f"{READS} random 4 KiB reads and {SYNCS} writes with fdatasync of a file on the same drive, and {HASH_BYTES >> 20} MiB hashed"

    def __init__(self, directory):
        self.path = os.path.join(directory, "reference.img")
        with open(self.path, "wb") as f:
            for _ in range(FILE_BYTES >> 20):
                f.write(os.urandom(1 << 20))
            f.flush()
            os.fsync(f.fileno())
        self.fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        self.page = mmap.mmap(-1, 4096)
        self.data = os.urandom(HASH_BYTES)
        self.chooser = random.Random(1)

    def _timed(self, work, count):
        spans = []
        for _ in range(count):
            offset = self.chooser.randrange(FILE_BYTES // 4096) * 4096
            begin = time.perf_counter()
            work(offset)
            spans.append(1e6 * (time.perf_counter() - begin))
        return median(spans)

    def _sync(self, offset):
        os.pwritev(self.fd, [self.page], offset)
        os.fdatasync(self.fd)

    def run(self):
        begin = time.perf_counter()
        hashlib.sha256(self.data).digest()
        hash_ms = 1e3 * (time.perf_counter() - begin)
        return {"read_us": round(self._timed(lambda offset: os.preadv(self.fd, [self.page], offset), READS), 1),
                "sync_us": round(self._timed(self._sync, SYNCS), 1), "hash_ms": round(hash_ms, 3)}

    def close(self):
        os.close(self.fd)


def drift(samples):
    """{"read": 1.2, ...}: the factor between the quartiles of all references of the samples; 1.0 is a steady machine."""
    factors = {}
    for key in ("read_us", "sync_us", "hash_ms"):
        values = [s["reference"][when][key] for s in samples for when in ("before", "after") if s.get("reference")]
        if len(values) >= 4:
            low, _, high = quantiles(values, n=4)
            factors[key.split("_")[0]] = high / low
    return factors
