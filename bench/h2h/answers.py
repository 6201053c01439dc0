# SPDX-License-Identifier: Apache-2.0
"""What may be said in plain words, from the samples; pure functions.

- slowdown(): how many times slower than another stack, paired round by round (runs seconds apart);
- called(): only if the whole span of the ratio lies beyond 1 and beyond what the reference job drifted by itself.

Failure modes: fewer than three paired rounds are never called: two lie on one side by chance too often.
"""
import verdict
from h2h import loads
from h2h.reference import drift

MARGIN, LEAST_ROUNDS = 0.03, 3


def noise_of(factors, workload):
    """The factor that a ratio has to exceed: half of the spread of the reference's matching part, and 3 % at least."""
    group = workload.get("group", "micro")
    if group == "control":
        key = "hash"
    else:
        key = "read" if "read" in workload["name"] or workload["name"] == "scan" else "sync"
    # Half, because paired runs lie seconds apart and share most of the drift.
    return 1 + max(MARGIN, (factors.get(key, 1.0) - 1) / 2)


def values_of(results, stack, workload):
    """{round: figure}; the newest if a round was measured twice."""
    found = {}
    for sample in results.of("sample", stack=stack, workload=workload["name"]):
        value = loads.metric_of(sample, workload["metric"])
        if value:
            found[sample["round"]] = value
    return found


def slowdown(results, stack, against, workload):
    """Summary of how many times slower `stack` is than `against` (below 1: faster); None if nothing pairs."""
    own, other = values_of(results, stack, workload), values_of(results, against, workload)
    rounds = sorted(own.keys() & other.keys())
    if not rounds:
        return None
    if workload["better"] == "lower":
        return verdict.summary([own[r] / other[r] for r in rounds])
    return verdict.summary([other[r] / own[r] for r in rounds])


def called(ratio, noise):
    return ratio["count"] >= LEAST_ROUNDS and (ratio["low"] > noise or ratio["high"] < 1 / noise)


def sentence(stack, against, workload, ratio, is_called):
    span = f"[{ratio['low']:.2f} {ratio['high']:.2f}]"
    if not is_called:
        return (f"{workload['title']}: no difference between {stack} and {against} can be called "
                f"({ratio['median']:.2f}x {span} is within the noise)")
    if ratio["median"] >= 1:
        return f"{workload['title']}: {stack} is {ratio['median']:.2f}x slower than {against} {span}"
    return f"{workload['title']}: {stack} is {1 / ratio['median']:.2f}x faster than {against} [{1 / ratio['high']:.2f} {1 / ratio['low']:.2f}]"


def comparisons(results, workloads, stacks):
    """Verdict records: every stack against bare; Ashlar against the arrays, local QCOW2 and the rival."""
    factors = drift(results.of("sample"))
    pairs = [("how much slower than bare metal?", s, "bare") for s in stacks if s != "bare"]
    ours = [s for s in ("ashlar-x3", "ashlar-x3-remote") if s in stacks]
    pairs += [("does hyper-converged storage beat the array?", s, a) for s in ours for a in stacks if a.startswith("array")]
    pairs += [("what do three copies cost against one local image?", s, "local-qcow2") for s in ours]
    pairs += [("against the rival?", s, a) for s in ours for a in stacks if a.startswith("ceph")]
    records = []
    for question, stack, against in pairs:
        for workload in workloads:
            ratio = slowdown(results, stack, against, workload)
            if ratio is None:
                continue
            noise = noise_of(factors, workload)
            asked = f"{question} (in a guest)" if workload["group"] == "guest" else question
            is_called = called(ratio, noise)
            records.append({"question": asked, "stack": stack, "workload": workload["name"], "against": against,
                            "ratio": ratio, "noise": noise, "called": is_called,
                            "text": sentence(stack, against, workload, ratio, is_called)})
    return records


def tally(records, question):
    """One sentence over all workloads of one question, by pair."""
    lines = []
    for stack, against in dict.fromkeys((r["stack"], r["against"]) for r in records if r["question"] == question):
        mine = [r for r in records if (r["question"], r["stack"], r["against"]) == (question, stack, against)]
        wins = [r["workload"] for r in mine if r["called"] and r["ratio"]["median"] < 1]
        losses = [r["workload"] for r in mine if r["called"] and r["ratio"]["median"] > 1]
        open_ones = [r["workload"] for r in mine if not r["called"]]
        lines.append({"question": question, "stack": stack, "workload": None, "against": against, "ratio": None,
                      "called": bool(wins or losses),
                      "text": f"{stack} against {against}: faster in {len(wins)} ({', '.join(wins) or 'none'}), slower in "
                              f"{len(losses)} ({', '.join(losses) or 'none'}), not told apart in {len(open_ones)}"
                              f"{' (' + ', '.join(open_ones) + ')' if open_ones else ''}"})
    return lines
