/* SPDX-License-Identifier: Apache-2.0 */
/* rdma: the RDMA side of the transport seam: reliable connections by rdma_cm, on the data thread's ring loop.
 *
 * Concept: links and listeners of common/transport.h at addresses "rdma:HOST:PORT". Small frames are SENDs into a shared
 *   receive queue, bounded by credits; a payload above RDMA_SEND_PAYLOAD_MAX is offered through a memory window and
 *   fetched by RDMA READ from buffer pool to buffer pool, where the device has type 2 windows; elsewhere it is sent in
 *   pieces. docs/internals/rdma.md has the protocol.
 * Threading: the loop's thread, except create. Errors: as in transport.h; create says -ENODEV where this host has no
 *   RDMA (or the build has none: -ENOSYS). What an operator can mend is logged in one line that says how.
 * Ownership: loop and pool are borrowed and outlive the transport; the pool's region is registered with each device that
 *   a link comes to use. End it by transport_rdma_shutdown, turns of the loop until transport_rdma_live is 0, and
 *   transport_rdma_destroy.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_RDMA_H
#define ASHLAR_COMMON_TRANSPORT_RDMA_H

#include "common/ring/ring.h"
#include "common/transport.h"

#define RDMA_LINKS_DEFAULT 16u
#define RDMA_CREDITS_DEFAULT 64u

struct transport_rdma_config {
    uint32_t links_max; /* of one device; 0: RDMA_LINKS_DEFAULT */
    uint32_t credits;   /* receive buffers of a link; 0: RDMA_CREDITS_DEFAULT */
    uint32_t spin_us;   /* look for completions this long before sleeping; 0: off */
    bool no_windows;    /* as on a device without type 2 memory windows; tests */
    const char *source; /* host that connections come from; NULL or "": as routed. Copied. */
};

struct transport_rdma_stats {
    uint64_t sends, sent_stream_bytes; /* SENDs posted; frame bytes in them */
    uint64_t control_sends;            /* of them without a frame: credits and done tags alone */
    uint64_t reads, read_bytes;        /* payloads fetched */
    uint64_t binds;                    /* payloads offered */
    uint64_t doorbells;                /* calls of ibv_post_send */
    uint64_t completions, wakeups;     /* work completions; completion events */
    uint64_t receives;
    uint64_t tx_copied_bytes; /* payload bytes copied before sending: small or foreign ones */
    uint64_t rx_copied_bytes; /* frame bytes copied out of receive buffers */
    uint64_t links_failed;    /* links that a work completion or the device ended */
    uint64_t offers_cut;      /* payloads that were on offer when their link ended */
};

int transport_rdma_create(struct ring_loop *loop, struct buf_pool *bufs, const struct transport_rdma_config *config,
                          struct transport **ret_transport);
/* What greetings say of this daemon. */
void transport_rdma_identify(struct transport *transport, uint32_t node, uint64_t incarnation);
void transport_rdma_shutdown(struct transport *transport);
size_t transport_rdma_live(const struct transport *transport); /* links, listeners, operations */
void transport_rdma_destroy(struct transport *transport);      /* asserts that none is live; accepts NULL */
void transport_rdma_stats(const struct transport *transport, struct transport_rdma_stats *ret_stats);
/* Logs what each connection waits for. */
void transport_rdma_show(const struct transport *transport);
/* "rxe1", "mlx5_0": the device a link runs on; "" before it is known. link must be of an RDMA transport. */
const char *transport_rdma_device(const struct link *link);

#endif
