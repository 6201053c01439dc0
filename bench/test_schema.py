#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of the validator of results: what it lets pass, and what it must not."""
import json
import unittest

import schema

SAMPLE = {"kind": "sample", "stack": "bare", "workload": "randread-qd1", "round": 1,
          "metrics": {"iops": 10.5, "mib_s": None, "lat_us": {"p50": 35}}, "cpu_us": {"fio": 8.1}}


class Validator(unittest.TestCase):
    def test_good_records_pass(self):
        for record in (SAMPLE, {**SAMPLE, "a later field": [1]}, {"kind": "a later kind", "x": {}},
                       {"kind": "end", "complete": True, "missing": []},
                       {"kind": "run", "format": 1, "id": "x", "workloads": [
                           {"name": "w", "metric": "iops", "better": "higher"}]}):
            self.assertIsNone(schema.problem(record), record)
            schema.check(json.loads(json.dumps(record)))

    def test_bad_records_are_named_in_one_line(self):
        bad = [(3, "record"), ({}, "no 'kind'"), ({**SAMPLE, "round": "1"}, "round"), ({**SAMPLE, "round": True}, "round"),
               ({**SAMPLE, "stack": ""}, "stack"), ({**SAMPLE, "stack": "x" * 201}, "stack"),
               ({**SAMPLE, "cpu_us": {"a\nb": "x"}}, "cpu_us"), ({**SAMPLE, "cpu_us": {"fio": -1}}, "range"),
               ({**SAMPLE, "cpu_us": {"fio": float("inf")}}, "range"), ({**SAMPLE, "cpu_us": {"fio": float("nan")}}, "range"),
               ({**SAMPLE, "metrics": {"lat_us": {"p50": []}}}, "metrics.lat_us.p50"),
               ({"kind": "run", "format": 2, "id": "x"}, "format"), ({"kind": "run", "format": True, "id": "x"}, "format"),
               ({"kind": "stack", "stack": "x", "state": "up"}, "state"),
               ({"kind": "series", "scenario": "s", "stack": "x", "t_s": [0, "1"]}, "t_s[1]"),
               ({"kind": "series", "scenario": "s", "stack": "x", "t_s": [0] * 200001}, "200001")]
        for record, word in bad:
            said = schema.problem(record)
            self.assertIsNotNone(said, record)
            self.assertIn(word, said)
            self.assertNotIn("\n", said)
            self.assertRaises(schema.BadRecord, schema.check, record)

    def test_a_schema_with_unknown_words_is_refused(self):
        for node in ({"pattern": "x"}, {"properties": {"a": {"oneOf": []}}}, {"$ref": "#/$defs/none"}, {"if": {"not": {}}}):
            self.assertRaises(schema.SchemaError, schema.Schema, node)

    def test_combined_rules(self):
        rules = schema.Schema({"allOf": [{"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}}]})
        self.assertIsNone(rules.problem({"a": 1, "b": 0}))
        self.assertIsNone(rules.problem({"a": 2}))
        self.assertIn("no 'b'", rules.problem({"a": 1}))


if __name__ == "__main__":
    unittest.main()
