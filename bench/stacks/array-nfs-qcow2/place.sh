# SPDX-License-Identifier: Apache-2.0
# Sourced: where the files of this stack are, for qcow2.sh. All go over NFS but a deletion, which qemu-img can not do.
CACHE='' EXPORT=/export
place() {
    echo "nfs://$(cat "$H2H_DIR/node-ip")$H2H_DIR/export/$1.qcow2"
}
spot() {
    echo '{"driver": "nfs", "server": {"type": "inet", "host": "'"$(cat "$H2H_DIR/node-ip")"'"}, "path": "'"$H2H_DIR/export/$1.qcow2"'"}'
}
