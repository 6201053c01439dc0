# SPDX-License-Identifier: Apache-2.0
"""Macro and control workloads: programs in bench/workloads, run on an ext4 file system in the stack's volume.

Happy path: Mount(stack) puts nbdfuse, a loop device and a file system over the stack's URI (a loop device alone over the
bare file); run() calls the program with a directory and a time; it prints one JSON object with "ops" and "seconds".
The file system is the same everywhere, and its flushes pass through all layers to the stack.

Failure modes: a mount that can't be made or removed, a program that fails, hangs or prints nonsense: BenchError. close()
may be called at any time, and twice.
"""
import json
import os
import shutil
import signal
import subprocess
import time

import proc
from h2h import loads
from stacks import BenchError, die_with_parent, last_line, stop_process

ATTACH_DEADLINE_S, COMMAND_DEADLINE_S, PREPARE_S = 15, 120, 180


def macro_workloads():
    found = []
    for file in sorted(os.listdir(loads.HERE)):
        path = os.path.join(loads.HERE, file)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            found.append({"name": file, "group": "macro", **loads.header_of(path)})
    return found


def missing_programs(workload):
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [p for p in workload.get("needs", "").split() if not shutil.which(p, path=path)]


def command(*argv, deadline_s=COMMAND_DEADLINE_S):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline_s,
                              check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"'{argv[0]}' did not end in {deadline_s} s") from None
    except OSError as e:
        raise BenchError(f"{argv[0]}: {e.strerror}") from None
    if done.returncode != 0:
        raise BenchError(f"'{' '.join(argv[:3])}' failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout.strip()


class Mount:
    """A file system in a stack's volume, below the stack's directory."""

    def __init__(self, stack):
        self.stack = stack
        self.fuse_dir = os.path.join(stack.directory, "fuse")
        self.directory = os.path.join(stack.directory, "mnt")
        self.fuse, self.loop, self.mounted = None, None, False

    def open(self):
        os.makedirs(self.fuse_dir, exist_ok=True)
        os.makedirs(self.directory, exist_ok=True)
        backing = self.stack.uri[5:] if self.stack.uri.startswith("file:") else self._fuse()
        self.loop = command("losetup", "--find", "--show", "--direct-io=on", backing)
        with open(os.path.join(self.stack.directory, "loop"), "w", encoding="ascii") as f:
            f.write(self.loop)
        # Initialised here, not in the background while something is measured.
        command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", self.loop)
        command("mount", "-o", "noatime", self.loop, self.directory)
        self.mounted = True
        os.chmod(self.directory, 0o777)

    def _fuse(self):
        path = os.path.join(self.fuse_dir, "disk")
        with open(os.path.join(self.stack.directory, "nbdfuse.log"), "wb") as log:
            self.fuse = subprocess.Popen(["nbdfuse", path, self.stack.uri], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         start_new_session=True, preexec_fn=die_with_parent)
        deadline = time.monotonic() + ATTACH_DEADLINE_S
        while not os.path.exists(path):
            if self.fuse.poll() is not None or time.monotonic() > deadline:
                with open(log.name, encoding="utf-8", errors="replace") as f:
                    raise BenchError(f"nbdfuse did not serve: {last_line(f.read())}")
            time.sleep(0.02)
        return path

    def pids(self):
        return {"nbdfuse": self.fuse.pid, **self.stack.pids()} if self.fuse else self.stack.pids()

    def close(self):
        errors = []
        for when, argv in ((self.mounted, ["umount", self.directory]), (self.loop, ["losetup", "--detach", self.loop]),
                           (self.fuse, ["umount", self.fuse_dir])):
            try:
                if when:
                    command(*argv)
            except BenchError as e:
                errors.append(str(e))
                if argv[0] == "umount":
                    subprocess.run(["umount", "--lazy", argv[1]], capture_output=True, check=False)
        stop_process(self.fuse)
        self.fuse, self.loop, self.mounted = None, None, False
        if errors:
            raise BenchError(errors[0])


def call(workload, verb, directory, seconds, deadline_s):
    """Runs a workload's program in a session of its own, so that all of it can be ended."""
    argv = [os.path.join(loads.HERE, workload["name"]), verb, directory, str(seconds)]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             start_new_session=True)
    try:
        output, errors = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{workload['name']} {verb} did not end in {deadline_s:.0f} s") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if child.returncode != 0:
        raise BenchError(f"{workload['name']} {verb}: {last_line(errors or output)}")
    return output


def prepare(workload, directory):
    place = os.path.join(directory, workload["name"])
    if not os.path.isdir(place):
        os.makedirs(place)
        os.chmod(place, 0o777)
        call(workload, "prepare", place, 0, PREPARE_S)


def run(workload, directory, pids, seconds):
    """One run: the fields of a sample that come from it."""
    meter = proc.CpuMeter(pids)
    begin, own = time.monotonic(), os.times()
    output = call(workload, "run", os.path.join(directory, workload["name"]), seconds, loads.HANG_GUARD_S + 10 * seconds)
    wall_s, own_after = time.monotonic() - begin, os.times()
    used, machine_us = meter.stop()
    own_us = 1e6 * (sum(own_after[:4]) - sum(own[:4]))
    try:
        aux = json.loads(output.strip().splitlines()[-1])
        ops, spent_s = float(aux["ops"]), float(aux["seconds"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise BenchError(f"{workload['name']} printed no figures: {last_line(output)}") from None
    if ops <= 0 or spent_s <= 0:
        raise BenchError(f"{workload['name']} did nothing")
    return {"seconds": spent_s, "requests": ops, "aux": {**aux, "ops_s": ops / spent_s}, "metrics": None,
            "cpu_us": {label: us / ops for label, us in used.items()},
            "others_cores": max(0.0, (machine_us - own_us - sum(used.values())) / (wall_s * 1e6))}
