/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links between voters: see consensus_tcp_uv.h.
 *
 * The happy path of a link:
 *  - tcp_connect() opens a socket with a timer beside it, connects, writes the
 *    handshake, closes the timer and hands the stream to libraft.
 *  - On the other side accept_link() reads exactly the handshake, checks it,
 *    closes its timer and hands the stream to libraft.
 *
 * Failure modes:
 *  - The peer is down: refused at once, tried again after connect_retry_ms.
 *  - The peer is silent (no power, cable): the timer gives up after
 *    connect_timeout_ms; the kernel alone would retry for two minutes, with
 *    pauses of up to half a minute after the peer is back.
 *  - An open link goes silent: TCP_USER_TIMEOUT breaks it for the sender,
 *    keepalive for the receiver.
 *  - A stranger connects: at most CONSENSUS_TCP_ACCEPTING_MAX undecided ones,
 *    each for connect_timeout_ms, 32 bytes read, no allocation by its word.
 *  - Closing: every attempt is called back with RAFT_CANCELED, then close_cb.
 */
#include "server/control/consensus_tcp_uv.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HANDSHAKE_MAGIC UINT64_C(0x3154464152485341)
#define LISTEN_BACKLOG 64
#define KEEPALIVE_IDLE_S 5
#define KEEPALIVE_PROBES 3

/* A link being set up, from either side. `stream` survives it on success. */
struct setup {
    struct consensus_tcp *tcp;
    uv_tcp_t *stream; /* raft_malloc'ed: libraft frees it with raft_free */
    uv_timer_t timer;
    unsigned handles_open;          /* of stream and timer */
    bool done;                      /* finish() was called */
    int status;                     /* RAFT_* */
    struct raft_uv_connect *wanted; /* outgoing */
    uv_connect_t connect;
    uv_write_t write;
    unsigned char handshake[CONSENSUS_TCP_HANDSHAKE_BYTES];
    size_t handshake_read; /* incoming */
    struct consensus_link link;
};

static void put_u64(unsigned char *at, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_u64(const unsigned char *at)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static const struct consensus_tcp_peer *find_peer(const struct consensus_tcp *tcp, uint64_t id)
{
    assert(tcp->peers_count <= CONSENSUS_VOTERS_MAX);
    for (unsigned i = 0; i < tcp->peers_count; i++)
        if (tcp->peers[i].id == id)
            return &tcp->peers[i];
    return NULL;
}

static void maybe_closed(struct consensus_tcp *tcp)
{
    if (!tcp->closing || tcp->listener_open || tcp->spare_open || !consensus_link_empty(&tcp->outgoing) ||
        !consensus_link_empty(&tcp->incoming) || tcp->close_cb == NULL)
        return;
    raft_uv_transport_close_cb cb = tcp->close_cb;
    assert(tcp->incoming_count == 0);
    tcp->close_cb = NULL;
    cb(&tcp->transport);
}

static void hand_over(struct setup *setup)
{
    struct consensus_tcp *tcp = setup->tcp;
    uv_stream_t *stream = setup->status == 0 ? (uv_stream_t *)setup->stream : NULL;
    assert(setup->done && setup->handles_open == 0);
    consensus_link_remove(&setup->link);
    if (setup->wanted != NULL) {
        setup->wanted->cb(setup->wanted, stream, setup->status);
    } else {
        assert(tcp->incoming_count > 0);
        tcp->incoming_count--;
        if (stream != NULL) {
            char address[CONSENSUS_RAFT_ADDRESS_MAX];
            uint64_t id = get_u64(setup->handshake + 8);
            snprintf(address, sizeof(address), "voter-%llu", (unsigned long long)id);
            tcp->accept_cb(&tcp->transport, id, address, stream);
        }
    }
    free(setup);
    maybe_closed(tcp);
}

static void timer_closed(uv_handle_t *handle);

static void stream_closed(uv_handle_t *handle)
{
    struct setup *setup = handle->data;
    assert(setup->status != 0);
    raft_free(handle);
    setup->stream = NULL;
    assert(setup->handles_open > 0);
    if (--setup->handles_open == 0)
        hand_over(setup);
}

static void close_stream(struct setup *setup)
{
    assert(setup->stream != NULL);
    setup->stream->data = setup;
    uv_close((uv_handle_t *)setup->stream, stream_closed);
}

static void timer_closed(uv_handle_t *handle)
{
    struct setup *setup = handle->data;
    assert(setup->handles_open > 0);
    if (setup->status == 0 && setup->tcp->closing) {
        /* Too late: libraft is closing, it must not be given a stream. */
        setup->status = RAFT_CANCELED;
        close_stream(setup);
        setup->handles_open++;
    }
    if (--setup->handles_open == 0)
        hand_over(setup);
}

/* Ends a setup; hand_over() follows when the handles are closed. */
static void finish(struct setup *setup, int status)
{
    if (setup->done)
        return;
    assert(setup->handles_open == 0);
    setup->done = true;
    setup->status = status;
    setup->handles_open = 1;
    uv_close((uv_handle_t *)&setup->timer, timer_closed);
    if (status != 0) {
        setup->handles_open++;
        close_stream(setup);
    }
}

static void setup_timeout(uv_timer_t *timer)
{
    finish(timer->data, RAFT_NOCONNECTION);
}

static struct setup *make_setup(struct consensus_tcp *tcp)
{
    struct setup *setup = calloc(1, sizeof(*setup));
    if (setup == NULL)
        return NULL;
    setup->stream = raft_malloc(sizeof(*setup->stream));
    if (setup->stream == NULL) {
        free(setup);
        return NULL;
    }
    setup->tcp = tcp;
    int rc = uv_tcp_init(tcp->loop, setup->stream);
    assert(rc == 0); /* no socket is made yet: cannot fail */
    setup->stream->data = setup;
    rc = uv_timer_init(tcp->loop, &setup->timer);
    assert(rc == 0);
    setup->timer.data = setup;
    rc = uv_timer_start(&setup->timer, setup_timeout, tcp->connect_timeout_ms, 0);
    assert(rc == 0);
    return setup;
}

/* Best effort: a link without these works, it only breaks later. */
static void tune_socket(const struct consensus_tcp *tcp, uv_tcp_t *stream)
{
    int fd = -1;
    unsigned timeout_ms = tcp->peer_timeout_ms;
    int probes = KEEPALIVE_PROBES;
    int interval = 1;
    assert(stream != NULL);
    (void)uv_tcp_nodelay(stream, 1);
    (void)uv_tcp_keepalive(stream, 1, KEEPALIVE_IDLE_S);
    if (uv_fileno((const uv_handle_t *)stream, &fd) != 0)
        return;
    assert(fd >= 0);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static void handshake_written(uv_write_t *write, int status)
{
    struct setup *setup = write->data;
    assert(setup->wanted != NULL);
    finish(setup, status == 0 ? 0 : RAFT_NOCONNECTION);
}

static void connected(uv_connect_t *connect, int status)
{
    struct setup *setup = connect->data;
    struct consensus_tcp *tcp = setup->tcp;
    assert(setup->wanted != NULL);
    if (setup->done)
        return;
    if (status != 0) {
        finish(setup, RAFT_NOCONNECTION);
        return;
    }
    tune_socket(tcp, setup->stream);
    uv_buf_t buf = uv_buf_init((char *)setup->handshake, sizeof(setup->handshake));
    setup->write.data = setup;
    int rc = uv_write(&setup->write, (uv_stream_t *)setup->stream, &buf, 1, handshake_written);
    if (rc != 0)
        finish(setup, RAFT_NOCONNECTION);
}

static int tcp_connect(struct raft_uv_transport *transport, struct raft_uv_connect *req, raft_id id,
                       const char *address, raft_uv_connect_cb cb)
{
    struct consensus_tcp *tcp = transport->impl;
    const struct consensus_tcp_peer *peer = find_peer(tcp, id);
    (void)address; /* symbolic: the config knows where voters live today */
    assert(!tcp->closing);
    if (peer == NULL)
        return RAFT_NOCONNECTION;
    struct setup *setup = make_setup(tcp);
    if (setup == NULL)
        return RAFT_NOMEM;
    setup->wanted = req;
    req->cb = cb;
    put_u64(setup->handshake, HANDSHAKE_MAGIC);
    put_u64(setup->handshake + 8, tcp->id);
    put_u64(setup->handshake + 16, id);
    put_u64(setup->handshake + 24, tcp->cluster_hash);
    consensus_link_push(&tcp->outgoing, &setup->link);
    setup->connect.data = setup;
    int rc = uv_tcp_connect(&setup->connect, setup->stream, (const struct sockaddr *)&peer->address, connected);
    if (rc != 0) /* no route, no socket: called back like any failure, later */
        finish(setup, RAFT_NOCONNECTION);
    return 0;
}

static void give_handshake_buf(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct setup *setup = handle->data;
    (void)suggested;
    assert(setup->handshake_read < sizeof(setup->handshake));
    /* Not a byte more: what follows is libraft's to read. */
    *buf = uv_buf_init((char *)setup->handshake + setup->handshake_read,
                       (unsigned)(sizeof(setup->handshake) - setup->handshake_read));
}

static bool handshake_is_good(const struct consensus_tcp *tcp, const unsigned char *handshake)
{
    uint64_t id = get_u64(handshake + 8);
    assert(tcp->id != 0);
    return get_u64(handshake) == HANDSHAKE_MAGIC && id != tcp->id && find_peer(tcp, id) != NULL &&
           get_u64(handshake + 16) == tcp->id && get_u64(handshake + 24) == tcp->cluster_hash;
}

static void handshake_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct setup *setup = stream->data;
    (void)buf;
    if (nread == 0)
        return;
    if (nread < 0) {
        finish(setup, RAFT_NOCONNECTION);
        return;
    }
    setup->handshake_read += (size_t)nread;
    assert(setup->handshake_read <= sizeof(setup->handshake));
    if (setup->handshake_read < sizeof(setup->handshake))
        return;
    (void)uv_read_stop(stream);
    finish(setup, handshake_is_good(setup->tcp, setup->handshake) ? 0 : RAFT_NOCONNECTION);
}

static void accept_link(uv_stream_t *listener, int status);

static void spare_closed(uv_handle_t *handle)
{
    struct consensus_tcp *tcp = handle->data;
    assert(tcp->spare_open);
    tcp->spare_open = false;
    if (tcp->accept_waits && !tcp->closing) {
        tcp->accept_waits = false;
        accept_link((uv_stream_t *)&tcp->listener, 0);
    }
    maybe_closed(tcp);
}

/* libuv listens no further until a connection is accepted, memory or not. */
static void accept_and_drop(struct consensus_tcp *tcp, uv_stream_t *listener)
{
    assert(!tcp->closing);
    if (tcp->spare_open) {
        tcp->accept_waits = true;
        return;
    }
    int rc = uv_tcp_init(tcp->loop, &tcp->spare);
    assert(rc == 0);
    tcp->spare.data = tcp;
    tcp->spare_open = true;
    (void)uv_accept(listener, (uv_stream_t *)&tcp->spare);
    uv_close((uv_handle_t *)&tcp->spare, spare_closed);
}

static void accept_link(uv_stream_t *listener, int status)
{
    struct consensus_tcp *tcp = listener->data;
    if (status != 0 || tcp->closing)
        return;
    struct setup *setup = tcp->incoming_count < CONSENSUS_TCP_ACCEPTING_MAX ? make_setup(tcp) : NULL;
    if (setup == NULL) {
        accept_and_drop(tcp, listener);
        return;
    }
    assert(setup->wanted == NULL);
    consensus_link_push(&tcp->incoming, &setup->link);
    tcp->incoming_count++;
    int rc = uv_accept(listener, (uv_stream_t *)setup->stream);
    if (rc != 0) {
        finish(setup, RAFT_NOCONNECTION);
        return;
    }
    tune_socket(tcp, setup->stream);
    rc = uv_read_start((uv_stream_t *)setup->stream, give_handshake_buf, handshake_read);
    if (rc != 0)
        finish(setup, RAFT_NOCONNECTION);
}

static int tcp_init(struct raft_uv_transport *transport, raft_id id, const char *address)
{
    struct consensus_tcp *tcp = transport->impl;
    (void)address;
    assert(tcp->id == id);
    return 0;
}

static int tcp_listen(struct raft_uv_transport *transport, raft_uv_accept_cb cb)
{
    struct consensus_tcp *tcp = transport->impl;
    assert(!tcp->listener_open);
    tcp->accept_cb = cb;
    int rc = uv_tcp_init(tcp->loop, &tcp->listener);
    assert(rc == 0);
    tcp->listener.data = tcp;
    tcp->listener_open = true;
    rc = uv_tcp_bind(&tcp->listener, (const struct sockaddr *)&tcp->bind_address, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&tcp->listener, LISTEN_BACKLOG, accept_link);
    if (rc == 0)
        return 0;
    tcp->last_errno = rc; /* libuv's codes are -errno here */
    snprintf(transport->errmsg, sizeof(transport->errmsg), "listen: %s", uv_strerror(rc));
    return RAFT_IOERR;
}

static void listener_closed(uv_handle_t *handle)
{
    struct consensus_tcp *tcp = handle->data;
    assert(tcp->closing);
    tcp->listener_open = false;
    maybe_closed(tcp);
}

static void tcp_close(struct raft_uv_transport *transport, raft_uv_transport_close_cb cb)
{
    struct consensus_tcp *tcp = transport->impl;
    struct consensus_link *link;
    assert(!tcp->closing);
    tcp->closing = true;
    tcp->close_cb = cb;
    for (link = tcp->outgoing.next; link != &tcp->outgoing; link = link->next)
        finish((struct setup *)((char *)link - offsetof(struct setup, link)), RAFT_CANCELED);
    for (link = tcp->incoming.next; link != &tcp->incoming; link = link->next)
        finish((struct setup *)((char *)link - offsetof(struct setup, link)), RAFT_CANCELED);
    if (tcp->listener_open)
        uv_close((uv_handle_t *)&tcp->listener, listener_closed);
    maybe_closed(tcp);
}

/* "host:port" or "[v6]:port". */
static int resolve(const char *text, struct sockaddr_storage *ret)
{
    char host[CONSENSUS_ADDRESS_MAX];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    const char *colon = strrchr(text, ':');
    assert(strlen(text) < sizeof(host));
    if (colon == NULL || colon == text || colon[1] == '\0')
        return -EINVAL;
    size_t len = (size_t)(colon - text);
    if (text[0] == '[') {
        if (len < 3 || text[len - 1] != ']')
            return -EINVAL;
        text++;
        len -= 2;
    }
    memcpy(host, text, len);
    host[len] = '\0';
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0 || found == NULL)
        return -EHOSTUNREACH;
    assert(found->ai_addrlen <= sizeof(*ret));
    memset(ret, 0, sizeof(*ret));
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

static uint64_t hash_voters(const struct consensus_config *config)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    uint64_t last = 0;
    assert(config->voters_count <= CONSENSUS_VOTERS_MAX);
    for (unsigned done = 0; done < config->voters_count; done++) {
        uint64_t next = UINT64_MAX;
        for (unsigned i = 0; i < config->voters_count; i++)
            if (config->voters[i].id > last && config->voters[i].id < next)
                next = config->voters[i].id;
        for (unsigned i = 0; i < 8; i++)
            hash = (hash ^ ((next >> (8 * i)) & 0xff)) * UINT64_C(0x100000001b3);
        last = next;
    }
    return hash;
}

int consensus_tcp_init(struct consensus_tcp *tcp, uv_loop_t *loop, const struct consensus_config *config)
{
    assert(consensus_config_check(config) == 0);
    memset(tcp, 0, sizeof(*tcp));
    tcp->loop = loop;
    tcp->id = config->id;
    tcp->cluster_hash = hash_voters(config);
    tcp->connect_timeout_ms = config->connect_timeout_ms ? config->connect_timeout_ms : CONSENSUS_CONNECT_TIMEOUT_MS;
    tcp->peer_timeout_ms = config->peer_timeout_ms ? config->peer_timeout_ms : CONSENSUS_PEER_TIMEOUT_MS;
    consensus_link_init(&tcp->outgoing);
    consensus_link_init(&tcp->incoming);
    for (unsigned i = 0; i < config->voters_count; i++) {
        struct consensus_tcp_peer *peer = &tcp->peers[tcp->peers_count++];
        peer->id = config->voters[i].id;
        int rc = resolve(config->voters[i].address, &peer->address);
        if (rc < 0)
            return rc;
        if (peer->id == tcp->id)
            tcp->bind_address = peer->address;
    }
    if (config->bind_address != NULL) {
        if (strlen(config->bind_address) >= CONSENSUS_ADDRESS_MAX)
            return -EINVAL;
        int rc = resolve(config->bind_address, &tcp->bind_address);
        if (rc < 0)
            return rc;
    }
    tcp->transport = (struct raft_uv_transport){
        .impl = tcp,
        .init = tcp_init,
        .listen = tcp_listen,
        .connect = tcp_connect,
        .close = tcp_close,
    };
    assert(find_peer(tcp, tcp->id) != NULL);
    return 0;
}
