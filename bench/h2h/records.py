# SPDX-License-Identifier: Apache-2.0
"""The results file: JSON lines, written as soon as something is known (bench/RESULTS.md has the formats).

Happy path: Results(path) reads what an earlier run left; append() adds a line and puts it on the drive.
Failure modes: a last line that was cut off is dropped and overwritten; any other broken line is a BenchError, as is a
file of another format.
"""
import json
import os
import time

from stacks import BenchError

FORMAT = 1


class Results:
    """What is known so far, in order; and where more is added."""

    def __init__(self, path):
        self.path = path
        self.lines = []
        whole = self._read() if os.path.exists(path) else 0
        self.file = open(path, "ab")  # pylint: disable=consider-using-with
        self.file.truncate(whole)

    def _read(self):
        """Returns the length of the whole lines."""
        with open(self.path, "rb") as f:
            data = f.read()
        end = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:end].splitlines(), 1):
            try:
                record = json.loads(line)
                kind = record["kind"]
            except (ValueError, KeyError, TypeError):
                raise BenchError(f"{self.path}: line {number} is not a record of results") from None
            if kind == "run" and record.get("format") != FORMAT:
                raise BenchError(f"{self.path}: format {record.get('format')}, this program writes {FORMAT}")
            self.lines.append(record)
        return end

    def append(self, kind, **fields):
        record = {"kind": kind, **fields}
        self.lines.append(record)
        self.file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self.file.flush()
        os.fdatasync(self.file.fileno())
        return record

    def fail(self, stack, where, what, text):
        return self.append("failure", stack=stack, where=where, what=what, text=str(text), at=time.time())

    def of(self, kind, **fields):
        return [r for r in self.lines if r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())]

    def run(self):
        """The header that holds: the last one."""
        return (self.of("run") or [None])[-1]

    def close(self):
        self.file.close()
