/* SPDX-License-Identifier: Apache-2.0 */
/* gateway, requests: to the primary, wherever it is; parked while there is none; answered once. */
#include "tests/unit/gateway/gateway_rig.h"

#include <errno.h>
#include <string.h>

#include "common/client_body.h"
#include "common/crc32c.h"

#define MIB (1ull << 20)

/* ---- local */

static void local_write_reaches_the_replica(void **state)
{
    (void)state;
    struct rig *rig = rig_create(1);
    rig_volume(rig, "vol", 2, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_write(c, RIG_SHARD_BYTES + 3 * MIB, 8192, 0x11);
    struct replica_op *op = rig_first_op(rig);
    assert_int_equal(op->opcode, WIRE_WRITE);
    assert_int_equal(op->volume, c->volume);
    assert_int_equal(op->session, c->session);
    assert_int_equal(op->shard, 1);
    assert_int_equal(op->offset, 3 * MIB);
    assert_int_equal(op->length, 8192);
    assert_int_equal(op->source.node, 0);
    assert_int_equal(op->buf->data[op->buf_offset + 8191], 0x11);
    assert_int_equal(op->crcs[1], crc32c(op->buf->data + 4096, 4096));
    assert_false(rig_answered(c, id));
    op->loss_number = 3;
    rig_complete(rig, op, 0);
    struct msg *msg = rig_answer(c, id);
    assert_int_equal(msg->header.opcode, WIRE_WRITE | 1);
    assert_int_equal(msg->header.status, 0);
    assert_int_equal(msg->header.shard, 1);
    assert_int_equal(msg->header.loss_number, 3); /* R13 */
    assert_int_equal(msg->header.stage_ns[1], 400);
    assert_int_equal(msg->header.stage_ns[2], 300);
    assert_int_equal(msg->header.stage_ns[3], 20);
    assert_true(msg->header.stage_ns[0] > 0);
    msg_free(msg);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void local_read_carries_data_and_checksums(void **state)
{
    (void)state;
    struct rig *rig = rig_create(2);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_read(c, 4096, MIB - 4096);
    rig_complete(rig, rig_first_op(rig), 0);
    struct msg *msg = rig_answer(c, id);
    assert_int_equal(msg->header.payload_len, MIB - 4096);
    assert_int_equal(msg->header.body_len, 255 * 4);
    assert_int_equal(msg->payload->data[5], 0x5a);
    assert_int_equal(client_get_u32(msg->body + 254 * 4), crc32c(msg->payload->data, 4096));
    msg_free(msg);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void flags_pass_through(void **state)
{
    (void)state;
    struct rig *rig = rig_create(3);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    struct wire_header header = {.opcode = WIRE_ZERO,
                                 .flags = WIRE_F_FUA | WIRE_F_NO_HOLE | WIRE_F_TAKEOVER,
                                 .session = c->session,
                                 .offset = 16 * MIB,
                                 .length = 16 * MIB};
    uint64_t id = rig_send(c, &header, NULL, NULL);
    struct replica_op *op = rig_first_op(rig);
    assert_int_equal(op->flags, WIRE_F_FUA | WIRE_F_NO_HOLE);
    assert_int_equal(op->length, 16 * MIB);
    rig_complete(rig, op, -ENOSPC);
    assert_int_equal(rig_status(c, id), -ENOSPC);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* ---- remote */

static struct wire_header read_answer(const struct rig *rig, uint32_t length)
{
    return (struct wire_header){.opcode = WIRE_READ | 1,
                                .length = length,
                                .payload_len = length,
                                .body_len = length / WIRE_BLOCK_BYTES * 4,
                                .map_version = map_version(rig->map),
                                .loss_number = 9,
                                .stage_ns = {0, 1000, 200, 300}};
}

static void remote_read_is_forwarded(void **state)
{
    (void)state;
    struct rig *rig = rig_create(4);
    static uint8_t data[8192];
    uint32_t crcs[2] = {0x01020304, 0x05060708};
    rig_volume(rig, "vol", 2, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_read(c, RIG_SHARD_BYTES + 4096, 8192);
    struct peer_request *request = rig_first_request(rig);
    assert_int_equal(request->node, 2);
    const struct wire_header *sent = rig_sent(rig, 0);
    assert_int_equal(sent->opcode, WIRE_READ);
    assert_int_equal(sent->shard, 1);
    assert_int_equal(sent->offset, 4096);
    assert_int_equal(sent->length, 8192);
    assert_int_equal(sent->session, c->session);
    assert_int_equal(sent->flags & WIRE_F_RETRY, 0);
    memset(data, 0x77, sizeof(data));
    struct wire_header header = read_answer(rig, sizeof(data));
    rig_peer_answer(rig, request, 0, &header, crcs, data);
    struct msg *msg = rig_answer(c, id);
    assert_int_equal(msg->header.status, 0);
    assert_int_equal(msg->header.loss_number, 9);
    assert_int_equal(msg->header.stage_ns[1], 1000);
    assert_int_equal(msg->payload->data[8191], 0x77);
    assert_memory_equal(msg->body, crcs, sizeof(crcs));
    msg_free(msg);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: a bounced request waits for the map version of the bounce, then goes where the map says by then (R7). */
static void bounce_waits_for_the_map(void **state)
{
    (void)state;
    struct rig *rig = rig_create(5);
    rig_volume(rig, "vol", 1, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_write(c, 0, 4096, 1);
    struct wire_header header = {.opcode = WIRE_WRITE | 1, .map_version = map_version(rig->map) + 2};
    rig_peer_answer(rig, rig_first_request(rig), -ESTALE, &header, NULL, NULL);
    assert_int_equal(gateway_parked_count(rig->gateway), 1);
    rig_run_ms(rig, 500);
    assert_int_equal(rig->sent_count, 1); /* not again before the map is as new as the bouncer's */
    rig_move(rig, "vol", 0, 3);
    rig_run_ms(rig, 200);
    assert_int_equal(rig->sent_count, 1);
    rig_activate(rig, "vol", 0);
    struct peer_request *request = rig_first_request(rig);
    assert_int_equal(request->node, 3);
    assert_int_equal(rig_sent(rig, 0)->flags & WIRE_F_RETRY, WIRE_F_RETRY);
    rig_peer_answer(rig, request, 0, &header, NULL, NULL);
    assert_int_equal(rig_status(c, id), 0);
    assert_int_equal(gateway_parked_count(rig->gateway), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: a lost link parks; the link's return, the map or time route again, here to the own replica. */
static void lost_link_parks(void **state)
{
    (void)state;
    struct rig *rig = rig_create(6);
    rig_volume(rig, "vol", 1, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_write(c, 0, 4096, 1);
    (void)rig_first_request(rig);
    rig->up[2] = false;
    rig_peer_lost(rig, rig_first_request(rig));
    rig_run_ms(rig, 1000);
    assert_int_equal(rig->sent_count, 1);
    rig->up[2] = true;
    gateway_peer_up(rig->gateway, 2);
    struct peer_request *request = rig_first_request(rig);
    assert_int_equal(rig->sent_count, 2);
    rig->up[2] = false;
    rig_peer_lost(rig, request);
    rig_node_down(rig, 2); /* the role moves to another member */
    uint32_t primary = rig_find(rig, "vol")->shards[0].primary;
    assert_true(primary == 1 || primary == 3);
    if (primary == 3) {
        rig_run_ms(rig, 100);
        struct wire_header header = {.opcode = WIRE_WRITE | 1};
        rig_peer_answer(rig, rig_first_request(rig), 0, &header, NULL, NULL);
    } else {
        struct replica_op *op = rig_first_op(rig);
        assert_int_equal(op->buf->data[0], 1); /* the payload was kept */
        rig_complete(rig, op, 0);
    }
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Also when nothing tells: a bounce that names no newer map is tried again after a short while. */
static void bounce_is_retried_by_time(void **state)
{
    (void)state;
    struct rig *rig = rig_create(7);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_write(c, 0, 4096, 1);
    for (int i = 0; i < 5; i++)
        rig_complete(rig, rig_first_op(rig), -ESTALE);
    assert_int_equal(gateway_parked_count(rig->gateway), 1);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, id), 0);
    assert_int_equal(rig->op_count, 6);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: a shard without a primary fails nothing. */
static void no_primary_parks(void **state)
{
    (void)state;
    struct rig *rig = rig_create(8);
    rig_volume(rig, "vol", 1, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig_node_down(rig, 3);
    rig_node_down(rig, 2);
    rig_node_down(rig, 1);
    assert_int_equal(rig_find(rig, "vol")->shards[0].primary, 0);
    uint64_t id = rig_read(c, 0, 4096);
    rig_run_ms(rig, 3000);
    assert_int_equal(rig->op_count, 0);
    assert_int_equal(rig->sent_count, 0);
    assert_false(rig_answered(c, id));
    struct bridge_volume_stats stats;
    assert_int_equal(gateway_stats(rig->gateway, &stats, 1), 1);
    assert_int_equal(stats.parked, 1);
    rig_hang_up(c);
    assert_int_equal(gateway_parked_count(rig->gateway), 0);
    rig_destroy(rig);
}

/* R19: nothing is sent again for a session that is not the newest. */
static void parked_requests_of_an_old_session_end(void **state)
{
    (void)state;
    struct rig *rig = rig_create(9);
    rig_volume(rig, "vol", 1, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig->up[2] = false;
    uint64_t parked = rig_write(c, 0, 4096, 1);
    rig_run_ms(rig, 20);
    rig_session(rig, "vol", 8);
    rig->up[2] = true;
    gateway_peer_up(rig->gateway, 2);
    assert_int_equal(rig_status(c, parked), -EPERM);
    assert_int_equal(rig_status(c, rig_read(c, 0, 4096)), -EPERM);
    assert_int_equal(rig->sent_count, 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void nonsense_of_a_primary_is_a_lost_answer(void **state)
{
    (void)state;
    struct rig *rig = rig_create(10);
    static uint8_t data[4096];
    uint32_t crc = 0;
    rig_volume(rig, "vol", 1, 2);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_read(c, 0, 8192);
    struct wire_header header = read_answer(rig, sizeof(data)); /* too short */
    rig_peer_answer(rig, rig_first_request(rig), 0, &header, &crc, data);
    assert_false(rig_answered(c, id));
    struct peer_request *request = rig_first_request(rig);
    assert_int_equal(rig->sent_count, 2);
    rig_peer_answer(rig, request, -EILSEQ, &(struct wire_header){.opcode = WIRE_READ | 1}, NULL, NULL);
    assert_int_equal(rig_status(c, id), -EILSEQ);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* A primary whose drive fails resigns: its EIO is no answer, unless it goes on and on. */
static void one_primarys_eio_is_retried(void **state)
{
    (void)state;
    struct rig *rig = rig_create(11);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_write(c, 0, 4096, 1);
    rig_complete(rig, rig_first_op(rig), -EIO);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, id), 0);
    id = rig_write(c, 0, 4096, 1);
    for (int i = 0; i < 21; i++)
        rig_complete(rig, rig_first_op(rig), -EIO);
    assert_int_equal(rig_status(c, id), -EIO);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void extents_stop_at_the_shard(void **state)
{
    (void)state;
    struct rig *rig = rig_create(12);
    rig_volume(rig, "vol", 2, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    struct msg *msg = rig_answer(c, rig_op(c, WIRE_EXTENTS, RIG_SHARD_BYTES - 16384, 2 * MIB));
    assert_int_equal(msg->header.status, 0);
    assert_int_equal(msg->header.length, 16384);
    assert_int_equal(msg->header.body_len, 16);
    assert_int_equal(client_get_u32(msg->body), 1);
    assert_int_equal(client_get_u32(msg->body + 4), 1);
    assert_int_equal(client_get_u32(msg->body + 8), 3);
    msg_free(msg);
    rig->extents_rc = -ESTALE; /* not serving yet */
    uint64_t id = rig_op(c, WIRE_EXTENTS, 0, MIB);
    assert_false(rig_answered(c, id));
    rig->extents_rc = 0;
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: without buffers reads wait, and go on as memory comes back. */
static void reads_wait_for_memory(void **state)
{
    (void)state;
    struct rig *rig = rig_create(13);
    struct buf *hog[RIG_POOL_BYTES >> 20];
    uint32_t count = 0;
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    while (count < RIG_POOL_BYTES >> 20 && (hog[count] = buf_alloc(rig->bufs, 1 << 20)))
        count++;
    assert_true(count > 4);
    uint64_t a = rig_read(c, 0, MIB), b = rig_read(c, MIB, MIB);
    rig_run_ms(rig, 200);
    assert_int_equal(rig->op_count, 0);
    buf_unref(hog[--count]);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, a), 0);
    rig_complete(rig, rig_first_op(rig), 0); /* with the memory of the first one */
    assert_int_equal(rig_status(c, b), 0);
    b = rig_read(c, 0, MIB);
    buf_unref(buf_ref(hog[0]));
    buf_unref(hog[--count]);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, b), 0);
    (void)rig_read(c, 0, MIB);
    (void)rig_read(c, 0, MIB);
    (void)rig_read(c, 0, MIB);
    rig_run_ms(rig, 20);
    rig_hang_up(c); /* while one of them waits */
    while (count > 0)
        buf_unref(hog[--count]);
    rig_destroy(rig);
}

static void deleted_volume_ends_what_waits(void **state)
{
    (void)state;
    struct rig *rig = rig_create(14);
    rig_volume(rig, "vol", 1, 2);
    rig_volume(rig, "other", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig->up[2] = false;
    uint64_t read = rig_read(c, 0, 4096), flush = rig_op(c, WIRE_FLUSH, 0, 0);
    rig_run_ms(rig, 20);
    rig_delete(rig, "vol");
    assert_int_equal(rig_status(c, read), -ENOENT);
    assert_int_equal(rig_status(c, flush), -ENOENT);
    assert_int_equal(rig_status(c, rig_read(c, 0, 4096)), -ENOENT);
    rig_hang_up(c);
    assert_int_equal(gateway_stats(rig->gateway, NULL, 0), 0);
    rig_destroy(rig);
}

/* ---- as primary for other gateways */

static void peers_request_is_served(void **state)
{
    (void)state;
    struct rig *rig = rig_create(15);
    static uint8_t data[4096];
    rig_volume(rig, "vol", 2, 1);
    uint64_t id = rig_find(rig, "vol")->id;
    uint32_t crc;
    memset(data, 3, sizeof(data));
    crc = crc32c(data, sizeof(data));
    struct wire_header write = {.opcode = WIRE_WRITE,
                                .flags = WIRE_F_FUA,
                                .volume = id,
                                .shard = 1,
                                .session = 5,
                                .offset = 4096,
                                .length = 4096,
                                .body_len = 4,
                                .payload_len = 4096};
    rig_peer_asks(rig, 2, &write, &crc, data);
    struct replica_op *op = rig_first_op(rig);
    assert_int_equal(op->shard, 1);
    assert_int_equal(op->session, 5);
    assert_int_equal(op->flags, WIRE_F_FUA);
    assert_int_equal(op->source.node, 2);
    assert_int_equal(op->source.connection, 77);
    assert_int_equal(op->crcs[0], crc);
    op->loss_number = 2;
    rig_complete(rig, op, 0);
    assert_int_equal(rig->reply_count, 1);
    assert_int_equal(rig->replies[0].header.status, 0);
    assert_int_equal(rig->replies[0].header.loss_number, 2);
    assert_int_equal(rig->replies[0].header.stage_ns[1], 400);
    struct wire_header read = {.opcode = WIRE_READ, .volume = id, .shard = 0, .offset = 0, .length = 4096};
    rig_peer_asks(rig, 3, &read, NULL, NULL);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig->replies[1].header.payload_len, 4096);
    assert_int_equal(rig->replies[1].first_byte, 0x5a);
    assert_int_equal(rig->replies[1].source.node, 3);
    struct wire_header flush = {.opcode = WIRE_FLUSH, .volume = id};
    rig_peer_asks(rig, 3, &flush, NULL, NULL);
    rig_complete(rig, rig_first_op(rig), -EIO);
    assert_int_equal(rig->replies[2].header.status, -EIO);
    struct wire_header extents = {.opcode = WIRE_EXTENTS, .volume = id, .length = MIB};
    rig_peer_asks(rig, 3, &extents, NULL, NULL);
    assert_int_equal(rig->replies[3].header.length, MIB);
    assert_int_equal(rig->replies[3].header.body_len, 16);
    rig_destroy(rig);
}

/* Goal: what this node cannot serve is bounced with the map version, at once; nonsense is refused. */
static void peers_request_is_bounced(void **state)
{
    (void)state;
    struct rig *rig = rig_create(16);
    rig_volume(rig, "vol", 1, 2);
    rig_volume(rig, "own", 1, 1);
    uint64_t id = rig_find(rig, "vol")->id, own = rig_find(rig, "own")->id;
    const struct {
        struct wire_header header;
        int status;
    } cases[] = {
        {{.opcode = WIRE_READ, .volume = id, .length = 4096}, -ESTALE},
        {{.opcode = WIRE_EXTENTS, .volume = id, .length = MIB}, -ESTALE},
        {{.opcode = WIRE_READ, .volume = 999, .length = 4096}, -ENOENT},
        {{.opcode = WIRE_READ, .volume = own, .shard = 1, .length = 4096}, -EINVAL},
        {{.opcode = WIRE_READ, .volume = own, .shard = UINT32_MAX, .length = 4096}, -EINVAL},
        {{.opcode = WIRE_READ, .volume = own, .offset = 512, .length = 4096}, -EINVAL},
        {{.opcode = WIRE_READ, .volume = own, .offset = RIG_SHARD_BYTES, .length = 4096}, -EINVAL},
        {{.opcode = WIRE_READ, .volume = own, .offset = UINT64_MAX - 4095, .length = 4096}, -EINVAL},
        {{.opcode = WIRE_READ, .volume = own, .length = 0}, -EINVAL},
        {{.opcode = WIRE_ZERO, .volume = own, .length = 17 * MIB}, -EINVAL},
        {{.opcode = WIRE_WRITE, .volume = own, .length = 4096}, -EINVAL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct wire_header header = cases[i].header;
        rig_peer_asks(rig, 3, &header, NULL, NULL);
        assert_int_equal(rig->reply_count, i + 1);
        assert_int_equal(rig->replies[i].header.status, cases[i].status);
        assert_int_equal(rig->replies[i].header.map_version, map_version(rig->map));
    }
    assert_int_equal(rig->op_count, 0);
    rig_destroy(rig);
}

/* Goal: two nodes full of each other's forwarded requests still have buffers for replication. */
static void peers_request_leaves_buffers_free(void **state)
{
    (void)state;
    struct rig *rig = rig_create(17);
    struct buf *hog[RIG_POOL_BYTES >> 20];
    uint32_t count = 0;
    rig_volume(rig, "own", 1, 1);
    while (count < (RIG_POOL_BYTES >> 20) / 4 * 3 + 1)
        hog[count++] = buf_alloc(rig->bufs, 1 << 20);
    struct wire_header read = {.opcode = WIRE_READ, .volume = rig_find(rig, "own")->id, .length = 4096};
    rig_peer_asks(rig, 3, &read, NULL, NULL);
    assert_int_equal(rig->replies[0].header.status, -EAGAIN);
    while (count > 0)
        buf_unref(hog[--count]);
    rig_peer_asks(rig, 3, &read, NULL, NULL);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig->replies[1].header.status, 0);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(local_write_reaches_the_replica),
        cmocka_unit_test(local_read_carries_data_and_checksums),
        cmocka_unit_test(flags_pass_through),
        cmocka_unit_test(remote_read_is_forwarded),
        cmocka_unit_test(bounce_waits_for_the_map),
        cmocka_unit_test(lost_link_parks),
        cmocka_unit_test(bounce_is_retried_by_time),
        cmocka_unit_test(no_primary_parks),
        cmocka_unit_test(parked_requests_of_an_old_session_end),
        cmocka_unit_test(nonsense_of_a_primary_is_a_lost_answer),
        cmocka_unit_test(one_primarys_eio_is_retried),
        cmocka_unit_test(extents_stop_at_the_shard),
        cmocka_unit_test(reads_wait_for_memory),
        cmocka_unit_test(deleted_volume_ends_what_waits),
        cmocka_unit_test(peers_request_is_served),
        cmocka_unit_test(peers_request_is_bounced),
        cmocka_unit_test(peers_request_leaves_buffers_free),
    };
    return cmocka_run_group_tests_name("gateway/route", tests, NULL, NULL);
}
