/* SPDX-License-Identifier: Apache-2.0 */
/* stream: what tcp_ring and tcp_uv share: the life of a link and of a listener, above the system calls.
 *
 * Concept: a stream_link owns a frame_rx and a frame_tx and walks CONNECTING -> OPEN -> CLOSING -> freed. The I/O side
 *   (struct stream_io) moves bytes; it reports by stream_link_connected, _received, _sent, _gone.
 * Threading: the transport's loop. Errors: an I/O error closes the link with it as reason.
 * Ownership: links and listeners are allocated by the I/O side with the stream part first, and freed here once
 *   everything in flight was reaped (stream_link_gone).
 */
#ifndef ASHLAR_COMMON_TRANSPORT_STREAM_H
#define ASHLAR_COMMON_TRANSPORT_STREAM_H

#include "common/env.h"
#include "common/list.h"
#include "common/transport.h"
#include "common/transport/frame.h"
#include "common/transport/socket.h"

#define STREAM_CONNECT_TIMEOUT_MS 2000u
#define STREAM_LINKS_MAX 4096u
#define STREAM_ACCEPT_RETRY_MS 100u

/* For owners of a transport made by transport_ring_create or transport_uv_create: */
void stream_transport_shutdown(struct transport *transport);     /* closes every link and listener; callbacks follow */
size_t stream_transport_live(const struct transport *transport); /* links and listeners not yet gone */
/* Asserts that none is live (turn the loop after a shutdown) and that every msg came back; accepts NULL. */
void stream_transport_destroy(struct transport *transport);
/* A simulated crash: frees links, listeners, messages and the transport without a callback; the env forgot its timers
 * and tasks before. */
void stream_transport_abandon(struct transport *transport);
void stream_transport_set_connect_timeout(struct transport *transport, uint64_t timeout_ns);

/* For the I/O sides: */
struct stream_transport;
struct stream_link;
struct stream_listener;

struct stream_io {
    size_t link_bytes, listener_bytes;
    bool receives_at_once; /* nothing of a receive is left to the kernel: payloads may be placed (transport.h) */
    /* Ends by stream_link_connected, later; or -errno. */
    int (*connect)(struct stream_link *link, const char *address);
    int (*open)(struct stream_link *link);  /* an accepted link, fd is set; 0 or -errno */
    void (*kick)(struct stream_link *link); /* read if stream_link_wants_read, send if stream_link_wants_send */
    void (*stop)(struct stream_link *link); /* take back what is in flight; ends by stream_link_gone */
    /* 1 and a message, 0 or -errno, as frame_rx_next, for a side that parses by itself; NULL: frame_rx does. */
    int (*next)(struct stream_link *link, uint64_t now_ns, struct msg **ret_msg);
    int (*listen)(struct stream_listener *listener, const char *address); /* sets listener->text */
    void (*listen_again)(struct stream_listener *listener);               /* go on accepting (stream_socket.c) */
    void (*listen_stop)(struct stream_listener *listener);                /* ends by stream_listener_gone */
};

enum stream_state {
    STREAM_CONNECTING = 1, /* stream_link_connected -> OPEN or CLOSING */
    STREAM_OPEN,           /* link_close, an error or the peer -> CLOSING */
    STREAM_CLOSING,        /* stream_link_gone -> freed */
};

struct stream_transport {
    struct transport base; /* first */
    struct env *env;
    const struct stream_io *io;
    void *loop; /* the I/O side's */
    struct frame_pool *frames;
    struct list_node links, listeners;
    size_t link_count, listener_count;
    uint64_t connect_timeout_ns;
};

struct stream_link {
    struct link base; /* first */
    struct stream_transport *transport;
    struct list_node node;
    const struct link_callbacks *callbacks;
    void *owner;
    struct frame_rx rx;
    struct frame_tx tx;
    struct env_task resume_task;
    struct env_timer connect_timer;
    struct buf_waiter pool_waiter;
    enum stream_state state;
    int reason;
    int fd;
    bool paused;  /* by link_pause */
    bool starved; /* no buffer: waits for the pool */
    bool reading; /* a receive is in flight: set by the I/O side */
    bool reaped;  /* nothing is in flight any more, and never will be */
    char peer[SOCKET_ADDRESS_CHARS];
};

struct stream_listener {
    struct listener base; /* first */
    struct stream_transport *transport;
    struct list_node node;
    transport_accept_cb cb;
    void *arg;
    int fd;
    bool closing;
    struct env_timer retry_timer;
    struct env_task gone_task;
    struct socket_address address;
    char text[SOCKET_ADDRESS_CHARS];
};

struct stream_transport *stream_transport_create(const struct stream_io *io, struct env *env, struct buf_pool *bufs,
                                                 void *loop);
bool stream_link_wants_read(const struct stream_link *link);
bool stream_link_wants_send(const struct stream_link *link);
void stream_link_connected(struct stream_link *link, int rc);
void stream_link_received(struct stream_link *link, ssize_t bytes_or_error); /* 0: end of file */
void stream_link_arrived(struct stream_link *link); /* of a side with next: there may be something */
void stream_link_sent(struct stream_link *link, ssize_t bytes_or_error);
void stream_link_retry(struct stream_link *link); /* the operation was interrupted */
void stream_link_gone(struct stream_link *link);  /* a task then calls closed and frees */
/* A new link, told to the accept callback. 0, or -errno and the descriptor (-1: none) is still the caller's. */
int stream_listener_offer(struct stream_listener *listener, int fd, const char *peer);
void stream_listener_gone(struct stream_listener *listener);

/* For I/O sides over descriptors (stream_socket.c): */
int stream_socket_connect(struct stream_link *link, const char *text, bool nonblocking,
                          struct socket_address *ret_address); /* makes link->fd; the call to connect is left */
int stream_socket_listen(struct stream_listener *listener, const char *text, bool nonblocking);
void stream_socket_accepted(struct stream_listener *listener, int fd_or_error); /* given; then listen_again */
void stream_socket_unlisten(struct stream_listener *listener);                  /* part of listen_stop */

#endif
