#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Tests of the statistics: what is called, and what must not be called."""
import unittest

import verdict


class Verdicts(unittest.TestCase):
    def test_interval_is_the_range_of_few_values(self):
        self.assertEqual(verdict.interval([3, 1, 2]), (1, 3))
        self.assertEqual(verdict.interval([5, 1, 2, 3, 4]), (1, 5))

    def test_interval_drops_outliers_of_many_values_at_90_percent(self):
        # n = 8: P(median outside [2nd, 7th]) = 2 * 9 / 256 = 7.0 %; dropping one more would be 29 %.
        self.assertEqual(verdict.interval([1, 2, 3, 4, 5, 6, 7, 80]), (2, 7))
        # n = 7: dropping one a side leaves 2 * 8 / 128 = 12.5 % outside: too much.
        self.assertEqual(verdict.interval([1, 2, 3, 4, 5, 6, 70]), (1, 70))

    def test_target_is_called_only_outside_the_noise(self):
        stat = verdict.summary([0.9, 1.0, 1.1])
        self.assertEqual(verdict.judge(stat, 1.2, at_most=True), verdict.REACHED)
        self.assertEqual(verdict.judge(stat, 0.8, at_most=True), verdict.MISSED)
        self.assertEqual(verdict.judge(stat, 0.8, at_most=False), verdict.REACHED)
        self.assertEqual(verdict.judge(stat, 1.2, at_most=False), verdict.MISSED)
        self.assertIn("noise", verdict.judge(stat, 1.05, at_most=True))

    def test_one_round_decides_nothing(self):
        self.assertIn("undecided", verdict.judge(verdict.summary([1.0]), 2.0, at_most=True))
        self.assertIn("no difference", verdict.differs(verdict.summary([3.0])))

    def test_difference_needs_an_interval_without_one(self):
        self.assertIn("no difference", verdict.differs(verdict.summary([0.9, 1.2, 1.3])))
        self.assertIn("higher", verdict.differs(verdict.summary([1.1, 1.2, 1.3])))
        self.assertIn("lower", verdict.differs(verdict.summary([0.7, 0.8, 0.9])))

    def test_ratios_pair_rounds_and_skip_missing_ones(self):
        self.assertEqual(verdict.ratios([2, None, 6], [1, 1, 3]), [2, 2])


if __name__ == "__main__":
    unittest.main()
