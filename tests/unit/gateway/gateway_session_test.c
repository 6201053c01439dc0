/* SPDX-License-Identifier: Apache-2.0 */
/* gateway, sessions: attach, detach, the grace of a client that left without a word (R19). */
#include "tests/unit/gateway/gateway_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/client_body.h"
#include "common/hello.h"

static int hello_status(struct rig *rig, const struct hello *hello, struct hello *ret_theirs)
{
    struct rig_client *c = rig_connect_raw(rig);
    uint8_t body[HELLO_BYTES];
    struct wire_header header = {.opcode = WIRE_HELLO, .body_len = sizeof(body)};
    hello_encode(hello, body);
    struct msg *msg = rig_answer(c, rig_send(c, &header, body, NULL));
    int status = msg->header.status;
    assert_int_equal(hello_decode(msg->body, msg->header.body_len, ret_theirs), 0);
    msg_free(msg);
    rig_hang_up(c);
    return status;
}

static void hello_is_checked(void **state)
{
    (void)state;
    struct rig *rig = rig_create(1);
    struct hello theirs, hello = {.version_min = 1, .version_max = 1, .role = HELLO_CLIENT};
    assert_int_equal(hello_status(rig, &hello, &theirs), 0);
    hello.cluster_id = 12345;
    assert_int_equal(hello_status(rig, &hello, &theirs), -EXDEV);
    assert_true(strlen(theirs.text) > 10);
    hello.cluster_id = map_cluster_id(rig->map);
    assert_int_equal(hello_status(rig, &hello, &theirs), 0);
    hello.version_min = hello.version_max = 99;
    assert_int_equal(hello_status(rig, &hello, &theirs), -EPROTONOSUPPORT);
    assert_int_equal(gateway_client_count(rig->gateway), 0);
    rig_destroy(rig);
}

/* A refused client that neither reads nor leaves is closed. */
static void refused_client_is_closed(void **state)
{
    (void)state;
    struct rig *rig = rig_create(2);
    struct rig_client *c = rig_connect_raw(rig);
    struct hello hello = {.version_min = 1, .version_max = 1, .role = HELLO_CLIENT, .cluster_id = 1};
    uint8_t body[HELLO_BYTES];
    struct wire_header header = {.opcode = WIRE_HELLO, .body_len = sizeof(body)};
    hello_encode(&hello, body);
    (void)rig_send(c, &header, body, NULL);
    rig_run_ms(rig, 500);
    assert_false(c->closed);
    rig_run_ms(rig, 2000);
    assert_true(c->closed);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void attach_tells_size_losses_and_addresses(void **state)
{
    (void)state;
    struct rig *rig = rig_create(3);
    struct client_attach attach = {.attachment = {1}, .name = "vol"};
    struct client_attached attached;
    char address[CLIENT_ADDRESS_MAX];
    uint8_t body[CLIENT_ATTACH_SNAPSHOT_BYTES];
    rig_volume(rig, "vol", 3, 1);
    rig_loss(rig, "vol");
    struct rig_client *c = rig_connect(rig);
    struct wire_header header = {.opcode = WIRE_ATTACH, .body_len = CLIENT_ATTACH_BYTES};
    client_attach_encode(&attach, body);
    struct msg *msg = rig_answer(c, rig_send(c, &header, body, NULL));
    assert_int_equal(msg->header.status, 0);
    assert_int_equal(msg->header.length, 3 * RIG_SHARD_BYTES);
    assert_int_equal(msg->header.session, 1);
    assert_int_equal(client_attached_decode(msg->body, msg->header.body_len, &attached), 0);
    assert_int_equal(attached.shard_bytes, RIG_SHARD_BYTES);
    assert_int_equal(attached.runs_bytes, CLIENT_LOSS_RUN_BYTES);
    for (uint32_t i = 1; i <= RIG_NODES; i++) {
        char expected[CLIENT_ADDRESS_MAX];
        (void)snprintf(expected, sizeof(expected), "tcp:10.0.0.%u:7100", i);
        assert_int_equal(client_attached_next(&attached, address), 0);
        assert_string_equal(address, expected);
    }
    assert_int_equal(client_attached_next(&attached, address), -ENOENT);
    msg_free(msg);
    (void)rig_send(c, &header, body, NULL); /* a link has one session */
    rig_run_ms(rig, 10);
    assert_true(c->closed);
    rig_hang_up(c);
    rig_destroy(rig);
}

static void refusals_reach_the_client(void **state)
{
    (void)state;
    struct rig *rig = rig_create(4);
    struct client_attach attach = {.attachment = {9}, .name = "nothing"};
    uint8_t body[CLIENT_ATTACH_SNAPSHOT_BYTES];
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0), *d = rig_connect(rig);
    struct wire_header header = {.opcode = WIRE_ATTACH, .body_len = CLIENT_ATTACH_BYTES};
    client_attach_encode(&attach, body);
    assert_int_equal(rig_status(d, rig_send(d, &header, body, NULL)), -ENOENT);
    (void)snprintf(attach.name, sizeof(attach.name), "vol");
    client_attach_encode(&attach, body);
    assert_int_equal(rig_status(d, rig_send(d, &header, body, NULL)), -EBUSY);
    header.flags = WIRE_F_FORCE;
    assert_int_equal(rig_status(d, rig_send(d, &header, body, NULL)), 0);
    assert_int_equal(rig_status(c, rig_read(c, 0, 4096)), -EPERM); /* I6 */
    rig_hang_up(c);
    rig_hang_up(d);
    rig_destroy(rig);
}

static void detach_closes_the_session_at_once(void **state)
{
    (void)state;
    struct rig *rig = rig_create(5);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    assert_int_equal(rig_status(c, rig_op(c, WIRE_DETACH, 0, 0)), 0);
    assert_int_equal(rig->detach_count, 1);
    assert_int_equal(rig->detached_session, c->session);
    rig_hang_up(c);
    rig_run_ms(rig, 10000);
    assert_int_equal(rig->detach_count, 1);
    rig_destroy(rig);
}

static void left_client_has_a_grace(void **state)
{
    (void)state;
    struct rig *rig = rig_create(6);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t session = c->session;
    rig_hang_up(c);
    rig_run_ms(rig, 4900);
    assert_int_equal(rig->detach_count, 0);
    rig_run_ms(rig, 200);
    assert_int_equal(rig->detach_count, 1);
    assert_int_equal(rig->detached_session, session);
    rig_destroy(rig);
}

static void client_that_comes_back_keeps_its_volume(void **state)
{
    (void)state;
    struct rig *rig = rig_create(7);
    rig_volume(rig, "vol", 1, 1);
    rig_hang_up(rig_attach(rig, "vol", 7, 0));
    rig_run_ms(rig, 3000);
    struct rig_client *c = rig_attach(rig, "vol", 7, WIRE_F_FAILOVER);
    assert_int_equal(c->session, 2);
    rig_run_ms(rig, 10000);
    assert_int_equal(rig->detach_count, 0);
    rig_hang_up(c);
    rig_session(rig, "vol", 7); /* it went to another gateway */
    rig_run_ms(rig, 10000);
    assert_int_equal(rig->detach_count, 0);
    rig_destroy(rig);
}

/* A client that left before its session was granted leaves no session behind. */
static void attach_granted_to_nobody(void **state)
{
    (void)state;
    struct rig *rig = rig_create(8);
    rig_volume(rig, "vol", 1, 1);
    rig->hold_attach = true;
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig_run_ms(rig, 5);
    assert_int_equal(rig->attach_count, 1);
    rig_hang_up(c);
    assert_int_equal(gateway_client_count(rig->gateway), 1); /* its attach is with control */
    rig->attaches[0]->volume = rig_find(rig, "vol")->id;
    rig_session(rig, "vol", 7);
    rig->attaches[0]->session = 1;
    rig->attaches[0]->cb(rig->attaches[0], 0);
    assert_int_equal(gateway_client_count(rig->gateway), 0);
    rig_run_ms(rig, 6000);
    assert_int_equal(rig->detach_count, 1);
    rig_destroy(rig);
}

static void control_that_ends_is_this_gateways_trouble(void **state)
{
    (void)state;
    struct rig *rig = rig_create(9);
    rig_volume(rig, "vol", 1, 1);
    rig->hold_attach = true;
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    rig_run_ms(rig, 5);
    rig->attaches[0]->cb(rig->attaches[0], -ESHUTDOWN);
    assert_int_equal(rig_status(c, c->next_id), -EAGAIN); /* it tries another one */
    rig_hang_up(c);
    rig_destroy(rig);
}

static void silent_client_is_closed(void **state)
{
    (void)state;
    struct rig *rig = rig_create(10);
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    for (int i = 0; i < 10; i++) {
        rig_run_ms(rig, 20000);
        assert_int_equal(rig_status(c, rig_op(c, WIRE_PING, 0, 0)), 0);
    }
    rig_run_ms(rig, 31000);
    assert_true(c->closed);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: PING tells who is attached the present size, and others none. */
static void ping_tells_the_present_size(void **state)
{
    (void)state;
    struct rig *rig = rig_create(12);
    rig_volume(rig, "vol", 1, 1);
    struct map_weight weights[] = {{1, 1ull << 40}, {2, 1ull << 40}, {3, 1ull << 40}};
    struct map_entry grow = {
        .kind = MAP_ENTRY_VOLUME_RESIZE, .size = 3 * RIG_SHARD_BYTES, .weights = weights, .weight_count = 3};
    struct rig_client *c = rig_attach(rig, "vol", 7, 0), *other = rig_connect(rig);
    uint64_t sizes[] = {RIG_SHARD_BYTES, 3 * RIG_SHARD_BYTES};
    (void)snprintf(grow.name, sizeof(grow.name), "vol");
    for (int i = 0; i < 2; i++) {
        struct msg *answer = rig_answer(c, rig_op(c, WIRE_PING, 0, 0));
        assert_int_equal(answer->header.status, 0);
        assert_int_equal(answer->header.length, sizes[i]);
        assert_int_equal(answer->header.session, c->session);
        msg_free(answer);
        answer = rig_answer(other, rig_op(other, WIRE_PING, 0, 0));
        assert_int_equal(answer->header.length, 0);
        msg_free(answer);
        if (i == 0)
            rig_apply(rig, &grow, 0);
    }
    uint64_t id = rig_write(c, 2 * RIG_SHARD_BYTES, 4096, 1); /* the new part is served */
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, id), 0);
    assert_int_equal(rig_status(c, rig_read(c, 3 * RIG_SHARD_BYTES, 4096)), -EINVAL);
    rig_delete(rig, "vol");
    rig_hang_up(c);
    rig_hang_up(other);
    rig_destroy(rig);
}

static void list_has_pages(void **state)
{
    (void)state;
    struct rig *rig = rig_create(11);
    struct client_list_entry entry;
    rig_volume(rig, "one", 1, 1);
    rig_volume(rig, "two", 2, 1);
    struct rig_client *c = rig_connect(rig);
    struct msg *msg = rig_answer(c, rig_op(c, WIRE_VOLUME_LIST, 0, 0));
    assert_int_equal(msg->header.body_len, 2 * CLIENT_LIST_ENTRY_BYTES);
    assert_int_equal(msg->header.aux, 0);
    assert_int_equal(client_list_entry_decode(msg->body + CLIENT_LIST_ENTRY_BYTES, &entry), 0);
    assert_string_equal(entry.name, "two");
    assert_int_equal(entry.size, 2 * RIG_SHARD_BYTES);
    struct wire_header header = {.opcode = WIRE_VOLUME_LIST, .aux = entry.id};
    msg_free(msg);
    msg = rig_answer(c, rig_send(c, &header, NULL, NULL));
    assert_int_equal(msg->header.body_len, 0);
    msg_free(msg);
    rig_hang_up(c);
    rig_destroy(rig);
}

/* Goal: a node cut off from the cluster keeps no client that waits: another gateway can serve it. */
static void cut_off_node_sends_clients_elsewhere(void **state)
{
    (void)state;
    struct rig *rig = rig_create(13);
    struct hello theirs, hello = {.version_min = 1, .version_max = 1, .role = HELLO_CLIENT};
    rig_volume(rig, "vol", 1, 1);
    rig_volume(rig, "idle", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0), *idle = rig_attach(rig, "idle", 8, 0);
    (void)rig_read(c, 0, 4096);
    (void)rig_first_op(rig);
    rig->cut_off = true;
    rig_run_ms(rig, 1000);
    assert_true(c->closed);
    assert_false(idle->closed); /* it asks for nothing yet */
    assert_int_equal(hello_status(rig, &hello, &theirs), -ENETDOWN);
    rig->cut_off = false;
    assert_int_equal(hello_status(rig, &hello, &theirs), 0);
    rig_hang_up(c);
    rig_hang_up(idle);
    rig_destroy(rig);
}

static void counters_count(void **state)
{
    (void)state;
    struct rig *rig = rig_create(12);
    struct bridge_volume_stats stats;
    rig_volume(rig, "vol", 1, 1);
    struct rig_client *c = rig_attach(rig, "vol", 7, 0);
    uint64_t id = rig_write(c, 0, 8192, 1);
    rig_complete(rig, rig_first_op(rig), 0);
    assert_int_equal(rig_status(c, id), 0);
    id = rig_write(c, 0, 8192, 1);
    rig_complete(rig, rig_first_op(rig), -ENOSPC);
    assert_int_equal(rig_status(c, id), -ENOSPC);
    assert_int_equal(gateway_stats(rig->gateway, &stats, 1), 1);
    assert_int_equal(stats.volume, c->volume);
    assert_int_equal(stats.count[BRIDGE_OP_WRITE], 1);
    assert_int_equal(stats.bytes[BRIDGE_OP_WRITE], 8192);
    assert_int_equal(stats.errors, 1);
    assert_int_equal(stats.write_stage[BRIDGE_STAGE_TOTAL].count, 1);
    assert_int_equal(stats.write_stage[BRIDGE_STAGE_DRIVE].max_ns, 20);
    rig_hang_up(c);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_is_checked),
        cmocka_unit_test(refused_client_is_closed),
        cmocka_unit_test(attach_tells_size_losses_and_addresses),
        cmocka_unit_test(refusals_reach_the_client),
        cmocka_unit_test(detach_closes_the_session_at_once),
        cmocka_unit_test(left_client_has_a_grace),
        cmocka_unit_test(client_that_comes_back_keeps_its_volume),
        cmocka_unit_test(attach_granted_to_nobody),
        cmocka_unit_test(control_that_ends_is_this_gateways_trouble),
        cmocka_unit_test(silent_client_is_closed),
        cmocka_unit_test(ping_tells_the_present_size),
        cmocka_unit_test(list_has_pages),
        cmocka_unit_test(cut_off_node_sends_clients_elsewhere),
        cmocka_unit_test(counters_count),
    };
    return cmocka_run_group_tests_name("gateway/session", tests, NULL, NULL);
}
