# SPDX-License-Identifier: Apache-2.0
# Sourced by the Ashlar stacks, after serve.sh: one cluster for all of them, a volume each. Every node is in a network
# namespace with a link of its own. Node 4 holds no copies: it is where the VM of ashlar-x3-remote runs.
ASHLAR_ROOT=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
ASHLAR_BUILD=${ASHLAR_BUILD:-$ASHLAR_ROOT/build}
ASHLAR_DIR=$H2H_SHARED/ashlar
ASHLAR_NODES=4
export ASHLAR_BUILD ASHLAR_DIR
LOCAL=$ASHLAR_ROOT/deploy/local
ASHLAR=$ASHLAR_BUILD/bin/ashlar
VOLUME=${H2H_DIR##*/}

cluster_up() {
    local remote
    [ -x "$ASHLAR" ] || die "$ASHLAR is missing; build the project or set ASHLAR_BUILD"
    need ip tc nbdkit nbdinfo
    [ ! -e "$ASHLAR_DIR/ready" ] || return 0
    "$LOCAL" up --dir "$ASHLAR_DIR" --nodes $ASHLAR_NODES --netns --rate "$H2H_LINK" --store-size "$H2H_STORE" >/dev/null
    remote=$("$LOCAL" status --dir "$ASHLAR_DIR" --json | /usr/bin/python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
print(",".join([nodes[-1]["unix"], nodes[1]["data"], nodes[2]["data"]]))')
    printf '[client]\naddresses = %s\n' "$remote" >"$ASHLAR_DIR/remote.conf"
    "$ASHLAR" --cluster "$ASHLAR_DIR/cluster.conf" node out 4 >/dev/null
    touch "$ASHLAR_DIR/ready"
}

cluster_down() { # with the last volume
    rm -f "$ASHLAR_DIR/user-$VOLUME"
    if [ -d "$ASHLAR_DIR" ] && ! ls "$ASHLAR_DIR"/user-* >/dev/null 2>&1; then
        "$LOCAL" down --dir "$ASHLAR_DIR" >/dev/null || true
        rm -rf "$ASHLAR_DIR"
    fi
}

note_daemons() { # whose CPU time is measured; they are stopped by deploy/local
    "$LOCAL" status --dir "$ASHLAR_DIR" --json | /usr/bin/python3 -c '
import json, sys
for node in json.load(sys.stdin)["nodes"]:
    if node["running"]:
        print("ashlard-%d" % node["id"], node["pid"])' >"$H2H_DIR/measure"
}

conf_of() { # local|remote
    [ "$1" = local ] && echo "$ASHLAR_DIR/cluster.conf" || echo "$ASHLAR_DIR/remote.conf"
}

volume_up() { # REPLICAS HOME local|remote
    local pid
    cluster_up
    touch "$ASHLAR_DIR/user-$VOLUME"
    conf_of "$3" >"$H2H_DIR/conf"
    echo "$2" >"$H2H_DIR/home"
    "$ASHLAR" --cluster "$(conf_of local)" volume create "$VOLUME" "$H2H_SIZE" --replicas "$1" --home "$2" >/dev/null
    "$ASHLAR" --cluster "$(conf_of "$3")" attach "$VOLUME" --socket "$H2H_DIR/nbd.sock" --json >"$H2H_DIR/attach.json"
    pid=$(pgrep -o -f "^nbdkit.*$H2H_DIR/nbd.sock") || die "the attachment has no nbdkit"
    note_pid nbdkit "$pid"
    note_daemons
}

volume_down() {
    ls "$H2H_DIR/attached" 2>/dev/null | sed "s/^/$VOLUME-/" |
        xargs -r -P 8 -n 1 "$ASHLAR" --cluster "$(cat "$H2H_DIR/conf")" detach --force >/dev/null 2>&1 || true
    "$ASHLAR" --cluster "$(cat "$H2H_DIR/conf")" detach --force "$VOLUME" >/dev/null 2>&1 || true
    stop_noted
    cluster_down
}

image_of() { # IMAGE or @SNAPSHOT of the stack's own volume
    case $1 in
    @*) echo "$VOLUME@${1#@}" ;;
    *) echo "$VOLUME-$1@image" ;;
    esac
}

volume_verb() { # REPLICAS HOME VERB ARGUMENT...: see bench/stacks/README.md
    local replicas=$1 home=$2 verb=$3 conf
    read -r conf <"$H2H_DIR/conf"
    shift 3
    case $verb in
    nothing) ;;
    create) "$ASHLAR" --cluster "$conf" volume create "$VOLUME-$1" "$2" --replicas "$replicas" --home "$home" >/dev/null ;;
    freeze) "$ASHLAR" --cluster "$conf" snapshot create "$VOLUME-$1@image" >/dev/null ;;
    clone) "$ASHLAR" --cluster "$conf" clone "$(image_of "$1")" "$VOLUME-$2" --home "$home" >/dev/null ;;
    attach)
        mkdir -p "$H2H_DIR/attached/$1"
        "$ASHLAR" --cluster "$conf" attach "$VOLUME-$1" --socket "$H2H_DIR/attached/$1/nbd.sock" >/dev/null
        echo "nbd+unix:///?socket=$H2H_DIR/attached/$1/nbd.sock"
        ;;
    detach)
        "$ASHLAR" --cluster "$conf" detach "$VOLUME-$1" >/dev/null
        rm -rf "$H2H_DIR/attached/$1"
        ;;
    unfreeze) "$ASHLAR" --cluster "$conf" snapshot rm "$VOLUME-$1@image" --yes >/dev/null ;;
    delete) "$ASHLAR" --cluster "$conf" volume delete "$VOLUME-$1" --yes >/dev/null ;;
    snapshot) "$ASHLAR" --cluster "$conf" snapshot create "$VOLUME@$1" >/dev/null ;;
    unsnapshot) "$ASHLAR" --cluster "$conf" snapshot rm "$VOLUME@$1" --yes >/dev/null ;;
    *) die "volume: $verb?" ;;
    esac
}

volume_uri() {
    echo "nbd+unix:///?socket=$H2H_DIR/nbd.sock"
}

volume_facts() { # TITLE REPLICAS PATH NOTE
    cat <<JSON
{"title": "$1", "role": "ashlar", "replicas": $2,
 "versions": {"ashlar": "$("$ASHLAR" --version | head -n 1)", "nbdkit": "$(nbdkit --version)"},
 "cache": "none for data: O_DIRECT on every node; RocksDB's block cache for metadata",
 "flush": "NBD flush -> every copy in sync has it on its drive (fdatasync) before the answer",
 "path": "$3", "notes": ["$4"]}
JSON
}

replace_drive() { # NODE: it dies and gets an empty store
    local store=$ASHLAR_DIR/node$1/store
    "$LOCAL" kill --dir "$ASHLAR_DIR" --node "$1" >/dev/null
    rm -rf "$store"
    "$ASHLAR_BUILD/bin/ashlard" store format "$store" --size "$H2H_STORE" --node "$1" --cluster local >/dev/null
}

cluster_break() {
    case $1 in
    kill) "$LOCAL" kill --dir "$ASHLAR_DIR" --node "$2" >/dev/null ;;
    stop) "$LOCAL" stop --dir "$ASHLAR_DIR" --node "$2" >/dev/null ;;
    controller) "$LOCAL" kill --dir "$ASHLAR_DIR" --node "$(cat "$H2H_DIR/home")" >/dev/null ;;
    wipe) replace_drive "$2" ;;
    power-off) "$LOCAL" kill --dir "$ASHLAR_DIR" >/dev/null ;;
    *) die "break: $1?" ;;
    esac
}

cluster_mend() {
    case $1 in
    start) "$LOCAL" start --dir "$ASHLAR_DIR" --node "$2" >/dev/null ;;
    controller) "$LOCAL" start --dir "$ASHLAR_DIR" --node "$(cat "$H2H_DIR/home")" >/dev/null ;;
    power-on) "$LOCAL" start --dir "$ASHLAR_DIR" >/dev/null ;;
    *) die "mend: $1?" ;;
    esac
    note_daemons
}

cluster_whole() {
    "$ASHLAR" --cluster "$(conf_of local)" --timeout 2s status --json | grep -Eq '"healthy": ?true'
}
