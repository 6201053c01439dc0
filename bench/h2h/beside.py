# SPDX-License-Identifier: Apache-2.0
"""What a scenario does beside its load with the stack's `volume` program: many linked clones, a mix of operations.

Happy path: BESIDE[verb](session, stack, clock, words) does it and returns what it adds to the series: "operations"
(how long each took), "marks" (moments to count over time), "ready_s", "text". clock.tell() notes an event.
Mix is the order of the mixed operations, drawn from a seed; pure.

Failure modes: an operation that fails, a volume that holds what it should not, or one that does not answer raises
BenchError: the scenario fails. Whatever was made is taken away before that; at an interrupt the stack's `down` ends it.
"""
import random
import threading
import time
from statistics import median

from nbd import Disk
from stacks import BenchError

MIB, BLOCK = 1 << 20, 4096
IMAGE_BYTES, HEAD_BYTES, IO_DEADLINE_S = 64 * MIB, MIB, 60
ROUNDS_OF_IO = 4            # on each clone
VOLUMES_MAX, PAUSE_S = 6, 0.2  # of the mix
EMPTY_CALLS = 5


class Clock:
    """Seconds since the load began, and the events of the series: the beginning and the end of what is done."""

    def __init__(self, begin, events):
        self.begin, self.events = begin, events

    def now(self):
        return time.monotonic() - self.begin

    def tell(self, name):
        self.events.append({"t_s": round(self.now(), 3), "name": name})


class Desk:
    """Calls `volume`, keeps how long each operation took and what there is to take away."""

    def __init__(self, stack):
        self.stack, self.times, self.made, self.attached = stack, {}, [], {}

    def note(self, name, seconds):
        self.times.setdefault(name, []).append(1000 * seconds)

    def do(self, verb, *argv):
        begin = time.monotonic()
        output = self.stack.call("volume", verb, *argv)
        self.note(verb, time.monotonic() - begin)
        if verb in ("create", "clone"):
            self.made.append(argv[0] if verb == "create" else argv[1])
        elif verb == "attach":
            self.attached[argv[0]] = output
        elif verb == "detach":
            self.attached.pop(argv[0])
        elif verb == "delete":
            self.made.remove(argv[0])
        return output

    def sweep(self, keep=()):
        """Detaches and deletes all that was made but `keep`, the newest first; the first error, or None."""
        error = None
        for verb, names in (("detach", list(self.attached)), ("delete", list(reversed(self.made)))):
            for name in [n for n in names if n not in keep]:
                try:
                    self.do(verb, name)
                except BenchError as e:
                    error = error or e
        return error

    def operations(self):
        return {name: {"count": len(ms), "median_ms": median(ms), "worst_ms": max(ms)} for name, ms in self.times.items()
                if name not in ("nothing", "freeze", "unfreeze")}

    def empty_ms(self):
        """What calling the program costs that does nothing."""
        for _ in range(EMPTY_CALLS):
            self.do("nothing")
        return median(self.times["nothing"])


def in_time(what, body, deadline_s=IO_DEADLINE_S):
    """body() in a thread of its own: a disk that never answers must not hang the run."""
    said = []

    def run():
        try:
            said.append((None, body()))
        except (BenchError, OSError) as e:
            said.append((e, None))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not said:
        raise BenchError(f"{what} did not end in {deadline_s} s")
    if said[0][0]:
        raise BenchError(f"{what}: {said[0][0]}")
    return said[0][1]


# ---- linked clones


def head_of(stack_name):
    return random.Random(stack_name).randbytes(HEAD_BYTES)


def own_block(number, turn):
    """What clone `number` writes in a turn: no other clone's, no other turn's."""
    return random.Random(f"{number}/{turn}").randbytes(BLOCK)


def make_image(desk, fill):
    """A volume, filled by fill(uri), from which clones can be made: "image"."""
    desk.do("create", "image", str(IMAGE_BYTES))
    uri = desk.do("attach", "image")
    fill(uri)
    desk.do("detach", "image")
    desk.do("freeze", "image")


def drop_image(desk):
    """Clones first, then what they were made from; the first error, or None."""
    error = desk.sweep(keep=("image",))
    try:
        if "image" in desk.made and "image" not in desk.attached:
            desk.do("unfreeze", "image")
    except BenchError as e:
        error = error or e
    rest = desk.sweep()
    return error or rest


def write_head(uri, content):
    disk = Disk(uri)
    disk.write(content, 0)
    disk.flush()
    disk.close()


def use_clones(desk, uris, content):
    """Each clone reads the image's data, writes in turns, flushes, and reads back what it wrote itself."""
    disks = [Disk(uri) for uri in uris]

    def timed(name, call, *argv):
        begin = time.monotonic()
        found = call(*argv)
        desk.note(name, time.monotonic() - begin)
        return found

    for turn in range(ROUNDS_OF_IO):
        at = BLOCK * (turn * 7 + 1)
        for number, disk in enumerate(disks):
            if timed("4 KiB read of a clone", disk.read, BLOCK, at) != content[at:at + BLOCK]:
                raise BenchError(f"clone {number} does not hold what its image holds")
            timed("4 KiB first write to a clone", disk.write, own_block(number, turn), at + BLOCK)
    for number, disk in enumerate(disks):
        timed("flush of a clone", disk.flush)
        for turn in range(ROUNDS_OF_IO):
            if disk.read(BLOCK, BLOCK * (turn * 7 + 2)) != own_block(number, turn):
                raise BenchError(f"clone {number} does not hold what it wrote")
        disk.close()


def clones(_session, stack, clock, words):
    """N clones of one image, one after the other made and attached; then all do I/O."""
    count, desk, content, marks = int(words[0]), Desk(stack), head_of(stack.name), []
    clock.tell(f"{count} clones are made, attached, used, taken away")
    empty_ms = desk.empty_ms()
    try:
        make_image(desk, lambda uri: in_time("filling the image", lambda: write_head(uri, content)))
        begin = clock.now()
        for number in range(count):
            desk.do("clone", "image", f"c{number}")
            desk.do("attach", f"c{number}")
            marks.append(clock.now())
        ready_s = clock.now() - begin
        uris = [desk.attached[f"c{number}"] for number in range(count)]
        in_time("the I/O of the clones", lambda: use_clones(desk, uris, content))
    except (BenchError, OSError):
        drop_image(desk)
        raise
    error = drop_image(desk)
    if error:
        raise error
    clock.tell("all is taken away")
    said = desk.operations()
    return {"ready_s": ready_s, "operations": said, "marks": {"clones attached": marks},
            "text": f"{count} linked clones made and attached in {ready_s:.1f} s, one after the other (clone median "
                    f"{said['clone']['median_ms']:.0f} ms, attach {said['attach']['median_ms']:.0f} ms; a command that does "
                    f"nothing takes {empty_ms:.0f} ms), each read its image's data and what it wrote itself"}


# ---- a mix of control operations


class Mix:
    """Draws the next operation among those that make sense; at most one snapshot of the loaded volume at a time, which
    goes only when no clone of it is left."""

    def __init__(self, seed):
        self.dice, self.number = random.Random(seed), 0
        self.volumes, self.snapshot = {}, None  # name: {"attached", "of"}

    def _new(self):
        self.number += 1
        return f"m{self.number}"

    def choices(self):
        """{verb: the names it may be done to}; a new thing has no name yet."""
        free = [n for n, v in self.volumes.items() if not v["attached"]]
        room = [None] if len(self.volumes) < VOLUMES_MAX else []
        held = any(v["of"] for v in self.volumes.values())
        return {"create": room, "clone": room if self.snapshot else [], "attach": free, "delete": free,
                "detach": [n for n, v in self.volumes.items() if v["attached"]],
                "snapshot": [] if self.snapshot else [None], "unsnapshot": [self.snapshot] if self.snapshot and not held else []}

    def next(self):
        """[verb, argument...], and all is as if it had been done."""
        possible = {verb: names for verb, names in self.choices().items() if names}
        verb = self.dice.choice(sorted(possible))
        return self.take(verb, self.dice.choice(possible[verb]) or self._new())

    def take(self, verb, name):
        if verb == "snapshot":
            self.snapshot = name
        elif verb == "unsnapshot":
            self.snapshot = None
        elif verb == "delete":
            del self.volumes[name]
        elif verb in ("attach", "detach"):
            self.volumes[name]["attached"] = verb == "attach"
        else:
            self.volumes[name] = {"attached": False, "of": self.snapshot if verb == "clone" else None}
            return ["create", name, str(IMAGE_BYTES)] if verb == "create" else ["clone", f"@{self.snapshot}", name]
        return [verb, name]

    def ending(self):
        """The operations that take all of it away."""
        steps = [self.take("detach", n) for n, v in list(self.volumes.items()) if v["attached"]]
        steps += [self.take("delete", n) for n in list(self.volumes)]
        return steps + ([self.take("unsnapshot", self.snapshot)] if self.snapshot else [])


def write_and_read(uri, seed):
    disk, data = Disk(uri), random.Random(seed).randbytes(BLOCK)
    disk.read(BLOCK, 0)
    disk.write(data, BLOCK)
    disk.flush()
    if disk.read(BLOCK, BLOCK) != data:
        raise BenchError("it does not hold what was written")
    disk.close()


def control(_session, stack, clock, words):
    """For some seconds one control operation after the other, from a seed; each volume that is attached does I/O."""
    seconds, seed = float(words[0]), int(words[1])
    mix, desk, marks = Mix(seed), Desk(stack), []
    clock.tell(f"control operations for {seconds:g} s")
    empty_ms = desk.empty_ms()

    def step(argv):
        desk.do(*argv)
        marks.append(clock.now())
        if argv[0] == "attach":
            in_time(f"I/O on {argv[1]}", lambda: write_and_read(desk.attached[argv[1]], argv[1]))

    end = clock.now() + seconds
    try:
        while clock.now() < end:
            step(mix.next())
            time.sleep(PAUSE_S)
        for argv in mix.ending():
            step(argv)
        clock.tell("all is taken away")
    except (BenchError, OSError):
        desk.sweep()
        raise
    said = desk.operations()
    worst = max(said, key=lambda name: said[name]["worst_ms"])
    return {"operations": said, "marks": {"operations done": marks},
            "text": f"{len(marks)} control operations (seed {seed}), the longest: {worst} {said[worst]['worst_ms']:.0f} ms; a "
                    f"command that does nothing takes {empty_ms:.0f} ms"}


def counted(marks, times):
    """{name: how many of its moments had passed at each time}"""
    return {name: [sum(1 for at in moments if at <= t) for t in times] for name, moments in marks.items()}


BESIDE = {"clones": clones, "control": control}
