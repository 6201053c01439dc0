# SPDX-License-Identifier: Apache-2.0
# Sourced by the stacks' up and down: processes, sockets and the link to a storage node. The runner sets:
#   H2H_DIR     this stack's own directory       H2H_SHARED  the run's directory (stacks of one cluster meet there)
#   H2H_SIZE    bytes of the volume              H2H_LINK    rate of every link between nodes, as tc has it
#   H2H_TAG     short and unique to the run      H2H_NET     10.X.Y of the run's storage link
set -eu

# As glibc has it, buffers of 1 MiB go back to the kernel after each request and are faulted in again (6x slower).
H2H_TUNABLES=glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=33554432:glibc.malloc.top_pad=67108864

die() {
    echo "$*" >&2
    exit 1
}

need() { # PROGRAM...
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || die "$program is not installed (deploy/install-packages bench)"
    done
}

start_of() { # PID: its start time, empty if it is gone
    local line
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
    # shellcheck disable=SC2086 # fields
    set -- ${line##*) }
    case $1 in Z | X) ;; *) echo "${20}" ;; esac
}

note_pid() { # LABEL PID: it is ours to measure and to stop
    echo "$1 $2 $(start_of "$2")" >>"$H2H_DIR/pids"
}

serve() { # LABEL COMMAND...: starts it in a session of its own
    local label=$1
    shift
    setsid "$@" </dev/null >"$H2H_DIR/$label.log" 2>&1 &
    note_pid "$label" $!
}

await() { # SECONDS WHAT COMMAND...: until it succeeds
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "$what; $(cat "$H2H_DIR"/*.log 2>/dev/null | grep . | tail -n 1)"
        sleep 0.05
    done
}

stop_noted() { # what note_pid noted, last first
    local label pid start
    [ -e "$H2H_DIR/pids" ] || return 0
    tac "$H2H_DIR/pids" | while read -r label pid start; do
        [ -n "$start" ] && [ "$(start_of "$pid")" = "$start" ] || continue
        kill -CONT "$pid" 2>/dev/null || true
        kill -TERM "$pid" 2>/dev/null || true
        for _ in $(seq 100); do
            [ "$(start_of "$pid")" = "$start" ] || break
            sleep 0.02
        done
        [ "$(start_of "$pid")" != "$start" ] || kill -KILL "$pid" 2>/dev/null || true
    done
    rm -f "$H2H_DIR/pids"
}

# The storage node: a network namespace, joined to the compute side (where we are) by a veth pair, both ends shaped.
node_name() {
    echo "h2h-$H2H_TAG-$1"
}

make_node() { # NAME: the namespace node_name NAME; NODE_IP is its address
    local ns outside net
    ns=$(node_name "$1") outside=h2h$H2H_TAG$1 net=$H2H_NET.$(($2 * 4))
    NODE_IP=$H2H_NET.$(($2 * 4 + 1))
    ip netns add "$ns"
    ip link add "$outside" type veth peer name eth0 netns "$ns"
    ip addr add "$H2H_NET.$(($2 * 4 + 2))/30" dev "$outside"
    ip link set "$outside" up
    ip -n "$ns" addr add "$NODE_IP/30" dev eth0
    ip -n "$ns" link set eth0 up
    ip -n "$ns" link set lo up
    tc qdisc replace dev "$outside" root tbf rate "$H2H_LINK" burst 256kb latency 50ms
    tc -n "$ns" qdisc replace dev eth0 root tbf rate "$H2H_LINK" burst 256kb latency 50ms
    echo "$NODE_IP" >"$H2H_DIR/node-ip"
    : "$net"
}

drop_node() { # NAME
    local ns
    ns=$(node_name "$1")
    ip link del "h2h$H2H_TAG$1" 2>/dev/null || true
    ip netns del "$ns" 2>/dev/null || true
}

# qemu-storage-daemon with the block devices given as arguments; the last one is named `disk`.
serve_qsd() { # QSD-ARGUMENT...
    need qemu-storage-daemon nbdinfo
    GLIBC_TUNABLES=$H2H_TUNABLES serve qemu qemu-storage-daemon "$@" \
        --chardev "socket,id=qmp,path=$H2H_DIR/qmp.sock,server=on,wait=off" --monitor chardev=qmp \
        --nbd-server "addr.type=unix,addr.path=$H2H_DIR/nbd.sock" \
        --export type=nbd,id=export,node-name=disk,name=,writable=on
    await 15 "qemu-storage-daemon did not serve" nbdinfo --size "nbd+unix:///?socket=$H2H_DIR/nbd.sock"
}

qsd_uri() {
    echo "nbd+unix:///?socket=$H2H_DIR/nbd.sock"
}

qmp() { # COMMAND [JSON-ARGUMENTS]: to this stack's QEMU
    /usr/bin/python3 - "$H2H_DIR/qmp.sock" "$1" "${2:-{\}}" <<'PYTHON'
import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(30)
    s.connect(sys.argv[1])
    stream = s.makefile("rw")
    stream.readline()
    for command in ({"execute": "qmp_capabilities"}, {"execute": sys.argv[2], "arguments": json.loads(sys.argv[3])}):
        stream.write(json.dumps(command) + "\n")
        stream.flush()
        while "event" in (answer := json.loads(stream.readline())):
            pass
        if "error" in answer:
            sys.exit(answer["error"]["desc"])
PYTHON
}

qmp_job() { # JOB-ID: waits for a block job of this stack's QEMU, completes it when it is ready
    /usr/bin/python3 - "$H2H_DIR/qmp.sock" "$1" <<'PYTHON'
import json
import socket
import sys
import time

with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(30)
    s.connect(sys.argv[1])
    stream = s.makefile("rw")
    stream.readline()

    def ask(command, **arguments):
        stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        stream.flush()
        while "event" in (answer := json.loads(stream.readline())):
            pass
        if "error" in answer:
            sys.exit(answer["error"]["desc"])
        return answer["return"]

    ask("qmp_capabilities")
    end, completing, error = time.monotonic() + 40, False, None
    while jobs := [job for job in ask("query-jobs") if job["id"] == sys.argv[2]]:
        error = jobs[0].get("error") or error
        if jobs[0]["status"] == "ready" and not completing:
            ask("job-complete", id=sys.argv[2])
            completing = True
        if time.monotonic() > end:
            sys.exit("the job did not end in 40 s")
        time.sleep(0.005)
    if error or not completing:
        sys.exit(error or "the job ended before it was ready")
PYTHON
}
