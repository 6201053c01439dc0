# SPDX-License-Identifier: Apache-2.0
"""In which order what is measured, what of it is still to do, and how long that takes; pure functions and counters.

- turns() interleaves: for each workload, round by round, A B C A B C ..., so that drift of the machine hits all alike;
- Eta learns what a step of each kind costs, from guesses at first.
"""


def turns(workloads, rounds, stacks):
    """[(workload, round, stack)] in the order of measurement."""
    return [(w, r, s) for w in workloads for r in range(1, rounds + 1) for s in stacks]


def still_to_do(order, results):
    """Without what an earlier run has measured, and what it found impossible is tried again."""
    done = {(s["workload"], s["round"], s["stack"]) for s in results.of("sample")}
    return [step for step in order if step not in done]


class Eta:
    """Steps of a few kinds, each with a cost: a guess until one was done, then the mean."""

    def __init__(self, guesses):
        self.guesses = dict(guesses)
        self.spent, self.done, self.left = {}, {}, {}

    def add(self, kind, count=1):
        self.left[kind] = self.left.get(kind, 0) + count

    def finished(self, kind, seconds):
        self.spent[kind] = self.spent.get(kind, 0.0) + seconds
        self.done[kind] = self.done.get(kind, 0) + 1
        self.left[kind] = max(0, self.left.get(kind, 0) - 1)

    def drop(self, kind, count):
        self.left[kind] = max(0, self.left.get(kind, 0) - count)

    def cost(self, kind):
        return self.spent[kind] / self.done[kind] if self.done.get(kind) else self.guesses[kind]

    def seconds_left(self):
        return sum(count * self.cost(kind) for kind, count in self.left.items())

    def text(self):
        left = int(self.seconds_left())
        return f"{left // 60}:{left % 60:02d} left"
