#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of what bench/rdma reads from a guest: to whom instructions are counted, and what one more write adds."""
import unittest

import rdma_counts

TASKS = ["trace task 1 10 ashlard", "trace task 1 11 data", "trace task 2 21 data"]


def event(comm, tid, at, text):
    return f"  {comm}-{tid}      [000] d..2.  {at}: {text}"


def figure(run, when, writes, cpu, sends):
    data = " ".join(f"cpu{node}={cpu} data{node}={cpu}" for node in (1, 2, 3))
    return f"figure rdma 4k-1 {run} {when} writes={writes} {data} sends={sends}" + (" iops=7" if when == "after" else "")


def traced(run, events):
    return [f"trace begin rdma 4k-1 {run}", *TASKS, *events, "trace end"]


class Counts(unittest.TestCase):
    def run_of(self, events):
        return rdma_counts.parse("\n".join(traced("traced-few", events)))["rdma", "4k-1", "traced-few"]

    def test_time_belongs_to_the_task_that_was_switched_to(self):
        run = self.run_of([event("data", 11, 100, "sched_switch: prev_pid=11 ==> next_comm=fio next_pid=5"),
                           event("fio", 5, 130, "sched_switch: prev_pid=5 ==> next_comm=data next_pid=21"),
                           event("data", 21, 170, "sys_enter: NR 426 (0, 1)")])
        self.assertEqual(run.spent, {(0, "user"): 30, (2, "user"): 40})

    def test_system_calls_are_kept_over_a_switch_and_soft_interrupts_taken_out(self):
        run = self.run_of([event("data", 11, 0, "sys_enter: NR 1 (0, 1)"),
                           event("data", 11, 10, "softirq_entry: vec=3 [action=NET_RX]"),
                           event("data", 11, 30, "softirq_exit: vec=3 [action=NET_RX]"),
                           event("data", 11, 35, "sched_switch: prev_pid=11 ==> next_comm=x next_pid=9"),
                           event("x", 9, 40, "sched_switch: prev_pid=9 ==> next_comm=data next_pid=11"),
                           event("data", 11, 47, "sys_exit: NR 1 = 0"),
                           event("data", 11, 50, "sys_enter: NR 426 (0, 1)"),
                           event("data", 11, 51, "sys_exit: NR 426 = 0")])
        self.assertEqual(run.spent, {(1, "verbs"): 10 + 5 + 7, (1, "softirq"): 20, (0, "user"): 5, (1, "user"): 3,
                                     (1, "ring"): 1})
        self.assertEqual(run.syscalls, {(1, 1): 1, (1, 426): 1})

    def test_other_threads_of_a_daemon_are_not_its_data_thread(self):
        run = self.run_of([event("ashlard", 10, 0, "sys_enter: NR 0 ()"),
                           event("ashlard", 10, 9, "sys_exit: NR 0 = 1")])
        self.assertEqual(list(run.spent), [(0, "verbs")])

    def test_one_more_write_is_the_difference(self):
        lines = [figure("few", "before", 10, 1000, 0), figure("few", "after", 10, 1500, 40),
                 figure("many", "before", 30, 2000, 40), figure("many", "after", 30, 3500, 160)]
        for run, writes, at in (("traced-few", 10, 100), ("traced-many", 30, 300)):
            lines += [figure(run, "before", writes, 0, 0),
                      *traced(run, [event("data", 11, 0, "sys_enter: NR 426 ()"),
                                    event("data", 11, at, "sys_exit: NR 426 = 0"),
                                    event("data", 11, 4 * at, "sys_enter: NR 426 ()")]),
                      figure(run, "after", writes, 1000, 0)]
        row = rdma_counts.per_write(rdma_counts.parse("\n".join(lines)), "rdma", "4k-1")
        self.assertEqual(row["ashlard"], 3 * 1000 / 20)  # 1500 for thirty less 500 for ten
        self.assertEqual(row["sends"], 4)
        self.assertEqual((row["ring"], row["user"]), (150 / 4, 150 * 3 / 4))
        self.assertEqual(row["iops"], 7)

    def test_a_run_that_is_missing_is_told(self):
        with self.assertRaisesRegex(ValueError, "few of 4k-1 by rdma is missing"):
            rdma_counts.per_write({}, "rdma", "4k-1")


if __name__ == "__main__":
    unittest.main()
