# SPDX-License-Identifier: Apache-2.0
"""Scenarios over time: bench/scenarios/*.ini, a load of a fixed rate while something happens.

Happy path: the validator (validator.c) loads the volume and knows what each block must hold; steps happen at their
seconds, by programs in the stack's folder; every interval is a point of the series, every step an event.
A pass is: no I/O error, no lost or old block, all whole again in the end. The longest stall is told, not judged.

Failure modes: a step that fails, a validator that hangs or ends early: the series has the verdict "fail" and says why.
A stack that lacks a step's program gets "not applicable".
"""
import configparser
import json
import os
import queue
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from statistics import mean, median

from h2h import beside, guests, loads
from h2h.fresh import Fresh
from stacks import BenchError, die_with_parent, last_line, stop_process

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scenarios")
INTERVAL_S, START_S, WHOLE_S, TAIL_S, POLL_S = 0.5, 20, 90, 120, 0.25
BESIDE = {**beside.BESIDE, "boot-storm": guests.boot_storm}
AFTER_S = 3  # the load goes on for, once what happens beside it is over
CONTROLLER = {"array": {"break": "the controller dies", "mend": "its partner has the address"},
              "cluster": {"break": "kill -9 of the primary", "mend": "it is started again"}}


def parse(text, where):
    """One file: {"title", "stacks", "seconds", "rate", "steps": [(second, [verb, argument...])], "neighbours", "assume", "fresh"}"""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        part = parser["scenario"]
        scene = {"title": part["title"], "stacks": part["stacks"].split(), "seconds": float(part["seconds"]),
                 "rate": int(part["rate"]), "neighbours": dict(p.split(":") for p in part.get("neighbours", "").split()),
                 "assume": {k: float(v) for k, v in (p.split("=") for p in part.get("assume", "").split())},
                 "fresh": part["fresh"].split() if "fresh" in part else None}
        lines = [line.split() for line in part["steps"].splitlines() if line.strip()]
        scene["steps"] = expand([[second_of(at, scene["assume"]), *words] for at, *words in lines], scene["seconds"])
    except (configparser.Error, KeyError, ValueError, IndexError) as e:
        raise BenchError(f"{where}: {' '.join(str(e).split())}") from None
    return scene


def second_of(text, assumed):
    """`5` or, with `assume = takeover_s=5`, `5+takeover_s`."""
    return sum(assumed[part] if part in assumed else float(part) for part in text.split("+"))


def expand(lines, seconds):
    """`4 every 2 snapshot s{n}` becomes a step each 2 s, until two seconds before the end."""
    steps = []
    for at, *words in lines:
        if words[0] != "every":
            steps.append((float(at), words))
            continue
        period, second, number = float(words[1]), float(at), 1
        if period <= 0:
            raise ValueError("'every' needs a time above 0")
        while second <= seconds - 2:
            steps.append((second, [w.replace("{n}", str(number)) for w in words[2:]]))
            second, number = second + period, number + 1
    return sorted(steps, key=lambda step: step[0])


def known():
    found = {}
    for file in sorted(os.listdir(HERE)):
        if file.endswith(".ini"):
            with open(os.path.join(HERE, file), encoding="utf-8") as f:
                found[file[:-4]] = parse(f.read(), file)
    return found


class Validator:
    """validator.c on a stack; its lines are collected by a thread."""

    def __init__(self, program, stack, scene, journal_path):
        argv = [program, "--uri", stack.uri, "--seconds", str(scene["seconds"]), "--rate", str(scene["rate"]),
                "--interval-ms", str(int(INTERVAL_S * 1000)), "--journal", journal_path, "--blocks", "32768"]
        self.points, self.result, self.error = [], None, ""
        self.running = queue.Queue()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, preexec_fn=die_with_parent)
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self):
        for line in self.process.stdout:
            if line == "running\n":
                self.running.put(time.monotonic())
                continue
            record = json.loads(line)
            if record.pop("result", False):
                self.result = record
            else:
                self.points.append(record)
        self.error = last_line(self.process.stderr.read())
        self.running.put(None)

    def started_at(self):
        try:
            at = self.running.get(timeout=START_S)
        except queue.Empty:
            at = None
        if at is None:
            raise BenchError(f"the validator did not start: {self.error}")
        return at

    def finish(self, deadline_s):
        self.thread.join(deadline_s)
        if self.thread.is_alive():
            raise BenchError("the validator hangs: some request was never answered")

    def end_early(self):
        """The load ends; then all blocks are checked, as ever."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        stop_process(self.process)


def journal_path(session, stack):
    return os.path.join(session.work_dir, f"{stack.name}.journal")


def start_neighbour(session, scene, stack, seconds):
    """Writes as fast as it can on another stack's volume, in a thread of its own."""
    other = session.stacks.get(scene["neighbours"].get(stack.name))
    if not other:
        raise BenchError("its neighbour is not up")
    place = os.path.join(session.work_dir, "neighbour")
    os.makedirs(place, exist_ok=True)
    errors = []

    def body():
        try:
            loads.run_fio(other.uri, other.size_bytes, loads.times_of(seconds),
                          "[neighbour]\nrw=randwrite\nbs=4k\niodepth=32\n", place, loads.HANG_GUARD_S + seconds)
        except (BenchError, OSError) as e:
            errors.append(str(e))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return other.name, thread, errors


def play(session, scene, stack, begin, events):
    """The steps at their seconds; returns how long it took until all was whole, or None, and what was done beside."""
    whole_s, mended_at, done = None, None, None
    for second, (verb, *words) in scene["steps"]:
        time.sleep(max(0.0, begin + second - time.monotonic()))
        at = time.monotonic() - begin
        if verb == "whole":
            await_whole(stack)
            at = time.monotonic() - begin
            whole_s = max(whole_s or 0.0, at - mended_at)
            events.append({"t_s": round(at, 3), "name": "all copies in sync"})
        elif verb == "neighbour":
            other, _thread, _errors = start_neighbour(session, scene, stack, float(words[0]))
            events.append({"t_s": round(at, 3), "name": f"{other} is written at depth 32"})
            events.append({"t_s": round(at + float(words[0]), 3), "name": "the neighbour ends"})
        elif verb in BESIDE:
            done = BESIDE[verb](session, stack, beside.Clock(begin, events), words)
        else:
            stack.call(verb, *words)
            mended_at = at if verb == "mend" else mended_at
            events.append({"t_s": round(at, 3), "name": event_name(stack, verb, words)})
    return whole_s, done


def event_name(stack, verb, words):
    if words[:1] == ["controller"]:
        return CONTROLLER["array" if stack.name.startswith("array") else "cluster"][verb]
    return " ".join(words) if verb != "snapshot" else f"snapshot {words[0]}"


def is_whole(stack):
    try:
        stack.call("whole")
        return True
    except BenchError:
        return False


def await_whole(stack):
    deadline = time.monotonic() + WHOLE_S
    while not is_whole(stack):
        if time.monotonic() > deadline:
            raise BenchError(f"not whole after {WHOLE_S} s")
        time.sleep(POLL_S)


def before_and_during(points, events):
    """Medians of the intervals' 99th percentiles: before the first event, and from it to the last; None if unknown."""
    times = [event["t_s"] for event in events]
    parts = [[p["p99_us"] for p in points if "p99_us" in p and fits(p["t_s"])]
             for fits in (lambda t: t <= times[0], lambda t: times[0] < t <= times[-1] + INTERVAL_S)] if times else []
    return [median(part) for part in parts] if parts and all(parts) else None


def judge(scene, result, points, whole_s, trouble, done=None):
    """The result of a series; pure."""
    wanted = "whole" in [words[0] for _, words in scene["steps"]]
    rates = [p["ops"] / INTERVAL_S for p in points]
    deviation = 100 * mean(abs(rate - scene["rate"]) for rate in rates) / scene["rate"] if rates else None
    told = {"deviation_percent": deviation, "rebuild_s": whole_s,
            **{key: value for key, value in (done or {}).items() if key not in ("marks", "text")}}
    if result:
        told.update(errors=result["errors"], longest_stall_ms=result["longest_stall_ms"], lost=result["lost"],
                    blocks_verified=result["verified"], longest_stall_at_s=result["longest_stall_at_s"])
    bad = []
    if trouble or not result:
        bad.append(trouble or "the validator gave no result")
    else:
        bad += [f"{result[k]} {what}" for k, what in (("errors", "I/O errors"), ("lost", "lost blocks")) if result[k]]
        bad += [what for k, what in (("hung", "a request was never answered"), ("disconnected", "the connection was lost"))
                if result[k]]
        bad += [result["first_error"]] if bad and result["first_error"] else []
    if wanted and whole_s is None and not trouble:
        bad.append("never whole again")
    stall = f"longest stall {result['longest_stall_ms']:.0f} ms" if result else "no stall known"
    ok = f"no I/O error, no lost block of {result['verified']} checked, {stall}" if result and not bad else ""
    if ok and whole_s is not None:
        ok += f", all copies in sync {whole_s:.1f} s after the node came back"
    if ok and done:
        ok = f"{done['text']}; the load beside it: {ok}"
    return {"verdict": "fail" if bad else "pass", **told, "text": "; ".join(bad) if bad else ok}


def tell_more(scene, series, points, written_mib):
    """What is assumed, how fast a rebuild was, how latency changed: into the result of a series that was sound."""
    result, more = series["result"], []
    if result["verdict"] != "pass":
        return
    if written_mib and result["rebuild_s"]:
        result.update(rebuilt_mib=written_mib, rebuild_mib_s=written_mib / result["rebuild_s"])
        more.append(f"{written_mib:.0f} MiB at {result['rebuild_mib_s']:.0f} MiB/s, start and discovery included")
    latencies = before_and_during(points, series["events"])
    if latencies:
        result.update(p99_us_before=latencies[0], p99_us_during=latencies[1])
        more.append(f"99th percentile {latencies[0]:.0f} us before, {latencies[1]:.0f} us from the first event to the last")
    more += [f"assumed: {name} = {value:g}" for name, value in scene["assume"].items() if series["stack"].startswith("array")]
    result["text"] = "; ".join([result["text"], *more])


def on_its_stack(session, name, scene, stack, program):
    """One series record; on a cluster of its own if the scenario wants one."""
    with Fresh(session, stack, *scene["fresh"]) if scene["fresh"] else nullcontext() as fresh:
        chosen = fresh.stack if fresh else stack
        if chosen.can("whole"):
            await_whole(chosen)  # the scenario before may have left work
        session.settle([chosen])
        return run_one(session, name, scene, chosen, program, fresh.written_mib if fresh else None)


def run_one(session, name, scene, stack, program, written_mib=None):
    """One series record."""
    events, whole_s, done, trouble, at = [], None, None, None, time.time()
    validator = Validator(program, stack, scene, journal_path(session, stack))
    try:
        begin = validator.started_at()
        whole_s, done = play(session, scene, stack, begin, events)
        if done:
            time.sleep(AFTER_S)
            validator.end_early()
        validator.finish(scene["seconds"] + TAIL_S)
    except (BenchError, OSError) as e:
        trouble = str(e)
    finally:
        validator.stop()
        validator.thread.join(5)
    result = judge(scene, validator.result, validator.points, whole_s, trouble, done)
    points = validator.points
    pick = lambda key: [p.get(key) for p in points]  # noqa: E731
    series = {"scenario": name, "stack": stack.name, "round": 1, "at": at, "interval_s": INTERVAL_S,
              "rate_target_iops": scene["rate"], "t_s": pick("t_s"), "iops": [p["ops"] / INTERVAL_S for p in points],
              "lat_us_p50": pick("p50_us"), "lat_us_p99": pick("p99_us"), "lat_us_max": pick("max_us"),
              "extra": {**beside.counted((done or {}).get("marks", {}), pick("t_s")), "stall_ms": pick("stall_ms")},
              "events": events, "result": result}
    tell_more(scene, series, points, written_mib)
    return series


def lacks(scene, stack):
    """Why the stack can't, or None."""
    if stack.uri.startswith("file:"):
        return "the stack lacks an NBD export"
    verbs = {"volume" if words[0] in BESIDE else words[0] for _, words in scene["steps"]} - {"neighbour"}
    missing = sorted(verb for verb in verbs if not stack.can(verb))
    if missing == ["volume"] and os.path.exists(os.path.join(stack.folder, "no-volume")):
        with open(os.path.join(stack.folder, "no-volume"), encoding="utf-8") as f:
            return f"not supported: {f.read().strip()}"
    if missing:
        return f"the stack lacks {missing[0]}"
    return guests.lacking() if any(words[0] == "boot-storm" for _, words in scene["steps"]) else None


def count(session, names):
    scenes = known()
    return sum(1 for n in names for s in scenes[n]["stacks"] if s in session.stacks)


def run(session, names):
    program = os.path.join(session.build, "bin", "ashlar-bench-validator")
    if names and not os.access(program, os.X_OK):
        session.fail("all", "preflight", "scenarios", f"{program} is missing: build the project or set ASHLAR_BUILD")
        return
    for name in names:
        scene = known()[name]
        for stack_name in scene["stacks"]:
            stack = session.stacks.get(stack_name)
            if not stack or session.results.of("series", scenario=name, stack=stack_name):
                continue
            missing = lacks(scene, stack)
            if missing:
                session.results.append("series", scenario=name, stack=stack_name, round=1, at=time.time(), events=[],
                                       result={"verdict": "not applicable", "text": missing})
                continue
            session.say(f"scenario {name}: {stack_name}")
            begin = time.monotonic()
            try:
                series = on_its_stack(session, name, scene, stack, program)
            except (BenchError, OSError) as e:
                series = {"scenario": name, "stack": stack_name, "round": 1, "at": time.time(), "events": [],
                          "result": {"verdict": "fail", "text": str(e)}}
            session.results.append("series", **series)
            session.eta.finished("scene", time.monotonic() - begin)
            if series["result"]["verdict"] == "fail":
                session.fail(stack_name, "scenario", name, series["result"]["text"])
                if not session.still_answers(stack):
                    session.give_up(stack_name, "scenario", name, "does not answer any more")
