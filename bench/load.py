# SPDX-License-Identifier: Apache-2.0
"""Workloads, driven by fio's nbd engine, and what one run of one yields.

Happy path:
- fill() writes a volume end to end once, so that reads read data and writes overwrite;
- run() drives one workload for some seconds and returns rate, latency and CPU time per request by process.

Failure modes: fio failing, hanging or reporting I/O errors raises BenchError; its child is ended with us.
"""
import json
import os
import subprocess
from dataclasses import dataclass

import proc
from stacks import BenchError, die_with_parent, last_line

HANG_GUARD_S = 120


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    rw: str
    block_bytes: int
    depth: int
    metric: str          # which figure of the run is compared: latency_us, iops or mib_s
    flush_each: bool = False

    @property
    def is_read(self):
        return "read" in self.rw


KIB, MIB = 1024, 1024 * 1024
WORKLOADS = [
    Workload("read-qd1", "4 KiB random read, depth 1", "randread", 4 * KIB, 1, "latency_us"),
    Workload("read-qd32", "4 KiB random read, depth 32", "randread", 4 * KIB, 32, "iops"),
    Workload("write-qd1", "4 KiB random write, depth 1", "randwrite", 4 * KIB, 1, "latency_us"),
    Workload("write-qd32", "4 KiB random write, depth 32", "randwrite", 4 * KIB, 32, "iops"),
    Workload("seq-read", "1 MiB sequential read, depth 4", "read", MIB, 4, "mib_s"),
    Workload("seq-write", "1 MiB sequential write, depth 4", "write", MIB, 4, "mib_s"),
    Workload("write-flush", "4 KiB random write + flush each, depth 1", "randwrite", 4 * KIB, 1, "iops",
             flush_each=True),
]
UNITS = {"latency_us": "us", "iops": "IOPS", "mib_s": "MiB/s"}


def fio(uri, work_dir, arguments, deadline_s):
    """Runs fio on one volume; its only job's report."""
    return run_fio(["--name=bench", "--ioengine=nbd", f"--uri={uri}", *arguments], work_dir, deadline_s)


def run_fio(arguments, work_dir, deadline_s, percentiles="50:99:99.9"):
    """Runs fio; the report of its only job, or of its only group of jobs."""
    report_path = os.path.join(work_dir, "fio.json")
    argv = ["fio", "--output-format=json", f"--output={report_path}", "--eta=never", "--lat_percentiles=1",
            "--clat_percentiles=0", f"--percentile_list={percentiles}", *arguments]
    child = subprocess.Popen(argv, cwd=work_dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent)
    try:
        output, _ = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"fio did not end in {deadline_s:.0f} s: the volume hangs") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode != 0:
        raise BenchError(f"fio failed: {last_line(output)}")
    with open(report_path, encoding="utf-8") as f:
        text = f.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if job["error"]:
        raise BenchError(f"fio reports an I/O error: {os.strerror(job['error'])}")
    return job


def fill(stack, work_dir):
    """Writes the whole volume once with incompressible data, then flushes."""
    deadline_s = HANG_GUARD_S + stack.size_bytes // (10 * MIB)
    fio(stack.uri, work_dir, ["--rw=write", "--bs=1M", "--iodepth=4", f"--size={stack.size_bytes}",
                               "--refill_buffers", "--end_fsync=1"], deadline_s)


def run(stack, workload, seconds, work_dir):
    """One run: {latency_us, p99_us, iops, mib_s, cpu_us: {process: us a request}, others_cores}."""
    arguments = [f"--rw={workload.rw}", f"--bs={workload.block_bytes}", f"--iodepth={workload.depth}",
                 f"--size={stack.size_bytes}", f"--runtime={seconds * 1000:.0f}ms", "--time_based",
                 "--norandommap", "--randrepeat=0", "--thread"]
    if workload.flush_each:
        arguments.append("--fsync=1")
    meter = proc.CpuMeter(stack.pids())
    own_before = os.times()
    job = fio(stack.uri, work_dir, arguments, HANG_GUARD_S + seconds)
    own_after = os.times()
    used, machine_us = meter.stop()
    own_us = 1e6 * (sum(own_after[:4]) - sum(own_before[:4]))  # this program and fio, its child
    side = job["read" if workload.is_read else "write"]
    count = side["total_ios"]
    if count == 0:
        raise BenchError(f"{stack.name}: no request of '{workload.name}' completed in {seconds} s")
    run_s = side["runtime"] / 1000
    fio_us = 1e4 * (job["usr_cpu"] + job["sys_cpu"]) * job["job_runtime"] / 1000
    percentile = side["lat_ns"]["percentile"]
    cpu = {label: us / count for label, us in used.items()}
    cpu["fio"] = fio_us / count
    return {
        "latency_us": percentile["50.000000"] / 1000,
        "p99_us": percentile["99.000000"] / 1000,
        "iops": count / run_s,
        "mib_s": side["io_bytes"] / MIB / run_s,
        "requests": count,
        "cpu_us": cpu,
        "others_cores": max(0.0, (machine_us - own_us - sum(used.values())) / (run_s * 1e6)),
    }
