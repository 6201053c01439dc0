/* SPDX-License-Identifier: Apache-2.0 */
/* gateway, flush: one question to each primary, judged by the map in force at the end (R13). */
#include "tests/unit/gateway/gateway_rig.h"

#include <errno.h>

#include "common/client_body.h"

static struct rig *mixed_rig(uint64_t seed, struct rig_client **ret_client)
{
    struct rig *rig = rig_create(seed);
    rig_volume(rig, "vol", 4, 1);
    rig_move(rig, "vol", 1, 2);
    rig_activate(rig, "vol", 1);
    rig_move(rig, "vol", 3, 2);
    rig_activate(rig, "vol", 3);
    *ret_client = rig_attach(rig, "vol", 7, 0);
    return rig;
}

static void answer_peer(struct rig *rig, int rc, uint64_t version)
{
    struct wire_header header = {.opcode = WIRE_FLUSH | 1, .map_version = version};
    rig_peer_answer(rig, rig_first_request(rig), rc, &header, NULL, NULL);
}

/* Goal: four shards on two primaries are two questions, and both must be answered. */
static void each_primary_is_asked_once(void **state)
{
    (void)state;
    struct rig_client *c;
    struct rig *rig = mixed_rig(1, &c);
    uint64_t id = rig_op(c, WIRE_FLUSH, 0, 0);
    struct replica_op *op = rig_first_op(rig);
    assert_int_equal(op->opcode, WIRE_FLUSH);
    assert_int_equal(op->volume, c->volume);
    assert_int_equal(rig_first_request(rig)->node, 2);
    assert_int_equal(rig_sent(rig, 0)->opcode, WIRE_FLUSH);
    assert_int_equal(rig->op_count, 1);
    assert_int_equal(rig->sent_count, 1);
    rig_complete(rig, op, 0);
    assert_false(rig_answered(c, id));
    answer_peer(rig, 0, map_version(rig->map));
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: a flush during which a shard changed its epoch is repeated, with the primaries of the new map. */
static void change_meanwhile_repeats_it(void **state)
{
    (void)state;
    struct rig_client *c;
    struct rig *rig = mixed_rig(2, &c);
    uint64_t id = rig_op(c, WIRE_FLUSH, 0, 0);
    struct replica_op *op = rig_first_op(rig);
    (void)rig_first_request(rig);
    rig_move(rig, "vol", 0, 3);
    rig_complete(rig, op, 0);
    answer_peer(rig, 0, 0);
    assert_false(rig_answered(c, id)); /* the epoch of shard 0 is not active: wait (R12) */
    assert_int_equal(rig->op_count, 1);
    rig_activate(rig, "vol", 0);
    rig_complete(rig, rig_first_op(rig), 0);
    answer_peer(rig, 0, 0);
    answer_peer(rig, 0, 0);
    assert_int_equal(rig->sent_count, 3); /* node 2 twice, node 3 once */
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: an answer that knows a newer map is judged only when the own map has caught up, and is void when that map says so. */
static void newer_answer_waits_for_the_map(void **state)
{
    (void)state;
    for (int moved = 0; moved < 2; moved++) {
        struct rig_client *c;
        struct rig *rig = mixed_rig(3, &c);
        uint64_t id = rig_op(c, WIRE_FLUSH, 0, 0);
        rig_complete(rig, rig_first_op(rig), 0);
        answer_peer(rig, 0, map_version(rig->map) + 1);
        assert_false(rig_answered(c, id));
        if (moved) {
            rig_move(rig, "vol", 1, 3);
            assert_false(rig_answered(c, id));
            rig_activate(rig, "vol", 1);
            rig_complete(rig, rig_first_op(rig), 0);
            answer_peer(rig, 0, 0);
            answer_peer(rig, 0, 0);
        } else {
            rig_volume(rig, "unrelated", 1, 1);
        }
        assert_int_equal(rig_status(c, id), 0);
        assert_int_equal(rig->op_count, 1 + moved);
        rig_hang_up(c);
        rig_destroy(rig);
    }
}

static void failures_are_repeated(void **state)
{
    (void)state;
    struct rig_client *c;
    struct rig *rig = mixed_rig(4, &c);
    uint64_t id = rig_op(c, WIRE_FLUSH, 0, 0);
    rig_complete(rig, rig_first_op(rig), -ESTALE);
    answer_peer(rig, 0, 0);
    rig_complete(rig, rig_first_op(rig), 0);
    rig_peer_lost(rig, rig_first_request(rig));
    rig->up[2] = false;
    rig_run_ms(rig, 500);
    assert_int_equal(rig->op_count, 2); /* not asked while one of them is out of reach */
    rig->up[2] = true;
    gateway_peer_up(rig->gateway, 2);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_false(rig_answered(c, id));
    answer_peer(rig, 0, 0);
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void shard_without_primary_parks(void **state)
{
    (void)state;
    struct rig *rig = rig_create(5);
    rig_volume(rig, "vol", 2, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig_move(rig, "vol", 1, 2);
    uint64_t id = rig_op(c, WIRE_FLUSH, 0, 0);
    rig_run_ms(rig, 1000);
    assert_int_equal(rig->op_count, 0);
    rig_activate(rig, "vol", 1);
    rig_complete(rig, rig_first_op(rig), 0);
    answer_peer(rig, 0, 0);
    assert_int_equal(rig_status(c, id), 0);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: flushes that come while one runs share the next one, never that one. */
static void later_flushes_share_the_next_round(void **state)
{
    (void)state;
    struct rig *rig = rig_create(6);
    rig_volume(rig, "vol", 2, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t first = rig_op(c, WIRE_FLUSH, 0, 0), later[5];
    struct replica_op *op = rig_first_op(rig);
    for (int i = 0; i < 5; i++)
        later[i] = rig_op(c, WIRE_FLUSH, 0, 0);
    rig_run_ms(rig, 10);
    assert_int_equal(rig->op_count, 1);
    rig_complete(rig, op, 0);
    assert_int_equal(rig_status(c, first), 0);
    op = rig_first_op(rig);
    assert_int_equal(rig->op_count, 2);
    assert_false(rig_answered(c, later[0]));
    rig_complete(rig, op, 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(rig_status(c, later[i]), 0);
    assert_int_equal(rig->op_count, 2);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* R13: the answer lists the loss numbers, in runs. */
static void loss_numbers_are_listed(void **state)
{
    (void)state;
    struct rig *rig = rig_create(7);
    struct client_loss_run runs[4];
    uint32_t count;
    rig_volume(rig, "vol", 3, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig_loss(rig, "vol");
    for (uint32_t i = 0; i < 3; i++)
        rig_activate(rig, "vol", i);
    uint64_t id = rig_op(c, WIRE_FLUSH, 0, 0);
    rig_complete(rig, rig_first_op(rig), 0);
    struct msg *msg = rig_answer(c, id);
    assert_int_equal(client_loss_decode(msg->body, msg->header.body_len, runs, 4, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(runs[0].first, 0);
    assert_int_equal(runs[0].count, 3);
    assert_int_equal(runs[0].loss, 1);
    msg_free(msg);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void client_leaves_during_a_flush(void **state)
{
    (void)state;
    struct rig_client *c, *d;
    struct rig *rig = mixed_rig(8, &c);
    (void)rig_op(c, WIRE_FLUSH, 0, 0);
    (void)rig_first_op(rig);
    rig_hang_up(c);
    d = rig_attach(rig, "vol", 7, WIRE_F_FAILOVER);
    uint64_t id = rig_op(d, WIRE_FLUSH, 0, 0);
    rig_run_ms(rig, 10);
    rig_complete(rig, rig_first_op(rig), 0);
    answer_peer(rig, 0, 0);
    assert_false(rig_answered(d, id)); /* that was the other one's round */
    rig_complete(rig, rig_first_op(rig), 0);
    answer_peer(rig, 0, 0);
    assert_int_equal(rig_status(d, id), 0);
    rig_hang_up(d);
    rig_destroy(rig);
}

/* Closing takes questions to other nodes back and waits for the own replica. */
static void close_during_a_flush(void **state)
{
    (void)state;
    struct rig_client *c;
    struct rig *rig = mixed_rig(9, &c);
    (void)rig_op(c, WIRE_FLUSH, 0, 0);
    struct replica_op *op = rig_first_op(rig);
    (void)rig_first_request(rig);
    rig_close_gateway(rig);
    rig_run_ms(rig, 100);
    assert_false(rig->gateway_closed);
    assert_true(list_empty(&rig->requests));
    rig_complete(rig, op, 0);
    rig_run_ms(rig, 10);
    assert_true(rig->gateway_closed);
    rig_hang_up(c);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_primary_is_asked_once),     cmocka_unit_test(change_meanwhile_repeats_it),
        cmocka_unit_test(newer_answer_waits_for_the_map), cmocka_unit_test(failures_are_repeated),
        cmocka_unit_test(shard_without_primary_parks),    cmocka_unit_test(later_flushes_share_the_next_round),
        cmocka_unit_test(loss_numbers_are_listed),        cmocka_unit_test(client_leaves_during_a_flush),
        cmocka_unit_test(close_during_a_flush),
    };
    return cmocka_run_group_tests_name("gateway/flush", tests, NULL, NULL);
}
