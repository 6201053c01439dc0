# SPDX-License-Identifier: Apache-2.0
# Sourced by the arrays, after serve.sh: the storage node's server, and its second controller. That is a second process on
# the same storage, behind the same address: it starts when the first one dies and is reached only after the take-over time.
TARGET=iqn.2024-01.bench:array
export TGT_IPC_SOCKET=$H2H_DIR/tgtd

serve_iscsi() { # tgtd with its LUN
    serve tgtd ip netns exec "$(node_name iscsi)" env GLIBC_TUNABLES=$H2H_TUNABLES tgtd -f --iscsi portal="$NODE_IP:3260"
    await 10 "tgtd did not start" tgtadm --op show --mode system
    tgtadm --lld iscsi --mode target --op new --tid 1 --targetname $TARGET
    tgtadm --lld iscsi --mode logicalunit --op new --tid 1 --lun 1 --bstype rdwr --bsoflags direct --backing-store "$H2H_DIR/lun.img"
    tgtadm --lld iscsi --mode target --op bind --tid 1 --initiator-address ALL
}

serve_nfs() { # ganesha, in the namespaces of rpcbind
    local rpcbind
    rpcbind=$(awk '$1 == "rpcbind" { print $2 }' "$H2H_DIR/pids")
    serve ganesha nsenter -t "$rpcbind" -n -m env GLIBC_TUNABLES=$H2H_TUNABLES \
        ganesha.nfsd -F -f "$H2H_DIR/ganesha.conf" -L "$H2H_DIR/ganesha-nfsd.log" -p "$H2H_DIR/ganesha.pid"
}

controller_dies() { # NODE LABEL: nothing more comes from its address, as if its port was dead; then the process is killed
    local pid start
    pid=$(awk -v label="$2" '$1 == label { pid = $2 } END { print pid }' "$H2H_DIR/pids")
    start=$(awk -v label="$2" '$1 == label { start = $3 } END { print start }' "$H2H_DIR/pids")
    [ "$(start_of "$pid")" = "$start" ] || die "$2 does not run"
    tc -n "$(node_name "$1")" qdisc replace dev eth0 root pfifo limit 0
    kill -KILL "$pid"
    await 5 "$2 does not die" test ! -e "/proc/$pid/exe"
    sed -i "/^$2 $pid /d" "$H2H_DIR/pids"
}

partner_takes_over() { # NODE: its address answers again
    tc -n "$(node_name "$1")" qdisc replace dev eth0 root tbf rate "$H2H_LINK" burst 256kb latency 50ms
}
