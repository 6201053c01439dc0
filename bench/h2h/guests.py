# SPDX-License-Identifier: Apache-2.0
"""Real guests: the workloads through a guest's virtio disk (--guest), and guests that boot at once from clones.

Happy path: the kernel, base files and machine of tests/vm; the stack's URI is /dev/vda by QEMU's NBD driver.
- run() boots one guest a stack and round, which runs the fio jobs of the guest workloads and tells when each begins and
  ends; each becomes a sample with "path": "guest".
- boot_storm() is what a scenario does beside its load: clones of one image with an ext4 root, a guest on each.
KVM is taken if this user may open /dev/kvm; else QEMU emulates the guest's processor (TCG), and says so in each record:
then the guest's own instructions cost more than all of the storage's.

Failure modes: a guest that does not come up, ends by itself, reports an error or is too slow: BenchError, one line.
"""
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time

import proc
from h2h import beside, loads, macro, plan
from stacks import ROOT, BenchError, last_line

sys.path.insert(0, os.path.join(ROOT, "tests", "vm"))
from vm_image import VmError, missing_programs  # noqa: E402  pylint: disable=wrong-import-position
from vm_machine import Machine, Options  # noqa: E402  pylint: disable=wrong-import-position

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = ("randread-qd1", "randread-qd32", "randwrite-qd1", "seqread-1m")
PREFIX, GROUP = "guest-", "guest"
BOOT_S, FILES, FILE_BYTES = 180, 96, 128 << 10
ENTRY = "modprobe -a ext4 crc32c_generic libcrc32c; mount -t ext4 /dev/vda /mnt && exec chroot /mnt /bin/busybox sh /work"
WORK = """# The first program on the root in the volume: reads all files, writes and syncs some, says that it is ready.
set -e
cd /data
/bin/busybox sha256sum -c /sums >/checked
i=0
while [ $i -lt 16 ]; do
    /bin/busybox dd if=f$i of=/new$i bs=64k conv=fsync 2>/written
    i=$((i + 1))
done
/bin/busybox sync
echo "event ready" >&7
read -r answer <&7
"""


def has_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def accelerator():
    return "kvm" if has_kvm() else "tcg"


def lacking():
    """What guests need and this machine has not, or None."""
    missing = missing_programs()
    return f"not installed: {', '.join(missing)}" if missing else None


def workloads():
    """Those of the .fio files that are also run in a guest, under names of their own."""
    found = {w["name"]: w for w in loads.fio_workloads()}
    return [{**found[name], "name": PREFIX + name, "title": f"in a guest: {found[name]['title']}", "group": GROUP,
             "job": name} for name in JOBS if name in found]


# ---- fio in a guest


def job_text(job, size_bytes, seconds, warmup_s):
    with open(os.path.join(loads.HERE, job + ".fio"), encoding="utf-8") as f:
        own = f.read()
    return (f"[global]\nioengine=io_uring\nfilename=/dev/vda\ndirect=1\nsize={size_bytes}\nthread\nnorandommap\n"
            f"randrepeat=0\n{loads.times_of(seconds, warmup_s)}{own}")


def reports_of(output):
    """{job: fio's report of its only job} from the lines "report JOB {...}" of guest_fio."""
    found = {}
    for line in output.splitlines():
        if line.startswith("report "):
            _, job, text = line.split(" ", 2)
            try:
                found[job] = json.loads(text[text.index("{"):])["jobs"][0]
            except (ValueError, KeyError, IndexError, TypeError):
                raise BenchError(f"fio in the guest printed no report of {job}") from None
    return found


class FioGuest:
    """One guest on a stack, running some jobs."""

    def __init__(self, stack, method, work_dir):
        self.stack, self.method, self.work_dir = stack, method, work_dir
        self.output, self.errors, self.meter, self.machine = [], [], None, None
        self.spans = {}  # job: (CPU by process, CPU of the machine, seconds)

    def _on_event(self, name):
        verb, _, job = name.partition(" ")
        if verb == "begin":
            pids = {**self.stack.pids(), "QEMU and guest": self.machine.qemu.pid}
            self.meter = (proc.CpuMeter(pids), time.monotonic())
        elif verb == "end" and self.meter:
            self.spans[job] = (*self.meter[0].stop(), time.monotonic() - self.meter[1])
        return "ok"

    def run(self, jobs):
        """{job: (report, span)}"""
        seconds, warmup_s = self.method["guest_seconds"], self.method["warmup_s"]
        place = tempfile.mkdtemp(dir=self.work_dir, prefix="guest-")
        try:
            for number, job in enumerate(jobs):
                with open(os.path.join(place, f"{number}-{job}.fio"), "w", encoding="utf-8") as f:
                    f.write(job_text(job, self.stack.size_bytes, seconds, warmup_s))
            shutil.copy(os.path.join(HERE, "guest_fio"), place)
            target = self.stack.uri.removeprefix("file:")
            options = Options(drives=[target], files=[place], programs=[shutil.which("fio")], memory="1024M", kvm=has_kvm(),
                              timeout_s=len(jobs) * (seconds + warmup_s + loads.HANG_GUARD_S))
            if target != self.stack.uri:
                options.drive_options += ",aio=io_uring"
            self.machine = Machine(options, ["sh", "/files/guest_fio"], self._on_event,
                                   lambda data: self.output.append(data.decode(errors="replace")),
                                   lambda data: self.errors.append(data.decode(errors="replace")))
            status = self.machine.run()
        except VmError as e:
            raise BenchError(f"the guest: {str(e).splitlines()[0]}") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)
        reports = reports_of("".join(self.output))
        if status != 0 or set(reports) != set(jobs):
            raise BenchError(f"the guest ended with status {status}: {last_line(''.join(self.errors))}")
        return {job: (reports[job], self.spans[job]) for job in jobs}


def sample_of(report, span):
    """The fields of a sample; fio's start in the guest is in the span, so CPU time is taken by the run's share of it."""
    used, machine_us, wall_s = span
    if report["error"]:
        raise BenchError(f"fio in the guest reports an I/O error: {os.strerror(report['error'])}")
    found = loads.figures_of(report)
    requests, share = found["requests"], min(1.0, found["seconds"] / wall_s)
    return {"path": "guest", **found, "aux": {"accelerator": accelerator()},
            "cpu_us": {label: us * share / requests for label, us in used.items()},
            "others_cores": max(0.0, (machine_us - sum(used.values())) / (wall_s * 1e6))}


def run(session, chosen, before_each):
    """Round by round, stack by stack: a guest that runs all jobs that are still to do."""
    if not chosen:
        return
    missing = lacking()
    if missing or not shutil.which("fio"):
        session.fail("all", "preflight", "guest", missing or "fio is not installed")
        return
    rounds, by_name, broken = session.method["guest_rounds"], {w["name"]: w for w in chosen}, set()
    order = plan.still_to_do(plan.turns(list(by_name), rounds, [s.name for s in session.ready()]), session.results)
    boots = list(dict.fromkeys((turn, name) for turn in range(1, rounds + 1) for _, t, name in order if t == turn))
    session.eta.add("guest", len(boots))
    for turn, name in boots:
        stack = session.stacks.get(name)
        if stack is None or name in broken:
            session.eta.drop("guest", 1)
            continue
        todo = [w for w, t, s in order if (t, s) == (turn, name)]
        session.say(f"a guest ({accelerator()}), round {turn} of {rounds}: {name}")
        begin = time.monotonic()
        try:
            _one_boot(session, stack, turn, [by_name[w] for w in todo], before_each)
        except (BenchError, OSError) as e:
            broken.add(name)
            (session.fail if session.still_answers(stack) else session.give_up)(name, "workload", "guest", e)
        session.eta.finished("guest", time.monotonic() - begin)


def _one_boot(session, stack, turn, todo, before_each):
    before_each()
    before, at = session.reference.run(), time.time()
    found = FioGuest(stack, session.method, session.work_dir).run([w["job"] for w in todo])
    after = session.reference.run()
    for workload in todo:
        session.results.append("sample", stack=stack.name, workload=workload["name"], round=turn, at=at,
                               reference={"before": before, "after": after}, **sample_of(*found[workload["job"]]))


# ---- a boot storm


def build_image(path):
    """A file with an ext4 root: busybox, files and their checksums, what is done with them."""
    root, dice = path + ".root", random.Random(11)
    os.makedirs(os.path.join(root, "bin"))
    os.makedirs(os.path.join(root, "data"))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin", "busybox"))
    for number in range(FILES):
        with open(os.path.join(root, "data", f"f{number}"), "wb") as f:
            f.write(dice.randbytes(FILE_BYTES))
    names = [f"f{number}" for number in range(FILES)]
    with open(os.path.join(root, "work"), "w", encoding="ascii") as f:
        f.write(WORK)
    sums = macro.command("sh", "-c", f"cd {root}/data && sha256sum {' '.join(names)}")
    with open(os.path.join(root, "sums"), "w", encoding="ascii") as f:
        f.write(sums + "\n")
    macro.command("mkfs.ext4", "-q", "-d", root, path, f"{beside.IMAGE_BYTES >> 10}k")
    shutil.rmtree(root)


class BootGuest(threading.Thread):
    """One guest that boots from a volume, in a thread of its own."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.ready_at, self.error, self.words = None, None, []
        options = Options(drives=[uri], cpus=1, memory="384M", kvm=has_kvm(), boot_timeout_s=BOOT_S, timeout_s=BOOT_S)
        collect = lambda data: self.words.append(data.decode(errors="replace"))  # noqa: E731
        self.machine = Machine(options, ["sh", "-c", ENTRY], self._on_event, collect, collect)

    def _on_event(self, name):
        if name == "ready":
            self.ready_at = time.monotonic()
        return "ok"

    def run(self):
        try:
            status = self.machine.run()
            if status != 0 or not self.ready_at:
                self.error = f"a guest ended with status {status}: {last_line(''.join(self.words))}"
        except (VmError, OSError) as e:
            self.error = f"a guest: {str(e).splitlines()[0]}"


def boot(uris):
    """Guests on all of them at once; the moments at which each was ready, and the one at which QEMU was first started."""
    guests = [BootGuest(uri) for uri in uris]
    try:
        for guest in guests:
            guest.start()
        for guest in guests:
            guest.join()
    except BaseException:  # an interrupt: their threads end with them
        for guest in guests:
            if guest.machine.qemu:
                guest.machine.qemu.kill()
                guest.join(5)
        raise
    errors = [guest.error for guest in guests if guest.error]
    if errors:
        raise BenchError(f"{len(errors)} of {len(guests)} guests: {errors[0]}")
    return min(guest.machine.launched_at for guest in guests), [guest.ready_at for guest in guests]


def boot_storm(session, stack, clock, _words):
    """One guest alone, then N at once, each from a clone of its own."""
    count, desk, marks = session.options.guests, beside.Desk(stack), []
    path = os.path.join(session.work_dir, "boot.img")
    clock.tell(f"one guest boots, then {count} at once")
    if not os.path.exists(path):
        build_image(path)

    def storm(names):
        begin, ready = boot([desk.attached[name] for name in names])
        marks.extend(at - clock.begin for at in ready)
        return [at - begin for at in ready]

    try:
        beside.make_image(desk, lambda uri: macro.command("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", path, uri))
        for number in range(count + 1):
            desk.do("clone", "image", f"b{number}")
            desk.do("attach", f"b{number}")
        alone_s = storm(["b0"])[0]
        times = storm([f"b{number}" for number in range(1, count + 1)])
    except (BenchError, OSError):
        beside.drop_image(desk)
        raise
    error = beside.drop_image(desk)
    if error:
        raise error
    clock.tell("all is taken away")
    for seconds in times:
        desk.note("boot of a guest until it is ready", seconds)
    how = "emulated by TCG: their own processors cost more than the storage" if accelerator() == "tcg" else "KVM"
    return {"ready_s": max(times), "alone_s": alone_s, "operations": desk.operations(), "marks": {"guests ready": sorted(marks)},
            "text": f"{count} guests that boot at once are all ready after {max(times):.1f} s, one alone after {alone_s:.1f} s ({how})"}
