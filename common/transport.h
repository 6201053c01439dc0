/* SPDX-License-Identifier: Apache-2.0 */
/* transport: the seam that carries wire frames between processes.
 *
 * Concept: a transport makes links (connect) and accepts them (listen); a link carries whole frames, in order,
 *   until it closes. Implementations: TCP and unix sockets over libuv (tcp_uv: control thread, client library),
 *   TCP and unix sockets over io_uring (tcp_ring: data thread), RDMA, and the simulator's.
 * Threading: a transport belongs to one event loop; all calls and callbacks are on its thread.
 * Errors: a call returns 0 or -errno, or its callback comes exactly once later; never both, never inside the call.
 *   A broken frame, a limit overrun or garbage closes the link (reason -EBADMSG, -EMSGSIZE, -EPROTONOSUPPORT).
 * Ownership: link_send copies header and body and takes its own reference on the payload, whose bytes must not
 *   change until that reference is dropped. A received msg is given to the callback, which ends it by msg_free.
 *   A link is the transport's; after its closed callback the pointer is dead.
 */
#ifndef ASHLAR_COMMON_TRANSPORT_H
#define ASHLAR_COMMON_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/wire.h"

struct transport;
struct link;
struct listener;

/* A received frame. body is NULL iff body_len is 0 (it may live inside the allocation); payload is NULL iff
 * payload_len is 0, and starts 4 KiB aligned at payload->data. */
struct msg {
    struct wire_header header;
    uint8_t *body;
    struct buf *payload;
    uint64_t received_ns; /* env clock at which the header was parsed */
    struct msg *next;     /* free for the holder's queues */
    void (*release)(struct msg *self);
};

static inline void msg_free(struct msg *msg)
{
    if (msg)
        msg->release(msg);
}

struct link_callbacks {
    void (*connected)(struct link *link, void *owner);                /* connect only */
    void (*message)(struct link *link, void *owner, struct msg *msg); /* msg: given */
    void (*writable)(struct link *link, void *owner); /* after -EAGAIN: below the low mark again; may be NULL */
    /* Exactly once per link, also when connect fails or after link_close; reason 0 = closed here,
     * -ECONNREFUSED, -ECONNRESET, -EPIPE (end of file), -ETIMEDOUT, -EBADMSG, ... */
    void (*closed)(struct link *link, void *owner, int reason);
    /* May be NULL. Where the payload of a frame whose header came is to be put: a buffer of at least header->payload_len bytes
     * (one reference, given), or NULL: one of the pool. Asked by transports that receive on the loop's thread only (tcp_uv), so
     * that nothing is written to it once link_close was called. */
    struct buf *(*place)(struct link *link, void *owner, const struct wire_header *header);
};

/* owner and callbacks of an accepted link are set by the accept callback through link_set_owner. */
typedef void (*transport_accept_cb)(struct listener *listener, void *arg, struct link *link);

struct transport_ops {
    /* address: "tcp:HOST:PORT", "unix:PATH" (RDMA: "rdma:HOST:PORT"; simulator: "sim:NODE:PORT") */
    int (*connect)(struct transport *t, const char *address, const struct link_callbacks *callbacks, void *owner,
                   struct link **ret_link);
    /* port 0 picks a free one; listener_address tells which */
    int (*listen)(struct transport *t, const char *address, transport_accept_cb cb, void *arg,
                  struct listener **ret_listener);
    const char *(*listener_address)(struct listener *listener);
    void (*listener_close)(struct listener *listener); /* no accept after this returns */
    /* 0, -EAGAIN (more than LINK_QUEUE_BYTES_MAX queued and not forced), -ENOTCONN */
    int (*send)(struct link *link, const struct wire_header *header, const void *body, struct buf *payload,
                uint32_t payload_offset);
    void (*close)(struct link *link); /* idempotent; callbacks->closed follows; queued frames are dropped */
    void (*set_owner)(struct link *link, const struct link_callbacks *callbacks, void *owner);
    void (*pause)(struct link *link, bool paused); /* stop or go on reading: back-pressure */
    size_t (*queued_bytes)(const struct link *link);
    const char *(*peer_name)(const struct link *link); /* for logs */
};

#define LINK_QUEUE_BYTES_MAX (64u << 20)

struct transport {
    const struct transport_ops *ops;
};
struct link {
    struct transport *transport;
};
struct listener {
    struct transport *transport;
};

static inline int transport_connect(struct transport *t, const char *address, const struct link_callbacks *callbacks,
                                    void *owner, struct link **ret_link)
{
    return t->ops->connect(t, address, callbacks, owner, ret_link);
}
static inline int transport_listen(struct transport *t, const char *address, transport_accept_cb cb, void *arg,
                                   struct listener **ret_listener)
{
    return t->ops->listen(t, address, cb, arg, ret_listener);
}
static inline const char *listener_address(struct listener *listener)
{
    return listener->transport->ops->listener_address(listener);
}
static inline void listener_close(struct listener *listener)
{
    if (listener)
        listener->transport->ops->listener_close(listener);
}
/* header->body_len and payload_len must be set; body_crc, magic and version are filled in by the transport. */
static inline int link_send(struct link *link, const struct wire_header *header, const void *body, struct buf *payload,
                            uint32_t payload_offset)
{
    return link->transport->ops->send(link, header, body, payload, payload_offset);
}
static inline void link_close(struct link *link)
{
    link->transport->ops->close(link);
}
static inline void link_set_owner(struct link *link, const struct link_callbacks *callbacks, void *owner)
{
    link->transport->ops->set_owner(link, callbacks, owner);
}
static inline void link_pause(struct link *link, bool paused)
{
    link->transport->ops->pause(link, paused);
}
static inline size_t link_queued_bytes(const struct link *link)
{
    return link->transport->ops->queued_bytes(link);
}
static inline const char *link_peer_name(const struct link *link)
{
    return link->transport->ops->peer_name(link);
}

#endif
