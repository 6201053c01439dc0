# SPDX-License-Identifier: Apache-2.0
"""The cost of one hop: a request of 4 KiB to another process and its short answer, without any storage.

Happy path: unix_us() over a unix socket, link_us() over a veth pair shaped like all links of the run; medians. Both ends are
Python: some microseconds are its own. Failure modes: BenchError; the namespace is removed on every way out.
"""
import os
import random
import socket
import subprocess
import sys
import time
from statistics import median

from h2h.macro import command
from stacks import BenchError, die_with_parent

ROUNDS, REQUEST, ANSWER = 2000, b"r" * 4096, b"a" * 64
ECHO = """
import socket, sys
family, address = sys.argv[1], sys.argv[2]
s = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
s.bind(address if family == "unix" else (address, 7000))
s.listen(1)
print("up", flush=True)
c, _ = s.accept()
if family != "unix":
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    left = 4096
    while left:
        data = c.recv(left)
        if not data:
            sys.exit(0)
        left -= len(data)
    c.sendall(b"a" * 64)
"""


def ping(connection):
    spans = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        connection.sendall(REQUEST)
        left = len(ANSWER)
        while left:
            left -= len(connection.recv(left))
        spans.append(1e6 * (time.perf_counter() - begin))
    return median(spans)


def against_echo(prefix, family, address):
    with subprocess.Popen([*prefix, sys.executable, "-c", ECHO, family, address], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent) as echo:
        try:
            if echo.stdout.readline() != "up\n":
                raise BenchError("the echo process did not start")
            with socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET) as s:
                s.connect(address if family == "unix" else (address, 7000))
                if family != "unix":
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return ping(s)
        finally:
            echo.kill()


def unix_us(work_dir):
    path = os.path.join(work_dir, "echo.sock")
    try:
        return against_echo([], "unix", path)
    finally:
        if os.path.exists(path):
            os.unlink(path)


def link_us(rate):
    chooser = random.SystemRandom()
    name, net = f"h2h-echo-{os.getpid()}", f"10.{chooser.randrange(64, 250)}.{chooser.randrange(1, 250)}"
    outside = f"h2he{os.getpid()}"[:15]
    shape = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
    try:
        command("ip", "netns", "add", name)
        command("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        command("ip", "addr", "add", f"{net}.2/30", "dev", outside)
        command("ip", "link", "set", outside, "up")
        command("ip", "-n", name, "addr", "add", f"{net}.1/30", "dev", "eth0")
        command("ip", "-n", name, "link", "set", "eth0", "up")
        command("tc", "qdisc", "replace", "dev", outside, *shape)
        command("tc", "-n", name, "qdisc", "replace", "dev", "eth0", *shape)
        return against_echo(["ip", "netns", "exec", name], "tcp", f"{net}.1")
    finally:
        for argv in (["ip", "link", "del", outside], ["ip", "netns", "del", name]):
            subprocess.run(argv, capture_output=True, check=False)
