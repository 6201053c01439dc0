# SPDX-License-Identifier: Apache-2.0
# Sourced by the QCOW2 stacks' volume, snapshot and down, after serve.sh: snapshots of the stack's own disk, and other
# volumes beside it, each served by a qemu-storage-daemon of its own as each VM has a QEMU of its own.
# The stack sets: place NAME (what qemu-img calls a file), spot NAME (what QMP calls it, as JSON), CACHE (more JSON).

top_file() { # of the running disk: the name that place and spot know
    cat "$H2H_DIR/top" 2>/dev/null || echo disk
}

take_snapshot() { # NAME: a new overlay on top, as libvirt does it; the chain grows by one
    local top
    top=$(top_file)
    qemu-img create -q -f qcow2 -u -b "$(place "$top")" -F qcow2 "$(place "snapshot-$1")" "$H2H_SIZE"
    qmp blockdev-add '{"driver": "qcow2", "node-name": "snapshot-'"$1"'", "backing": null'"$CACHE"', "file": '"$(spot "snapshot-$1")"'}'
    qmp blockdev-snapshot '{"node": "'"$top"'", "overlay": "snapshot-'"$1"'"}'
    echo "$top" >"$H2H_DIR/below-$1"
    echo "snapshot-$1" >"$H2H_DIR/top"
}

drop_snapshot() { # NAME, the newest: what was written since goes down into the file below, which is on top again
    local below
    below=$(cat "$H2H_DIR/below-$1")
    [ "$(top_file)" = "snapshot-$1" ] || die "only the newest snapshot can be committed here"
    qmp block-commit '{"job-id": "c-'"$1"'", "device": "snapshot-'"$1"'", "base-node": "'"$below"'", "auto-finalize": true}'
    qmp_job "c-$1"
    qmp blockdev-del '{"node-name": "snapshot-'"$1"'"}'
    echo "$below" >"$H2H_DIR/top"
    rm -f "$H2H_DIR/below-$1" "$H2H_DIR"/snapshot-"$1".qcow2 "$H2H_DIR"/export/snapshot-"$1".qcow2
}

image_of() { # IMAGE or @SNAPSHOT of the stack's own disk
    case $1 in
    @*) cat "$H2H_DIR/below-${1#@}" ;;
    *) echo "v-$1" ;;
    esac
}

attach_disk() { # NAME BLOCKDEV: prints its URI; the daemon answers before this returns
    local home=$H2H_DIR/attached/$1
    mkdir -p "$home"
    GLIBC_TUNABLES=$H2H_TUNABLES qemu-storage-daemon --daemonize --pidfile "$home/pid" \
        --blockdev "$2" \
        --nbd-server "addr.type=unix,addr.path=$home/nbd.sock" --export type=nbd,id=export,node-name=disk,name=,writable=on
    H2H_DIR=$home note_pid qemu "$(cat "$home/pid")"
    echo "nbd+unix:///?socket=$home/nbd.sock"
}

detach_disk() { # NAME
    H2H_DIR=$H2H_DIR/attached/$1 stop_noted
    rm -rf "$H2H_DIR/attached/$1"
}

detach_all() {
    local home pid start
    for home in "$H2H_DIR"/attached/*; do # all at once: they end side by side
        { read -r _ pid start <"$home/pids"; } 2>/dev/null || continue
        [ "$(start_of "$pid")" != "$start" ] || kill -TERM "$pid" 2>/dev/null || true
    done
    for home in "$H2H_DIR"/attached/*; do
        [ ! -d "$home" ] || detach_disk "${home##*/}"
    done
}

qcow2_volume() { # VERB ARGUMENT...: see bench/stacks/README.md
    local verb=$1
    shift
    case $verb in
    nothing | freeze | unfreeze) ;; # an image is not written to while it has clones
    create) qemu-img create -q -f qcow2 "$(place "v-$1")" "$2" ;;
    clone) qemu-img create -q -f qcow2 -b "$(place "$(image_of "$1")")" -F qcow2 "$(place "v-$2")" ;;
    attach) attach_disk "$1" '{"driver": "qcow2", "node-name": "disk"'"$CACHE"', "file": '"$(spot "v-$1")"'}' ;;
    detach) detach_disk "$1" ;;
    delete) rm "$H2H_DIR${EXPORT:-}/v-$1.qcow2" ;;
    snapshot) take_snapshot "$1" ;;
    unsnapshot) drop_snapshot "$1" ;;
    *) die "volume: $verb?" ;;
    esac
}
