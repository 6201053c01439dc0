# SPDX-License-Identifier: Apache-2.0
"""The things under measurement, each an NBD URI with processes behind it.

Happy path of a stack:
- start() brings it up, its files below the given directory, and waits until it can be connected to;
- uri is what a client connects to, pids() are the processes whose CPU time it costs;
- stop() ends it and removes its files; it may be called at any time, and twice.

Failure modes: anything that does not come up raises BenchError with one line saying what and why.
"""
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import proc

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# qemu-storage-daemon's buffers otherwise go back to the kernel after each request: page faults in the floor.
QSD_TUNABLES = ("glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=33554432"
                ":glibc.malloc.top_pad=67108864")
PR_SET_PDEATHSIG = 1
START_DEADLINE_S = 10
STOP_DEADLINE_S = 10


class BenchError(Exception):
    """An error to be told in one line."""


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def need_program(*names):
    for name in names:
        if not shutil.which(name):
            raise BenchError(f"{name} is not installed (deploy/packages.txt lists the packages)")


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def socket_answers(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def unix_path_of(uri):
    """The socket path of an nbd+unix URI, or None."""
    found = re.search(r"[?&]socket=([^&]+)", uri)
    return found.group(1) if found else None


def stop_process(process):
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class ServedStack:
    """A server process of our own on a unix socket in the work directory."""

    def __init__(self, name, work_dir, size_bytes):
        self.name, self.size_bytes = name, size_bytes
        self.socket_path = os.path.join(work_dir, f"{name}.sock")
        self.process = None
        self.needs_fill = True

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.socket_path}"

    def pids(self):
        return {self.label: self.process.pid} if self.process else {}

    def _serve(self, argv, env=None):
        log_path = self.socket_path + ".log"
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(env or {})}, preexec_fn=die_with_parent)
        deadline = time.monotonic() + START_DEADLINE_S
        while not socket_answers(self.socket_path):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                with open(log_path, encoding="utf-8", errors="replace") as log:
                    raise BenchError(f"{self.name}: {argv[0]} "
                                     f"{'ended' if ended else 'did not listen'}: {last_line(log.read())}")
            time.sleep(0.02)

    def stop(self):
        stop_process(self.process)
        self.process = None


class LocalRaw(ServedStack):
    """An unreplicated raw file through qemu-storage-daemon: what the drive itself can do."""

    label = "qemu-storage-daemon"

    def __init__(self, name, work_dir, size_bytes):
        super().__init__(name, work_dir, size_bytes)
        self.file_path = os.path.join(work_dir, f"{name}.img")

    def start(self):
        need_program(self.label)
        with open(self.file_path, "wb") as f:
            f.truncate(self.size_bytes)
        self._serve([self.label,
                     "--blockdev", f"driver=file,node-name=file,filename={self.file_path},"
                                   "cache.direct=on,aio=io_uring,discard=unmap",
                     "--blockdev", "driver=raw,node-name=raw,file=file,cache.direct=on",
                     "--nbd-server", f"addr.type=unix,addr.path={self.socket_path}",
                     "--export", "type=nbd,id=export,node-name=raw,name=,writable=on"],
                    {"GLIBC_TUNABLES": QSD_TUNABLES})

    def stop(self):
        super().stop()
        if os.path.exists(self.file_path):
            os.unlink(self.file_path)


class NbdkitNull(ServedStack):
    """nbdkit over no storage at all: the floor of the NBD path itself."""

    label = "nbdkit"

    def __init__(self, name, work_dir, size_bytes):
        super().__init__(name, work_dir, size_bytes)
        self.needs_fill = False

    def start(self):
        need_program(self.label)
        self._serve([self.label, "--foreground", "--unix", self.socket_path, "null", str(self.size_bytes)])


class GivenUri:
    """A server that somebody else runs."""

    def __init__(self, name, uri, size_bytes, needs_fill=True):
        self.name, self.uri, self.size_bytes, self.needs_fill = name, uri, size_bytes, needs_fill

    def start(self):
        path = unix_path_of(self.uri)
        if path and not socket_answers(path):
            raise BenchError(f"{self.name}: nobody listens on {path}")

    def pids(self):
        path = unix_path_of(self.uri)
        return {proc.name_of(pid): pid for pid in proc.listener_pids(path)} if path else {}

    def stop(self):
        pass
