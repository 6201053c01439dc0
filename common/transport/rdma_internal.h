/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_internal: what the files of the RDMA transport share: transport, device, connection.
 *
 * Concept: rdma_transport owns the rdma_cm event channel; rdma_device is one RDMA device with everything registered on it;
 *   rdma_conn is one queue pair, which outlives its link only within a call. Threading: the loop's thread.
 * Errors: 0 or -errno; foreign errors are translated where the call is made. Ownership: conn and device are the
 *   transport's; buffers that the device may touch are referenced by the conn's send queue or windows.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_RDMA_INTERNAL_H
#define ASHLAR_COMMON_TRANSPORT_RDMA_INTERNAL_H

#include <assert.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "common/list.h"
#include "common/map_u64.h"
#include "common/ring/ring.h"
#include "common/transport/rdma.h"
#include "common/transport/rdma_cut.h"
#include "common/transport/rdma_wire.h"
#include "common/transport/stream.h"

#define RDMA_SQ_DEPTH 256u   /* work requests of one connection in its send queue */
#define RDMA_BATCH_MAX 32u   /* of them posted by one doorbell */
#define RDMA_SIGNAL_EVERY 8u /* requests that hold no payload; the others always are (trap 8) */
#define RDMA_WINDOWS 32u     /* payloads a connection may have on offer */
#define RDMA_READ_DEPTH 16u  /* READs that the wire carries at a time (trap 2) */
#define RDMA_QUEUE_MAX 128u  /* messages parsed behind one whose READ is under way */
#define RDMA_LINKS_LIMIT 256u
#define RDMA_NO_SLOT UINT16_MAX

/* What an rdma_cm id belongs to: first field of conn and listener. */
enum rdma_owner { RDMA_OWNER_CONN = 1, RDMA_OWNER_LISTENER, RDMA_OWNER_NOBODY };

struct rdma_transport {
    struct stream_transport *stream;
    struct ring_loop *loop;
    struct env *env;
    struct buf_pool *bufs;
    struct transport_rdma_config config;
    char source[SOCKET_ADDRESS_CHARS];
    uint32_t node;
    uint64_t incarnation;
    struct rdma_event_channel *events;
    struct ring_op events_op;
    bool events_polled;
    bool closing;
    struct list_node devices, conns;
    struct list_node dirty;   /* conns with something to post */
    struct list_node doomed;  /* conns whose queue pair is to be destroyed */
    struct list_node arrived; /* conns that received something in this poll */
    struct env_task work_task;
    bool work_passed; /* the work task has let the other tasks of the turn pass */
    uint32_t conn_count;
    struct env_timer reap_timer;
    struct map_u64 by_number; /* conns */
    uint32_t next_number;
    struct rdma_conn *offered; /* during stream_listener_offer */
    struct transport_rdma_stats stats;
};

enum rdma_armed { RDMA_UNARMED, RDMA_ARMED_SOLICITED, RDMA_ARMED_ALL };

struct rdma_device {
    struct rdma_transport *transport;
    struct list_node node;
    struct ibv_context *verbs;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_srq *srq;
    struct ibv_mr *pool_mr, *slots_mr;
    uint8_t *slots; /* receive slots, then send slots */
    size_t slots_bytes;
    uint32_t receive_slots, send_slots;
    uint32_t credits_left; /* receive slots not promised to a connection */
    uint16_t *send_free;   /* stack of free send slots */
    uint32_t send_free_count;
    uint16_t *receive_bytes; /* of each filled receive slot */
    uint16_t *receive_next;  /* lists of filled slots */
    struct map_u64 by_qp;    /* conns by queue pair number */
    uint32_t conn_count;
    uint32_t all_count; /* conns that wait for other completions than receives */
    bool windows;       /* type 2 memory windows */
    bool solicited;     /* it can be armed for solicited completions alone */
    bool rxe;           /* the kernel's soft device: sends nothing again without need (rdma_conn.c, ACK_TIMEOUT_RXE) */
    bool removed;       /* the device went away: no new connection */
    uint32_t inline_bytes;
    uint32_t pieces_max;
    uint32_t read_depth;
    struct ring_op channel_op;
    bool channel_polled, channel_cancelled;
    struct rdma_cm_id *anchor; /* of a removed device: keeps the library's context of it until ours is taken down */
    enum rdma_armed armed;
    bool doubtful;      /* armed since the reap timer looked */
    uint64_t active_ns; /* last completion; spinning */
    struct env_timer spin_timer;
};

enum rdma_conn_state {
    RDMA_CONN_ADDRESS = 1, /* rdma_resolve_addr -> ROUTE */
    RDMA_CONN_ROUTE,       /* rdma_resolve_route -> CONNECTING */
    RDMA_CONN_CONNECTING,  /* rdma_connect, rdma_accept -> OPEN at ESTABLISHED */
    RDMA_CONN_OPEN,
    RDMA_CONN_DOOMED, /* rdma_conn_doom, from any; freed by the work task */
};

enum rdma_posted_kind { RDMA_POSTED_SEND = 1, RDMA_POSTED_BIND, RDMA_POSTED_READ, RDMA_POSTED_INVALIDATE };

#define RDMA_SENT_BUFS_MAX 8u

/* One work request in the send queue. What it refers to is let go when it, or a later one, completed. */
struct rdma_posted {
    enum rdma_posted_kind kind;
    uint16_t slot;   /* SEND */
    uint16_t window; /* BIND, INVALIDATE */
    uint32_t buf_count;
    struct buf *bufs[RDMA_SENT_BUFS_MAX]; /* SEND: gathered payloads */
};

enum rdma_window_state { RDMA_WINDOW_FREE = 0, RDMA_WINDOW_OFFERED, RDMA_WINDOW_DONE, RDMA_WINDOW_INVALIDATING };

/* A payload on offer: from the bind until the invalidation completed (trap 1). */
struct rdma_window {
    struct ibv_mw *mw;
    enum rdma_window_state state;
    uint32_t key; /* of the bind under way or done */
    uint32_t tag; /* index | use << 8 */
    struct buf *payload;
};

struct rdma_read {
    struct msg *msg;
    struct rdma_ref ref;
};

struct rdma_link {
    struct stream_link stream; /* first */
    struct rdma_conn *conn;    /* NULL once it is gone */
};

struct rdma_listener {
    struct stream_listener stream; /* first */
    struct rdma_listening {
        enum rdma_owner owner; /* first: the context of the id */
        struct rdma_listener *listener;
        struct rdma_cm_id *id; /* NULL: its device went away, a timer tries again */
    } listening;
    struct sockaddr_storage bound; /* with the port that it got */
};

struct rdma_conn {
    enum rdma_owner owner; /* first */
    enum rdma_conn_state state;
    struct rdma_transport *transport;
    struct rdma_device *device; /* NULL until resolved */
    struct rdma_cm_id *id;
    struct rdma_link *link;         /* NULL: not offered yet, or gone */
    struct rdma_listener *listener; /* passive side until offered */
    struct list_node node, dirty_node, doomed_node, arrived_node;
    uint32_t number;
    uint8_t responder_resources, initiator_depth; /* what the peer asked for; passive side */
    struct rdma_greeting peer;
    bool has_qp;
    bool reads; /* payloads go by reference, both ways */
    struct rdma_credit credit;
    /* send queue */
    uint32_t posted_first, posted_count; /* sequence number of the oldest; how many */
    uint32_t unsignalled;                /* of them, the last ones, of which none will complete by itself */
    struct rdma_posted posted[RDMA_SQ_DEPTH];
    struct rdma_window windows[RDMA_WINDOWS];
    uint16_t windows_free[RDMA_WINDOWS];
    uint32_t windows_free_count, windows_done_count;
    bool windows_due;      /* windows that are done waited long enough for something to go with */
    bool wants_completion; /* cannot go on before some send completed */
    bool all_counted;      /* in device->all_count */
    /* received */
    struct rdma_join join;
    uint16_t held_first, held_last; /* filled slots, in order; RDMA_NO_SLOT: none */
    uint16_t current;               /* the slot that join reads */
    struct msg *queue_first, *queue_last;
    uint32_t queue_count;
    struct rdma_read reads_ring[RDMA_WINDOWS_MAX];
    uint32_t reads_first, reads_count, reads_posted;
    uint32_t dones[RDMA_WINDOWS_MAX];
    uint32_t done_count;
    bool dones_due; /* they waited long enough for a frame */
    char peer_text[SOCKET_ADDRESS_CHARS];
};
/* What always holds of a connection and of a device. */
static inline void rdma_conn_assert(const struct rdma_conn *conn)
{
    assert(conn->owner == RDMA_OWNER_CONN && conn->transport != NULL);
    assert(conn->posted_count <= RDMA_SQ_DEPTH && conn->windows_free_count <= RDMA_WINDOWS);
    assert(conn->unsignalled <= conn->posted_count && conn->unsignalled < RDMA_SIGNAL_EVERY);
    assert(conn->reads_posted <= conn->reads_count && conn->reads_count <= RDMA_WINDOWS_MAX);
    assert(conn->done_count <= RDMA_WINDOWS_MAX && conn->queue_count <= RDMA_QUEUE_MAX);
}

static inline void rdma_device_assert(const struct rdma_device *device)
{
    assert(device->transport != NULL && device->verbs != NULL);
    assert(device->send_free_count <= device->send_slots && device->credits_left <= device->receive_slots);
}

/* rdma_device.c */
int rdma_device_get(struct rdma_transport *transport, struct ibv_context *verbs, struct rdma_device **ret_device);
void rdma_device_stop(struct rdma_device *device); /* ends its poll; freed by rdma_device_free when that came back */
void rdma_device_free(struct rdma_device *device);
/* NULL: nothing was registered there. */
struct rdma_device *rdma_device_lost(struct rdma_transport *transport, const struct ibv_context *verbs);
bool rdma_device_anchor(struct rdma_device *device, struct rdma_cm_id *id); /* true: the device destroys id */
uint8_t *rdma_device_slot(const struct rdma_device *device, uint32_t slot);
uint8_t *rdma_device_send_slot(const struct rdma_device *device, uint32_t slot);
void rdma_device_receive(struct rdma_device *device, uint16_t slot); /* posts it again */
/* rdma_poll.c */
void rdma_poll(struct rdma_device *device);
void rdma_poll_watch(struct rdma_device *device); /* the completion channel, through the ring */
void rdma_poll_wanted(struct rdma_conn *conn);    /* counts whether conn waits for more than receives */
void rdma_poll_reap_later(struct rdma_transport *transport);
#define RDMA_SEND_ID (UINT64_C(1) << 63) /* wr_id: this, conn number << 32, sequence; or a receive slot */

/* rdma_conn.c */
struct rdma_conn *rdma_conn_create(struct rdma_transport *transport, struct rdma_cm_id *id);
void rdma_conn_doom(struct rdma_conn *conn);
void rdma_conn_fail(struct rdma_conn *conn, int reason); /* its link hears why; then doomed */
void rdma_conn_destroy(struct rdma_conn *conn);
int rdma_conn_prepare(struct rdma_conn *conn); /* device and queue pair */
void rdma_conn_greet(const struct rdma_conn *conn, uint8_t out[RDMA_GREETING_BYTES]);
int rdma_conn_learn(struct rdma_conn *conn, const void *data, size_t bytes);
void rdma_conn_established(struct rdma_conn *conn);
void rdma_conn_dirty(struct rdma_conn *conn);
void rdma_conn_params(const struct rdma_conn *conn, const uint8_t *greeting, struct rdma_conn_param *ret_params);
/* rdma_events.c */
void rdma_events_watch(struct rdma_transport *transport);
int rdma_events_listen(struct rdma_listener *listener);
/* rdma_tx.c */
void rdma_tx_flush(struct rdma_conn *conn);
void rdma_tx_completed(struct rdma_conn *conn, uint32_t sequence);
void rdma_tx_drop(struct rdma_conn *conn); /* after the queue pair is destroyed */
/* rdma_rx.c */
void rdma_rx_received(struct rdma_conn *conn, uint16_t slot, uint32_t bytes);
int rdma_rx_next(struct rdma_conn *conn, uint64_t now_ns, struct msg **ret_msg);
void rdma_rx_read_done(struct rdma_conn *conn);
void rdma_rx_drop(struct rdma_conn *conn);
/* rdma_show.c */
void rdma_show_conn(const struct rdma_conn *conn); /* logs what it waits for */
/* rdma_error.c */
int rdma_error_of_status(enum ibv_wc_status status);
int rdma_error_of_event(enum rdma_cm_event_type event, int status);
void rdma_error_memlock(size_t bytes, int error); /* the one line */

#endif
