#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of the report: whatever the results hold, the page is well-formed, loads nothing, and hides no trouble.

With --long also: headless Chromium draws it in light and dark, as wide as it says, without a message of its console.
"""
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

import results
import synthetic
from report_html import build, drawing, figures, lines, markup, questions

HERE = os.path.dirname(os.path.abspath(__file__))
LONG = os.environ.get("ASHLAR_LONG") == "1" or "--long" in sys.argv
HOSTILE = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "'; drop table; --", "a\x00b\x1b[31m", "\ud800", "\u202egnp.exe",
           "</style><b>", "&amp;&lt;", "x" * 190, "🦭 ünï", "javascript:alert(1)", "{{7*7}}", "]]>", "<!--", "url(http://evil.example/)"]


class Files(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = os.path.join(self.directory.name, "r.jsonl")

    def read(self, items):
        synthetic.write(self.path, items)
        return results.read(self.path)

    def page(self, items):
        found = self.read(items)
        page, drawings = build.build(found)
        tree = ElementTree.fromstring(page.split("\n", 1)[1])
        for name, one in drawings.items():
            self.assertRegex(name, r"\A[a-z0-9A-Z-]+\Z")
            ElementTree.fromstring(drawing.standalone(one))
        self.assert_harmless(tree)
        return page, tree, drawings

    def assert_harmless(self, tree):
        """No element, attribute or address that would fetch or run anything; every id once."""
        seen = set()
        for node in tree.iter():
            tag = node.tag.rpartition("}")[2]
            self.assertNotIn(tag, {"img", "iframe", "object", "embed", "link", "form", "base", "image", "foreignObject", "use", "audio", "video"})
            for name, value in node.attrib.items():
                self.assertFalse(name.startswith("on"), name)
                self.assertNotIn(name, {"src", "srcset", "action", "data", "ping", "{http://www.w3.org/1999/xlink}href"})
                if name == "href":
                    self.assertTrue(value.startswith("#"), value)
                if name == "id":
                    self.assertNotIn(value, seen)
                    seen.add(value)
        self.assertEqual(len(tree.findall(".//script")), 1)
        self.assertNotRegex("".join(node.text or "" for node in tree.iter("style")), r"@import|url\(")
        for link in tree.iter("a"):
            self.assertIn(link.get("href")[1:], seen)

    def words(self, tree):
        return re.sub(r"\s+", " ", " ".join(tree.itertext()))


class Page(Files):
    def test_a_whole_run_has_every_section_and_figure(self):
        page, tree, drawings = self.page(synthetic.records())
        ids = {node.get("id") for node in tree.iter("section")}
        self.assertEqual(ids, {"answers", "trouble", "slowdown", "latency", "rate", "cpu", "layers", "guest", "scenarios", "operations",
                               "curves", "stacks", "machine"})
        self.assertEqual(len(drawings), 13)
        self.assertEqual(page.count("<figure>"), 13)
        self.assertEqual(page.count("Reproduce: "), 13, "each figure has its command")
        self.assertIn("default-src 'none'", page.replace("&#39;", "'"))
        for rule in ("prefers-color-scheme:dark", "@media print"):
            self.assertIn(rule, page)

    def test_a_guest_s_figures_stand_apart_and_say_what_emulation_costs(self):
        _, tree, drawings = self.page(synthetic.records())
        section = next(node for node in tree.iter("section") if node.get("id") == "guest")
        self.assertIn("dwarfs the rest", self.words(section))
        self.assertIn("slowdown-guest", drawings)
        for name in ("slowdown-micro", "latency", "rate", "cpu"):
            self.assertNotIn("in a guest", drawings[name])
        self.assertFalse([w for w in questions.storage_workloads(self.read(synthetic.records())) if w.group == "guest"])

    def test_operations_are_drawn_and_listed_and_a_stack_without_any_is_told(self):
        _, tree, drawings = self.page(synthetic.records())
        self.assertIn("until all are ready", drawings["operations-clones"])
        words = {node.get("id"): self.words(node) for node in tree.iter("section")}
        self.assertIn("attach", words["operations"])
        self.assertIn("not supported: made up", words["scenarios"])
        self.assertIn("all ready in 21 s", drawings["scenario-2-clones"])

    def test_tables_can_be_sorted_and_scroll_in_their_own_box(self):
        _, tree, _ = self.page(synthetic.records())
        tables = list(tree.iter("table"))
        self.assertGreater(len(tables), 6)
        boxed = [node for box in tree.iter("div") if box.get("class") == "scroll" and box.get("tabindex") == "0" for node in box.findall("table")]
        self.assertEqual(len(boxed), len(tables))
        for table in tables:
            width = len(table.findall("thead/tr/th/button"))
            self.assertGreater(width, 1)
            for row in table.findall("tbody/tr"):
                self.assertEqual(len(row), width)
                for cell in row:
                    float(cell.get("data-value", "0"))

    def test_every_drawing_says_in_words_what_it_shows(self):
        for one in self.page(synthetic.records())[2].values():
            tree = ElementTree.fromstring(one)
            self.assertTrue(tree.get("aria-label"))
            texts = [node.text for node in tree.iter() if node.tag.endswith("}text")]
            self.assertGreater(len(texts), 10)
            for node in tree.iter():
                for name in ("x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx", "cy"):
                    if name in node.attrib and not node.get(name).endswith("%"):
                        self.assertTrue(-50 <= float(node.get(name)) <= 20000, (name, node.attrib))

    def test_the_same_results_make_the_same_page(self):
        self.assertEqual(self.page(synthetic.records())[0], self.page(synthetic.records())[0])


class Trouble(Files):
    def test_a_failed_stack_is_named_and_the_rest_goes_on(self):
        _, tree, _ = self.page(synthetic.records())
        self.assertIn("ceph-rbd-x3: failed: monitor did not answer in 60 s", self.words(tree.find(".//section[@id='trouble']")))
        self.assertIn("Not known: ceph-rbd-x3 failed", self.words(tree))

    def test_a_stack_that_only_the_head_names_is_not_measured(self):
        items = synthetic.records()
        items[0]["stacks"].append("array-forgotten")
        self.assertIn("array-forgotten (not measured)", self.words(self.page(items)[1]))

    def test_without_a_floor_no_slowdown_is_told(self):
        items = [i for i in synthetic.records() if i.get("stack") != "bare"]
        items[0]["stacks"].remove("bare")
        _, tree, drawings = self.page(items)
        self.assertNotIn("slowdown-micro", drawings)
        self.assertIn("no slowdown can be told", self.words(tree))

    def test_one_round_decides_nothing(self):
        _, tree, _ = self.page(synthetic.records(rounds=1))
        self.assertIn("one round: no verdict", self.words(tree))
        self.assertNotIn("Yes: of", self.words(tree))

    def test_nothing_completed_is_said_not_drawn(self):
        items = synthetic.records()
        for item in items:
            if item["kind"] == "sample" and item["stack"] == "ashlar-x3" and item["workload"] == "randread-qd32":
                item["metrics"].update(iops=0, lat_us={})
        found = self.read(items)
        workload = next(w for w in found.workloads() if w.name == "randread-qd32")
        self.assertEqual(figures.compare(found, workload, "ashlar-x3", "bare").said, "nothing was completed (0)")
        self.assertIn("nothing was completed (0)", self.words(self.page(items)[1]))

    def test_a_floor_of_zero_gives_no_ratio(self):
        items = synthetic.records()
        for item in items:
            if item["kind"] == "sample" and item["stack"] == "bare":
                (item.get("metrics") or {}).update(iops=0, mib_s=0, lat_us={"p50": 0})
        self.page(items)

    def test_missing_and_null_figures_are_dashes_not_zero(self):
        items = synthetic.records()
        for item in items:
            if item["kind"] == "sample":
                item.update(metrics=None, cpu_us=None, aux=None, reference=None)
            if item["kind"] == "series":
                item.update(t_s=None, lat_us_p99=[None, 1.0], events=None, result=None)
        _, tree, _ = self.page(items)
        self.assertIn("not measured", self.words(tree))

    def test_a_run_that_was_cut_off_says_so(self):
        items = synthetic.records()[:-1]
        synthetic.write(self.path, items)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write('{"kind":"sample","stack":"ba')
        found = results.read(self.path)
        self.assertEqual(found.bad_count, 1)
        page, _ = build.build(found)
        self.assertIn("The run was cut off", page)
        self.assertIn("was left out: cut off", page)

    def test_a_flush_that_does_not_reach_the_drive_is_told_first(self):
        items = synthetic.records()
        for item in items:
            if item["kind"] == "flush-check" and item["stack"] == "array-iscsi":
                item["verdict"] = "does not reach the drive"
        answer = next(a for a in questions.answers(self.read(items)) if "lying" in a.question)
        self.assertEqual((answer.outcome, answer.label), ("bad", "yes"))
        self.assertIn("array-iscsi", answer.text)

    def test_broken_lines_are_counted_named_and_left_out(self):
        synthetic.write(self.path, synthetic.records())
        with open(self.path, "ab") as file:
            for line in (b"\xff\xfe", b"[1]", b"{}", b"NaN", b'{"kind":"sample","stack":"a","workload":"b","round":NaN}', b'{"kind":7}',
                         b"[" * 100000, b'{"kind":"sample","stack":"a","workload":"b","round":1,"cpu_us":{"x":1e999}}', b'{"kind":"later","x":1}'):
                file.write(line + b"\n")
        found = results.read(self.path)
        self.assertEqual(found.bad_count, 8)
        self.assertEqual(found.unknown_kinds, {"later": 1})
        self.assertIn(f"line {len(synthetic.records()) + 1} of the results was left out", build.build(found)[0])

    def test_nothing_to_report_is_one_line(self):
        for content in (b"", b"\n\n", b"garbage\n", b"\x00" * 5000):
            with open(self.path, "wb") as file:
                file.write(content)
            done = subprocess.run([os.path.join(HERE, "report"), self.path], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1))
        done = subprocess.run([os.path.join(HERE, "report"), self.path + ".none"], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1))
        self.assertEqual(os.listdir(self.directory.name), ["r.jsonl"])

    def test_single_records_of_each_kind_make_a_page(self):
        kinds = {}
        for item in synthetic.records():
            kinds.setdefault(item["kind"], item)
        kinds["model"] = {"kind": "model", "question": None, "rows": [{}, {"nodes": 3, "limit": None}]}
        kinds["scale"] = {"kind": "scale", "nodes": 3, "workload": "randwrite", "round": 1, "iops": 0}
        kinds["scale, whole"] = {**kinds["scale"], "iops": 9, "volumes": 1, "depth": 1, "cpu_us": {"ashlard-1": 1}}
        for item in kinds.values():
            self.page([item])

    def test_hostile_names_and_texts_are_shown_not_obeyed(self):
        for text in HOSTILE:
            items = json.loads(json.dumps(synthetic.records(rounds=2)).replace("ashlar-x3", "@1@").replace("randread-qd1", "@2@")
                               .replace("nbdkit", "@3@").replace("kill -9 node 2", "@4@").replace("monitor did", "@5@").replace("chain", "@6@"))
            items = _replaced(items, text)
            page, tree, _ = self.page(items)
            self.assertNotRegex(page, "[\x00-\x08\x0b\x0c\x0e-\x1f\u202e\ud800-\udfff]")
            self.assertNotIn(text, page.split("<main", 1)[1] if "<" in text else "")
            self.assertEqual(len(list(tree.iter("script"))), 1)

    def test_a_huge_run_is_read_and_its_series_are_thinned(self):
        items = synthetic.records(rounds=2)
        long = copy.deepcopy(next(i for i in items if i["kind"] == "series"))
        count = 100_000
        long.update(stack="ashlar-x3", t_s=[i * 0.1 for i in range(count)], iops=[500.0] * count, lat_us_p50=[1.0] * count,
                    lat_us_p99=[9.0] * count, lat_us_max=None, events=[{"t_s": float(i), "name": f"event {i}"} for i in range(1000)])
        long["iops"][77_777] = 0.0
        _, tree, drawings = self.page([*items, long])
        self.assertLess(sum(map(len, drawings.values())), 2_000_000)
        self.assertIn("more events are not drawn", self.words(tree))

    def test_a_line_longer_than_allowed_is_left_out(self):
        synthetic.write(self.path, synthetic.records())
        with open(self.path, "ab") as file:
            file.write(b'{"kind":"' + b"x" * results.LINE_BYTES_MAX + b'"}\n{"kind":"later"}\n')
        found = results.read(self.path)
        self.assertEqual((found.bad_count, found.unknown_kinds), (1, {"later": 1}))


def _replaced(value, text):
    if isinstance(value, str):
        return re.sub(r"@(\d)@", lambda found: f"{text[:180]}{found[1]}", value)
    if isinstance(value, list):
        return [_replaced(one, text) for one in value]
    if isinstance(value, dict):
        return {_replaced(k, text): _replaced(v, text) for k, v in value.items()}
    return value


class Arithmetic(Files):
    def workload(self, found, name):
        return next(w for w in found.workloads() if w.name == name)

    def samples(self, stack, values, workload="randread-qd1"):
        return [{"kind": "sample", "stack": stack, "workload": workload, "round": i, "metrics": {"iops": 1e6 / v, "lat_us": {"p50": v}}}
                for i, v in enumerate(values)]

    def test_slowdown_is_the_median_of_paired_ratios_both_ways_round(self):
        items = [synthetic.run_record(), *self.samples("bare", [10, 20, 30]), *self.samples("ashlar-x3", [30, 60, 90]),
                 *self.samples("bare", [10, 20, 30], "randread-qd32"), *self.samples("ashlar-x3", [30, 60, 90], "randread-qd32")]
        found = self.read(items)
        for name in ("randread-qd1", "randread-qd32"):
            self.assertAlmostEqual(figures.compare(found, self.workload(found, name), "ashlar-x3", "bare").ratio["median"], 3)

    def test_overlapping_spreads_of_few_rounds_are_noise(self):
        found = self.read([synthetic.run_record(), *self.samples("bare", [10, 12, 14]), *self.samples("ashlar-x3", [11, 13, 15])])
        self.assertEqual(figures.compare(found, self.workload(found, "randread-qd1"), "ashlar-x3", "bare").call, figures.NOISE)
        many = [10, 12, 14, 11, 13, 12]
        found = self.read([synthetic.run_record(), *self.samples("bare", many), *self.samples("ashlar-x3", [v + 1 for v in many])])
        self.assertEqual(figures.compare(found, self.workload(found, "randread-qd1"), "ashlar-x3", "bare").call, figures.SLOWER)

    def test_a_budget_is_added_up_here_and_its_rest_is_shown(self):
        found = self.read(synthetic.budgets())
        budget = next(b for b in figures.budgets(found) if b.stack == "ashlar-x3")
        self.assertAlmostEqual(budget.sum_us + budget.rest_us, 264)
        self.assertTrue(budget.adds_up)
        items = synthetic.budgets()
        items[1]["layers"].append({"name": "too much", "us": 100})
        self.assertFalse(next(b for b in figures.budgets(self.read(items)) if b.stack == "ashlar-x3").adds_up)
        self.assertIn("does not add up", self.words(self.page(items)[1]))

    def test_the_worst_round_of_a_scenario_is_shown(self):
        items = synthetic.records(rounds=2)
        good = next(i for i in items if i["kind"] == "series" and i["stack"] == "ashlar-x3")
        bad = copy.deepcopy(good)
        bad["result"]["longest_stall_ms"] = 9000
        found = self.read([bad, good])
        self.assertEqual(figures.series_by_scenario(found)["kill-rebuild"]["ashlar-x3"]["result"]["longest_stall_ms"], 9000)

    def test_events_of_one_kind_share_a_label_and_all_are_marked(self):
        items = [i for i in synthetic.records(rounds=1) if i["kind"] != "series"]
        one = synthetic.series(synthetic.random.Random(1), "ashlar-x3", 10)
        one["events"] = [{"t_s": 2.0 * i, "name": f"snapshot s{i}"} for i in range(1, 10)]
        drawing_of = next(d for n, d in self.page([*items, one])[2].items() if n.startswith("scenario"))
        self.assertEqual(drawing_of.count('class="event"'), 9)
        self.assertIn("snapshot s1 … snapshot s9 (9 times)", drawing_of)

    def test_a_failure_of_one_step_is_not_given_as_the_reason_of_another(self):
        items = [i for i in synthetic.records() if not (i["kind"] == "sample" and i["stack"] == "ashlar-x3" and i["workload"] == "pgbench")]
        items.append({"kind": "failure", "stack": "ashlar-x3", "where": "budget", "text": "no stamps"})
        found = self.read(items)
        self.assertEqual(figures.compare(found, self.workload(found, "pgbench"), "ashlar-x3", "bare").said, "not measured")
        items[-1].update(where="workload", what="pgbench")
        found = self.read(items)
        self.assertEqual(figures.compare(found, self.workload(found, "pgbench"), "ashlar-x3", "bare").said, "failed: no stamps")

    def test_the_command_under_a_figure_is_narrowed_to_it(self):
        items = synthetic.records(rounds=1)
        items[0]["command"] = "bench/headtohead --only a,b --scenarios none --out old --seconds 3"
        page = self.page(items)[0]
        self.assertIn("bench/headtohead --seconds 3 --only randread-qd1 --scenarios kill-rebuild --out again", page)
        self.assertIn("bench/headtohead --seconds 3 --only pgbench --no-scenarios --out again", page)

    def test_a_controller_that_dies_is_answered_with_what_was_assumed(self):
        items = synthetic.records()
        for item in items:
            item.update({"scenario": "array-failover"} if item.get("scenario") == "kill-rebuild" else {})
        told = questions.when_a_controller_dies(self.read(items)).text
        self.assertRegex(told, r"from the least: ashlar-x3 320 ms.*array-iscsi 6\.20 s\. .*is assumed, not measured")
        self.assertIsNone(questions.when_a_controller_dies(self.read(synthetic.records())))

    def test_thinning_keeps_extremes_and_stalls_are_spans(self):
        points = [(i, 0.0 if i == 5000 else 7.0) for i in range(10000)]
        thin = lines.thinned(points)
        self.assertLess(len(thin), 1000)
        self.assertIn((5000, 0.0), thin)
        self.assertEqual(lines.stalls([(1, 5), (2, 0), (3, 0), (4, 5), (5, 0)]), [(1, 3), (4, 5)])

    def test_scales_and_number_texts(self):
        log = drawing.Log(1, 1000, 0, 300)
        self.assertAlmostEqual(log(10), 100)
        self.assertEqual(log.ticks(), [1, 10, 100, 1000])
        self.assertEqual(drawing.Linear(0, 100, 0, 10).ticks(), [0, 20, 40, 60, 80, 100])
        self.assertEqual([drawing.figure(v) for v in (None, 0, 0.004, 1.234, 99.6, 12345, float("inf"))],
                         ["–", "0", "4.0e-03", "1.23", "100", "12\u202f345", "∞"])
        self.assertEqual([drawing.time_text(v) for v in (36.3, 1134, 2.5e6)], ["36.3 µs", "1.13 ms", "2.50 s"])
        self.assertEqual([drawing.times_text(v) for v in (1.0, 1.04, 4.26, 12.9)], ["1×", "1.04×", "4.3×", "13×"])

    def test_markup_escapes_children_and_attributes(self):
        self.assertEqual(markup.element("a", {"title": '"<'}, "<&", markup.Markup("<b></b>")), '<a title="&quot;&lt;">&lt;&amp;<b></b></a>')


class Browser(Files):
    def shot(self, *options):
        browser = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        if not browser:
            self.skipTest("chromium-headless-shell is not installed (deploy/packages.txt)")
        page, picture = os.path.join(self.directory.name, "r.html"), os.path.join(self.directory.name, "r.png")
        synthetic.write(self.path, synthetic.records())
        build.write(page, build.build(results.read(self.path))[0])
        done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
                               f"--user-data-dir={self.directory.name}/profile", f"--screenshot={picture}", "--window-size=1280,2400", *options,
                               f"file://{page}"], capture_output=True, text=True, timeout=120, check=False)
        self.assertNotIn("CONSOLE", done.stderr)
        with open(picture, "rb") as file:
            data = file.read()
        self.assertEqual((int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")), (1280, 2400))
        return data

    def test_it_is_drawn_in_light_and_in_dark(self):
        light, dark = self.shot(), self.shot("--blink-settings=preferredColorScheme=0")
        self.assertGreater(min(len(light), len(dark)), 100_000, "a page full of figures does not compress to nothing")
        self.assertNotEqual(light, dark)


if not LONG:
    del Browser  # it takes a browser and a minute

if __name__ == "__main__":
    if "--long" in sys.argv:
        sys.argv.remove("--long")
    unittest.main()
