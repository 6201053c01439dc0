# SPDX-License-Identifier: Apache-2.0
"""Micro workloads: fio jobs in bench/workloads/*.fio, pointed at a stack's URI.

Happy path: fio_workloads() reads title, metric and direction from the comments of the job files; run() gives one run's
metrics, as in bench/RESULTS.md; fill() writes a volume end to end, so that reads find data.

Failure modes: fio failing, hanging, reporting I/O errors, or completing nothing raises BenchError; fio ends with us.
"""
import os
import re

import load
import proc
from stacks import BenchError

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "workloads")
HANG_GUARD_S = 60
MIB = 1 << 20
PERCENTILES = {"p50": "50.000000", "p90": "90.000000", "p95": "95.000000", "p99": "99.000000", "p99.9": "99.900000"}
FIELD = re.compile(r"^[;#]\s*(title|metric|better|group|needs|mount):\s*(.+?)\s*$", re.MULTILINE)


def header_of(path):
    """The fields in the comments at the top of a workload's file."""
    with open(path, encoding="utf-8") as f:
        fields = dict(FIELD.findall(f.read(4096)))
    missing = {"title", "metric", "better"} - set(fields)
    if missing or fields["better"] not in ("lower", "higher"):
        raise BenchError(f"{path}: its head comment lacks {', '.join(sorted(missing)) or 'better: lower|higher'}")
    return fields


def fio_workloads():
    found = []
    for file in sorted(os.listdir(HERE)):
        name, extension = os.path.splitext(file)
        if extension == ".fio":
            found.append({"name": name, "group": "micro", **header_of(os.path.join(HERE, file))})
    return found


def engine_of(uri, size_bytes):
    """fio's settings that say where to."""
    if uri.startswith("file:"):
        return f"ioengine=io_uring\nfilename={uri[5:]}\ndirect=1\nsize={size_bytes}\n"
    return f"ioengine=nbd\nuri={uri}\nsize={size_bytes}\n"


def run_fio(uri, size_bytes, settings, job, work_dir, deadline_s):
    """Runs one job; its report."""
    job_path = os.path.join(work_dir, "job.fio")
    if uri and not uri.startswith("file:"):
        # fio's nbd engine has no fdatasync: its fsync is the flush that the bare file gets from fdatasync.
        job = job.replace("fdatasync=", "fsync=")
    with open(job_path, "w", encoding="utf-8") as f:
        f.write(f"[global]\n{engine_of(uri, size_bytes)}thread\nnorandommap\nrandrepeat=0\n{settings}{job}")
    return load.run_fio([job_path], work_dir, deadline_s, percentiles="50:90:95:99:99.9")


def fill(stack, work_dir):
    """Writes the whole volume once with data that does not compress, then flushes."""
    deadline_s = HANG_GUARD_S + stack.size_bytes / (10 * MIB)
    run_fio(stack.uri, stack.size_bytes, "", "[fill]\nrw=write\nbs=1m\niodepth=4\nrefill_buffers\nend_fsync=1\n",
            work_dir, deadline_s)


def metrics_of(side):
    """One direction of fio's report."""
    latency, run_s = side["lat_ns"], side["runtime"] / 1000
    figures = {name: latency["percentile"][key] / 1000 for name, key in PERCENTILES.items()}
    return {"iops": side["total_ios"] / run_s, "mib_s": side["io_bytes"] / MIB / run_s,
            "lat_us": {"mean": latency["mean"] / 1000, **figures, "max": latency["max"] / 1000}}


def figures_of(report):
    """What a sample takes from fio's report alone."""
    sides = {name: report[name] for name in ("read", "write") if report[name]["total_ios"]}
    if not sides:
        raise BenchError("no request was completed")
    each = {name: metrics_of(side) for name, side in sides.items()}
    found = {"seconds": max(side["runtime"] for side in sides.values()) / 1000,
             "requests": sum(side["total_ios"] for side in sides.values()), "metrics": each.get("read") or each["write"]}
    if len(each) == 2:
        total = {key: each["read"][key] + each["write"][key] for key in ("iops", "mib_s")}
        found.update(each, metrics={**total, "lat_us": each["read"]["lat_us"]})
    return found


def times_of(seconds, warmup_s=0.0):
    """fio takes no fractions of seconds: it drops them without a word."""
    return f"time_based\nruntime={seconds * 1000:.0f}ms\nramp_time={warmup_s * 1000:.0f}ms\n"


def run(stack, workload, method, work_dir):
    """One run: the fields of a sample that come from it."""
    seconds, warmup_s = method["seconds"], method["warmup_s"]
    with open(os.path.join(HERE, workload["name"] + ".fio"), encoding="utf-8") as f:
        job = f.read()
    meter = proc.CpuMeter(stack.pids())
    own_before = os.times()
    report = run_fio(stack.uri, stack.size_bytes, times_of(seconds, warmup_s), job, work_dir,
                     HANG_GUARD_S + seconds + warmup_s)
    own_after = os.times()
    used, machine_us = meter.stop()
    own_us = 1e6 * (sum(own_after[:4]) - sum(own_before[:4]))  # this program and fio, its child
    found = figures_of(report)
    run_s, requests = found["seconds"], found["requests"]
    share = run_s / (run_s + warmup_s)  # of the measured CPU time: the rest went into the warm-up
    cpu = {label: us * share / requests for label, us in used.items()}
    cpu["fio"] = 1e4 * (report["usr_cpu"] + report["sys_cpu"]) * report["job_runtime"] / 1000 / requests
    return {**found, "cpu_us": cpu,
            "others_cores": max(0.0, (machine_us - own_us - sum(used.values())) / ((run_s + warmup_s) * 1e6))}


def metric_of(sample, metric):
    """metrics.lat_us.p50 is written lat_us.p50, aux.tps as it is; None if the sample lacks it."""
    value = sample if metric.startswith("aux.") else sample["metrics"]
    for key in metric.split(".", 1):
        value = (value or {}).get(key) if isinstance(value, dict) else None
    return value
