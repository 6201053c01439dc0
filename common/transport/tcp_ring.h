/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_ring: TCP and unix sockets over a ring_loop: the data thread's transport.
 *
 * Concept: at most one receive and one send of a link in flight; what a turn queues on a link is one sendmsg.
 * Threading: the loop's thread. Errors: as in transport.h.
 * Ownership: loop and pool are borrowed and outlive the transport. End it by stream_transport_shutdown, turns of the
 *   loop until stream_transport_live is 0, and stream_transport_destroy (stream.h).
 */
#ifndef ASHLAR_COMMON_TRANSPORT_TCP_RING_H
#define ASHLAR_COMMON_TRANSPORT_TCP_RING_H

#include "common/ring/ring.h"
#include "common/transport.h"
#include "common/transport/stream.h"

int transport_ring_create(struct ring_loop *loop, struct buf_pool *bufs, struct transport **ret_transport);

#endif
