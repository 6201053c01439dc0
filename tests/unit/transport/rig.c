/* SPDX-License-Identifier: Apache-2.0 */
/* rig: sides, endpoints, patterns. Patterned frames: number n has request_id n, and bytes that follow from n. */
#include "tests/unit/transport/rig.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "common/env_uv.h"
#include "common/log.h"
#include "common/ring/ring.h"
#include "common/transport/rdma.h"
#include "common/transport/socket.h"
#include "common/transport/tcp_ring.h"
#include "common/transport/tcp_uv.h"
#include "tests/sim/transport_sim.h"
#include "tests/sim/world.h"

uint64_t rig_now_ms(void)
{
    struct timespec ts;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder))
        count++;
    (void)closedir(folder);
    return count;
}

/* libuv's first loop opens two descriptors for signals that stay: before they are counted. */
static void warm_up(void)
{
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void rig_accept(struct listener *listener, void *arg, struct link *link);

/* ---- RDMA */

bool rig_rdma_hosts(char listen[64], char connect[64])
{
    const char *given = getenv("ASHLAR_TEST_RDMA");
    return given && sscanf(given, "%63[^,],%63s", listen, connect) == 2;
}

static bool is_rdma(enum rig_loop loop)
{
    return loop == RIG_RDMA || loop == RIG_RDMA_PLAIN || loop == RIG_RDMA_SPIN;
}

static void rdma_open(struct rig_side *side, enum rig_loop loop, bool connects)
{
    char hosts[2][64];
    assert_true(rig_rdma_hosts(hosts[0], hosts[1]));
    struct transport_rdma_config config = {.links_max = 10,
                                           .credits = 32,
                                           .no_windows = loop == RIG_RDMA_PLAIN,
                                           .spin_us = loop == RIG_RDMA_SPIN ? RIG_SPIN_US : 0,
                                           .source = hosts[connects]};
    assert_int_equal(transport_rdma_create(side->ring, side->bufs, &config, &side->transport), 0);
    transport_rdma_identify(side->transport, connects ? 1 : 2, 7);
}

/* librdmacm opens the devices once a process, for good: before descriptors are counted. */
static void rdma_warm_up(void)
{
    static bool warm;
    char hosts[2][64], address[160];
    struct listener *listener = NULL;
    if (warm || !rig_rdma_hosts(hosts[0], hosts[1]))
        return;
    warm = true;
    struct rig_side side = {.loop = RIG_RDMA, .bufs = buf_pool_create(1 << 20)};
    struct ring_config ring = {.entries = 64, .seed = 1};
    assert_int_equal(ring_loop_create(&ring, &side.ring), 0);
    rdma_open(&side, RIG_RDMA, false);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(address, sizeof(address), "rdma:%s:0", hosts[i]);
        assert_int_equal(transport_listen(side.transport, address, rig_accept, NULL, &listener), 0);
    }
    transport_rdma_shutdown(side.transport);
    while (transport_rdma_live(side.transport) > 0)
        assert_int_equal(ring_loop_turn(side.ring, 1000000), 0);
    transport_rdma_destroy(side.transport);
    buf_pool_destroy(side.bufs);
    ring_loop_destroy(side.ring);
}

/* ---- sides */

static void side_open(struct rig *rig, struct rig_side *side, enum rig_loop loop, uint32_t bufs_bytes)
{
    side->loop = loop;
    side->bufs = buf_pool_create(bufs_bytes);
    assert_non_null(side->bufs);
    if (loop == RIG_RING || is_rdma(loop)) {
        struct ring_config config = {.entries = 64, .seed = 1};
        assert_int_equal(ring_loop_create(&config, &side->ring), 0);
        side->env = ring_loop_env(side->ring);
        if (is_rdma(loop))
            rdma_open(side, loop, side == &rig->a);
        else
            assert_int_equal(transport_ring_create(side->ring, side->bufs, &side->transport), 0);
    } else if (loop == RIG_UV) {
        side->uv = malloc(sizeof(*side->uv));
        assert_non_null(side->uv);
        assert_int_equal(uv_loop_init(side->uv), 0);
        assert_int_equal(env_uv_create(side->uv, 1, &side->env), 0);
        assert_int_equal(transport_uv_create(side->uv, side->env, side->bufs, &side->transport), 0);
    } else {
        side->node = world_node_add(rig->world);
        side->env = world_env_create(rig->world, side->node);
        assert_int_equal(transport_sim_create(rig->net, side->node, side->env, side->bufs, &side->transport), 0);
    }
}

static void side_turn(struct rig_side *side)
{
    if (side->ring)
        assert_int_equal(ring_loop_turn(side->ring, 20000), 0);
    else if (side->loop == RIG_UV)
        (void)uv_run(side->uv, UV_RUN_NOWAIT);
}

void rig_turn(struct rig *rig)
{
    if (rig->world) {
        if (!world_step(rig->world))
            world_run(rig->world, 1000000);
        return;
    }
    side_turn(&rig->a);
    side_turn(&rig->b);
}

void rig_never(const struct rig *rig, const char *condition)
{
    log_init(LOG_INFO, NULL);
    if (is_rdma(rig->a.loop))
        transport_rdma_show(rig->a.transport);
    if (is_rdma(rig->b.loop))
        transport_rdma_show(rig->b.transport);
    fail_msg("%s: never: %s", rig->kind->name, condition);
}

static void side_close(struct rig *rig, struct rig_side *side)
{
    if (is_rdma(side->loop))
        transport_rdma_shutdown(side->transport);
    stream_transport_shutdown(side->transport);
    rig_until(rig, stream_transport_live(side->transport) == 0);
    if (is_rdma(side->loop))
        rig_until(rig, transport_rdma_live(side->transport) == 0);
    if (is_rdma(side->loop))
        transport_rdma_destroy(side->transport);
    else if (side->loop == RIG_SIM)
        transport_sim_destroy(side->transport);
    else
        stream_transport_destroy(side->transport);
    buf_pool_destroy(side->bufs);
    if (side->loop == RIG_UV)
        env_uv_destroy(side->env);
}

static void side_free(struct rig_side *side)
{
    if (side->ring)
        ring_loop_destroy(side->ring);
    if (side->loop == RIG_UV) {
        (void)uv_run(side->uv, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(side->uv), 0); /* no handle left */
        free(side->uv);
    }
}

struct rig *rig_open(const struct rig_kind *kind, uint32_t bufs_bytes)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    rig->kind = kind;
    warm_up();
    if (is_rdma(kind->connector))
        rdma_warm_up();
    rig->descriptors = count_descriptors();
    (void)snprintf(rig->folder, sizeof(rig->folder), "/tmp/transport_test.XXXXXX");
    assert_non_null(mkdtemp(rig->folder));
    if (kind->connector == RIG_SIM) {
        struct sim_net_config config = {.tail_permille = 20, .tail_max_ns = 2000000};
        rig->world = world_create(42);
        rig->net = sim_net_create(rig->world, &config);
    }
    side_open(rig, &rig->a, kind->connector, bufs_bytes);
    side_open(rig, &rig->b, kind->acceptor, bufs_bytes);
    char hosts[2][64];
    if (is_rdma(kind->acceptor) && rig_rdma_hosts(hosts[0], hosts[1]))
        (void)snprintf(rig->listen_address, sizeof(rig->listen_address), "rdma:%s:0", hosts[0]);
    else if (kind->address)
        (void)snprintf(rig->listen_address, sizeof(rig->listen_address), "%s", kind->address);
    else
        (void)snprintf(rig->listen_address, sizeof(rig->listen_address), "unix:%s/socket", rig->folder);
    return rig;
}

void rig_close(struct rig *rig)
{
    side_close(rig, &rig->a);
    side_close(rig, &rig->b);
    side_free(&rig->a);
    side_free(&rig->b);
    sim_net_destroy(rig->net);
    world_destroy(rig->world);
    assert_int_equal(rmdir(rig->folder), 0); /* a unix path was unlinked */
    assert_int_equal(count_descriptors(), rig->descriptors);
    free(rig);
}

bool rig_is_raw(const struct rig *rig)
{
    return rig->world == NULL && !is_rdma(rig->a.loop);
}

/* ---- endpoints */

static uint8_t pattern(uint64_t number, uint64_t at)
{
    return (uint8_t)((number * 131 + at * 7 + (at >> 8) * 3) & 0xff);
}

static void check_pattern(const struct msg *msg, uint64_t number)
{
    const struct wire_header *header = &msg->header;
    assert_int_equal(header->request_id, number);
    for (uint32_t i = 0; i < header->body_len; i += i < 16 || i + 64 > header->body_len ? 1 : 61)
        if (msg->body[i] != pattern(number, i))
            fail_msg("body of %lu differs at %u of %u", (unsigned long)number, i, header->body_len);
    for (uint32_t i = 0; i < header->payload_len; i += i < 16 || i + 64 > header->payload_len ? 1 : 509)
        if (msg->payload->data[i] != pattern(number + 1, i))
            fail_msg("payload of %lu differs at %u of %u", (unsigned long)number, i, header->payload_len);
}

static void endpoint_connected(struct link *link, void *owner)
{
    struct endpoint *self = owner;
    assert_ptr_equal(self->link, link);
    assert_int_equal(self->connected + self->closed, 0);
    self->connected++;
    if (self->close_when_connected)
        link_close(link);
}

static void endpoint_message(struct link *link, void *owner, struct msg *msg)
{
    struct endpoint *self = owner;
    assert_ptr_equal(self->link, link);
    assert_int_equal(self->closed, 0);
    if (self->close_after)
        assert_true(self->messages < self->close_after); /* none after link_close */
    assert_true((msg->body != NULL) == (msg->header.body_len > 0));
    assert_true((msg->payload != NULL) == (msg->header.payload_len > 0));
    assert_true(msg->received_ns > 0);
    if (msg->payload)
        assert_int_equal((uintptr_t)msg->payload->data % BUF_ALIGN, 0);
    if (!self->no_check)
        check_pattern(msg, self->messages);
    self->messages++;
    self->bytes += WIRE_HEADER_BYTES + msg->header.body_len + msg->header.payload_len;
    if (self->hold) {
        assert_true(self->held_count < RIG_HELD_MAX);
        self->held[self->held_count++] = msg;
    } else {
        msg_free(msg);
    }
    if (self->messages == self->pause_after)
        link_pause(link, true);
    if (self->messages == self->close_after) {
        link_close(link);
        link_close(link);
    }
}

static void endpoint_writable(struct link *link, void *owner)
{
    struct endpoint *self = owner;
    assert_ptr_equal(self->link, link);
    assert_int_equal(self->closed, 0);
    self->writable++;
}

static void endpoint_closed(struct link *link, void *owner, int reason)
{
    struct endpoint *self = owner;
    assert_ptr_equal(self->link, link);
    assert_int_equal(self->closed, 0);
    self->closed++;
    self->reason = reason;
    self->link = NULL;
}

const struct link_callbacks endpoint_callbacks = {
    .connected = endpoint_connected,
    .message = endpoint_message,
    .writable = endpoint_writable,
    .closed = endpoint_closed,
};

int endpoint_send(struct endpoint *endpoint, uint32_t body_bytes, uint32_t payload_bytes)
{
    enum { PAYLOAD_AT = 512 }; /* payloads need not start where their buffer does */
    uint64_t number = endpoint->sent;
    uint8_t *body = malloc(body_bytes + 1);
    assert_non_null(body);
    for (uint32_t i = 0; i < body_bytes; i++)
        body[i] = pattern(number, i);
    struct wire_header header = {.opcode = WIRE_WRITE,
                                 .request_id = number,
                                 .body_len = body_bytes,
                                 .payload_len = payload_bytes,
                                 .length = payload_bytes};
    struct rig_side *side =
        endpoint->rig->a.transport == endpoint->link->transport ? &endpoint->rig->a : &endpoint->rig->b;
    struct buf *payload = NULL;
    uint32_t at = payload_bytes + PAYLOAD_AT <= BUF_BYTES_MAX ? PAYLOAD_AT : 0;
    if (payload_bytes > 0) {
        payload = buf_alloc(side->bufs, payload_bytes + at);
        if (!payload) {
            free(body);
            return -ENOBUFS;
        }
        for (uint32_t i = 0; i < payload_bytes; i++)
            payload->data[at + i] = pattern(number + 1, i);
    }
    int rc = link_send(endpoint->link, &header, body_bytes ? body : NULL, payload, at);
    buf_unref(payload);
    memset(body, 0xee, body_bytes + 1); /* it was copied */
    free(body);
    if (rc == 0)
        endpoint->sent++;
    return rc;
}

void endpoint_release(struct endpoint *endpoint)
{
    while (endpoint->held_count > 0)
        msg_free(endpoint->held[--endpoint->held_count]);
}

/* ---- connecting */

static void rig_accept(struct listener *listener, void *arg, struct link *link)
{
    struct rig *rig = arg;
    assert_ptr_equal(listener, rig->listener);
    assert_non_null(link_peer_name(link));
    rig->accepted++;
    if (!rig->accept_into)
        return;
    rig->accept_into->rig = rig;
    rig->accept_into->link = link;
    link_set_owner(link, &endpoint_callbacks, rig->accept_into);
    rig->accept_into = NULL;
}

void rig_listen(struct rig *rig)
{
    char address[sizeof(rig->listen_address)];
    if (rig->world)
        (void)snprintf(address, sizeof(address), "sim:%d:0", rig->b.node);
    else
        (void)snprintf(address, sizeof(address), "%s", rig->listen_address);
    assert_int_equal(transport_listen(rig->b.transport, address, rig_accept, rig, &rig->listener), 0);
    (void)snprintf(rig->listen_address, sizeof(rig->listen_address), "%s", listener_address(rig->listener));
}

void rig_connect_start(struct rig *rig, struct endpoint *a, const char *address)
{
    a->rig = rig;
    assert_int_equal(transport_connect(rig->a.transport, address, &endpoint_callbacks, a, &a->link), 0);
    assert_int_equal(a->connected + a->closed, 0); /* never inside the call */
}

void rig_connect(struct rig *rig, struct endpoint *a, struct endpoint *b)
{
    if (!rig->listener)
        rig_listen(rig);
    rig->accept_into = b;
    rig_connect_start(rig, a, rig->listen_address);
    rig_until(rig, a->connected && b->link);
    assert_int_equal(a->closed + b->closed, 0);
}

int rig_raw_connect(struct rig *rig)
{
    struct socket_address address;
    if (!rig->listener)
        rig_listen(rig);
    assert_int_equal(socket_address_parse(rig->listen_address, &address), 0);
    int fd = socket_create(&address, /* nonblocking= */ false);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, &address.any, address.bytes), 0);
    return fd;
}
