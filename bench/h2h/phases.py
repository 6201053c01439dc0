# SPDX-License-Identifier: Apache-2.0
"""The phases that yield samples: micro workloads on the volumes, macro workloads on file systems in them.

Happy path: A B C A B C ..., each run between two runs of the reference job, each sample written down at once.
Failure modes: a run that fails takes its stack out of this workload; a stack that does not answer any more is given up.
"""
import time

from h2h import loads, macro, plan
from h2h.session import drop_caches
from stacks import BenchError


def measure(session, step, kind, run):
    """run() between two references; the sample is written down."""
    workload, turn, stack = step
    begin = time.monotonic()
    drop_caches()
    before, at = session.reference.run(), time.time()
    found = run()
    after = session.reference.run()
    session.results.append("sample", stack=stack, workload=workload, round=turn, at=at,
                           reference={"before": before, "after": after}, **found)
    session.eta.finished(kind, time.monotonic() - begin)


def in_turns(session, kind, workloads, rounds, run_one, names=None):
    """Every step that is not done yet; run_one(stack, workload) gives a sample's fields."""
    by_name = {w["name"]: w for w in workloads}
    names = names if names is not None else [s.name for s in session.ready()]
    order = plan.still_to_do(plan.turns(list(by_name), rounds, names), session.results)
    session.eta.add(kind, len(order))
    broken = set()
    for step in order:
        workload, turn, name = step
        stack = session.stacks.get(name)
        if stack is None or (workload, name) in broken:
            session.eta.drop(kind, 1)
            continue
        session.say(f"{workload}, round {turn} of {rounds}: {name}")
        try:
            measure(session, step, kind, lambda s=stack, w=by_name[workload]: run_one(s, w))
        except (BenchError, OSError) as e:
            session.eta.drop(kind, 1)
            broken.add((workload, name))
            if session.still_answers(stack):
                session.fail(name, "workload", workload, e)
            else:
                session.give_up(name, "workload", workload, e)


def micro(session, workloads):
    in_turns(session, "micro", workloads, session.method["rounds"],
             lambda stack, workload: loads.run(stack, workload, session.method, session.work_dir))


def open_mounts(session, names, mounts):
    for name in names:
        stack = session.stacks.get(name)
        if not stack:
            continue
        session.say(f"making a file system in {name}")
        mounts[name] = macro.Mount(stack)
        try:
            mounts[name].open()
        except (BenchError, OSError) as e:
            close_mount(session, mounts, name)
            session.fail(name, "workload", "file system", e)


def close_mount(session, mounts, name):
    try:
        mounts.pop(name).close()
    except (BenchError, OSError) as e:
        session.fail(name, "down", "file system", e)


def usable(session, workloads):
    """Those whose programs are here; a line for each of the others."""
    found = []
    for workload in workloads:
        missing = macro.missing_programs(workload)
        if missing:
            session.fail("all", "preflight", workload["name"],
                         f"not installed: {', '.join(missing)} (deploy/install-packages bench)")
        else:
            found.append(workload)
    return found


def on_file_systems(session, workloads, names):
    """Macro workloads: prepared once on each stack, then in turns."""
    seconds, rounds, mounts = session.method["macro_seconds"], session.method["macro_rounds"], {}
    if not workloads or not plan.still_to_do(plan.turns([w["name"] for w in workloads], rounds, names), session.results):
        return

    def run_one(stack, workload):
        mount = mounts.get(stack.name)
        if not mount:
            raise BenchError("has no file system")
        macro.prepare(workload, mount.directory)
        return macro.run(workload, mount.directory, mount.pids(), seconds)

    try:
        open_mounts(session, names, mounts)
        in_turns(session, "macro", workloads, rounds, run_one, list(mounts))
    finally:
        for name in list(mounts):
            close_mount(session, mounts, name)


def controls(session, workloads, names):
    """Jobs that use no storage, with each stack up: only storage may slow down."""
    def run_one(stack, workload):
        return macro.run(workload, session.work_dir, stack.pids(), session.method["macro_seconds"] / 2)

    in_turns(session, "macro", workloads, session.method["macro_rounds"], run_one, names)
