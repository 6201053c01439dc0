# SPDX-License-Identifier: Apache-2.0
"""An NBD client for what fio does not do: writes in an order of our own, and the time of each of them.

Happy path: Disk(uri) connects; write() waits, write_all() keeps several on their way; flush(), close().
Failure modes: whatever libnbd says becomes BenchError, one line.
"""
import ctypes
import ctypes.util
import time

from stacks import BenchError

ANY_FD = 1000  # ms: one turn of nbd_poll
HANG_GUARD_S = 60


class _Completion(ctypes.Structure):
    """nbd_completion_callback: none."""

    _fields_ = [("callback", ctypes.c_void_p), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p)]


def _library():
    lib = ctypes.CDLL(ctypes.util.find_library("nbd") or "libnbd.so.0")
    handle, u64, u32, size, pointer = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_void_p
    lib.nbd_create.restype = handle
    lib.nbd_get_error.restype = ctypes.c_char_p
    lib.nbd_connect_uri.argtypes = [handle, ctypes.c_char_p]
    lib.nbd_pwrite.argtypes = [handle, pointer, size, u64, u32]
    lib.nbd_pread.argtypes = [handle, pointer, size, u64, u32]
    lib.nbd_flush.argtypes = [handle, u32]
    lib.nbd_shutdown.argtypes = [handle, u32]
    lib.nbd_close.argtypes = [handle]
    lib.nbd_aio_pwrite.argtypes = [handle, pointer, size, u64, _Completion, u32]
    lib.nbd_aio_pwrite.restype = ctypes.c_int64
    lib.nbd_aio_command_completed.argtypes = [handle, u64]
    lib.nbd_aio_peek_command_completed.argtypes = [handle]
    lib.nbd_aio_peek_command_completed.restype = ctypes.c_int64
    lib.nbd_poll.argtypes = [handle, ctypes.c_int]
    return lib


class Disk:
    """One connection."""

    def __init__(self, uri):
        try:
            self.lib = _library()
        except OSError as e:
            raise BenchError(f"libnbd is not installed (deploy/packages.txt lists the packages): {e}") from None
        self.handle = self.lib.nbd_create()
        self._good(self.lib.nbd_connect_uri(self.handle, uri.encode()))

    def _good(self, rc):
        if rc < 0:
            raise BenchError(f"libnbd: {(self.lib.nbd_get_error() or b'no message').decode(errors='replace')}")
        return rc

    def write(self, data, offset):
        self._good(self.lib.nbd_pwrite(self.handle, data, len(data), offset, 0))

    def read(self, length, offset):
        data = ctypes.create_string_buffer(length)
        self._good(self.lib.nbd_pread(self.handle, data, length, offset, 0))
        return data.raw

    def write_all(self, writes, depth, ended=lambda seconds: None):
        """(offset, data) of each write; ended is told how long each took."""
        begun, writes = {}, iter(writes)
        more = True
        deadline = time.monotonic() + HANG_GUARD_S
        while more or begun:
            while more and len(begun) < depth:
                item = next(writes, None)
                more = item is not None
                if more:
                    cookie = self._good(self.lib.nbd_aio_pwrite(self.handle, item[1], len(item[1]), item[0],
                                                                _Completion(), 0))
                    begun[cookie] = (time.monotonic(), item[1])
            while begun:
                cookie = self.lib.nbd_aio_peek_command_completed(self.handle)
                if cookie <= 0:
                    break
                self._good(self.lib.nbd_aio_command_completed(self.handle, cookie))
                ended(time.monotonic() - begun.pop(cookie)[0])
                deadline = time.monotonic() + HANG_GUARD_S
            if begun and len(begun) >= (depth if more else 1):
                self._good(self.lib.nbd_poll(self.handle, ANY_FD))
            if time.monotonic() > deadline:
                raise BenchError(f"a write did not end in {HANG_GUARD_S} s: the volume hangs")

    def flush(self):
        self._good(self.lib.nbd_flush(self.handle, 0))

    def close(self):
        if self.handle:
            self.lib.nbd_shutdown(self.handle, 0)
            self.lib.nbd_close(self.handle)
            self.handle = None
