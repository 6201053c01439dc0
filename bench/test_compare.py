#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of bench/compare: what it calls, what it must not call, and its exit status."""
import json
import os
import subprocess
import tempfile
import unittest

import synthetic

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compare")


def run_of(values, stack="ashlar-x3", workload="randread-qd1", reference=1000):
    """One stack and workload, measured once a value."""
    rate = workload != "randread-qd1"
    return [synthetic.run_record(), *[
        {"kind": "sample", "stack": stack, "workload": workload, "round": turn,
         "metrics": {"iops": v} if rate else {"iops": 1, "lat_us": {"p50": v}}, "reference": {"before": {"iops": reference}}}
        for turn, v in enumerate(values)]]


class Compare(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def run_it(self, old, new, *options):
        paths = [os.path.join(self.directory.name, name) for name in ("old.jsonl", "new.jsonl")]
        for path, items in zip(paths, (old, new)):
            synthetic.write(path, items)
        return subprocess.run([PROGRAM, *paths, *options], capture_output=True, text=True, check=False)

    def verdict(self, old, new, *options):
        done = self.run_it(old, new, "--json", *options)
        found = json.loads(done.stdout)
        self.assertEqual(done.returncode, 1 if found["worse"] else 0)
        return found["rows"][0]["verdict"]

    def test_worse_better_and_same_for_latency_and_for_rates(self):
        low, high = [100, 101, 102], [120, 121, 122]
        self.assertEqual(self.verdict(run_of(low), run_of(high)), "worse")
        self.assertEqual(self.verdict(run_of(high), run_of(low)), "better")
        self.assertEqual(self.verdict(run_of(low, workload="randread-qd32"), run_of(high, workload="randread-qd32")), "better")
        self.assertEqual(self.verdict(run_of(high, workload="randread-qd32"), run_of(low, workload="randread-qd32")), "worse")
        self.assertEqual(self.verdict(run_of(low), run_of(low)), "same")

    def test_what_the_noise_could_explain_is_the_same(self):
        self.assertEqual(self.verdict(run_of([100, 110, 125]), run_of([120, 130, 140])), "same")

    def test_less_than_the_threshold_is_the_same(self):
        self.assertEqual(self.verdict(run_of([100, 101, 102]), run_of([103, 104, 104])), "same")
        self.assertEqual(self.verdict(run_of([100, 101, 102]), run_of([103, 104, 104]), "--threshold", "1"), "worse")

    def test_one_round_decides_nothing(self):
        self.assertEqual(self.verdict(run_of([100]), run_of([300, 301, 302])), "undecided")

    def test_a_rate_that_fell_to_nothing_is_worse(self):
        self.assertEqual(self.verdict(run_of([10, 11], workload="randread-qd32"), run_of([0, 0], workload="randread-qd32")), "worse")
        self.assertEqual(self.verdict(run_of([0, 0], workload="randread-qd32"), run_of([10, 11], workload="randread-qd32")), "better")

    def test_what_one_run_lacks_is_listed_with_its_reason(self):
        old = run_of([1, 2, 3]) + run_of([1, 2, 3], stack="array-iscsi")[1:]
        new = run_of([1, 2, 3]) + [{"kind": "stack", "stack": "array-iscsi", "state": "failed", "why": "port in use"}]
        done = self.run_it(old, new)
        self.assertEqual(done.returncode, 0)
        self.assertIn("array-iscsi: not in the new run (failed: port in use)", done.stdout)

    def test_drift_of_the_machine_is_told(self):
        done = self.run_it(run_of([1, 2, 3]), run_of([1, 2, 3], reference=500))
        self.assertIn("the reference job itself went from 1000 to 500", done.stdout)

    def test_bad_input_is_status_2_and_one_line(self):
        for old, new in (([], run_of([1])), (run_of([1]), []), (run_of([1]), run_of([1], stack="other"))):
            done = self.run_it(old, new)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1))

    def test_names_can_not_command_a_terminal(self):
        name = "x\x1b[2J\n\r\u202e"
        done = self.run_it(run_of([1, 2], stack=name), run_of([1, 2], stack=name))
        self.assertEqual(done.returncode, 0)
        self.assertNotRegex(done.stdout, "[\x1b\r\u202e]")

    def test_whole_runs_compare(self):
        done = self.run_it(synthetic.records(seed=1), synthetic.records(seed=1))
        self.assertEqual(done.returncode, 0)
        comparable = (len(synthetic.STACKS) - 1) * len(synthetic.WORKLOADS)  # Ceph failed in the made-up run
        self.assertIn(f"0 better, {comparable} same, 0 worse, 0 undecided, 0 in one run only", done.stdout)
        self.assertIn("would be called by chance", done.stdout)


if __name__ == "__main__":
    unittest.main()
