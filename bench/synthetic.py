# SPDX-License-Identifier: Apache-2.0
"""Made-up results for tests of the report: no figure in here was measured anywhere.

Happy path: records() is a whole run as dicts; write(path, records) puts them into a file. The same seed, the same bytes.
"""
import json
import math
import random

# stack: (role, read latency µs, write latency µs, rate at depth 32, cpu of its server)
STACKS = {
    "bare": ("floor", 36, 60, 52000, {}),
    "local-raw": ("local", 150, 134, 15400, {"qemu-storage-daemon": 52}),
    "local-qcow2": ("local", 240, 236, 11300, {"qemu-storage-daemon": 71}),
    "array-nfs-qcow2": ("array", 480, 420, 7200, {"qemu-storage-daemon": 60, "ganesha": 66}),
    "array-iscsi": ("array", 289, 318, 10300, {"qemu-storage-daemon": 58, "tgtd": 62}),
    "ashlar-x1": ("ashlar", 171, 160, 17100, {"nbdkit": 52, "ashlard-1": 18}),
    "ashlar-x2": ("ashlar", 180, 230, 14100, {"nbdkit": 50, "ashlard-1": 22, "ashlard-2": 15}),
    "ashlar-x3": ("ashlar", 182, 264, 12800, {"nbdkit": 48, "ashlard-1": 26, "ashlard-2": 15, "ashlard-3": 16}),
    "ceph-rbd-x3": ("rival", 725, 3520, 1100, {"qemu-storage-daemon": 160, "ceph-osd": 2100}),
}
WORKLOADS = [
    ("randread-qd1", "4 KiB random read, depth 1", "micro", "lat_us.p50", "lower", 1, 1.0),
    ("randread-qd32", "4 KiB random read, depth 32", "micro", "iops", "higher", 32, 1.0),
    ("randwrite-qd1", "4 KiB random write, depth 1", "micro", "lat_us.p50", "lower", 1, 1.0),
    ("randwrite-qd32", "4 KiB random write, depth 32", "micro", "iops", "higher", 32, 0.8),
    ("seqread-1m", "1 MiB sequential read, depth 4", "micro", "mib_s", "higher", 4, 0.1),
    ("write-flush-qd1", "4 KiB random write + flush", "micro", "iops", "higher", 1, 0.05),
    ("pgbench", "PostgreSQL, TPC-B like", "macro", "aux.tps", "higher", 8, 0.04),
    ("guest-randread-qd1", "in a guest: 4 KiB random read, depth 1", "guest", "lat_us.p50", "lower", 1, 1.0),
    ("cpu-bound", "SHA-256 of memory, no storage", "control", "aux.seconds", "lower", 1, 1.0),
]
LAYERS = [("fio and NBD socket", 62.0), ("nbdkit and plugin", 31.0), ("local hop", 28.0), ("primary", 24.0), ("network and backups", 71.0),
          ("drive", 33.0)]


def run_record(stacks=None):
    return {
        "kind": "run", "format": 1, "id": "synthetic-1", "at": 1.0, "quick": True, "command": "bench/headtohead --quick",
        "machine": {"time": "2026-01-01 00:00:00 +0000", "cpu": "2 x made-up processor", "memory": "8 GiB", "kernel": "6.1", "drive": "/dev/none ext4"},
        "method": {"size_bytes": 1 << 30, "seconds": 3.0, "rounds": 3, "warmup_s": 1.0, "link_rate": "10gbit", "order": "A B C A B C"},
        "stacks": list(stacks or STACKS),
        "workloads": [{"name": n, "title": t, "group": g, "metric": m, "better": b} for n, t, g, m, b, *_ in WORKLOADS],
        "scenarios": [{"name": "kill-rebuild", "title": "A node is killed and rebuilt under load"},
                      {"name": "clones", "title": "Linked clones"}]}


def sample(dice, stack, workload, turn):
    _, read_us, write_us, rate, servers = STACKS[stack]
    name, _, group, _, _, depth, scale = workload
    noise = math.exp(dice.gauss(0, 0.03))
    latency = (write_us if "write" in name else read_us) * noise * (1 if depth == 1 else depth * 1e6 / rate / read_us)
    iops = 1e6 / latency if depth == 1 and group == "micro" else rate * scale * noise
    record = {"kind": "sample", "stack": stack, "workload": name, "round": turn, "seconds": 3.0, "others_cores": 0.05,
              "requests": int(iops * 3) + 1, "reference": {"before": {"iops": 1700, "p50_us": 560}, "after": {"iops": 1710, "p50_us": 561}}}
    if group == "micro":
        if name.startswith("write-flush"):
            latency, iops = latency * 3, iops / 3
        block = 256 if name.startswith("seq") else 1
        record["metrics"] = {"iops": iops, "mib_s": iops * block / 256, "lat_us": {
            "mean": latency * 1.1, "p50": latency, "p90": latency * 1.3, "p95": latency * 1.5, "p99": latency * 2.4, "p99.9": latency * 6, "max": latency * 30}}
        record["cpu_us"] = {"fio": 21 * noise, **{k: v * noise for k, v in servers.items()}}
    elif group == "guest":
        latency += 400
        record.update(path="guest", aux={"accelerator": "tcg"}, cpu_us={"QEMU and guest": 900 * noise, **servers}, metrics={
            "iops": 1e6 / latency, "mib_s": 256 / latency, "lat_us": {"p50": latency, "p99": latency * 3, "max": latency * 9}})
    elif group == "macro":
        record["aux"] = {"tps": iops / 4}
    else:
        record["aux"] = {"seconds": 2.0 * noise}
    return record


def series(dice, stack, stall_ms, fails=False):
    times = [round(0.5 * (i + 1), 1) for i in range(120)]
    rate = [500 * math.exp(dice.gauss(0, 0.01)) for _ in times]
    latency = [300 * math.exp(dice.gauss(0, 0.15)) for _ in times]
    for i in range(int(stall_ms / 500) + 1):
        rate[20 + i] = 0.0 if stall_ms >= 500 else 500 * (1 - stall_ms / 500)
        latency[20 + i] = stall_ms * 1000
    latency = [us * (3 if 40 < i < 80 else 1) for i, us in enumerate(latency)]
    return {"kind": "series", "scenario": "kill-rebuild", "stack": stack, "round": 1, "interval_s": 0.5, "rate_target_iops": 500, "t_s": times, "iops": rate,
            "lat_us_p50": latency, "lat_us_p99": [us * 2.5 for us in latency], "lat_us_max": [us * 6 for us in latency],
            "events": [{"t_s": 10.0, "name": "kill -9 node 2"}, {"t_s": 20.0, "name": "node 2 starts again"}],
            "result": {"verdict": "fail" if fails else "pass", "deviation_percent": 0.9, "errors": 3 if fails else 0, "lost": 0, "longest_stall_ms": stall_ms,
                       "rebuild_s": 20.5, "rebuild_mib_s": 77.0, "p99_us_before": 910.0, "p99_us_during": 1820.0, "blocks_verified": 262144, "text": "made up"}}


def clones(dice, stack, ready_s):
    record = series(dice, stack, 40)
    times = record["t_s"]
    operations = {name: {"count": 100, "median_ms": ms, "worst_ms": 3 * ms} for name, ms in (("clone", 4 * ready_s), ("attach", 6 * ready_s))}
    return {**record, "scenario": "clones", "events": [{"t_s": 3.0, "name": "100 clones are made and attached"}],
            "extra": {"clones attached": [min(100, max(0, int(100 * (t - 3) / ready_s))) for t in times]},
            "result": {**record["result"], "rebuild_s": None, "ready_s": ready_s, "operations": operations}}


def budgets():
    scale = {"array-iscsi": [("fio and NBD socket", 60.0), ("QEMU and initiator", 88.0), ("network and tgt", 110.0), ("drive", 34.0)],
             "ashlar-x3": LAYERS, "local-raw": [("fio and NBD socket", 60.0), ("QEMU and initiator", 31.0), ("drive", 35.0)]}
    totals = {"array-iscsi": 318.0, "ashlar-x3": 264.0, "local-raw": 134.0}
    return [{"kind": "budget", "stack": s, "workload": "randwrite-qd1", "total_us": totals[s], "statistic": "mean",
             "layers": [{"name": n, "us": us, "how": "measured"} for n, us in parts], "sum_us": sum(us for _, us in parts),
             "off_percent": 5.0, "adds_up": True, "cpu_us": {"fio": 21.0}} for s, parts in scale.items()]


def records(rounds=3, seed=1):
    dice = random.Random(seed)
    found = [run_record()]
    for stack, (role, *_) in STACKS.items():
        if stack == "ceph-rbd-x3":
            found.append({"kind": "stack", "stack": stack, "state": "failed", "role": role, "title": "Ceph", "why": "monitor did not answer in 60 s"})
            found.append({"kind": "failure", "stack": stack, "where": "up", "text": "monitor did not answer in 60 s"})
            continue
        found.append({"kind": "stack", "stack": stack, "state": "ready", "role": role, "title": f"{stack}, made up", "facts": {
            "versions": {"fio": "3.33"}, "replicas": 3 if stack.endswith("3") else 1, "cache": "none", "flush": "fdatasync", "path": "fio -> NBD socket -> server -> file"}})
        found.append({"kind": "flush-check", "stack": stack, "writes": 200, "flushes_seen": 204, "method": "counted", "verdict": "reaches the drive"})
    alive = [s for s in STACKS if s != "ceph-rbd-x3"]
    found += [sample(dice, s, w, turn) for w in WORKLOADS for turn in range(1, rounds + 1) for s in alive]
    found += [series(dice, "array-iscsi", 6200, fails=True), series(dice, "ashlar-x3", 320), *budgets()]
    found += [clones(dice, "local-qcow2", 21.0), clones(dice, "ashlar-x3", 9.0)]
    found.append({"kind": "series", "scenario": "clones", "stack": "array-iscsi", "round": 1, "events": [],
                  "result": {"verdict": "not applicable", "text": "not supported: made up"}})
    lengths = [0, 1, 10, 50, 100, 200]
    found += [{"kind": "curve", "curve": "chain", "title": "Reads behind a chain of snapshots", "stack": s, "x_name": "snapshots in the chain",
               "y_name": "4 KiB read, median µs", "x": lengths, "y": [base + slope * n for n in lengths], "low": [base + slope * n - 6 for n in lengths],
               "high": [base + slope * n + 6 for n in lengths], "command": "bench/chain"} for s, base, slope in (("local-qcow2", 240, 3.1), ("ashlar-x3", 182, 0.0))]
    found.append({"kind": "end", "at": 2.0, "seconds": 700.0, "complete": True, "missing": []})
    return found


def write(path, items):
    with open(path, "w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item) + "\n")
