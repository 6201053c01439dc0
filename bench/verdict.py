# SPDX-License-Identifier: Apache-2.0
"""Statistics and verdicts of the benchmark; pure functions.

A comparison is a list of paired ratios, one a round: stack value / floor value, measured seconds apart.
- interval() gives the span that the noise allows for their median;
- judge() calls a target reached or not reached only when the whole span lies on one side of it;
- differs() calls two stacks different only when the span excludes 1.

Failure modes: one round has no spread, so nothing is ever called on it.
"""
from math import comb
from statistics import median

REACHED, MISSED = "reached", "not reached"
CONFIDENCE = 0.90


def interval(values):
    """Order-statistic confidence interval (>= 90 %) of the median; the whole range below 6 values."""
    ordered = sorted(values)
    n = len(ordered)
    skip = 0
    tail = 0.0
    while skip + 1 <= (n - 1) // 2:
        tail += comb(n, skip) / 2**n
        next_tail = tail + comb(n, skip + 1) / 2**n
        if 1 - 2 * next_tail < CONFIDENCE:
            break
        skip += 1
    return ordered[skip], ordered[n - 1 - skip]


def summary(values):
    low, high = interval(values)
    return {"median": median(values), "low": low, "high": high, "count": len(values)}


def ratios(values, floors):
    """Paired by round; a round that one side lacks is left out."""
    return [v / f for v, f in zip(values, floors) if v is not None and f]


def spread_percent(stat):
    """Half the interval, in percent of the median: the noise of one figure."""
    return 50.0 * (stat["high"] - stat["low"]) / stat["median"] if stat["median"] else 0.0


def judge(stat, target, at_most):
    """The verdict on a figure against its target."""
    def good(x):
        return x <= target if at_most else x >= target

    if stat["count"] < 2:
        return f"undecided: one round ({REACHED if good(stat['median']) else MISSED})"
    sides = {good(stat["low"]), good(stat["high"])}
    if len(sides) == 1:
        return REACHED if sides.pop() else MISSED
    return f"undecided: in the noise (median {REACHED if good(stat['median']) else MISSED})"


def differs(stat):
    """What may be said of a ratio to the floor."""
    if stat["count"] < 2 or stat["low"] <= 1 <= stat["high"]:
        return "no difference above the noise"
    return "higher than the floor" if stat["low"] > 1 else "lower than the floor"
