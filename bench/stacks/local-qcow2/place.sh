# SPDX-License-Identifier: Apache-2.0
# Sourced: where the files of this stack are, for qcow2.sh.
CACHE=', "cache": {"direct": true}'
place() {
    echo "$H2H_DIR/$1.qcow2"
}
spot() {
    echo '{"driver": "file", "filename": "'"$(place "$1")"'", "aio": "io_uring", "discard": "unmap"'"$CACHE"'}'
}
