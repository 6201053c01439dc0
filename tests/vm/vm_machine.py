# SPDX-License-Identifier: Apache-2.0
"""One guest: a stock Debian kernel in QEMU under software emulation, running one command.

Happy path:
- packs this run's files (init, the command, programs) and starts QEMU with three virtio-serial ports;
- talks with the guest's init over ctl: "up" is answered with the number of the boot, "event NAME" calls the
  host's on_event(NAME), whose answer goes back, "reboot" is noted, "exit STATUS" ends the run;
- relays the command's streams to the given sinks until their end marks.

Failure modes: status 124 if the command takes too long. A guest that does not come up in boot_timeout_s is
started again (emulation on a busy host hangs now and then in early boot); after the third try, or if QEMU
ends by itself, VmError with the last words of the console. QEMU dies with this process.
"""
import ctypes
import os
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from vm_image import Archive, Image, VmError, is_elf
from vm_siw import siw_archive

HERE = os.path.dirname(os.path.abspath(__file__))
REBOOT_STATUS = 86  # of the guest's command: reset the machine (guest_init)
TIMED_OUT = 124
START_TRIES = 3
PR_SET_PDEATHSIG = 1


@dataclass
class Options:
    """What the guest has. The defaults suit a guest with one disk and no network."""

    drives: list = field(default_factory=list)   # NBD URIs or files: /dev/vda, ...
    drive_options: str = "cache=none"
    driver: str = "none"                          # of RDMA devices: rxe, siw or none
    nodes: int = 0                                # addresses 10.77.0.1 ...
    net: str = "multi"                            # multi or single (guest_init)
    mtu: int = 4200                               # makes room for an IB MTU of 4096
    files: list = field(default_factory=list)     # directories whose content goes to /files
    programs: list = field(default_factory=list)  # host programs and files, with their libraries
    modules: list = field(default_factory=list)
    root: str = "mini"                            # or host: this machine's own root, read-only
    memory: str = "768M"
    cpus: int = 2
    counted: bool = False                         # one instruction, one nanosecond of the guest
    kvm: bool = False                             # instead of emulation
    timeout_s: float = 300
    boot_timeout_s: float = 90


def pack_run(options, command, mark, image, work):
    """The initrd of this run: the cached base, then this run's own files over it."""
    archive = Archive(os.path.join(work, "stage"))
    os.makedirs(archive.path("/files"))
    facts = {"DRIVER": options.driver, "NODES": options.nodes, "NET": options.net, "MTU": options.mtu,
             "ROOT": options.root, "MODULES": " ".join(options.modules), "MARK": mark,
             "DRIVES": "yes" if options.drives else "", "REBOOT_STATUS": REBOOT_STATUS}
    archive.write("/run.d/env", "".join(f"{k}={shlex.quote(str(v))}\n" for k, v in facts.items()))
    archive.write("/run.d/cmd", "export PATH=/files:$PATH LD_LIBRARY_PATH=/files:/files/lib\ncd /files\n"
                  f"exec {shlex.join(command)}\n")
    with open(os.path.join(HERE, "guest_init"), encoding="utf-8") as f:
        archive.write("/init", f.read(), 0o755)
    elves = []
    for directory in options.files:
        shutil.copytree(directory, archive.path("/files"), dirs_exist_ok=True)
    for folder, _, names in os.walk(archive.path("/files")):
        elves += [os.path.join(folder, name) for name in names]
    for program in options.programs:
        path = shutil.which(program) or program
        if not os.path.exists(path):
            raise VmError(f"{program}: not found")
        archive.put(path)
        elves.append(path)
    if options.root == "mini":
        archive.put_libraries([path for path in elves if is_elf(path)], [archive.path("/files/lib")])
    initrd = os.path.join(work, "initrd")
    with open(initrd, "wb") as out:
        for path in [image.base] + ([siw_archive(image)] if options.driver == "siw" else []):
            with open(path, "rb") as part:
                shutil.copyfileobj(part, out)
        archive.pack(out)
    shutil.rmtree(archive.stage)
    return initrd


def kernel_arguments(counted):
    """The emulated TSC runs at the host's rate. Told so, the kernel skips its calibration by the PIT, in
    which a boot under emulation on a busy host hangs now and then. Where instructions are counted they are its ticks."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        bogomips = next((line.split(":")[1] for line in f if line.lower().startswith("bogomips")), None)
    tsc_khz = 1000000 if counted else int(float(bogomips) * 500) if bogomips else None
    calibrated = f"tsc_early_khz={tsc_khz} no_timer_check " if tsc_khz else ""
    return ("console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off init_on_alloc=0 tsc=reliable "
            f"{calibrated}random.trust_cpu=on nowatchdog audit=0 apparmor=0 no5lvl rcupdate.rcu_expedited=1 "
            "net.ifnames=0")


def processor(options):
    """Counted: QEMU's clock advances by a nanosecond with each instruction, and by nothing else but idle time, so that
    CPU times in the guest are counts. On one CPU: time passes for all of them. Without fast string instructions: each
    byte that they move would count as one instruction, without them it is one for eight bytes."""
    if options.kvm:
        return ["-accel", "kvm", "-cpu", "host", "-smp", str(options.cpus)]
    if not options.counted:
        return ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", str(options.cpus)]
    return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max,la57=off,erms=off,fsrm=off",
            "-smp", "1"]


def qemu_command(options, image, initrd, work):
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,hpet=off,usb=off,vmport=off", *processor(options), "-m", options.memory,
            "-kernel", image.kernel, "-initrd", initrd, "-append", kernel_arguments(options.counted),
            "-serial", f"file:{work}/console.log", "-device", "virtio-serial-pci"]
    for number, name in enumerate(("out", "err", "ctl"), 1):
        argv += ["-chardev", f"socket,id={name},path={work}/{name}",
                 "-device", f"virtserialport,nr={number},chardev={name},name={name}"]
    if options.root == "host":
        argv += ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                 "-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"]
    for number, uri in enumerate(options.drives):
        more = f",{options.drive_options}" if options.drive_options else ""
        argv += ["-drive", f"file={uri},format=raw,if=none,id=disk{number},discard=unmap{more}",
                 "-device", f"virtio-blk-pci,drive=disk{number}"]
    return argv


def last_words(work):
    words = []
    for name in ("qemu.log", "console.log"):
        try:
            with open(os.path.join(work, name), encoding="utf-8", errors="replace") as f:
                lines = ["".join(c for c in line if c.isprintable()) for line in f]
        except OSError:
            continue
        words += [f"  {name}: {line}" for line in lines[-15:] if line]
    return "\n".join(words)


class Stream:
    """Relays one of the command's streams; an end mark, wherever it is split, stays out of it."""

    def __init__(self, sink, mark):
        self.sink, self.mark, self.held, self.ended = sink, mark.encode(), b"", False

    def feed(self, data):
        if self.ended:
            return
        self.held += data
        at = self.held.find(self.mark)
        if at >= 0:
            self.ended = True
            self._emit(self.held[:at])
            return
        keep = next((n for n in range(min(len(self.mark), len(self.held)), 0, -1)
                     if self.mark.startswith(self.held[-n:])), 0)
        self._emit(self.held[:len(self.held) - keep])
        self.held = self.held[len(self.held) - keep:]

    def _emit(self, data):
        if data:
            self.sink(data)


class Machine:
    """run() boots the guest and returns the status of its command."""

    def __init__(self, options, command, on_event=None, on_out=None, on_err=None):
        self.options, self.command = options, command
        self.on_event = on_event or (lambda name: "none")
        self.mark = f"\x1evm-end-{secrets.token_hex(8)}\x1e"
        self.sinks = {"out": on_out or write_to(sys.stdout), "err": on_err or write_to(sys.stderr)}
        self.boots = 0
        self.status = self.started_at = self.qemu = self.launched_at = None

    def run(self):
        image = Image(lambda text: print(f"vm: {text}", file=sys.stderr, flush=True))
        image.ready()
        work = tempfile.mkdtemp(prefix="ashlar-vm-")
        try:
            initrd = pack_run(self.options, self.command, self.mark, image, work)
            argv = qemu_command(self.options, image, initrd, work)
            for _ in range(START_TRIES):
                if self._try(argv, work):
                    return self.status
            raise VmError(f"the guest did not start in {self.options.boot_timeout_s:g} s\n{last_words(work)}")
        finally:
            self._kill()
            shutil.rmtree(work, ignore_errors=True)

    def _kill(self):
        if self.qemu and self.qemu.poll() is None:
            self.qemu.kill()
            self.qemu.wait()

    def _try(self, argv, work):
        """One start: True when the command ended (or timed out), False when the guest never came up."""
        self.boots, self.status, self.started_at = 0, None, None
        self.streams = {name: Stream(sink, self.mark) for name, sink in self.sinks.items()}
        self.dialogue = b""
        begin = time.monotonic()
        with selectors.DefaultSelector() as selector:
            try:
                self._listen(selector, work)
                with open(os.path.join(work, "qemu.log"), "wb") as log:
                    self.qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                 preexec_fn=die_with_parent)
                self.launched_at = self.launched_at or time.monotonic()
                while not self._is_over():
                    if self.started_at is None and time.monotonic() - begin > self.options.boot_timeout_s:
                        return False
                    if self.started_at and time.monotonic() - self.started_at > self.options.timeout_s:
                        self.status = TIMED_OUT
                        return True
                    self._turn(selector)
                    if self.qemu.poll() is not None and not self._is_over():
                        raise VmError(f"QEMU ended by itself ({self.qemu.returncode})\n{last_words(work)}")
                return True
            finally:
                self._kill()
                for key in list(selector.get_map().values()):
                    key.fileobj.close()

    def _is_over(self):
        return self.status is not None and all(stream.ended for stream in self.streams.values())

    def _listen(self, selector, work):
        for name in ("out", "err", "ctl"):
            path = os.path.join(work, name)
            if os.path.exists(path):
                os.unlink(path)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(1)
            selector.register(listener, selectors.EVENT_READ, ("accept", name))

    def _turn(self, selector):
        for key, _ in selector.select(0.25):
            kind, name = key.data
            if kind == "accept":
                connection = key.fileobj.accept()[0]
                selector.unregister(key.fileobj)
                key.fileobj.close()
                selector.register(connection, selectors.EVENT_READ, ("data", name))
                continue
            data = key.fileobj.recv(65536)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
            elif name == "ctl":
                self._converse(key.fileobj, data)
            else:
                self.streams[name].feed(data)

    def _converse(self, connection, data):
        *lines, self.dialogue = (self.dialogue + data).split(b"\n")
        for line in lines:
            verb, _, rest = line.decode(errors="replace").partition(" ")
            if verb == "up":
                self.boots += 1
                connection.sendall(f"boot {self.boots}\n".encode())
            elif verb == "start":
                self.started_at = self.started_at or time.monotonic()
            elif verb == "event":
                connection.sendall(f"{self.on_event(rest)}\n".encode())
            elif verb == "exit" and rest.isdigit():
                self.status = int(rest)


def write_to(stream):
    def write(data):
        stream.write(data.decode(errors="replace"))
        stream.flush()
    return write


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
