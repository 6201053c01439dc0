# SPDX-License-Identifier: Apache-2.0
"""Time stamps inside the NBD server's process: user-space probes of the kernel on a function of the client library.

Happy path: Stamps(library) puts probes on POINTS, in a trace instance of our own; after a load at depth 1, span_us() pairs
what was seen into requests and tells the mean from the first point to the last. The probes cost the same in the whole as
in the part.
Failure modes: BenchError without the probes in the kernel or the names in the library (stripped): the caller measures
otherwise. The probes are removed on every way out.
"""
import os
import re
import struct
from statistics import mean

from h2h.flushcheck import TRACING
from stacks import BenchError

# name: (function, on its return?), in the order in which a write meets them. Two are enough: each costs some microseconds.
POINTS = {"call": ("ashlar_write", False), "return": ("ashlar_write", True)}
LINE = re.compile(r"\s(?P<at>\d+\.\d+): (?P<name>\w+): \(")
LEAST = 100


def symbols(path, wanted):
    """{name: offset in the file} of functions of a 64-bit ELF file, local ones as well."""
    with open(path, "rb") as f:
        data = f.read()
    if data[:6] != b"\x7fELF\x02\x01":
        raise BenchError(f"{path} is not a 64-bit ELF file")
    section_at, = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    heads = [struct.unpack_from("<IIQQQQIIQQ", data, section_at + i * size) for i in range(count)]
    found = {}
    for _, kind, _, _, at, length, link, *_ in heads:
        if kind not in (2, 11):  # the table of symbols, that of the dynamic linker
            continue
        names = heads[link][4]
        for entry in range(at, at + length, 24):
            name_at, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, entry)
            if info & 15 != 2 or not 0 < section < count:
                continue
            name = data[names + name_at:data.index(b"\0", names + name_at)].decode(errors="replace")
            if name in wanted:
                found[name] = value - heads[section][3] + heads[section][4]
    missing = set(wanted) - set(found)
    if missing:
        raise BenchError(f"{path} has no symbol {sorted(missing)[0]}")
    return found


def span_us(lines):
    """Mean from the first point to the last of whole requests; pure."""
    order, spans, seen = list(POINTS), [], []
    for line in lines:
        match = LINE.search(line)
        if not match or match["name"] not in POINTS:
            continue
        name, at = match["name"], 1e6 * float(match["at"])
        seen = [at] if name == order[0] else [*seen, at] if len(seen) < len(order) and name == order[len(seen)] else []
        if len(seen) == len(order):
            spans.append(seen[-1] - seen[0])
    if len(spans) < LEAST:
        raise BenchError(f"only {len(spans)} requests were traced")
    return mean(spans)


class Stamps:
    """The probes, while it is open."""

    def __init__(self, library):
        self.group = f"ashlar_bench_{os.getpid()}"
        self.offsets = symbols(library, {function for function, _ in POINTS.values()})
        self.library = os.path.realpath(library)
        self.instance = os.path.join(TRACING, "instances", self.group)

    @staticmethod
    def _write(path, text, flags=os.O_TRUNC):
        fd = os.open(path, os.O_WRONLY | flags)  # open() would seek to the end, which these files refuse
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def __enter__(self):
        try:
            os.mkdir(self.instance)
            self._write(os.path.join(self.instance, "trace_clock"), "mono")
            for name, (function, returns) in POINTS.items():
                probe = f"{'r' if returns else 'p'}:{self.group}/{name} {self.library}:{self.offsets[function]:#x}\n"
                self._write(os.path.join(TRACING, "uprobe_events"), probe, os.O_APPEND)
            self._write(os.path.join(self.instance, "events", self.group, "enable"), "1")
        except OSError as e:
            self.__exit__()
            raise BenchError(f"no probes: {e.strerror}") from None
        return self

    def clear(self):
        self._write(os.path.join(self.instance, "trace"), "")

    def span_us(self):
        with open(os.path.join(self.instance, "trace"), encoding="utf-8", errors="replace") as f:
            return span_us(f)

    def __exit__(self, *_):
        gone = [(os.path.join(TRACING, "uprobe_events"), f"-:{self.group}/{name}\n", os.O_APPEND) for name in POINTS]
        for path, text, flags in ((os.path.join(self.instance, "events", self.group, "enable"), "0", 0), *gone):
            try:
                self._write(path, text, flags)
            except OSError:
                pass
        try:
            os.rmdir(self.instance)
        except OSError:
            pass
