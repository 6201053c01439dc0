# SPDX-License-Identifier: Apache-2.0
"""What /proc says about processes: CPU time, memory, who listens on a socket.

Happy path:
- listener_pids() finds the servers behind a unix socket, pids_mentioning() the daemons of a cluster;
- CpuMeter snapshots their CPU time (all threads, dead ones too) and the machine's, before and after a run.

Failure modes: a process that ends in between counts as what it had used at the first snapshot (0 after).
Kernel threads that work for a process (writeback, block layer completions) are not counted to anybody.
"""
import os

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
UNIX_LISTENING = 0x10000  # __SO_ACCEPTCON in the flags column of /proc/net/unix


def _read(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode(errors="replace")
    except OSError:
        return ""


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat_fields(pid):
    """Fields of /proc/PID/stat from the state on: the name before them may hold anything."""
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split()


def cpu_us(pid):
    """User + system time of all threads of a process, microseconds; 0 when it is gone."""
    fields = _stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) * TICK_US if len(fields) > 12 else 0


def rss_bytes(pid):
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def name_of(pid):
    return _read(f"/proc/{pid}/comm").strip()


def is_alive(pid):
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def pids_mentioning(text, comm=None):
    """Processes whose command line mentions text (a directory of this run), by name if comm is given."""
    found = []
    for pid in all_pids():
        if pid == os.getpid() or (comm and name_of(pid) != comm):
            continue
        if text in _read(f"/proc/{pid}/cmdline"):
            found.append(pid)
    return sorted(found)


def _listening_inodes(path):
    inodes = set()
    for line in _read("/proc/net/unix").splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[7] == path and int(fields[3], 16) & UNIX_LISTENING:
            inodes.add(f"socket:[{fields[6]}]")
    return inodes


def listener_pids(path):
    """The processes that listen on a unix socket."""
    inodes = _listening_inodes(path)
    return [pid for pid in all_pids() if inodes and _holds(pid, inodes)]


def _holds(pid, inodes):
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    return True
            except OSError:
                continue
    except OSError:
        pass
    return False


def machine_busy_us():
    """CPU time that anybody used since boot, stolen time included: all but idle and iowait."""
    fields = [int(x) for x in _read("/proc/stat").splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) * TICK_US


class CpuMeter:
    """CPU used by labelled processes, and by everybody else, over a span."""

    def __init__(self, pids_by_label):
        self.pids = dict(pids_by_label)
        self.before = {label: cpu_us(pid) for label, pid in self.pids.items()}
        self.machine = machine_busy_us()

    def stop(self):
        """Returns ({label: microseconds}, microseconds of the whole machine)."""
        used = {label: max(0, cpu_us(pid) - self.before[label]) for label, pid in self.pids.items()}
        return used, machine_busy_us() - self.machine
