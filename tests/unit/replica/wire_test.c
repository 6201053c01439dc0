/* SPDX-License-Identifier: Apache-2.0 */
/* wire: bodies of RAISE, SYNC_START and SYNC_DIGEST answers: round trips, and hostile bytes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/prng.h"
#include "server/replica/replica_internal.h"
#include "server/replica/sync_wire.h"
#include "server/replica/window_wire.h"

#define LIMIT (64ull << 20)

static struct replica *rep_create(void)
{
    struct replica *rep = calloc(1, sizeof(*rep));
    assert_non_null(rep);
    rep->set = calloc(1, sizeof(*rep->set));
    assert_non_null(rep->set);
    list_head_init(&rep->locks);
    list_head_init(&rep->window);
    return rep;
}

static void rep_destroy(struct replica *rep)
{
    free(rep->set);
    free(rep);
}

static struct window_range seen[16];
static uint32_t seen_count;

static void see(void *arg, const struct window_range *range)
{
    (void)arg;
    assert_true(range->length > 0 && range->offset < LIMIT && range->offset + range->length <= LIMIT);
    if (seen_count < 16)
        seen[seen_count] = *range;
    seen_count++;
}

static void add(struct replica *rep, struct window_entry *entry, uint64_t offset, uint32_t length)
{
    memset(entry, 0, sizeof(*entry));
    entry->offset = offset;
    entry->length = length;
    entry->generation = 1;
    list_push_back(&rep->window, &entry->link);
    rep->window_count++;
}

/* Every entry comes out again, in order. */
static void test_window_round_trip(void **state)
{
    struct replica *rep = rep_create();
    struct window_entry entries[3];
    uint8_t *body = malloc(WIRE_BODY_MAX);
    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        add(rep, &entries[i], i * 1048576ull, 4096 * (i + 1));
    uint32_t bytes = window_encode(rep, body, WIRE_BODY_MAX);
    seen_count = 0;
    assert_int_equal(window_decode(body, bytes, LIMIT, see, NULL), 0);
    assert_int_equal(seen_count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(seen[i].offset, i * 1048576ull);
        assert_int_equal(seen[i].length, 4096 * (i + 1));
    }
    free(body);
    rep_destroy(rep);
}

/* More entries than fit are told as whole regions: all of them are covered, none is lost. */
static void test_window_overflow(void **state)
{
    struct replica *rep = rep_create();
    struct window_entry *entries = calloc(REPLICA_WINDOW_MAX + 1, sizeof(*entries));
    uint8_t *body = malloc(WIRE_BODY_MAX);
    (void)state;
    for (uint32_t i = 0; i <= REPLICA_WINDOW_MAX; i++)
        add(rep, &entries[i], (i % 2) * 33554432ull + 8192, 4096);
    uint32_t bytes = window_encode(rep, body, WIRE_BODY_MAX);
    seen_count = 0;
    assert_int_equal(window_decode(body, bytes, LIMIT, see, NULL), 0);
    assert_int_equal(seen_count, 2);
    assert_int_equal(seen[1].offset, 33554432);
    assert_int_equal(seen[1].length, STORE_REGION_BYTES);
    free(body);
    free(entries);
    rep_destroy(rep);
}

/* Random bytes are refused or give ranges inside the shard; lengths that are no multiple are refused. */
static void test_window_hostile(void **state)
{
    uint8_t body[WINDOW_ENTRY_BYTES * 4] = {0};
    struct prng prng;
    (void)state;
    prng_seed(&prng, 3);
    assert_int_equal(window_decode(body, 15, LIMIT, see, NULL), -EBADMSG);
    for (uint32_t i = 0; i < 20000; i++) {
        for (uint32_t k = 0; k < sizeof(body); k++)
            body[k] = prng_below(&prng, 3) ? 0 : (uint8_t)prng_next(&prng);
        int rc = window_decode(body, sizeof(body), LIMIT, see, NULL);
        assert_true(rc == 0 || rc == -EBADMSG);
    }
}

static void chunk_seen(void *arg, const struct store_chunk_info *info)
{
    uint32_t *count = arg;
    assert_true(info->chunk < STORE_SHARD_CHUNKS);
    ++*count;
}

/* A list of chunks and digests: round trip; chunk numbers and states out of range are refused. */
static void test_sync(void **state)
{
    uint8_t body[SYNC_DIGEST_BYTES];
    struct store_block_digest in[STORE_CHUNK_BLOCKS], out[STORE_CHUNK_BLOCKS];
    struct store_chunk_info info = {.chunk = 1023, .mod_epoch = 9, .marked = true};
    uint32_t count = 0;
    (void)state;
    sync_list_put(body, 0, &info);
    assert_int_equal(sync_list_decode(body, SYNC_LIST_ENTRY_BYTES, chunk_seen, &count), 0);
    assert_int_equal(count, 1);
    body[1] = 4; /* chunk 1024 + 255 */
    assert_int_equal(sync_list_decode(body, SYNC_LIST_ENTRY_BYTES, chunk_seen, &count), -EBADMSG);
    assert_int_equal(sync_list_decode(body, SYNC_LIST_ENTRY_BYTES - 1, chunk_seen, &count), -EBADMSG);
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++)
        in[i] = (struct store_block_digest){.crc32c = i * 7, .state = i % 3, .crc64 = i * 1000003ull};
    sync_digest_encode(in, body);
    assert_int_equal(sync_digest_decode(body, sizeof(body), out), 0);
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++)
        assert_true(in[i].crc32c == out[i].crc32c && in[i].state == out[i].state && in[i].crc64 == out[i].crc64);
    assert_int_equal(sync_digest_decode(body, sizeof(body) - 1, out), -EBADMSG);
    body[4] = 3;
    assert_int_equal(sync_digest_decode(body, sizeof(body), out), -EBADMSG);
}

/* Generations of a chunk: round trip; what does not ascend, or is too many, is refused. */
static void test_generations(void **state)
{
    const uint32_t in[4] = {1, 5, 6, UINT32_MAX};
    uint8_t body[16];
    uint32_t out[4], count = 0;
    (void)state;
    assert_int_equal(sync_generations_encode(in, 4, body), sizeof(body));
    assert_int_equal(sync_generations_decode(body, sizeof(body), out, 4, &count), 0);
    assert_int_equal(count, 4);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(sync_generations_decode(body, sizeof(body), out, 3, &count), -EBADMSG);
    assert_int_equal(sync_generations_decode(body, sizeof(body) - 1, out, 4, &count), -EBADMSG);
    body[8] = 5;
    assert_int_equal(sync_generations_decode(body, sizeof(body), out, 4, &count), -EBADMSG);
    assert_int_equal(sync_generations_decode(body, 0, out, 4, &count), 0);
    assert_int_equal(count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_window_round_trip), cmocka_unit_test(test_window_overflow),
                                       cmocka_unit_test(test_window_hostile), cmocka_unit_test(test_sync),
                                       cmocka_unit_test(test_generations)};
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
