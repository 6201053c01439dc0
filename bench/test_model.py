#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of the model: its arithmetic on figures worked out by hand, and what it must refuse."""
import json
import os
import subprocess
import tempfile
import unittest

import cost_model
import results
import schema
import synthetic

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model")
GIVEN = {"cores": 4, "cpu_client_us": 50, "cpu_primary_us": 30, "cpu_backup_us": 10, "cpu_read_us": 30, "idle_cores": 0, "heartbeat_cpu_us": 0,
         "drive_write_iops": 90000, "drive_read_iops": 200000, "drive_mib_s": 1000, "link_gbit": 8, "wire_overhead": 1, "used_gib": 900,
         "sync_stream_mib_s": 1000}


def inputs(**more):
    found = cost_model.Inputs()
    for name, value in {**GIVEN, **more}.items():
        found.set(name, value, "given")
    return found


def scale_runs(nodes, depth, daemons_us, client_us=60.0, busy=1.8, rounds=3, idle=0.0):
    """Runs on a made-up machine that is busy to the same degree whatever runs on it."""
    iops = (busy - nodes * idle) * 1e6 / (daemons_us + client_us)
    return [{"kind": "scale", "nodes": nodes, "workload": "randwrite", "round": turn, "volumes": 9, "depth": depth, "iops": iops,
             "cpu_us": {"ashlard-1": (daemons_us + nodes * idle * 1e6 / iops) * 0.5, "ashlard-2": (daemons_us + nodes * idle * 1e6 / iops) * 0.5,
                        "fio": client_us / 3, "nbdkit": client_us * 2 / 3},
             "idle_cores": nodes * idle} for turn in range(rounds)]


def law(nodes, depth):
    """What the made-up daemons cost: 40 µs a request and 90 µs a turn that in-flight requests share."""
    return 40 + 90 / (9 * depth / nodes)


class Throughput(unittest.TestCase):
    def test_processor_drive_and_link_limit_in_turn(self):
        # 4 cores / (50 + 30 + 2 * 10) µs = 40000; drive 90000 / 3 copies = 30000; link 1e9 B/s / (2 * 4096 B) = 122070.
        found = cost_model.throughput(inputs(), 10)
        self.assertEqual((found["write_limit"], found["write_iops_node"], found["write_iops"]), ("drive", 30000, 300000))
        found = cost_model.throughput(inputs(drive_write_iops=900000), 10)
        self.assertEqual((found["write_limit"], round(found["write_iops_node"])), ("CPU", 40000))
        found = cost_model.throughput(inputs(drive_write_iops=900000, link_gbit=0.8), 10)
        self.assertEqual((found["write_limit"], round(found["write_iops_node"])), ("network", 12207))

    def test_reads_stay_local(self):
        found = cost_model.throughput(inputs(link_gbit=0.001), 10)
        self.assertEqual((found["read_limit"], found["read_iops_node"]), ("CPU", 50000))

    def test_fewer_nodes_than_copies_write_fewer_copies(self):
        self.assertEqual(cost_model.throughput(inputs(), 1)["write_iops_node"], 4e6 / 80)
        self.assertNotIn("network", cost_model.throughput(inputs(link_gbit=1e-9), 1)["write_limit"])

    def test_the_leader_pays_for_every_heartbeat(self):
        # 1000 nodes, 5 heartbeats a second, 20 µs each: a tenth of a core.
        self.assertAlmostEqual(cost_model.leader_share(inputs(heartbeat_cpu_us=20), 1000), 0.1)


class RebuildAndFailover(unittest.TestCase):
    def test_rebuild_is_spread_over_the_survivors(self):
        # 900 GiB over 9 survivors; a drive gives half of 1000 MiB/s, half of that as source, half as target: 250.
        found = cost_model.rebuild(inputs(), 10)
        self.assertEqual(found["rebuild_limit"], "drive")
        self.assertAlmostEqual(found["rebuild_s"], 100 * 1024 / 250)
        self.assertAlmostEqual(found["exposed_s"] - found["rebuild_s"], 600)
        self.assertLess(cost_model.rebuild(inputs(), 100)["rebuild_s"], found["rebuild_s"] / 9)

    def test_no_rebuild_is_faster_than_one_shard(self):
        found = cost_model.rebuild(inputs(used_gib=10), 1000)
        self.assertEqual((found["rebuild_limit"], found["rebuild_s"]), ("one shard", 1024 / 250))

    def test_three_nodes_have_nowhere_to_rebuild_to(self):
        self.assertIsNone(cost_model.rebuild(inputs(), 3)["rebuild_s"])

    def test_failover_adds_up(self):
        found = cost_model.failover(inputs(used_gib=300, detect_refused_ms=100, commit_ms=5, apply_us_shard=10, takeover_us_shard=1000, client_retry_ms=50), 11)
        # 300 shards change (3 ms), 100 of them were primaries: 10 for each of 10 survivors (10 ms).
        self.assertAlmostEqual(found["stall_killed_ms"], 100 + 5 + 3 + 10 + 50)
        self.assertAlmostEqual(found["stall_silent_ms"], 1200 + 200 + 5 + 3 + 10 + 50)


class Check(unittest.TestCase):
    def runs(self, sizes=(3, 5, 7, 9), idle=0.0):
        found = [r for depth in (1, 12) for r in scale_runs(3, depth, law(3, depth), idle=idle)]
        return found + [r for n in sizes for r in scale_runs(n, 4, law(n, 4), idle=idle)]

    def test_a_machine_that_follows_the_law_is_foretold(self):
        for idle in (0.0, 0.01):
            rows = cost_model.check_scaleout(self.runs(idle=idle))
            self.assertEqual([(r["nodes"], r["fitted"]) for r in rows], [(3, True), (5, False), (7, False), (9, False)])
            for row in rows:
                self.assertLess(abs(row["error_percent"]), 2.5, row)

    def test_larger_sizes_are_not_looked_at_for_the_fit(self):
        runs = self.runs()
        told = [r["predicted_iops"] for r in cost_model.check_scaleout(runs)]
        for r in runs:
            if r["nodes"] > 3:
                r["iops"] *= 0.3
        self.assertEqual([r["predicted_iops"] for r in cost_model.check_scaleout(runs)], told)
        self.assertGreater(cost_model.check_scaleout(runs)[-1]["error_percent"], 200)

    def test_one_depth_is_not_enough_to_fit(self):
        self.assertRaises(cost_model.ModelError, cost_model.check_scaleout, scale_runs(3, 4, 60.0) + scale_runs(9, 4, 80.0))

    def test_the_program_tells_a_model_that_is_off(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "s.jsonl")
            runs = self.runs()
            synthetic.write(path, runs)
            self.assertEqual(subprocess.run([PROGRAM, "--check", path], capture_output=True, check=False).returncode, 0)
            for r in runs:
                r["iops"] *= 0.5 if r["nodes"] == 9 else 1
            synthetic.write(path, runs)
            done = subprocess.run([PROGRAM, "--check", path], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stdout.rstrip().rsplit("  ", 1)[-1], "off")


class Program(unittest.TestCase):
    def run_it(self, *options):
        return subprocess.run([PROGRAM, *options], capture_output=True, text=True, check=False)

    def settings(self, **more):
        return [word for name, value in {**GIVEN, **more}.items() for word in ("--set", f"{name}={value}")]

    def test_figures_come_from_a_run_and_say_so(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "r.jsonl")
            synthetic.write(path, synthetic.records())
            found = cost_model.measured(results.read(path))
            self.assertAlmostEqual(found["cpu_client_us"][0], 48, delta=5)
            self.assertAlmostEqual(found["cpu_primary_us"][0], 26, delta=3)
            self.assertAlmostEqual(found["cpu_backup_us"][0], 15.5, delta=2)
            self.assertEqual(found["drive_write_iops"][1], "measured, bare")
            self.assertNotIn("sync_stream_mib_s", found, "a node that comes back is not rebuilt from nothing")
            rebuild = {"kind": "series", "scenario": "rebuild-dense", "stack": "ashlar-x3", "result": {"verdict": "pass", "rebuild_mib_s": 113.0}}
            synthetic.write(path + "2", [*synthetic.records(), rebuild])
            self.assertEqual(cost_model.measured(results.read(path + "2"))["sync_stream_mib_s"][0], 113.0)
            stalls = cost_model.stall_check(results.read(path), inputs(commit_ms=5, detect_refused_ms=100, client_retry_ms=50))
            self.assertEqual([(r["scenario"], r["measured_ms"], round(r["predicted_ms"])) for r in stalls], [("kill-rebuild", 320, 155)])
            done = self.run_it("--from", path, "--set", "drive_mib_s=1500", "--nodes", "10")
            self.assertIn("kill-rebuild: longest stall 320 ms where the model says 155 ms", done.stdout)
            done = self.run_it("--from", path, "--set", "drive_mib_s=1500", "--json")
            record = json.loads(done.stdout)
            schema.check(record)
            self.assertEqual([r["nodes"] for r in record["rows"]], [3, 10, 30, 100, 300, 1000])
            self.assertTrue(record["assumptions"])

    def test_a_missing_figure_is_named(self):
        done = self.run_it("--set", "cores=2")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1))
        self.assertIn("--set cpu_client_us=", done.stderr)

    def test_bad_figures_are_refused(self):
        for text in ("nothing=1", "cores", "cores=x", "cores=nan", "cores=-1", "cores=1e999"):
            self.assertEqual(self.run_it(*self.settings(), "--set", text).returncode, 2, text)
        for nodes in ("0", "x", "1,1000000"):
            self.assertEqual(self.run_it(*self.settings(), "--nodes", nodes).returncode, 2, nodes)
        self.assertEqual(self.run_it("--from", "/nowhere").returncode, 2)
        self.assertEqual(self.run_it("--check", "/nowhere").returncode, 2)

    def test_the_assumptions_stand_beside_the_figures(self):
        done = self.run_it(*self.settings(), "--nodes", "10,1000")
        self.assertEqual(done.returncode, 0)
        for line in cost_model.ASSUMPTIONS:
            self.assertIn(line, done.stdout)
        self.assertRegex(done.stdout, r"\n10 +300000 ")


if __name__ == "__main__":
    unittest.main()
