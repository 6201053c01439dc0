/* SPDX-License-Identifier: Apache-2.0 */
/* client core, when all goes well: any range becomes frames that a gateway accepts, and the bytes are right. */
#include "tests/unit/client/fake_gateway.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/prng.h"

#define IO_MAX (5u << 20)
#define SLOTS 24

static void fill(struct prng *prng, uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)prng_next(prng);
}

static uint64_t random_length(struct prng *prng)
{
    switch (prng_below(prng, 5)) {
    case 0: return prng_below(prng, 600);
    case 1: return 4096 * (1 + prng_below(prng, 16));
    case 2: return prng_below(prng, 9000);
    case 3: return prng_below(prng, IO_MAX);
    default: return 512 * (1 + prng_below(prng, 64));
    }
}

static uint64_t random_offset(struct prng *prng, uint64_t length)
{
    uint64_t at = prng_below(prng, FAKE_SIZE - length + 1);
    if (prng_below(prng, 2))
        at = at / 4096 * 4096;
    if (prng_below(prng, 4) == 0) { /* around a border of a chunk, region or shard */
        uint64_t border = (1 + prng_below(prng, FAKE_SIZE / (1 << 20) - 1)) << 20;
        at = border - prng_below(prng, length + 1);
    }
    return at <= FAKE_SIZE - length ? at : FAKE_SIZE - length;
}

/* Goal: reads see exactly what was written, whatever the alignment. Method: random writes, zeroes, trims and reads, one after
 * the other, against a byte array; the gateway checks every frame. */
static void any_range_reads_back(void **state)
{
    (void)state;
    struct prng prng;
    struct fake *fake = fake_create(1);
    struct fake_client c;
    uint8_t *model = calloc(1, FAKE_SIZE), *data = malloc(IO_MAX);
    prng_seed(&prng, 42);
    fake_client_open(&c, fake, NULL);
    for (int i = 0; i < 400; i++) {
        uint64_t length = random_length(&prng), offset = random_offset(&prng, length);
        uint32_t fua = prng_below(&prng, 4) == 0 ? CLIENT_FUA : 0;
        switch (prng_below(&prng, 4)) {
        case 0:
            fill(&prng, data, length);
            memcpy(model + offset, data, length);
            assert_int_equal(fake_do(&c, CLIENT_WRITE, offset, length, data, fua), 0);
            break;
        case 1:
            memset(model + offset, 0, length);
            assert_int_equal(fake_do(&c, CLIENT_ZERO, offset, length, NULL, fua | CLIENT_NO_HOLE), 0);
            break;
        case 2: {
            uint64_t from = (offset + 4095) / 4096 * 4096, end = (offset + length) / 4096 * 4096;
            if (end > from)
                memset(model + from, 0, end - from);
            assert_int_equal(fake_do(&c, CLIENT_ZERO, offset, length, NULL, CLIENT_TRIM), 0);
            break;
        }
        default:
            memset(data, 0xee, length);
            assert_int_equal(fake_do(&c, CLIENT_READ, offset, length, data, 0), 0);
            assert_memory_equal(data, model + offset, length);
        }
    }
    assert_memory_equal(fake->disk, model, FAKE_SIZE);
    fake_client_close(&c);
    assert_int_equal(fake->detaches, 1);
    free(model);
    free(data);
    fake_destroy(fake);
}

/* Goal: many requests at once end exactly once each, with their own bytes, and never more is in flight than the gateway allows.
 * Method: slots on disjoint areas, the gateway holds its answers and gives them in lumps. */
static void window_is_kept(void **state)
{
    (void)state;
    struct prng prng;
    struct fake *fake = fake_create(2);
    struct fake_client c;
    struct fake_io ios[SLOTS];
    static uint8_t data[SLOTS][1 << 20];
    fake->inflight_bytes_max = 2u << 20;
    fake->inflight_count_max = 8;
    prng_seed(&prng, 7);
    fake_client_open(&c, fake, NULL);
    fake->hold = true;
    for (int i = 0; i < SLOTS; i++) {
        uint64_t length = 1 + prng_below(&prng, sizeof(data[0]));
        fill(&prng, data[i], length);
        fake_submit(&c, &ios[i], CLIENT_WRITE, (uint64_t)i * (2 << 20) + 1000, length, data[i], 0);
    }
    for (int rounds = 0; client_in_flight(c.client) > 0; rounds++) {
        assert_true(rounds < 10000);
        fake_run_ms(fake, 5);
        fake_release(fake, 1 + (uint32_t)prng_below(&prng, 4));
    }
    assert_true(fake->held_bytes_max > (1 << 20) && fake->held_bytes_max <= (2u << 20));
    assert_true(fake->held_count_max <= 8);
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(ios[i].done, 1);
        assert_int_equal(ios[i].rc, 0);
        assert_memory_equal(fake->disk + (size_t)i * (2 << 20) + 1000, data[i], ios[i].request.length);
    }
    fake_client_close(&c);
    fake_destroy(fake);
}

static void wrong_requests_are_refused(void **state)
{
    (void)state;
    struct fake *fake = fake_create(3);
    struct fake_client c;
    uint8_t data[512] = {0};
    fake_client_open(&c, fake, &(struct client_config){.volume = "vol", .open_flags = CLIENT_OPEN_READ_ONLY});
    assert_int_equal(fake_do(&c, CLIENT_READ, FAKE_SIZE - 511, 512, data, 0), -EINVAL);
    assert_int_equal(fake_do(&c, CLIENT_READ, UINT64_MAX, 512, data, 0), -EINVAL);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, 512, data, CLIENT_FUA), -EINVAL);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, 512, data, 0), 0);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, 0, 512, data, 0), -EROFS);
    assert_int_equal(fake_do(&c, CLIENT_ZERO, 0, 512, NULL, 0), -EROFS);
    assert_int_equal(fake_do(&c, CLIENT_EXTENTS, 0, 0, NULL, 0), -EINVAL);
    assert_int_equal(fake_do(&c, CLIENT_READ, 100, 0, data, 0), 0);
    assert_int_equal(fake_do(&c, CLIENT_ZERO, 1, 100, NULL, 64), -EINVAL);
    fake_client_close(&c);
    fake_destroy(fake);
}

static void trim_of_less_than_a_block_does_nothing(void **state)
{
    (void)state;
    struct fake *fake = fake_create(4);
    struct fake_client c;
    memset(fake->disk, 0x55, 3 * 4096);
    fake_client_open(&c, fake, NULL);
    uint64_t before = fake->frame_count;
    assert_int_equal(fake_do(&c, CLIENT_ZERO, 100, 200, NULL, CLIENT_TRIM), 0);
    assert_int_equal(fake_do(&c, CLIENT_ZERO, 4000, 200, NULL, CLIENT_TRIM), 0);
    assert_int_equal(fake->frame_count, before);
    assert_int_equal(fake_do(&c, CLIENT_ZERO, 4000, 4096 + 96 + 50, NULL, CLIENT_TRIM), 0);
    assert_int_equal(fake->frame_count, before + 1);
    assert_int_equal(fake->disk[4095], 0x55);
    assert_int_equal(fake->disk[4096], 0);
    assert_int_equal(fake->disk[8191], 0);
    assert_int_equal(fake->disk[8192], 0x55);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: extents begin at the asked offset, have no gap, and stop at a shard's end. */
static void extents_are_gapless(void **state)
{
    (void)state;
    struct fake *fake = fake_create(5);
    struct fake_client c;
    struct fake_io io;
    fake_client_open(&c, fake, NULL);
    fake_submit(&c, &io, CLIENT_EXTENTS, (1 << 20) - 1000, 5 << 20, NULL, 0);
    assert_int_equal(fake_wait(&io), 0);
    assert_int_equal(io.extent_count, 6);
    assert_int_equal(io.extents[0].offset, (1 << 20) - 1000);
    assert_int_equal(io.extents[0].length, 1000);
    assert_int_equal(io.extents[0].state, 0);
    for (uint32_t i = 1; i < io.extent_count; i++) {
        assert_int_equal(io.extents[i].offset, io.extents[i - 1].offset + io.extents[i - 1].length);
        assert_int_equal(io.extents[i].state, i % 2);
    }
    fake_submit(&c, &io, CLIENT_EXTENTS, FAKE_SHARD_BYTES - 4096, FAKE_SHARD_BYTES, NULL, 0);
    assert_int_equal(fake_wait(&io), 0);
    assert_int_equal(io.extent_count, 1);
    assert_int_equal(io.extents[0].length, 4096);
    fake_client_close(&c);
    fake_destroy(fake);
}

static void list_needs_no_volume(void **state)
{
    (void)state;
    struct fake *fake = fake_create(6);
    struct fake_client c;
    struct fake_io io;
    fake_client_open(&c, fake, &(struct client_config){.volume = ""});
    fake_submit(&c, &io, CLIENT_LIST, 0, 0, NULL, 0);
    assert_int_equal(fake_wait(&io), 0);
    assert_int_equal(io.entry_count, 3);
    assert_string_equal(io.entries[0].name, "one");
    assert_string_equal(io.entries[2].name, "vol");
    assert_int_equal(io.entries[1].size, 4096);
    assert_int_equal(fake->sessions_opened, 0);
    assert_int_equal(fake_do(&c, CLIENT_FLUSH, 0, 0, NULL, 0), -EINVAL);
    fake_client_close(&c);
    fake_destroy(fake);
}

static void no_such_volume(void **state)
{
    (void)state;
    struct fake *fake = fake_create(7);
    struct fake_client c;
    fake_client_start(&c, fake, &(struct client_config){.volume = "nothing"});
    fake_run_ms(fake, 100);
    assert_true(c.opened);
    assert_int_equal(c.opened_rc, -ENOENT);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: closing ends what is under way with -ESHUTDOWN, exactly once, and hangs on nothing. */
static void close_ends_everything(void **state)
{
    (void)state;
    struct fake *fake = fake_create(8);
    struct fake_client c;
    struct fake_io ios[SLOTS];
    static uint8_t data[SLOTS][64 << 10];
    fake_client_open(&c, fake, NULL);
    fake->hold = true;
    for (int i = 0; i < SLOTS; i++)
        fake_submit(&c, &ios[i], i % 2 ? CLIENT_WRITE : CLIENT_READ, (uint64_t)i << 20, sizeof(data[0]), data[i], 0);
    fake_run_ms(fake, 3);
    fake_client_close(&c);
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(ios[i].done, 1);
        assert_int_equal(ios[i].rc, -ESHUTDOWN);
    }
    fake_destroy(fake);
}

static void statistics_count(void **state)
{
    (void)state;
    struct fake *fake = fake_create(9);
    struct fake_client c;
    uint8_t data[4096] = {1};
    fake_client_open(&c, fake, NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(fake_do(&c, CLIENT_WRITE, 0, sizeof(data), data, 0), 0);
    assert_int_equal(fake_do(&c, CLIENT_READ, 0, 100, data, 0), 0);
    const struct client_stats *stats = client_stats(c.client);
    assert_int_equal(stats->count[CLIENT_WRITE], 3);
    assert_int_equal(stats->bytes[CLIENT_WRITE], 3 * sizeof(data));
    assert_int_equal(stats->bytes[CLIENT_READ], 100);
    assert_int_equal(stats->latency[CLIENT_WRITE].count, 3);
    assert_true(stats->latency[CLIENT_WRITE].max_ns > 0);
    assert_string_equal(client_gateway(c.client), fake->gateways[0].address);
    fake_client_close(&c);
    fake_destroy(fake);
}

struct asked {
    struct client_ask ask;
    uint32_t done;
    int rc;
};

static void told(struct client_ask *ask, int rc)
{
    struct asked *asked = ask->owner;
    asked->done++;
    asked->rc = rc;
}

static void ask(struct asked *asked, struct client *client, uint64_t timeout_ms)
{
    *asked = (struct asked){.ask = {.timeout_ns = ENV_MS(timeout_ms), .cb = told, .owner = asked}};
    client_ask_size(client, &asked->ask);
    assert_int_equal(asked->done, 0); /* never inside the call */
}

/* Goal: who asks hears what the volume has grown to, and can use it; a window that is full is no hindrance; nobody is told
 * twice. */
static void a_grown_volume_is_seen_when_asked(void **state)
{
    (void)state;
    struct fake *fake = fake_create(21);
    struct fake_client c;
    struct fake_io held[2];
    struct asked first, second;
    uint8_t data[8192];
    memset(data, 5, sizeof(data));
    fake->size = FAKE_SIZE / 2;
    fake->inflight_count_max = 1;
    fake_client_open(&c, fake, NULL);
    assert_int_equal(client_size(c.client), FAKE_SIZE / 2);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, FAKE_SIZE - 8192, 8192, data, 0), -EINVAL);
    fake->hold = true;
    for (uint64_t i = 0; i < 2; i++)
        fake_submit(&c, &held[i], CLIENT_WRITE, i * 8192, 8192, data, 0);
    fake->size = FAKE_SIZE;
    ask(&first, c.client, 1000);
    ask(&second, c.client, 1000);
    fake_run_ms(fake, 100);
    assert_int_equal(first.done + second.done, 2);
    assert_int_equal(first.rc | second.rc, 0);
    assert_int_equal(client_size(c.client), FAKE_SIZE);
    fake->hold = false;
    fake_release(fake, 1);
    assert_int_equal(fake_wait(&held[0]) | fake_wait(&held[1]), 0);
    assert_int_equal(fake_do(&c, CLIENT_WRITE, FAKE_SIZE - 8192, 8192, data, 0), 0);
    assert_memory_equal(fake->disk + FAKE_SIZE - 8192, data, 8192);
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: sizes that cannot be are not believed, whoever tells them; those of before go on to hold. */
static void a_size_that_makes_no_sense_changes_nothing(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0,         4096, FAKE_SIZE + 1, FAKE_SIZE + 512, UINT64_MAX, UINT64_MAX - 4095,
                                     1ull << 62};
    struct fake *fake = fake_create(22);
    struct fake_client c;
    uint8_t data[4096] = {7};
    fake_client_open(&c, fake, NULL);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct asked asked;
        fake->size = sizes[i];
        ask(&asked, c.client, 1000);
        fake_run_ms(fake, 100);
        assert_int_equal(asked.done, 1);
        assert_int_equal(asked.rc, 0);
        assert_int_equal(client_size(c.client), FAKE_SIZE);
        assert_int_equal(fake_do(&c, CLIENT_WRITE, FAKE_SIZE - 4096, 4096, data, 0), 0);
    }
    fake_client_close(&c);
    fake_destroy(fake);
}

/* Goal: a question outlives its gateway, ends in time when there is none, and with the client. */
static void a_question_for_the_size_always_ends(void **state)
{
    (void)state;
    struct fake *fake = fake_create(23);
    struct fake_client c;
    struct asked asked;
    fake->size = FAKE_SIZE / 2;
    fake_client_open(&c, fake, NULL);
    fake->gateways[0].muted = true;
    fake->size = FAKE_SIZE;
    ask(&asked, c.client, 30000);
    fake_run_ms(fake, 10000);
    assert_int_equal(asked.done, 1);
    assert_int_equal(asked.rc, 0);
    assert_int_equal(client_size(c.client), FAKE_SIZE);
    for (int i = 0; i < FAKE_GATEWAYS; i++)
        fake_down(&fake->gateways[i]);
    ask(&asked, c.client, 2000);
    fake_run_ms(fake, 1500);
    assert_int_equal(asked.done, 0);
    fake_run_ms(fake, 1500);
    assert_int_equal(asked.done, 1);
    assert_int_equal(asked.rc, -ETIMEDOUT);
    ask(&asked, c.client, 30000);
    fake_client_close(&c);
    assert_int_equal(asked.done, 1);
    assert_int_equal(asked.rc, -ESHUTDOWN);
    fake_destroy(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_range_reads_back),
        cmocka_unit_test(window_is_kept),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(trim_of_less_than_a_block_does_nothing),
        cmocka_unit_test(extents_are_gapless),
        cmocka_unit_test(list_needs_no_volume),
        cmocka_unit_test(no_such_volume),
        cmocka_unit_test(close_ends_everything),
        cmocka_unit_test(statistics_count),
        cmocka_unit_test(a_grown_volume_is_seen_when_asked),
        cmocka_unit_test(a_size_that_makes_no_sense_changes_nothing),
        cmocka_unit_test(a_question_for_the_size_always_ends),
    };
    return cmocka_run_group_tests_name("client/io", tests, NULL, NULL);
}
