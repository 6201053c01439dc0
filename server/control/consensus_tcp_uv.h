/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus over TCP: how voters reach each other. Our own raft_uv_transport
 * instead of libraft's, which waits minutes for a peer that lost power, knows
 * only numeric IPv4 and believes any length in a handshake.
 *
 * Threading: the loop's thread. Errors: raft_uv_transport speaks RAFT_*; the
 * init function 0 or -errno. Ownership: embedded by the caller; `peers` copied.
 *
 * A link carries one direction. The connecting side sends (little endian):
 *    0  u64 magic 'ASHRAFT1'
 *    8  u64 id of the sender
 *   16  u64 id of the voter it wants
 *   24  u64 FNV-1a over the sorted voter ids
 * and then Raft messages. A wrong word closes the connection.
 */
#ifndef ASHLAR_CONTROL_CONSENSUS_TCP_UV_H
#define ASHLAR_CONTROL_CONSENSUS_TCP_UV_H

#include <raft/uv.h>
#include <sys/socket.h>
#include <uv.h>

#include "server/control/consensus_ops.h"

#define CONSENSUS_TCP_HANDSHAKE_BYTES 32u
#define CONSENSUS_TCP_ACCEPTING_MAX 16u

struct consensus_tcp_peer {
    uint64_t id;
    struct sockaddr_storage address;
};

struct consensus_tcp {
    struct raft_uv_transport transport; /* public: for raft_uv_init() */
    int last_errno;                     /* read-only: why listen failed, -errno */

    /* private */
    uv_loop_t *loop;
    uint64_t id;
    uint64_t cluster_hash;
    unsigned peers_count;
    struct consensus_tcp_peer peers[CONSENSUS_VOTERS_MAX];
    struct sockaddr_storage bind_address;
    unsigned connect_timeout_ms, peer_timeout_ms;
    uv_tcp_t listener;
    bool listener_open, closing;
    uv_tcp_t spare; /* takes what no memory is found for, to close it */
    bool spare_open, accept_waits;
    struct consensus_link outgoing, incoming;
    unsigned incoming_count;
    raft_uv_accept_cb accept_cb;
    raft_uv_transport_close_cb close_cb;
};

/* Resolves the addresses (blocking). -EINVAL: not host:port; -EHOSTUNREACH. */
int consensus_tcp_init(struct consensus_tcp *tcp, uv_loop_t *loop, const struct consensus_config *config);

#endif
