#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of the runner's logic: what is resumed, what is called, what a stack that fails does to the rest."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import types
import unittest
from unittest import mock

from h2h import answers, beside, budget, flushcheck, guests, loads, plan, preflight, records, scenes, session, stackdir, stamps
import schema
from stacks import BenchError

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "headtohead")
LATENCY = {"name": "randread-qd1", "title": "read", "group": "micro", "metric": "lat_us.p50", "better": "lower"}
RATE = {"name": "randwrite-qd32", "title": "write", "group": "micro", "metric": "iops", "better": "higher"}
STEADY = {"read_us": 100.0, "sync_us": 300.0, "hash_ms": 1.0}


def add_samples(results, stack, workload, values, reference=None):
    for number, value in enumerate(values, 1):
        metrics = {"iops": value, "mib_s": 0, "lat_us": {"p50": value}}
        results.append("sample", stack=stack, workload=workload["name"], round=number, metrics=metrics,
                       reference={"before": reference or STEADY, "after": STEADY})


class WithResults(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(subprocess.run, ["rm", "-r", self.directory], check=True)
        self.path = os.path.join(self.directory, "results.jsonl")
        self.results = records.Results(self.path)
        self.addCleanup(lambda: self.results.close())  # pylint: disable=unnecessary-lambda


class Resume(WithResults):
    def test_what_was_measured_is_not_measured_again(self):
        add_samples(self.results, "bare", LATENCY, [1.0, 2.0])
        order = plan.turns([LATENCY["name"]], 3, ["bare", "x"])
        again = records.Results(self.path)
        left = plan.still_to_do(order, again)
        again.close()
        self.assertEqual([(r, s) for _, r, s in left], [(1, "x"), (2, "x"), (3, "bare"), (3, "x")])

    def test_a_line_that_was_cut_off_is_dropped_and_written_over(self):
        self.results.append("end", seconds=1)
        with open(self.path, "ab") as f:
            f.write(b'{"kind":"sam')
        again = records.Results(self.path)
        again.append("end", seconds=2)
        again.close()
        with open(self.path, encoding="utf-8") as f:
            self.assertEqual([json.loads(line)["seconds"] for line in f], [1, 2])

    def test_a_broken_line_or_another_format_is_one_error(self):
        for line in (b"nonsense\n", b"[]\n", b'{"kind":"run","format":99}\n'):
            with open(self.path, "wb") as f:
                f.write(line)
            with self.assertRaises(BenchError):
                records.Results(self.path)

    def test_turns_interleave_the_stacks(self):
        self.assertEqual([s for _, _, s in plan.turns(["w"], 2, ["a", "b"])], ["a", "b", "a", "b"])


class Answers(WithResults):
    def compare(self, own, other, workload, reference=None):
        add_samples(self.results, "ashlar-x3", workload, own, reference)
        add_samples(self.results, "array-iscsi", workload, other, reference)
        found = answers.comparisons(self.results, [workload], ["array-iscsi", "ashlar-x3"])
        return next(r for r in found if r["against"] == "array-iscsi")

    def test_slower_is_above_one_whichever_way_the_metric_points(self):
        self.assertAlmostEqual(self.compare([200, 210, 190], [100, 100, 100], LATENCY)["ratio"]["median"], 2.0)
        found = self.compare([50, 50, 50], [100, 100, 100], RATE)
        self.assertAlmostEqual(found["ratio"]["median"], 2.0)
        self.assertTrue(found["called"])

    def test_a_difference_within_the_spread_is_not_called(self):
        found = self.compare([90, 130, 100], [100, 100, 100], LATENCY)
        self.assertFalse(found["called"])
        self.assertIn("within the noise", found["text"])

    def test_a_difference_below_the_drift_of_the_reference_is_not_called(self):
        self.assertTrue(self.compare([110, 111, 112], [100, 100, 100], LATENCY)["called"])
        drifting = {**STEADY, "read_us": 200.0}
        again = records.Results(os.path.join(self.directory, "drift"))
        self.results.close()
        self.results = again
        self.assertFalse(self.compare([110, 111, 112], [100, 100, 100], LATENCY, drifting)["called"])

    def test_one_round_is_never_called_nor_two(self):
        self.assertFalse(self.compare([500], [100], LATENCY)["called"])
        self.assertFalse(self.compare([500, 500], [100, 100], LATENCY)["called"])


class Checks(unittest.TestCase):
    def test_a_flush_that_only_somebody_else_made_does_not_count(self):
        judge = flushcheck.judge
        self.assertEqual(judge(200, 400, 0, True, True)[0], flushcheck.DOES_NOT)
        self.assertEqual(judge(200, 3, 200, True, True)[0], flushcheck.DOES_NOT)
        self.assertEqual(judge(200, 199, 199, True, True)[0], flushcheck.REACHES)
        self.assertEqual(judge(200, 400, 0, True, False)[0], flushcheck.UNDECIDED)
        self.assertEqual(judge(200, None, 0, True, True)[0], flushcheck.UNDECIDED)

    def test_a_budget_adds_up_within_ten_percent_or_says_so(self):
        parts = [budget.layer("a", 50, "measured"), budget.layer("b", 42, "measured")]
        self.assertTrue(budget.record(100, parts)["adds_up"])
        self.assertFalse(budget.record(110, parts)["adds_up"])
        stages = {"total": 90.0, "gateway": 10.0, "primary": 80.0, "network": 60.0, "drive": 40.0}
        layers = budget.ashlar_layers(stages, 30.0, 5.0, ("measured", ""))
        self.assertAlmostEqual(sum(part["us"] for part in layers), 30 + 5 + 10 + 80)

    def test_the_layers_of_a_write_are_each_counted_once(self):
        seen = budget.Seen()
        for name, us in (("nbd", 40.0), ("hop", 36.0), ("x1 call", 130.0), ("qemu", 60.0), ("link", 20.0), ("bare", 95.0), ("ram", 5.0),
                         ("array-iscsi hollow", 150.0), ("local-raw hollow", 60.0)):
            seen.add(name, us)
        stages = {"total": 100.0, "gateway": 1.0, "primary": 99.0, "network": 0.0, "drive": 97.0}
        for name, layers in (("x1", lambda stack: budget.of_ashlar(stack, seen, stages)), ("x3", lambda stack: budget.of_ashlar(stack, seen, stages)),
                             ("array-iscsi", lambda stack: budget.of_hollow(stack, seen)), ("local-raw", lambda stack: budget.of_hollow(stack, seen))):
            expected = {"x1": 40 + 130, "x3": 40 + 36 + 100, "array-iscsi": 150 + 90, "local-raw": 60 + 90}[name]
            self.assertAlmostEqual(sum(part["us"] for part in layers(types.SimpleNamespace(name=name))), expected, msg=name)
        found = budget.of_stages(seen, {"client": 900.0, "server": 700.0, "drive": 300.0})
        self.assertEqual([part["us"] for part in found], [60.0, 200.0, 400.0, 300.0])

    def test_only_whole_requests_of_the_trace_are_paired(self):
        line = "  nbdkit-77 [001] ..... {:.6f}: {}: (0x7f01)\n"
        lines = ["# tracer: nop\n", *[line.format(i + at, name) for i in range(100) for at, name in ((0.00001, "call"), (0.000117, "return"))]]
        lines[3:3] = [line.format(0.5, "call"), line.format(0.7, "other")]
        self.assertEqual(round(stamps.span_us(lines)), 107)
        with self.assertRaises(BenchError):
            stamps.span_us(lines[:50])

    def test_symbols_are_found_where_the_file_has_them(self):
        library = os.path.join(self.build(), "lib", "libashlar.so")
        if not os.path.exists(library):
            self.skipTest("libashlar.so is not built")
        found = stamps.symbols(library, {"ashlar_write", "ashlar_read"})
        self.assertTrue(all(0 < at < os.path.getsize(library) for at in found.values()))
        with self.assertRaises(BenchError):
            stamps.symbols(library, {"there_is_none"})
        with self.assertRaises(BenchError):
            stamps.symbols(os.path.abspath(__file__), {"ashlar_write"})

    @staticmethod
    def build():
        return os.environ.get("ASHLAR_BUILD") or os.path.join(os.path.dirname(os.path.dirname(PROGRAM)), "build")

    def test_an_assumed_time_is_part_of_a_step_and_told(self):
        scene = scenes.parse("[scenario]\ntitle = t\nstacks = bare\nseconds = 9\nrate = 100\nassume = takeover_s=3\nsteps =\n"
                             "  2+takeover_s mend controller\n  2 break controller\n", "f")
        self.assertEqual([at for at, _ in scene["steps"]], [2.0, 5.0])
        points = [{"t_s": t / 2, "ops": 50, "p99_us": 900 if 2 < t / 2 <= 5 else 100} for t in range(1, 19)]
        good = {"errors": 0, "lost": 0, "hung": False, "disconnected": False, "longest_stall_ms": 5.0, "first_error": "",
                "verified": 9, "longest_stall_at_s": 1.0}
        series = {"stack": "array-iscsi", "events": [{"t_s": 2.0}, {"t_s": 5.0}], "result": scenes.judge(scene, good, points, None, None)}
        scenes.tell_more(scene, series, points, None)
        self.assertIn("assumed: takeover_s = 3", series["result"]["text"])
        self.assertEqual((series["result"]["p99_us_before"], series["result"]["p99_us_during"]), (100, 900))

    def test_a_rebuild_has_a_rate_and_a_stall_deviates(self):
        scene = {"steps": [(1, ["whole"])], "rate": 100, "assume": {}}
        good = {"errors": 0, "lost": 0, "hung": False, "disconnected": False, "longest_stall_ms": 5.0, "first_error": "",
                "verified": 9, "longest_stall_at_s": 1.0}
        points = [{"t_s": 0.5, "ops": 0}, {"t_s": 1.0, "ops": 100}]
        series = {"stack": "ashlar-x3", "events": [], "result": scenes.judge(scene, good, points, 4.0, None)}
        scenes.tell_more(scene, series, points, 512)
        self.assertEqual((series["result"]["rebuild_mib_s"], series["result"]["deviation_percent"]), (128.0, 100.0))

    def test_a_scenario_passes_only_without_errors_losses_and_when_whole(self):
        scene = {"steps": [(1, ["whole"])], "rate": 100}
        good = {"errors": 0, "lost": 0, "hung": False, "disconnected": False, "longest_stall_ms": 5.0, "first_error": "",
                "verified": 9, "longest_stall_at_s": 1.0}
        points = [{"ops": 50}]
        self.assertEqual(scenes.judge(scene, good, points, 2.0, None)["verdict"], "pass")
        for bad, whole_s, trouble in (({**good, "lost": 1}, 2.0, None), ({**good, "errors": 1}, 2.0, None),
                                      ({**good, "hung": True}, 2.0, None), (good, None, None), (None, 2.0, None),
                                      (good, 2.0, "a step failed")):
            self.assertEqual(scenes.judge(scene, bad, points, whole_s, trouble)["verdict"], "fail")

    def test_every_scenario_and_workload_in_the_tree_is_sound(self):
        for scene in scenes.known().values():
            self.assertTrue(all(s in stackdir.known_stacks() for s in scene["stacks"]), scene["title"])
        self.assertTrue(loads.fio_workloads())

    def test_nonsense_in_a_scenario_is_one_line(self):
        head = "[scenario]\ntitle = t\nstacks = bare\nseconds = 9\nrate = 1\nsteps =\n"
        for text in ("", "[scenario]\ntitle = t\n", head + "  x break\n", head + "  1 every 0 snapshot s\n"):
            with self.assertRaises(BenchError) as caught:
                scenes.parse(text, "file.ini")
            self.assertNotIn("\n", str(caught.exception))


class Beside(unittest.TestCase):
    def test_a_mix_never_does_what_makes_no_sense_and_ends_with_nothing_left(self):
        for seed in range(20):
            mix, volumes, attached, snapshot, of, verbs = beside.Mix(seed), set(), set(), None, {}, set()
            steps = [mix.next() for _ in range(150)]
            for verb, name, *more in [*steps, *mix.ending()]:
                verbs.add(verb)
                if verb in ("create", "clone"):
                    name, source = (name, None) if verb == "create" else (more[0], name)
                    self.assertNotIn(name, volumes)
                    self.assertEqual(source, f"@{snapshot}" if source else None)
                    self.assertTrue(source is None or snapshot)
                    volumes.add(name)
                    of[name] = source
                elif verb in ("attach", "detach"):
                    self.assertIn(name, volumes)
                    self.assertEqual(name in attached, verb == "detach")
                    attached ^= {name}
                elif verb == "delete":
                    self.assertNotIn(name, attached)
                    volumes.remove(name)
                elif verb == "snapshot":
                    self.assertIsNone(snapshot)
                    snapshot = name
                else:
                    self.assertEqual((verb, name), ("unsnapshot", snapshot))
                    self.assertFalse([n for n in volumes if of[n] == f"@{name}"])
                    snapshot = None
                self.assertLessEqual(len(volumes), beside.VOLUMES_MAX)
            self.assertEqual((volumes, attached, snapshot), (set(), set(), None))
            self.assertEqual(len(verbs), 7)

    def test_the_same_seed_is_the_same_mix(self):
        one, other, third = beside.Mix(7), beside.Mix(7), beside.Mix(8)
        steps = [one.next() for _ in range(50)]
        self.assertEqual(steps, [other.next() for _ in range(50)])
        self.assertNotEqual(steps, [third.next() for _ in range(50)])

    def test_moments_are_counted_up_to_each_point_of_the_series(self):
        self.assertEqual(beside.counted({"a": [0.4, 0.6, 1.5]}, [0.5, 1.0, 2.0]), {"a": [1, 2, 3]})

    def test_what_was_made_is_taken_away_even_if_something_fails(self):
        def call(_volume, verb, *argv):
            calls.append((verb, *argv))
            if (verb, *argv) == ("detach", "b"):
                raise BenchError("stuck")
            return "uri"

        calls, desk = [], beside.Desk(types.SimpleNamespace(call=call))
        for argv in (("create", "image", "1"), ("clone", "image", "b"), ("attach", "b"), ("clone", "image", "c")):
            desk.do(*argv)
        self.assertEqual(str(beside.drop_image(desk)), "stuck")
        self.assertEqual(calls[4:], [("detach", "b"), ("delete", "c"), ("delete", "b"), ("unfreeze", "image"), ("detach", "b"),
                                     ("delete", "image")])

    def test_a_disk_that_never_answers_does_not_hang_the_run(self):
        with self.assertRaisesRegex(BenchError, "the disk did not end"):
            beside.in_time("the disk", threading.Event().wait, deadline_s=0.05)
        with self.assertRaisesRegex(BenchError, "the disk: broken"):
            beside.in_time("the disk", mock.Mock(side_effect=BenchError("broken")))

    def test_a_scenario_tells_what_was_done_beside_its_load(self):
        scene = {"steps": [(1, ["clones", "2"])], "rate": 100}
        good = {"errors": 0, "lost": 0, "hung": False, "disconnected": False, "longest_stall_ms": 5.0, "first_error": "",
                "verified": 9, "longest_stall_at_s": 1.0}
        done = {"ready_s": 2.0, "operations": {"clone": {"count": 2, "median_ms": 1.0, "worst_ms": 2.0}}, "marks": {"x": []},
                "text": "2 clones"}
        found = scenes.judge(scene, good, [{"ops": 50}], None, None, done)
        self.assertEqual((found["verdict"], found["ready_s"]), ("pass", 2.0))
        self.assertTrue(found["text"].startswith("2 clones; the load beside it: no I/O error"))
        self.assertIsNone(schema.problem({"kind": "series", "scenario": "clones", "stack": "s", "result": found}))
        self.assertEqual(scenes.judge(scene, {**good, "errors": 1}, [{"ops": 50}], None, None, done)["verdict"], "fail")

    def test_a_stack_that_has_no_clones_says_why(self):
        environment = {"H2H_SHARED": "/nowhere", "H2H_SIZE": "1"}
        for name, said in (("array-iscsi", "not supported: tgt"), ("local-raw", "not supported: a raw file")):
            stack = stackdir.Stack(name, environment)
            stack.uri = "nbd://x"
            self.assertIn(said, scenes.lacks(scenes.known()["clones"], stack))
        for name in ("local-qcow2", "ashlar-x3"):
            stack = stackdir.Stack(name, environment)
            stack.uri = "nbd://x"
            self.assertIsNone(scenes.lacks(scenes.known()["control-mix"], stack))


REPORT = {"error": 0, "write": {"total_ios": 0}, "read": {
    "total_ios": 100, "runtime": 2000, "io_bytes": 100 << 20,
    "lat_ns": {"mean": 5e5, "max": 9e6, "percentile": {f"{p}.000000": 4e5 for p in (50, 90, 95, 99)} | {"99.900000": 8e6}}}}


class Guests(WithResults):
    def test_guest_workloads_have_names_of_their_own_and_their_jobs_exist(self):
        found = guests.workloads()
        self.assertEqual([w["job"] for w in found], list(guests.JOBS))
        self.assertFalse({w["name"] for w in found} & {w["name"] for w in loads.fio_workloads()})
        self.assertIn("filename=/dev/vda", guests.job_text("randread-qd1", 4096, 2.0, 0.2))

    def test_reports_are_found_among_what_a_guest_prints(self):
        text = f'fio: hello\nreport randread-qd1 note: x {json.dumps({"jobs": [REPORT]})}\nmore\n'
        self.assertEqual(list(guests.reports_of(text)), ["randread-qd1"])
        for bad in ("report a nonsense\n", 'report a {"jobs": []}\n'):
            with self.assertRaises(BenchError):
                guests.reports_of(bad)

    def test_a_sample_of_a_guest_says_so_and_shares_the_cpu_time_of_the_run(self):
        sample = guests.sample_of(REPORT, ({"QEMU and guest": 4e6}, 5e6, 4.0))
        self.assertEqual((sample["path"], sample["metrics"]["iops"]), ("guest", 50.0))
        self.assertAlmostEqual(sample["cpu_us"]["QEMU and guest"], 4e6 * 0.5 / 100)
        self.assertIsNone(schema.problem({"kind": "sample", "stack": "s", "workload": "w", "round": 1, **sample}))
        with self.assertRaisesRegex(BenchError, "I/O error"):
            guests.sample_of({**REPORT, "error": 5}, ({}, 0, 1.0))

    def test_a_guest_is_no_part_of_the_answer_on_the_array(self):
        workload = {**LATENCY, "name": "guest-randread-qd1", "group": "guest"}
        for stack in ("array-iscsi", "ashlar-x3"):
            add_samples(self.results, stack, workload, [100, 100, 100])
        found = answers.comparisons(self.results, [workload], ["array-iscsi", "ashlar-x3"])
        self.assertEqual([r["question"] for r in found], ["does hyper-converged storage beat the array? (in a guest)"])

    def test_what_is_run_by_default_and_with_guest(self):
        def chosen(*argv):
            loader = importlib.machinery.SourceFileLoader("headtohead_program", PROGRAM)
            module = importlib.util.module_from_spec(importlib.util.spec_from_loader("headtohead_program", loader))
            loader.exec_module(module)
            with mock.patch.object(sys, "argv", ["headtohead", *argv]):
                return [w["name"] for w in module.parse_arguments().workloads]

        self.assertFalse([n for n in chosen() if n.startswith("guest-")])
        self.assertEqual(len([n for n in chosen("--quick", "--guest") if n.startswith("guest-")]), 4)
        self.assertEqual(chosen("--only", "randread-qd1", "--guest"), ["randread-qd1", "guest-randread-qd1"])
        self.assertEqual(chosen("--only", "guest-seqread-1m", "--guest"), ["guest-seqread-1m"])
        self.assertEqual(chosen("--only", "randread-qd1"), ["randread-qd1"])


class Failures(WithResults):
    def make_stack(self, name, up):
        folder = os.path.join(self.directory, "folders", name)
        os.makedirs(folder)
        for verb, text in (("up", up), ("down", "exit 0"), ("uri", f"echo file:{self.directory}/disk"),
                           ("facts", """echo '{"title": "t", "role": "custom"}'""")):
            with open(os.path.join(folder, verb), "w", encoding="utf-8") as f:
                f.write(f"#!/bin/sh\n{text}\n")
            os.chmod(f.name, 0o755)

    def start(self, names):
        method = {"size_bytes": 1 << 29, "seconds": 1, "warmup_s": 0, "macro_seconds": 1, "link_rate": "1gbit"}
        self.results.append("run", format=1, id="t", method=method)
        options = types.SimpleNamespace(stacks=names, custom=None)
        progress = types.SimpleNamespace(say=lambda text: None, clear=lambda: None, shown=True)
        run = session.Session(options, self.results, self.directory, progress, "/nowhere")
        with mock.patch.object(stackdir, "HERE", os.path.join(self.directory, "folders")), \
                mock.patch.object(session.Session, "_fill_and_check"), mock.patch.object(session, "Reference"), \
                mock.patch.object(session.Session, "line"):
            try:
                run.bring_up()
                return [s.name for s in run.ready()]
            finally:
                run.tear_down()

    def test_a_stack_that_does_not_start_is_one_line_and_the_rest_goes_on(self):
        self.make_stack("good", "exit 0")
        self.make_stack("bad", "echo starting >&2; echo the port is in use >&2; exit 1")
        self.assertEqual(self.start(["bad", "good"]), ["good"])
        self.assertEqual([f["text"] for f in self.results.of("failure")], ["up: the port is in use"])
        self.assertEqual([r["state"] for r in self.results.of("stack", stack="bad")], ["failed"])
        self.assertFalse(os.path.exists(os.path.join(self.directory, "bad")))

    def test_missing_programs_and_room_are_told_before_anything_starts(self):
        with mock.patch.dict(os.environ, {"PATH": "/nowhere"}):
            self.assertIn("not installed: qemu-storage-daemon", preflight.check_stack("local-raw", "/", None))
        self.assertIn("is missing", preflight.check_stack("ashlar-x3", "/nowhere", None))
        self.assertIn("no URI", preflight.check_stack("custom", "/", None))

    def test_wrong_usage_is_status_2_and_one_reason(self):
        for argv in (["--stacks", "nobody"], ["--only", "nothing"], ["--rounds", "0", "--list"], ["--size", "1", "--list"], ["--scenarios", "x"]):
            done = subprocess.run([sys.executable, "-B", PROGRAM, *argv], capture_output=True, text=True, check=False,
                                  timeout=60)
            self.assertEqual(done.returncode, 2, argv)
            self.assertIn("error:", done.stderr.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
