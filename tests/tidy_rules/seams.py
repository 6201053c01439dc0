# SPDX-License-Identifier: Apache-2.0
"""The core reads no clock, draws no random number, does not sleep and does no I/O of its own."""
import re

from . import c_text

# Core files, and the edges among them that touch the world.
CORE = re.compile(r"(server/(gateway|replica|store|control)/|client/(?!cli/|include/))")
EDGES = re.compile(r"(.*(_rocksdb|_uring|_uv|_thread|_file|_device|_blocking|_sync|_real|_sock"
                   r"|_socket|_connect)(_\w+)?\.[ch]$)")

_CALL = re.compile(
    r"(?<![\w.>])(clock_gettime|clock_nanosleep|gettimeofday|time|timespec_get|rand|rand_r|srand|"
    r"random|srandom|[dlm]rand48|getrandom|getentropy|arc4random\w*|sleep|usleep|nanosleep|"
    r"uv_hrtime|uv_now|pthread_cond_timedwait|sem_timedwait|rdtsc|__rdtsc|__builtin_ia32_rdtsc"
    r"|pread|pwrite|preadv|pwritev|read|write|fsync|fdatasync|fopen|open|openat|socket|recv|send"
    r"|recvmsg|sendmsg|poll|epoll_wait|select)\s*\(")


def is_core(path):
    return bool(CORE.match(path)) and not EDGES.match(path)


def check(tree):
    for path in tree.of_kind("c", "h"):
        if not is_core(path):
            continue
        for function in c_text.functions(c_text.blanked(tree.text(path))):
            for match in _CALL.finditer(function.body):
                line = function.last - function.body.count("\n", match.start())
                yield path, line, f"{match.group(1)}() in the core: use the env or drive seam"


RULES = {
    "seam": ("no clock, randomness, sleep or I/O call in the core rooms but through the seams",
             check),
}
