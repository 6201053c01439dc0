/* SPDX-License-Identifier: Apache-2.0 */
/* The bridge between a libuv loop and a ring loop in two threads. Method: receivers that write down what they got; the data
 * thread sends bursts while control sends others, and requests come back. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/list.h"
#include "server/daemon/daemon_bridge.h"

#define REQUESTS 500u

struct rig {
    uv_loop_t loop;
    struct mailbox box;
    struct ring_loop *ring;
    pthread_t thread;
    struct daemon_bridge *bridge;
    struct bridge_to_data data;       /* the data thread's receiver */
    struct bridge_to_control control; /* the control thread's */
    struct ring_mail start_mail, exit_mail;
    struct mailbox_mail done_mail;
    /* data thread only */
    uint64_t entries, leases, order_errors, results, attaches, hooks;
    struct bridge_propose proposals[REQUESTS];
    struct bridge_attach attach;
    /* control thread only */
    uint64_t applied, alive, stats_released, closed_requests;
};

/* ---- data side */

static void on_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    struct rig *rig = list_entry(b, struct rig, data);
    rig->order_errors += rig->entries != 0 || cluster_id != 1 || node != 2 || incarnation != 3;
}

static void on_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct rig *rig = list_entry(b, struct rig, data);
    uint64_t told = 0;
    if (len == sizeof(told))
        memcpy(&told, bytes, len);
    rig->order_errors += version != rig->entries + 1 || told != version;
    rig->entries = version;
}

static void on_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t map_version)
{
    struct rig *rig = list_entry(b, struct rig, data);
    rig->order_errors += until_ns != 2 * map_version || map_version != rig->entries;
    rig->leases++;
}

static void finish_if_done(struct rig *rig);

static void on_proposed(struct bridge_propose *req, const struct map_result *result)
{
    struct rig *rig = req->owner;
    uint64_t index = (uint64_t)(req - rig->proposals);
    /* The entry that the proposal became is here before its result. */
    if (result->rc == 0)
        rig->order_errors += result->value != index || result->version > rig->entries || rig->hooks <= rig->results;
    else
        rig->order_errors += result->rc != -ESHUTDOWN;
    rig->closed_requests += result->rc == -ESHUTDOWN;
    rig->results++;
    finish_if_done(rig);
}

static void on_attached(struct bridge_attach *req, int rc)
{
    struct rig *rig = req->owner;
    if (rc == 0)
        rig->order_errors += req->volume != 4 || req->session != 5 || req->size != 6 || req->version > rig->entries;
    rig->attaches++;
    finish_if_done(rig);
}

static void before_result(void *arg)
{
    struct rig *rig = arg;
    rig->hooks++;
}

static void release_stats(struct bridge_stats *stats)
{
    free(stats);
}

static void data_starts(struct ring_mail *mail)
{
    struct rig *rig = list_entry(mail, struct rig, start_mail);
    struct bridge_to_control *control = daemon_bridge_to_control(rig->bridge);
    for (uint64_t i = 0; i < REQUESTS; i++) {
        rig->proposals[i] = (struct bridge_propose){.cb = on_proposed, .owner = rig};
        control->ops->propose(control, &rig->proposals[i], &i, sizeof(i));
        control->ops->applied(control, i + 1, 7 * (i + 1));
        control->ops->alive(control, i);
    }
    rig->attach = (struct bridge_attach){.volume_name = "name", .cb = on_attached, .owner = rig};
    control->ops->attach(control, &rig->attach);
    struct bridge_stats *stats = calloc(1, sizeof(*stats));
    assert_non_null(stats);
    stats->release = release_stats;
    control->ops->stats(control, stats);
}

static void *run_ring(void *arg)
{
    struct rig *rig = arg;
    int rc = ring_loop_run(rig->ring);
    return (void *)(intptr_t)rc;
}

/* ---- control side */

static void on_propose(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len)
{
    struct rig *rig = list_entry(b, struct rig, control);
    struct bridge_to_data *data = daemon_bridge_to_data(rig->bridge);
    static uint64_t version;
    struct map_result result = {.rc = 0};
    assert_int_equal(len, sizeof(result.value));
    memcpy(&result.value, entry, len);
    if (result.value == 0)
        version = 0;
    version++;
    data->ops->map_entry(data, version, &version, sizeof(version));
    data->ops->lease(data, 2 * version, version);
    result.version = version;
    req->cb(req, &result);
}

static void on_attach(struct bridge_to_control *b, struct bridge_attach *req)
{
    struct rig *rig = list_entry(b, struct rig, control);
    (void)rig;
    assert_string_equal(req->volume_name, "name");
    req->volume = 4;
    req->session = 5;
    req->size = 6;
    req->version = REQUESTS;
    req->cb(req, 0);
}

static void on_applied(struct bridge_to_control *b, uint64_t version, uint64_t hash)
{
    struct rig *rig = list_entry(b, struct rig, control);
    assert_int_equal(version, rig->applied + 1);
    assert_int_equal(hash, 7 * version);
    rig->applied = version;
}

static void on_alive(struct bridge_to_control *b, uint64_t oldest_io_ns)
{
    struct rig *rig = list_entry(b, struct rig, control);
    assert_int_equal(oldest_io_ns, rig->alive);
    rig->alive++;
}

static void on_stats(struct bridge_to_control *b, struct bridge_stats *stats)
{
    struct rig *rig = list_entry(b, struct rig, control);
    stats->release(stats);
    rig->stats_released++;
}

static const struct bridge_to_data_ops data_ops = {
    .registered = on_registered, .map_entry = on_entry, .lease = on_lease};
static const struct bridge_to_control_ops control_ops = {
    .propose = on_propose, .attach = on_attach, .applied = on_applied, .alive = on_alive, .stats = on_stats};

/* ---- the two threads */

static void all_done(struct mailbox_mail *mail)
{
    struct rig *rig = list_entry(mail, struct rig, done_mail);
    uv_stop(&rig->loop);
}

static void finish_if_done(struct rig *rig)
{
    if (rig->results == REQUESTS && rig->attaches == 1)
        mailbox_post(&rig->box, &rig->done_mail, all_done);
}

static void leave(struct ring_mail *mail)
{
    struct rig *rig = list_entry(mail, struct rig, exit_mail);
    ring_loop_stop(rig->ring);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct ring_config ring = {.entries = 64, .fixed_files = 4};
    assert_non_null(rig);
    assert_int_equal(uv_loop_init(&rig->loop), 0);
    assert_int_equal(mailbox_init(&rig->box, &rig->loop), 0);
    assert_int_equal(ring_loop_create(&ring, &rig->ring), 0);
    rig->data.ops = &data_ops;
    rig->control.ops = &control_ops;
    struct daemon_bridge_config config = {.data_loop = rig->ring,
                                          .control_box = &rig->box,
                                          .data = &rig->data,
                                          .before_result = before_result,
                                          .arg = rig};
    assert_int_equal(daemon_bridge_create(&config, &rig->bridge), 0);
    assert_int_equal(pthread_create(&rig->thread, NULL, run_ring, rig), 0);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    void *rc;
    ring_post(rig->ring, &rig->exit_mail, leave);
    assert_int_equal(pthread_join(rig->thread, &rc), 0);
    assert_null(rc);
    daemon_bridge_data_ended(rig->bridge);
    mailbox_close(&rig->box);
    (void)uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    daemon_bridge_destroy(rig->bridge); /* asserts that nothing was lost on the way */
    ring_loop_destroy(rig->ring);
    free(rig);
    return 0;
}

/* Goal: order is kept both ways, and results come behind the entries that made them. */
static void order_is_kept_both_ways(void **state)
{
    struct rig *rig = *state;
    struct bridge_to_data *data = daemon_bridge_to_data(rig->bridge);
    daemon_bridge_set_control(rig->bridge, &rig->control);
    data->ops->registered(data, 1, 2, 3);
    ring_post(rig->ring, &rig->start_mail, data_starts);
    (void)uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(rig->order_errors, 0);
    assert_int_equal(rig->results, REQUESTS);
    assert_int_equal(rig->entries, REQUESTS);
    assert_int_equal(rig->leases, REQUESTS);
    assert_int_equal(rig->applied, REQUESTS);
    assert_int_equal(rig->alive, REQUESTS);
    assert_int_equal(rig->stats_released, 1);
    assert_int_equal(rig->hooks, REQUESTS + 1);
}

/* Goal: when control is closed every request ends, with -ESHUTDOWN, and nothing leaks. */
static void requests_end_when_control_is_closed(void **state)
{
    struct rig *rig = *state;
    daemon_bridge_set_control(rig->bridge, NULL);
    ring_post(rig->ring, &rig->start_mail, data_starts);
    (void)uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(rig->order_errors, 0);
    assert_int_equal(rig->results, REQUESTS);
    assert_int_equal(rig->closed_requests, REQUESTS);
    assert_int_equal(rig->applied, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(order_is_kept_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(requests_end_when_control_is_closed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
