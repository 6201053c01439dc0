/* SPDX-License-Identifier: Apache-2.0 */
/* client core, when gateways fail: it goes on through another one, nothing is lost, doubled or told twice. */
#include "tests/unit/client/fake_gateway.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/prng.h"

#define SLOTS 12
#define SLOT_BYTES (9u << 17)

struct load {
    struct fake_io ios[SLOTS];
    uint8_t *data[SLOTS];
    uint64_t offset[SLOTS];
};

static void load_submit(struct load *load, struct fake_client *c, uint8_t seed)
{
    for (int i = 0; i < SLOTS; i++) {
        load->data[i] = malloc(SLOT_BYTES);
        assert_non_null(load->data[i]);
        memset(load->data[i], seed + i, SLOT_BYTES);
        load->offset[i] = (uint64_t)i * (SLOT_BYTES + 4096) + 512 * (uint64_t)i;
        if (i % 4 == 3)
            fake_submit(c, &load->ios[i], CLIENT_FLUSH, 0, 0, NULL, 0);
        else
            fake_submit(c, &load->ios[i], CLIENT_WRITE, load->offset[i], SLOT_BYTES - 100, load->data[i], 0);
    }
}

static void load_check(struct load *load, struct fake *fake)
{
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(fake_wait(&load->ios[i]), 0);
        if (i % 4 != 3)
            assert_memory_equal(fake->disk + load->offset[i], load->data[i], SLOT_BYTES - 100);
        free(load->data[i]);
    }
}

/* Goal: a link that ends at any point of the protocol costs nothing but time. Method: the gateways close the link at the n-th
 * frame, before handling it or instead of answering it, n = 1, 2, ... until a run sees no fault any more. */
static void sweep(bool after)
{
    for (uint64_t n = 1;; n++) {
        struct fake *fake = fake_create(1000 + n);
        struct fake_client c;
        struct load load;
        *(after ? &fake->drop_after : &fake->drop_before) = n;
        fake_client_open(&c, fake, NULL);
        load_submit(&load, &c, (uint8_t)n);
        load_check(&load, fake);
        bool seen = (after ? fake->drop_after : fake->drop_before) == 0;
        const struct client_stats *stats = client_stats(c.client);
        assert_int_equal(stats->errors[CLIENT_WRITE], 0);
        assert_true(stats->failovers <= 1);
        fake_client_close(&c);
        fake_destroy(fake);
        if (!seen)
            return;
    }
}

static void link_ends_before_any_frame(void **state)
{
    (void)state;
    sweep(false);
}

static void link_ends_instead_of_any_answer(void **state)
{
    (void)state;
    sweep(true);
}

/* Goal: a gateway that falls silent without closing its link is left after the silence bound, not before. */
static void silent_gateway_is_left(void **state)
{
    (void)state;
    struct fake *fake = fake_create(20);
    struct fake_client c;
    struct fake_io io;
    uint8_t data[4096] = {3};
    fake_client_open(&c, fake, NULL);
    fake->gateways[0].muted = true;
    fake_submit(&c, &io, CLIENT_WRITE, 0, sizeof(data), data, 0);
    fake_run_ms(fake, 1000);
    assert_int_equal(io.done, 0);
    assert_string_equal(client_gateway(c.client), fake->gateways[0].address);
    fake_run_ms(fake, 1500);
    assert_int_equal(io.done, 1);
    assert_int_equal(io.rc, 0);
    assert_string_equal(client_gateway(c.client), fake->gateways[1].address);
    assert_int_equal(client_stats(c.client)->failovers, 1);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: an idle client notices a dead gateway, too, and keeps a living one. */
static void idle_links_are_watched(void **state)
{
    (void)state;
    struct fake *fake = fake_create(21);
    struct fake_client c;
    fake_client_open(&c, fake, NULL);
    uint64_t sessions = fake->sessions_opened;
    fake_run_ms(fake, 20000);
    assert_int_equal(fake->sessions_opened, sessions);
    assert_true(fake->gateways[0].frames >= 20000 / 1000);
    fake->gateways[0].muted = true;
    fake_run_ms(fake, 3000);
    assert_string_equal(client_gateway(c.client), fake->gateways[1].address);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* A gateway whose answers are only slow is not left: it answers pings. */
static void slow_requests_are_waited_for(void **state)
{
    (void)state;
    struct fake *fake = fake_create(22);
    struct fake_client c;
    struct fake_io io;
    uint8_t data[512] = {9};
    fake_client_open(&c, fake, NULL);
    fake->hold = true;
    fake_submit(&c, &io, CLIENT_WRITE, 0, sizeof(data), data, 0);
    fake_run_ms(fake, 30000);
    assert_int_equal(io.done, 0);
    assert_int_equal(client_stats(c.client)->failovers, 0);
    fake_release(fake, 1);
    assert_int_equal(fake_wait(&io), 0);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: with no gateway at all, requests wait and do not fail; they go on when one is back. */
static void requests_outlive_an_outage(void **state)
{
    (void)state;
    struct fake *fake = fake_create(23);
    struct fake_client c;
    struct load load;
    fake_client_open(&c, fake, NULL);
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        fake_down(&fake->gateways[i]);
    load_submit(&load, &c, 77);
    fake_run_ms(fake, 15000);
    for (int i = 0; i < SLOTS; i++)
        assert_int_equal(load.ios[i].done, 0);
    assert_string_equal(client_gateway(c.client), "");
    assert_true(strlen(client_trouble(c.client)) > 0);
    fake_up(&fake->gateways[2]);
    load_check(&load, fake);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: a gateway that gets no session (cut off from the others) is passed over. */
static void gateway_without_quorum_is_passed_over(void **state)
{
    (void)state;
    struct fake *fake = fake_create(24);
    struct fake_client c;
    fake->gateways[0].refuses_attach = true;
    fake->gateways[1].muted = true;
    fake_client_open(&c, fake, NULL);
    assert_string_equal(client_gateway(c.client), fake->gateways[2].address);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: what timed out ends with -ETIMEDOUT and can never land later: the session is renewed. Method: the write is held by the
 * gateway, times out, a later write to the same place is acknowledged, then the held one is released. */
static void timed_out_write_never_lands(void **state)
{
    (void)state;
    struct fake *fake = fake_create(25);
    struct fake_client c;
    struct fake_io old;
    uint8_t first[4096], second[4096];
    struct client_config config = {.volume = "vol", .io_timeout_ns = ENV_MS(2000)};
    memset(first, 1, sizeof(first));
    memset(second, 2, sizeof(second));
    fake_client_open(&c, fake, &config);
    uint64_t session = fake->session;
    fake->hold = true;
    fake_submit(&c, &old, CLIENT_WRITE, 0, sizeof(first), first, 0);
    assert_int_equal(fake_wait(&old), -ETIMEDOUT);
    fake->hold = false;
    assert_int_equal(fake_do(&c, CLIENT_WRITE, 0, sizeof(second), second, 0), 0);
    assert_true(fake->session > session);
    fake_release(fake, 10);
    assert_int_equal(fake->disk[0], 2);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: a large read is received in the reader's memory, and not one byte of it after the reader was told that it failed. */
static void reader_gets_its_memory_back(void **state)
{
    (void)state;
    struct fake *fake = fake_create(34);
    struct fake_client c;
    struct fake_io io;
    static uint8_t data[1 << 20];
    struct client_config config = {.volume = "vol", .io_timeout_ns = ENV_MS(2000)};
    int gateway = fake->gateways[0].side.node, reader = fake->client_side.node;
    memset(fake->disk, 7, sizeof(data));
    fake_client_open(&c, fake, &config);
    memset(data, 0, sizeof(data));
    fake_submit(&c, &io, CLIENT_READ, 0, sizeof(data), data, 0);
    while (data[0] != 7 && io.done == 0)
        assert_true(world_step(fake->world));
    assert_int_equal(io.done, 0); /* in the middle of it */
    assert_int_equal(data[sizeof(data) - 1], 0);
    sim_net_cut(fake->net, gateway, reader, true);
    fake_down(&fake->gateways[1]);
    fake_down(&fake->gateways[2]);
    assert_int_equal(fake_wait(&io), -ETIMEDOUT);
    memset(data, 9, sizeof(data));
    sim_net_cut(fake->net, gateway, reader, false);
    fake_run_ms(fake, 10000);
    assert_int_equal(data[0], 9);
    assert_memory_equal(data, data + 1, sizeof(data) - 1); /* nines all over */
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, sizeof(data), data, 0), 0);
    assert_int_equal(data[sizeof(data) - 1], 7);
    fake_client_close(&c);
    fake_destroy(fake);
}

static void requests_time_out_without_a_gateway(void **state)
{
    (void)state;
    struct fake *fake = fake_create(26);
    struct fake_client c;
    struct fake_io ios[4];
    static uint8_t data[2 << 20];
    struct client_config config = {.volume = "vol", .io_timeout_ns = ENV_MS(3000)};
    fake_client_open(&c, fake, &config);
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        fake_down(&fake->gateways[i]);
    for (int i = 0; i < 4; i++)
        fake_submit(&c, &ios[i], i % 2 ? CLIENT_WRITE : CLIENT_READ, 0, sizeof(data), data, 0);
    fake_run_ms(fake, 2500);
    assert_int_equal(ios[0].done, 0);
    fake_run_ms(fake, 1500);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ios[i].done, 1);
        assert_int_equal(ios[i].rc, -ETIMEDOUT);
    }
    fake_up(&fake->gateways[1]);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, 4096, data, 0), 0);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: a client whose volume was taken by force is fenced for good: it does not take it back. */
static void fenced_client_stays_fenced(void **state)
{
    (void)state;
    struct fake *fake = fake_create(27);
    struct fake_client a, b;
    uint8_t data[4096] = {1};
    fake_client_open(&a, fake, NULL);
    fake_client_start(&b, fake, NULL);
    fake_run_ms(fake, 100);
    assert_true(b.opened);
    assert_int_equal(b.opened_rc, -EBUSY);
    fake_client_close(&b);
    fake_client_open(&b, fake, &(struct client_config){.volume = "vol", .open_flags = CLIENT_OPEN_FORCE});
    assert_int_equal(fake_do(&a, CLIENT_WRITE, 0, sizeof(data), data, 0), -ESTALE);
    assert_int_equal(fake_do(&a, CLIENT_READ, 0, sizeof(data), data, 0), -ESTALE);
    assert_int_equal(fake_do(&b, CLIENT_WRITE, 0, sizeof(data), data, 0), 0);
    assert_int_equal(fake->writes_applied, 1);
    fake_client_close(&a);
    fake_client_close(&b);
    fake_destroy(fake);
}

static void deleted_volume_ends_requests(void **state)
{
    (void)state;
    struct fake *fake = fake_create(28);
    struct fake_client c;
    uint8_t data[4096];
    fake_client_open(&c, fake, NULL);
    fake->deleted = true;
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, sizeof(data), data, 0), -ENOENT);
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), -ENOENT);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: a gateway whose map is older than what the client has heard of may not say that the volume is gone. */
static void a_gateway_that_is_behind_is_not_believed(void **state)
{
    (void)state;
    struct fake *fake = fake_create(128);
    struct fake_client c;
    uint8_t data[4096];
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        fake->gateways[i].map_version = 7;
    fake_client_open(&c, fake, NULL);
    fake->gateways[1].knows_no_volume = true;
    fake->gateways[1].map_version = 6;
    fake_down(&fake->gateways[0]);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, sizeof(data), data, 0), 0);
    fake->gateways[1].map_version = 7; /* it has caught up, and still says so: it is gone */
    fake->gateways[2].knows_no_volume = true;
    fake_down(&fake->gateways[2]);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, sizeof(data), data, 0), -ENOENT);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Another volume that got the name meanwhile must not receive the old one's writes. */
static void namesake_is_not_written(void **state)
{
    (void)state;
    struct fake *fake = fake_create(29);
    struct fake_client c;
    uint8_t data[4096] = {1};
    fake_client_open(&c, fake, NULL);
    fake->volume = FAKE_VOLUME + 1;
    fake_down(&fake->gateways[0]);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, 0, sizeof(data), data, 0), -ENOENT);
    assert_int_equal(fake->writes_applied, 0);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* R13. Goal: a flush never succeeds over lost data, nor does anything later. */
static void loss_fails_the_flush(void **state)
{
    (void)state;
    struct fake *fake = fake_create(30);
    struct fake_client c;
    uint8_t data[4096] = {1};
    fake->loss[1] = 4; /* before we came: not our loss */
    fake_client_open(&c, fake, NULL);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, FAKE_SHARD_BYTES, sizeof(data), data, 0), 0);
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), 0);
    fake->loss[1] = 5; /* everything was flushed: nothing of ours is lost */
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), 0);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, 0, sizeof(data), data, CLIENT_FUA), 0);
    fake->loss[0] = 1; /* durable by FUA: nothing of ours is lost */
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), 0);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, 2 * FAKE_SHARD_BYTES, sizeof(data), data, 0), 0);
    fake->loss[2] = 1;
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), -EIO);
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), -EIO);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, sizeof(data), data, 0), -EIO);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* R13: the loss is noticed wherever a number shows up first. */
static void loss_is_noticed_anywhere(void **state)
{
    (void)state;
    for (int way = 0; way < 4; way++) {
        struct fake *fake = fake_create(31);
        struct fake_client c;
        uint8_t data[4096] = {1};
        int rc;
        fake_client_open(&c, fake, NULL);
        assert_int_equal(way == 3 ? fake_do(&c, CLIENT_ZERO, 0, 1 << 20, NULL, 0)
                                  : fake_do(&c, CLIENT_WRITE, 0, sizeof(data), data, 0),
                         0);
        fake->loss[0] = 1;
        if (way == 0)
            rc = fake_do(&c, CLIENT_READ, 8192, sizeof(data), data, 0);
        else if (way == 1)
            rc = fake_do(&c, CLIENT_WRITE, 8192, sizeof(data), data, 0);
        else { /* in the answer to the fail-over's ATTACH */
            fake_down(&fake->gateways[0]);
            rc = fake_do(&c, CLIENT_READ, FAKE_SHARD_BYTES, sizeof(data), data, 0);
        }
        assert_int_equal(rc, -EIO);
        fake_client_close(&c);
        fake_destroy(fake);
    }
}

/* A write acknowledged while a flush is under way is not covered by it. */
static void flush_covers_only_what_came_before(void **state)
{
    (void)state;
    struct fake *fake = fake_create(32);
    struct fake_client c;
    struct fake_io flush, write;
    uint8_t data[4096] = {1};
    fake_client_open(&c, fake, NULL);
    fake->hold = true;
    fake_submit(&c, &flush, CLIENT_FLUSH, 0, 0, NULL, 0);
    fake_submit(&c, &write, CLIENT_WRITE, 0, sizeof(data), data, 0);
    fake_run_ms(fake, 10);
    assert_int_equal(fake->held_count, 2);
    struct msg *swap = fake->held[0].msg; /* the write is answered first */
    fake->held[0].msg = fake->held[1].msg;
    fake->held[1].msg = swap;
    fake_release(fake, 2);
    assert_int_equal(fake_wait(&write), 0);
    assert_int_equal(fake_wait(&flush), 0);
    fake->hold = false;
    fake->loss[0] = 1;
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), -EIO);
    fake_client_close(&c);
    fake_destroy(fake);
}

static void damage_on_the_way_is_retried(void **state)
{
    (void)state;
    struct fake *fake = fake_create(33);
    struct fake_client c;
    uint8_t data[8192], back[8192];
    memset(data, 6, sizeof(data));
    fake_client_open(&c, fake, NULL);
    fake->damage_writes = 2;
    assert_int_equal(fake_do(&c, CLIENT_WRITE, 4096, sizeof(data), data, 0), 0);
    fake->damage_reads = 2;
    assert_int_equal(fake_do(&c, CLIENT_READ, 4096, sizeof(back), back, 0), 0);
    assert_memory_equal(back, data, sizeof(data));
    assert_int_equal(client_stats(c.client)->checksum_errors, 4);
    fake->damage_reads = 1000;
    assert_int_equal(fake_do(&c, CLIENT_READ, 4096, sizeof(back), back, 0), -EIO);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Errors that all replicas share reach the caller, once, and only that request's. */
static void cluster_errors_reach_the_caller(void **state)
{
    (void)state;
    struct fake *fake = fake_create(34);
    struct fake_client c;
    static uint8_t data[3 << 20];
    const int errors[] = {-ENOSPC, -EILSEQ, -EIO, -EINVAL};
    fake_client_open(&c, fake, NULL);
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        fake->status = errors[i];
        fake->status_count = 1;
        assert_int_equal(fake_do(&c, CLIENT_WRITE, 100, sizeof(data), data, 0), errors[i]);
        fake->status_count = 0;
        assert_int_equal(fake_do(&c, CLIENT_WRITE, 100, sizeof(data), data, 0), 0);
    }
    assert_int_equal(client_stats(c.client)->errors[CLIENT_WRITE], 4);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: the session returns to the preferred gateway when that is back, without an error or a lost write. */
static void session_goes_back_home(void **state)
{
    (void)state;
    struct fake *fake = fake_create(35);
    struct fake_client c;
    struct load load;
    struct client_config config = {.volume = "vol", .fail_back = true};
    fake_client_open(&c, fake, &config);
    fake_down(&fake->gateways[0]);
    fake_run_ms(fake, 1000);
    assert_string_equal(client_gateway(c.client), fake->gateways[1].address);
    fake_run_ms(fake, 8000);
    assert_string_equal(client_gateway(c.client), fake->gateways[1].address);
    fake_up(&fake->gateways[0]);
    fake->hold = true;
    load_submit(&load, &c, 5);
    fake_run_ms(fake, 8000);
    fake->hold = false;
    fake_release(fake, FAKE_HELD_MAX);
    assert_string_equal(client_gateway(c.client), fake->gateways[0].address);
    load_check(&load, fake);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: a network that resets and cuts at random costs time only. Method: many rounds of load and faults, the disk compared. */
static void random_faults_cost_only_time(void **state)
{
    (void)state;
    struct prng prng;
    prng_seed(&prng, 99);
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct fake *fake = fake_create(500 + seed);
        struct fake_client c;
        fake_client_open(&c, fake, &(struct client_config){.volume = "vol", .fail_back = true});
        for (int round = 0; round < 6; round++) {
            struct load load;
            load_submit(&load, &c, (uint8_t)(seed * 16 + (uint64_t)round));
            for (int fault = 0; fault < 6; fault++) {
                int gateway = fake->gateways[prng_below(&prng, FAKE_GATEWAYS)].side.node;
                if (prng_below(&prng, 2))
                    sim_net_reset(fake->net, fake->client_side.node, gateway);
                else
                    sim_net_isolate(fake->net, gateway, prng_below(&prng, 2) == 0);
                fake_run_ms(fake, prng_below(&prng, 400));
            }
            sim_net_heal(fake->net);
            load_check(&load, fake);
        }
        fake_client_close(&c);
        fake_destroy(fake);
    }
}

/* Closing in any state of the session ends, and tells each request once. */
static void close_at_any_time(void **state)
{
    (void)state;
    for (uint64_t us = 0; us < 3000; us += 37) {
        struct fake *fake = fake_create(700 + us);
        struct fake_client c;
        struct fake_io io;
        uint8_t data[4096] = {1};
        fake->gateways[0].refuses_attach = us % 2;
        fake_client_start(&c, fake, NULL);
        world_run(fake->world, us * 1000);
        bool submitted = c.opened;
        if (submitted)
            fake_submit(&c, &io, CLIENT_WRITE, 0, sizeof(data), data, 0);
        fake_client_close(&c);
        if (submitted)
            assert_int_equal(io.done, 1);
        fake_destroy(fake);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(link_ends_before_any_frame),
        cmocka_unit_test(link_ends_instead_of_any_answer),
        cmocka_unit_test(silent_gateway_is_left),
        cmocka_unit_test(idle_links_are_watched),
        cmocka_unit_test(slow_requests_are_waited_for),
        cmocka_unit_test(requests_outlive_an_outage),
        cmocka_unit_test(gateway_without_quorum_is_passed_over),
        cmocka_unit_test(timed_out_write_never_lands),
        cmocka_unit_test(reader_gets_its_memory_back),
        cmocka_unit_test(requests_time_out_without_a_gateway),
        cmocka_unit_test(fenced_client_stays_fenced),
        cmocka_unit_test(deleted_volume_ends_requests),
        cmocka_unit_test(a_gateway_that_is_behind_is_not_believed),
        cmocka_unit_test(namesake_is_not_written),
        cmocka_unit_test(loss_fails_the_flush),
        cmocka_unit_test(loss_is_noticed_anywhere),
        cmocka_unit_test(flush_covers_only_what_came_before),
        cmocka_unit_test(damage_on_the_way_is_retried),
        cmocka_unit_test(cluster_errors_reach_the_caller),
        cmocka_unit_test(session_goes_back_home),
        cmocka_unit_test(random_faults_cost_only_time),
        cmocka_unit_test(close_at_any_time),
    };
    return cmocka_run_group_tests_name("client/failover", tests, NULL, NULL);
}
