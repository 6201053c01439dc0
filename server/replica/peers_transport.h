/* SPDX-License-Identifier: Apache-2.0 */
/* peers_transport: by which transport daemons link to each other. A plain choice of the configuration; no threads, no
 * errors, nothing owned. */
#ifndef ASHLAR_SERVER_REPLICA_PEERS_TRANSPORT_H
#define ASHLAR_SERVER_REPLICA_PEERS_TRANSPORT_H

enum peers_transport {
    PEERS_TRANSPORT_AUTO = 0, /* RDMA where both ends have it, else TCP */
    PEERS_TRANSPORT_RDMA,     /* RDMA or no link */
    PEERS_TRANSPORT_TCP,
};

#endif
