# SPDX-License-Identifier: Apache-2.0
"""What a cluster of n nodes costs and gives, from what one I/O costs; pure functions.

Happy path:
- Inputs hold measured, given or assumed figures, and say which;
- throughput(), rebuild() and failover() predict for a number of nodes, and name what limits;
- fit() and predict_scaleout() are the check: from runs at the smallest size alone they foretell the larger ones on the
  same machine, which were measured, too.

Failure modes: a figure that is missing where it is needed raises ModelError with its name. Nothing is guessed silently:
every input carries its source.
"""
import math
from dataclasses import dataclass
from statistics import median

BLOCK_BYTES = 4096
GIB, MIB = 1 << 30, 1 << 20


class ModelError(Exception):
    """One line."""


@dataclass(frozen=True)
class Input:
    unit: str
    meaning: str
    default: float = None   # None: it must be measured or given


INPUTS = {
    "cores": Input("cores", "processor cores a node may spend on storage", 4),
    "replicas": Input("copies", "of each volume", 3),
    "cpu_client_us": Input("µs", "CPU of nbdkit and its plugin, one request"),
    "cpu_primary_us": Input("µs", "CPU of the primary, one write"),
    "cpu_backup_us": Input("µs", "CPU of one backup, one write"),
    "cpu_read_us": Input("µs", "CPU of the primary, one read"),
    "idle_cores": Input("cores", "that a daemon uses when nothing is asked of it", 0.005),
    "drive_write_iops": Input("IOPS", "4 KiB random writes of one drive"),
    "drive_read_iops": Input("IOPS", "4 KiB random reads of one drive"),
    "drive_mib_s": Input("MiB/s", "sequential writes of one drive"),
    "drives": Input("drives", "of a node, one daemon each", 1),
    "link_gbit": Input("Gbit/s", "of a node's link, each way", 10),
    "wire_overhead": Input("ratio", "bytes on the wire to bytes of payload (headers of TCP, IP, Ethernet and ours)", 1.08),
    "sync_cpu_us_mib": Input("µs/MiB", "CPU of one side of a resync: read, check, send or receive, write", 1500),
    "sync_share": Input("ratio", "of drive and link that a resync may take beside the load", 0.5),
    "sync_shards": Input("shards", "that a node copies at once (replica.sync_shards)", 2),
    "sync_stream_mib_s": Input("MiB/s", "one shard's copy can reach", 200),
    "shard_gib": Input("GiB", "of a shard", 1),
    "used_gib": Input("GiB", "of data that a node holds", 2048),
    "out_after_s": Input("s", "before a node that is down is given up (cluster.out_after)", 600),
    "heartbeat_ms": Input("ms", "between heartbeats (cluster.heartbeat)", 200),
    "node_timeout_ms": Input("ms", "of silence before a node is declared down (cluster.node_timeout)", 1200),
    "detect_refused_ms": Input("ms", "until a killed daemon is known to be gone: its port refuses", 100),
    "commit_ms": Input("ms", "for one entry of the Raft log, synced by a majority", 5),
    "apply_us_shard": Input("µs", "for each shard that a member of was lost, when the map changes", 2),
    "takeover_us_shard": Input("µs", "for each shard that a new primary takes over", 400),
    "client_retry_ms": Input("ms", "until the client found another gateway", 50),
    "heartbeat_cpu_us": Input("µs", "CPU of the leader for one heartbeat", 25),
}

ASSUMPTIONS = [
    "nodes are equal, loads and copies are spread evenly, each node's VMs use volumes whose primary is there (reads stay local)",
    "4 KiB random requests at a depth that batches like the measured one; no request waits for a lock of another",
    "the network between nodes is not blocking: only the nodes' own links limit",
    "a write costs one drive write on each of its copies (in-place writes, no journal); a read costs one on one",
    "CPU an I/O does not depend on the number of nodes, but for heartbeats; what a daemon batches depends on its own queue",
    "rebuild is spread: each survivor reads and writes an equal share; it may take a fixed share of drive and link",
    "fail-over: silence or a refused port, one Raft entry, then every survivor takes over its share of the shards in turn",
    "the limits are not reached together: the least of them is the prediction, so it is an upper bound near the crossing",
]


class Inputs:
    """name: (value, source)"""

    def __init__(self):
        self.values = {name: (one.default, "assumed") for name, one in INPUTS.items() if one.default is not None}

    def set(self, name, value, source):
        if name not in INPUTS:
            raise ModelError(f"there is no input '{name}'; --inputs lists them")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e15:
            raise ModelError(f"{name}: {value!r} is not a figure from 0 up")
        self.values[name] = (value, source)

    def __getattr__(self, name):
        if name not in INPUTS:
            raise AttributeError(name)
        if name not in self.values:
            one = INPUTS[name]
            raise ModelError(f"{name} ({one.meaning}, {one.unit}) is neither measured nor given: --set {name}=...")
        return self.values[name][0]

    def told(self):
        return {name: {"value": value, "unit": INPUTS[name].unit, "source": source}
                for name, (value, source) in sorted(self.values.items())}


def _least(limits):
    name = min(limits, key=limits.get)
    return name, limits[name]


# ---- throughput


def leader_share(inputs, nodes):
    """Cores that the Raft leader spends on everybody's heartbeats."""
    return nodes * inputs.drives * 1e3 / inputs.heartbeat_ms * inputs.heartbeat_cpu_us / 1e6


def write_cpu_us(inputs, nodes):
    return inputs.cpu_client_us + inputs.cpu_primary_us + (min(inputs.replicas, nodes) - 1) * inputs.cpu_backup_us


def throughput(inputs, nodes):
    """A node's share of the cluster's IOPS, for writes and for reads, with what limits."""
    copies = min(inputs.replicas, nodes)
    free = max(inputs.cores - inputs.drives * inputs.idle_cores - leader_share(inputs, nodes) / nodes, 0)
    link_bytes = inputs.link_gbit * 1e9 / 8
    writes = {"CPU": free * 1e6 / write_cpu_us(inputs, nodes), "drive": inputs.drives * inputs.drive_write_iops / copies}
    if copies > 1:
        writes["network"] = link_bytes / ((copies - 1) * BLOCK_BYTES * inputs.wire_overhead)
    reads = {"CPU": free * 1e6 / (inputs.cpu_client_us + inputs.cpu_read_us), "drive": inputs.drives * inputs.drive_read_iops}
    write_limit, write_iops = _least(writes)
    read_limit, read_iops = _least(reads)
    return {"write_iops_node": write_iops, "write_iops": write_iops * nodes, "write_limit": write_limit,
            "read_iops_node": read_iops, "read_iops": read_iops * nodes, "read_limit": read_limit,
            "leader_cores": leader_share(inputs, nodes)}


# ---- rebuild


def rebuild(inputs, nodes):
    """Seconds until the copies of a node that is gone for good are whole again, from the moment that it is given up."""
    copies = min(inputs.replicas, nodes)
    survivors = nodes - 1
    if survivors < copies:
        return {"rebuild_s": None, "rebuild_limit": "too few nodes for all copies: it waits for a new one", "exposed_s": None}
    drive = inputs.drives * inputs.drive_mib_s * inputs.sync_share
    limits = {
        "drive": drive / 2,                          # each node is source of one share and target of another
        "network": inputs.link_gbit * 1e9 / 8 / MIB * inputs.sync_share / inputs.wire_overhead,
        "CPU": inputs.cores * inputs.sync_share * 1e6 / (2 * inputs.sync_cpu_us_mib),
        "shards at once": inputs.drives * inputs.sync_shards * inputs.sync_stream_mib_s,
    }
    name, rate = _least(limits)
    share_mib = inputs.used_gib * 1024 / survivors
    seconds = share_mib / rate
    one_shard = inputs.shard_gib * 1024 / min(inputs.sync_stream_mib_s, rate)
    if seconds < one_shard:
        name, seconds = "one shard", one_shard
    return {"rebuild_s": seconds, "rebuild_limit": name, "exposed_s": seconds + inputs.out_after_s,
            "rebuild_mib_s": inputs.used_gib * 1024 / seconds}


# ---- fail-over


def failover(inputs, nodes):
    """Milliseconds that writers on the dead node's shards stand still."""
    survivors = max(nodes - 1, 1)
    shards = inputs.used_gib / inputs.shard_gib                          # that the dead node was a member of
    primaries = shards / min(inputs.replicas, nodes)
    change = inputs.commit_ms + shards * inputs.apply_us_shard / 1e3
    takeover = math.ceil(primaries / survivors) * inputs.takeover_us_shard / 1e3
    after = change + takeover + inputs.client_retry_ms
    return {"stall_killed_ms": inputs.detect_refused_ms + after,
            "stall_silent_ms": inputs.node_timeout_ms + inputs.heartbeat_ms + after}


def predict(inputs, nodes):
    return {"nodes": nodes, **throughput(inputs, nodes), **rebuild(inputs, nodes), **failover(inputs, nodes)}


# ---- inputs from the results of a run


def _median_cpu(run, stack, workload, labels):
    found = []
    for record in run.samples.get((workload, stack), {}).values():
        shares = record.get("cpu_us") or {}
        if shares:
            found.append(sum(us for name, us in shares.items() if us and labels(name)))
    return median(found) if found else None


def _median_metric(run, stack, workload, name):
    found = [(r.get("metrics") or {}).get(name) for r in run.samples.get((workload, stack), {}).values()]
    found = [v for v in found if v]
    return median(found) if found else None


def measured(run, stack="ashlar-x3", floor="bare"):
    """{input: (value, source)} of what a run of bench/headtohead tells. Node 1, where the volume is attached, has the primary."""
    write, read = "randwrite-qd32", "randread-qd32"
    backups = max(sum(name.startswith("ashlard") for name in _daemons(run, stack, write)) - 1, 1)
    busy = min(backups, 2)
    total_backups = _median_cpu(run, stack, write, lambda n: n.startswith("ashlard") and n != "ashlard-1")
    found = {
        "cpu_client_us": _median_cpu(run, stack, write, lambda n: n.startswith("nbdkit")),
        "cpu_primary_us": _median_cpu(run, stack, write, lambda n: n == "ashlard-1"),
        "cpu_backup_us": total_backups / busy if total_backups is not None else None,
        "cpu_read_us": _median_cpu(run, stack, read, lambda n: n == "ashlard-1"),
        "drive_write_iops": _median_metric(run, floor, write, "iops"),
        "drive_read_iops": _median_metric(run, floor, read, "iops"),
        "drive_mib_s": _median_metric(run, floor, "seqwrite-1m", "mib_s"),
        # Of one shard, beside a load, its start and discovery included: what is promised is not more than was seen.
        "sync_stream_mib_s": max((_rebuild_rate(r) for r in run.lists["series"] if r["stack"] == stack), default=0.0),
    }
    return {name: (value, f"measured, {floor if name.startswith('drive') else stack}")
            for name, value in found.items() if value}


def _rebuild_rate(series):
    return (series.get("result") or {}).get("rebuild_mib_s") or 0.0 if series["scenario"] == "rebuild-dense" else 0.0


def stall_check(run, inputs, stack="ashlar-x3"):
    """[{scenario, measured_ms, predicted_ms}] of the scenarios that kill a node: the fail-over of a small cluster here."""
    size = (run.run.get("method") or {}).get("size_bytes")
    worst = {}
    for record in run.lists["series"]:
        stall = (record.get("result") or {}).get("longest_stall_ms")
        killed = any("kill" in (event.get("name") or "") for event in record.get("events") or [])
        if record["stack"] == stack and stall is not None and killed:
            worst.setdefault(record["scenario"], []).append(stall)
    if not worst or not size:
        return []
    small = Inputs()
    small.values = {**inputs.values, "used_gib": (max(size / GIB, inputs.shard_gib), "of the run")}
    told = failover(small, max(3, int(inputs.replicas)))["stall_killed_ms"]
    return [{"scenario": name, "measured_ms": max(stalls), "predicted_ms": told} for name, stalls in worst.items()]


def _daemons(run, stack, workload):
    return {name for record in run.samples.get((workload, stack), {}).values() for name in record.get("cpu_us") or {}}


# ---- the check against the scale-out scenario


def is_daemon(name):
    return name.startswith("ashlard")


@dataclass(frozen=True)
class Cost:
    """CPU of one request: daemons_us + turn_us / (requests in flight at one daemon), and what does not depend on that."""

    daemons_us: float
    turn_us: float
    client_us: float      # the load generator and nbdkit, at the depth that is foretold
    busy_cores: float     # that the machine gives to all of them
    idle_cores: float     # of one daemon


def _parts(record):
    shares = record.get("cpu_us") or {}
    daemons = sum(us for name, us in shares.items() if us and is_daemon(name))
    return daemons, sum(us for us in shares.values() if us) - daemons


def in_flight(record):
    return record["volumes"] * record["depth"] / record["nodes"]


def fit(records, base_nodes, depth):
    """From the runs at base_nodes alone, of several depths: least squares in 1 / (requests in flight at one daemon)."""
    own = [r for r in records if r["nodes"] == base_nodes]
    wanted = [r for r in own if r["depth"] == depth]
    if not wanted or len({r["depth"] for r in own}) < 2:
        raise ModelError(f"the check needs runs with {base_nodes} nodes at two depths at least, one of them {depth}")
    idle = median([r.get("idle_cores") or 0 for r in own]) / base_nodes
    points = {}
    for r in own:
        points.setdefault(1 / in_flight(r), []).append(_parts(r)[0] - base_nodes * idle * 1e6 / r["iops"])
    xs, ys = list(points), [median(v) for v in points.values()]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / sum((x - mean_x) ** 2 for x in xs)
    slope = max(slope, 0.0)
    return Cost(mean_y - slope * mean_x, slope, median([_parts(r)[1] for r in wanted]),
                median([sum(_parts(r)) * r["iops"] / 1e6 for r in wanted]), idle)


def predict_scaleout(cost, nodes, volumes, depth):
    """IOPS on one machine with so many daemons: the same cores, each daemon with a smaller queue."""
    queue = volumes * depth / nodes
    cpu = cost.client_us + cost.daemons_us + cost.turn_us / queue
    return {"cpu_us": cpu, "iops": max(cost.busy_cores - nodes * cost.idle_cores, 0) * 1e6 / cpu}


def check_scaleout(records, depth=None):
    """A row for each workload and size: measured, foretold, the error. The smallest size is where the model comes from."""
    rows = []
    records = [r for r in records if r.get("iops") and r.get("cpu_us") and r.get("depth") and r.get("volumes")]
    for workload in dict.fromkeys(r["workload"] for r in records):
        own = [r for r in records if r["workload"] == workload]
        base = min(r["nodes"] for r in own)
        shared = {r["depth"] for r in own if r["nodes"] != base} or {r["depth"] for r in own}
        chosen = depth or max(shared)
        cost = fit(own, base, chosen)
        for nodes in sorted({r["nodes"] for r in own}):
            runs = [r for r in own if r["nodes"] == nodes and r["depth"] == chosen]
            if not runs:
                continue
            seen = sorted(r["iops"] for r in runs)
            told = predict_scaleout(cost, nodes, runs[0]["volumes"], chosen)
            middle = median(seen)
            rows.append({"workload": workload, "nodes": nodes, "fitted": nodes == base, "depth": chosen, "rounds": len(runs),
                         "measured_iops": middle, "low_iops": seen[0], "high_iops": seen[-1], "predicted_iops": told["iops"],
                         "error_percent": 100 * (told["iops"] / middle - 1),
                         "spread_percent": 50 * (seen[-1] - seen[0]) / middle,
                         "measured_cpu_us": median([sum(_parts(r)) for r in runs]), "predicted_cpu_us": told["cpu_us"]})
    return rows
