/* SPDX-License-Identifier: Apache-2.0 */
/* gateway, hostile clients: whatever one of them sends costs it its own link at most. */
#include "tests/unit/gateway/gateway_rig.h"

#include <errno.h>
#include <string.h>

#include "common/prng.h"

#define MIB (1ull << 20)

/* The well-behaved neighbour must notice nothing. */
static void check_neighbour(struct rig *rig, struct rig_client *neighbour)
{
    uint64_t id = rig_read(neighbour, 0, 4096);
    assert_false(neighbour->closed);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(neighbour, id), 0);
}

static void malformed_frames_cost_the_link(void **state)
{
    (void)state;
    static const struct {
        uint16_t opcode;
        uint64_t offset, length;
        uint32_t body_len, payload_len;
    } cases[] = {
        {WIRE_READ, 0, 0, 0, 0},
        {WIRE_READ, 512, 4096, 0, 0},
        {WIRE_READ, 0, 1000, 0, 0},
        {WIRE_READ, MIB - 4096, 8192, 0, 0}, /* crosses a chunk */
        {WIRE_READ, 0, 2 * MIB, 0, 0},
        {WIRE_READ, 0, 4096, 4, 0},
        {WIRE_READ, 0, 4096, 0, 4096},
        {WIRE_READ, UINT64_MAX - 4095, 4096, 0, 0},
        {WIRE_WRITE, 0, 4096, 4, 0},
        {WIRE_WRITE, 0, 4096, 0, 4096},
        {WIRE_WRITE, 0, 4096, 8, 4096},
        {WIRE_WRITE, 0, 8192, 8, 4096},
        {WIRE_WRITE, 0, 6000, 8, 6000},
        {WIRE_WRITE, 4000, 200, 4, 200}, /* crosses a block */
        {WIRE_WRITE, MIB - 4096, 8192, 8, 8192},
        {WIRE_ZERO, 0, 17 * MIB, 0, 0},
        {WIRE_ZERO, 15 * MIB, 2 * MIB, 0, 0},
        {WIRE_ZERO, 0, 100, 0, 0},
        {WIRE_ZERO, UINT64_MAX - 4095, UINT64_MAX - 4095, 0, 0},
        {WIRE_EXTENTS, 0, 64 * MIB, 0, 0},
        {WIRE_EXTENTS, 0, 0, 0, 0},
        {WIRE_FLUSH, 0, 0, 8, 0},
        {WIRE_REPLICATE, 0, 4096, 0, 4096},
        {WIRE_RAISE, 0, 0, 0, 0},
        {WIRE_HELLO, 0, 0, 0, 0},
        {WIRE_ATTACH, 0, 0, 10, 0},
        {WIRE_READ | 1, 0, 4096, 0, 0},
        {WIRE_CTL_ADMIN, 0, 0, 10, 0},
    };
    struct rig *rig = rig_create(1);
    uint8_t body[64] = {0}, payload[8192] = {0};
    rig_volume(rig, "vol", 1, 1);
    rig_volume(rig, "good", 1, 1);
    struct rig_client *good = rig_attach(rig, "good", 1, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig_client *c = rig_attach(rig, "vol", 7, i ? WIRE_F_FAILOVER : 0);
        struct wire_header header = {.opcode = cases[i].opcode,
                                     .session = c->session,
                                     .offset = cases[i].offset,
                                     .length = cases[i].length,
                                     .body_len = cases[i].body_len,
                                     .payload_len = cases[i].payload_len};
        (void)rig_send(c, &header, body, payload);
        rig_run_ms(rig, 10);
        assert_true(c->closed);
        rig_hang_up(c);
        check_neighbour(rig, good);
    }
    rig_hang_up(good);
    assert_int_equal(gateway_client_count(rig->gateway), 0);
    rig_destroy(rig);
}

static void sessions_are_checked(void **state)
{
    (void)state;
    struct rig *rig = rig_create(2);
    rig_volume(rig, "vol", 1, 1);
    rig_volume(rig, "good", 1, 1);
    struct rig_client *good = rig_attach(rig, "good", 1, 0);
    struct rig_client *c = rig_connect(rig); /* no session */
    (void)rig_read(c, 0, 4096);
    rig_run_ms(rig, 10);
    assert_true(c->closed);
    rig_hang_up(c);
    c = rig_attach(rig, "vol", 7, 0);
    c->session = 99; /* not its own */
    (void)rig_read(c, 0, 4096);
    rig_run_ms(rig, 10);
    assert_true(c->closed);
    rig_hang_up(c);
    c = rig_attach(rig, "vol", 7, WIRE_F_FAILOVER);
    struct wire_header header = {
        .opcode = WIRE_READ, .session = c->session, .length = 4096, .dst_incarnation = 4242}; /* R1 */
    (void)rig_send(c, &header, NULL, NULL);
    rig_run_ms(rig, 10);
    assert_true(c->closed);
    rig_hang_up(c);
    assert_int_equal(rig->op_count, 0);
    check_neighbour(rig, good);
    rig_hang_up(good);
    rig_destroy(rig);
}

static void bounds_are_told(void **state)
{
    (void)state;
    struct rig *rig = rig_create(3);
    rig_volume(rig, "vol", 2, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, WIRE_F_READ_ONLY);
    assert_int_equal(rig_status(c, rig_read(c, 2 * RIG_SHARD_BYTES, 4096)), -EINVAL);
    assert_int_equal(rig_status(c, rig_read(c, 1ull << 60, 4096)), -EINVAL);
    assert_int_equal(rig_status(c, rig_write(c, 0, 4096, 1)), -EROFS);
    assert_int_equal(rig_status(c, rig_op(c, WIRE_ZERO, 0, 4096)), -EROFS);
    uint64_t id = rig_read(c, 2 * RIG_SHARD_BYTES - 4096, 4096);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: a client that ignores its window is not read from any further, and others are served meanwhile. */
static void window_is_enforced(void **state)
{
    (void)state;
    struct rig *rig = rig_create(4);
    uint64_t ids[40];
    rig_volume(rig, "vol", 1, 1);
    rig_volume(rig, "good", 1, 1);
    struct rig_client *good = rig_attach(rig, "good", 1, 0), *c = rig_attach(rig, "vol", 7, 0);
    for (int i = 0; i < 40; i++)
        ids[i] = rig_write(c, 0, 4096, (uint8_t)i);
    rig_run_ms(rig, 100);
    assert_int_equal(rig->op_count, RIG_INFLIGHT_COUNT + 1);
    uint64_t id = rig_read(good, 0, 4096);
    rig_run_ms(rig, 10);
    struct replica_op *op = list_entry(rig->ops.prev, struct replica_op, link);
    assert_int_equal(op->opcode, WIRE_READ);
    rig_complete(rig, op, 0);
    assert_int_equal(rig_status(good, id), 0);
    for (int i = 0; i < 40; i++) {
        rig_complete(rig, rig_first_op(rig), 0);
        assert_int_equal(rig_status(c, ids[i]), 0);
    }
    for (int i = 0; i < 8; i++) /* by bytes */
        ids[i] = rig_write(c, 0, MIB, 1);
    rig_run_ms(rig, 200);
    assert_int_equal(rig->op_count, 40 + 1 + RIG_INFLIGHT_BYTES / MIB + 1);
    for (int i = 0; i < 8; i++) {
        rig_complete(rig, rig_first_op(rig), 0);
        assert_int_equal(rig_status(c, ids[i]), 0);
    }
    rig_hang_up(c);
    rig_hang_up(good);
    rig_destroy(rig);
}

/* Goal: all clients together leave half of the buffers to the peers. */
static void clients_share_half_of_the_buffers(void **state)
{
    (void)state;
    struct rig *rig = rig_create(5);
    struct rig_client *c[8];
    char name[8] = "vol0";
    struct buf_pool_stats stats;
    for (int i = 0; i < 8; i++) {
        name[3] = (char)('0' + i);
        rig_volume(rig, name, 1, 1);
        c[i] = rig_attach(rig, name, (uint8_t)(i + 1), 0);
        for (int k = 0; k < 8; k++)
            (void)rig_write(c[i], 0, MIB, 1);
    }
    rig_run_ms(rig, 500);
    buf_pool_stats(rig->bufs, &stats);
    /* Half, one frame more for each client, and one that is being received. */
    assert_true(stats.used_bytes <= RIG_POOL_BYTES / 2 + 9 * MIB);
    for (int done = 0; done < 64; done++) {
        rig_complete(rig, rig_first_op(rig), 0);
        rig_run_ms(rig, 2);
    }
    for (int i = 0; i < 8; i++)
        rig_hang_up(c[i]);
    rig_destroy(rig);
}

/* A client that asks and never reads is closed; its answers do not pile up without bound. */
static void client_that_takes_no_answers_is_closed(void **state)
{
    (void)state;
    struct rig *rig = rig_create(6);
    struct buf_pool_stats stats;
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    link_pause(c->link, true);
    for (int i = 0; i < 200; i++)
        (void)rig_read(c, 0, MIB);
    for (int i = 0; i < 40000; i++) {
        while (!list_empty(&rig->ops))
            rig_complete(rig, list_entry(rig->ops.next, struct replica_op, link), 0);
        rig_run_ms(rig, 1);
        buf_pool_stats(rig->bufs, &stats);
        assert_true(stats.used_bytes <= 3 * RIG_INFLIGHT_BYTES + 2 * MIB);
    }
    assert_int_equal(gateway_client_count(rig->gateway), 0);
    if (!c->closed)
        link_pause(c->link, false);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: no sequence of well-framed nonsense trips an assertion. Method: random headers, bodies and payloads. */
static void random_frames(void **state)
{
    (void)state;
    static const uint16_t opcodes[] = {WIRE_HELLO, WIRE_PING,  WIRE_ATTACH, WIRE_DETACH, WIRE_VOLUME_LIST,
                                       WIRE_READ,  WIRE_WRITE, WIRE_ZERO,   WIRE_FLUSH,  WIRE_EXTENTS};
    struct rig *rig = rig_create(7);
    struct prng prng;
    static uint8_t noise[8192];
    prng_seed(&prng, 5);
    rig_volume(rig, "vol", 2, 1);
    rig_volume(rig, "far", 2, 2);
    for (int round = 0; round < 150; round++) {
        struct rig_client *c = rig_attach(rig, prng_below(&prng, 2) ? "vol" : "far", 7, WIRE_F_FORCE);
        for (int i = 0; i < 20; i++) {
            struct wire_header header = {
                .opcode = opcodes[prng_below(&prng, sizeof(opcodes) / sizeof(opcodes[0]))],
                .flags = (uint32_t)prng_next(&prng),
                .session = prng_below(&prng, 8) ? c->session : prng_next(&prng),
                .offset = prng_below(&prng, 3) ? prng_below(&prng, 70) * MIB / 2 : prng_next(&prng),
                .length = prng_below(&prng, 3) ? 4096 * prng_below(&prng, 4) : prng_next(&prng),
                .aux = prng_next(&prng),
            };
            if (header.opcode == WIRE_WRITE && prng_below(&prng, 4)) {
                header.payload_len = (uint32_t)(header.length <= 8192 ? header.length : 4096);
                header.body_len = header.payload_len / 1024;
            } else if (prng_below(&prng, 6) == 0) {
                header.body_len = (uint32_t)prng_below(&prng, 300);
            }
            (void)rig_send(c, &header, noise, noise);
        }
        rig_run_ms(rig, 5);
        while (!list_empty(&rig->ops) && prng_below(&prng, 10))
            rig_complete(rig, list_entry(rig->ops.next, struct replica_op, link), prng_below(&prng, 2) ? 0 : -ESTALE);
        while (!list_empty(&rig->requests))
            rig_peer_lost(rig, list_entry(rig->requests.next, struct peer_request, link));
        if (prng_below(&prng, 20) == 0)
            rig_move(rig, "far", 0, rig_find(rig, "far")->shards[0].primary == 2 ? 3 : 2);
        rig_hang_up(c);
    }
    rig->up[2] = rig->up[3] = false;
    rig_destroy(rig);
}

static void close_with_everything_in_flight(void **state)
{
    (void)state;
    struct rig *rig = rig_create(8);
    rig_volume(rig, "vol", 1, 1);
    rig_volume(rig, "far", 1, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0), *d = rig_attach(rig, "far", 8, 0);
    for (int i = 0; i < 5; i++) {
        (void)rig_write(c, 0, 4096, 1);
        (void)rig_read(c, 0, 4096);
        (void)rig_read(d, 0, 4096);
        (void)rig_op(d, WIRE_FLUSH, 0, 0);
    }
    rig_run_ms(rig, 20);
    rig->up[2] = false;
    (void)rig_read(d, 0, 4096); /* parked */
    rig_run_ms(rig, 20);
    rig_close_gateway(rig);
    rig_run_ms(rig, 20);
    while (!list_empty(&rig->requests))
        rig_peer_lost(rig, list_entry(rig->requests.next, struct peer_request, link));
    assert_true(c->closed && d->closed);
    rig_hang_up(c);
    rig_hang_up(d);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_frames_cost_the_link),
        cmocka_unit_test(sessions_are_checked),
        cmocka_unit_test(bounds_are_told),
        cmocka_unit_test(window_is_enforced),
        cmocka_unit_test(clients_share_half_of_the_buffers),
        cmocka_unit_test(client_that_takes_no_answers_is_closed),
        cmocka_unit_test(random_frames),
        cmocka_unit_test(close_with_everything_in_flight),
    };
    return cmocka_run_group_tests_name("gateway/hostile", tests, NULL, NULL);
}
