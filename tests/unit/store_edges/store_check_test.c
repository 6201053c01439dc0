/* SPDX-License-Identifier: Apache-2.0 */
/* store_check: a sound store is clean, whatever its last stop; each kind of damage is found; equal content, equal digest. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/daemon/store_tool.h"
#include "server/store/records.h"
#include "tests/unit/store_edges/real_fixture.h"

#define WRITES 120u
static const struct store_shard_id shard_id = {.volume = 5, .shard = 0, .instance = 9};

struct report {
    char *text;
    size_t bytes;
    enum store_tool_status status;
};

static struct report check(const char *directory, bool json, bool digest)
{
    struct report report = {.text = NULL};
    struct store_tool_check config = {.directory = directory, .json = json, .digest = digest};
    FILE *out = open_memstream(&report.text, &report.bytes);
    assert_non_null(out);
    report.status = store_tool_check(&config, out);
    assert_int_equal(fclose(out), 0);
    return report;
}

static void expect(const char *directory, enum store_tool_status status, const char *text)
{
    struct report report = check(directory, false, false);
    if (report.status != status || (text && !strstr(report.text, text)))
        print_message("%s", report.text);
    assert_int_equal(report.status, status);
    assert_true(!text || strstr(report.text, text) != NULL);
    free(report.text);
}

static void write_slots(const char *directory, uint32_t first, uint32_t count, uint32_t step)
{
    struct real real = {.opened = false};
    assert_int_equal(real_open(&real, directory), 0);
    struct buf *buf = buf_alloc(real.pool, STORE_BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (first + i * step) % count;
        real_slot_content(slot, buf->data);
        assert_int_equal(real_io(&real, STORE_WRITE, real_slot_offset(slot), buf, i + 1), 0);
    }
    buf_unref(buf);
    assert_int_equal(real_flush(&real), 0);
    real_close(&real);
}

static int setup(void **state)
{
    static struct edges edges;
    edges_init(&edges);
    *state = &edges;
    return 0;
}

static int teardown(void **state)
{
    edges_close(*state);
    return 0;
}

/* ---- sound ones */

static void fresh_written_and_killed_stores_are_clean(void **state)
{
    char directory[256];
    real_format(*state, directory);
    expect(directory, STORE_TOOL_CLEAN, " 0 maps");
    write_slots(directory, 0, WRITES, 1);
    expect(directory, STORE_TOOL_CLEAN, "last stop clean");
    expect(directory, STORE_TOOL_CLEAN, " 120 blocks compared, 0 damaged, 0 suspect, 0 unsettled");
    (void)real_kill_writer(directory, SLOTS + 20);
    expect(directory, STORE_TOOL_CLEAN, "last stop unclean");
    struct real real = {.opened = false};
    assert_int_equal(real_open(&real, directory), 0); /* the check changed nothing that a start needs */
    real_close(&real);
    expect(directory, STORE_TOOL_CLEAN, " 400 blocks compared, 0 damaged");
}

/* Goal: the digest speaks of content alone. Method: the same blocks written in two orders, hence in other units. */
static void equal_content_has_equal_digests(void **state)
{
    struct edges other;
    char left[256], right[256];
    real_format(*state, left);
    edges_init(&other);
    real_format(&other, right);
    write_slots(left, 0, WRITES, 1);
    write_slots(right, 7, WRITES, 11);
    struct report l = check(left, false, true), r = check(right, false, true);
    assert_int_equal(l.status, STORE_TOOL_CLEAN);
    assert_int_equal(r.status, STORE_TOOL_CLEAN);
    assert_true(l.bytes > 500);
    assert_string_equal(l.text, r.text);
    free(r.text);
    struct real real = {.opened = false};
    assert_int_equal(real_open(&real, right), 0);
    struct buf *buf = buf_alloc(real.pool, STORE_BLOCK_BYTES);
    real_slot_content(99999, buf->data);
    assert_int_equal(real_io(&real, STORE_WRITE, real_slot_offset(5), buf, 1), 0);
    buf_unref(buf);
    real_close(&real);
    r = check(right, false, true);
    assert_int_equal(r.status, STORE_TOOL_CLEAN);
    assert_string_not_equal(l.text, r.text);
    free(l.text);
    free(r.text);
    edges_close(&other);
}

static void json_is_one_document(void **state)
{
    char directory[256];
    real_format(*state, directory);
    write_slots(directory, 0, 10, 1);
    struct report report = check(directory, /* json= */ true, false);
    assert_int_equal(report.status, STORE_TOOL_CLEAN);
    assert_true(report.text[0] == '{');
    assert_non_null(strstr(report.text, "\"status\": \"clean\""));
    assert_non_null(strstr(report.text, "\"blocks_compared\": 10"));
    assert_non_null(strstr(report.text, "\"findings\": []"));
    free(report.text);
}

/* ---- damaged ones */

static void kv_open_in(struct edges *edges, const char *directory)
{
    char path[STORE_TOOL_PATH_MAX];
    assert_int_equal(store_tool_kv_path(directory, path), 0);
    struct kv_rocksdb_config config = {.path = path, .cache_bytes = 8u << 20};
    assert_int_equal(kv_rocksdb_open(edges->loop, &config, &edges->kv), 0);
}

static void kv_close_in(struct edges *edges)
{
    kv_close(edges->kv);
    edges->kv = NULL;
}

/* Applies one batch to the database of a stopped store. */
static void kv_change(struct edges *edges, const char *directory, struct kv_write *write)
{
    kv_open_in(edges, directory);
    write->sync = true;
    assert_int_equal(edges_write(edges, write), 0);
    kv_close_in(edges);
}

/* First pair of a kind. */
static void kv_first(struct edges *edges, const char *directory, enum record_kind kind, struct record_key *ret_key,
                     uint8_t ret_value[RECORD_SUMS_BYTES], uint32_t *ret_len)
{
    struct kv_scan scan = {0};
    char from[2] = {(char)kind, 0}, to[2] = {(char)(kind + 1), 0};
    uint32_t cursor = 0, key_len;
    const uint8_t *key, *value;
    bool is_delete;
    kv_open_in(edges, directory);
    assert_int_equal(edges_scan(edges, &scan, from, to, 1), 0);
    assert_true(kv_batch_next(&scan.pairs, &cursor, &key, &key_len, &value, ret_len, &is_delete));
    memcpy(ret_key->bytes, key, key_len);
    ret_key->len = key_len;
    memcpy(ret_value, value, *ret_len);
    kv_batch_free(&scan.pairs);
    kv_close_in(edges);
}

static void image_write(const char *directory, uint64_t offset, const void *data, size_t bytes)
{
    char path[STORE_TOOL_PATH_MAX];
    assert_int_equal(store_tool_drive_path(directory, path), 0);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)offset), (ssize_t)bytes);
    assert_int_equal(fsync(fd), 0);
    (void)close(fd);
}

static void rotten_block_is_found(void **state)
{
    char directory[256];
    struct record_key key;
    struct record_map map;
    uint8_t value[RECORD_SUMS_BYTES];
    uint32_t len, block = 0;
    real_format(*state, directory);
    write_slots(directory, 0, WRITES, 1);
    kv_first(*state, directory, RECORD_MAP, &key, value, &len);
    assert_int_equal(record_map_decode(key.bytes, key.len, value, len, &map), 0);
    while (record_state_get(map.states, block) == BLOCK_ZERO)
        block++;
    image_write(directory, (uint64_t)map.own[block / 16] * STORE_UNIT_BYTES + block % 16 * STORE_BLOCK_BYTES + 77, "x",
                1);
    expect(directory, STORE_TOOL_DAMAGED, "a block does not match its checksum volume=5 shard=0 instance=9");
    struct report report = check(directory, /* json= */ true, false);
    assert_non_null(strstr(report.text, "\"status\": \"damaged\""));
    assert_non_null(strstr(report.text, "\"damage\": 1,"));
    free(report.text);
}

static void broken_records_are_found(void **state)
{
    struct edges *edges = *state;
    char directory[256];
    struct record_key key;
    uint8_t value[RECORD_SUMS_BYTES];
    uint32_t len;
    static const enum record_kind kinds[] = {RECORD_MAP, RECORD_SUMS, RECORD_SHARD};
    static const char *const texts[] = {"a map record is broken", "a record of checksums is broken",
                                        "a shard's record is broken"};
    real_format(edges, directory);
    write_slots(directory, 0, WRITES, 1);
    for (unsigned i = 0; i < 3; i++) {
        struct kv_write bad = {0}, good = {0};
        kv_first(edges, directory, kinds[i], &key, value, &len);
        kv_batch_put(&good.batch, key.bytes, key.len, value, len);
        value[len / 2] ^= 1;
        kv_batch_put(&bad.batch, key.bytes, key.len, value, len);
        kv_change(edges, directory, &bad);
        expect(directory, STORE_TOOL_DAMAGED, texts[i]);
        kv_change(edges, directory, &good);
        expect(directory, STORE_TOOL_CLEAN, NULL);
    }
    struct kv_write stranger = {0};
    kv_batch_put(&stranger.batch, "zebra", 5, "stripes", 7);
    kv_change(edges, directory, &stranger);
    expect(directory, STORE_TOOL_DAMAGED, "a record that is of no known kind");
}

/* Goal: I11 and I12, one unit, one place. Method: a second chunk's map names the first one's units. */
static void unit_in_two_places_is_found(void **state)
{
    struct edges *edges = *state;
    char directory[256];
    struct record_key key;
    struct record_map map;
    uint8_t value[RECORD_SUMS_BYTES], forged[RECORD_MAP_BYTES_MAX];
    uint32_t len;
    struct kv_write write = {0};
    real_format(edges, directory);
    write_slots(directory, 0, WRITES, 1);
    kv_first(edges, directory, RECORD_MAP, &key, value, &len);
    assert_int_equal(record_map_decode(key.bytes, key.len, value, len, &map), 0);
    struct record_key other = record_key_chunk(RECORD_MAP, &shard_id, STORE_SHARD_CHUNKS - 1, map.generation);
    len = record_map_encode(&other, &map, forged);
    kv_batch_put(&write.batch, other.bytes, other.len, forged, len);
    kv_change(edges, directory, &write);
    expect(directory, STORE_TOOL_DAMAGED, "a unit belongs to two places volume=5 shard=0 instance=9 chunk=1023");
}

static void unit_outside_the_drive_is_found(void **state)
{
    struct edges *edges = *state;
    char directory[256];
    struct record_map map = {.generation = 1};
    uint8_t value[RECORD_MAP_BYTES_MAX];
    struct kv_write write = {0};
    real_format(edges, directory);
    memset(map.own, 0xff, sizeof(map.own));
    memset(map.base, 0xff, sizeof(map.base));
    map.own[3] = FILE_BYTES / STORE_UNIT_BYTES; /* one too many */
    record_state_set(map.states, 3 * 16, BLOCK_OWN);
    struct record_key key = record_key_chunk(RECORD_MAP, &shard_id, 8, 1);
    uint32_t len = record_map_encode(&key, &map, value);
    kv_batch_put(&write.batch, key.bytes, key.len, value, len);
    kv_change(edges, directory, &write);
    expect(directory, STORE_TOOL_DAMAGED, "a map points outside the drive");
}

static void lost_superblocks_are_found(void **state)
{
    static const uint8_t zeros[STORE_BLOCK_BYTES];
    char directory[256];
    real_format(*state, directory);
    write_slots(directory, 0, 10, 1);
    image_write(directory, 0, zeros, sizeof(zeros));
    expect(directory, STORE_TOOL_DAMAGED, "the first superblock is broken");
    expect(directory, STORE_TOOL_DAMAGED, " 10 blocks compared"); /* the second one carried on */
    image_write(directory, 512u * 1024u, zeros, sizeof(zeros));
    expect(directory, STORE_TOOL_DAMAGED, "the second superblock is broken");
}

static void store_in_use_or_absent_is_not_checked(void **state)
{
    struct edges *edges = *state;
    char directory[256];
    struct real real = {.opened = false};
    real_format(edges, directory);
    assert_int_equal(real_open(&real, directory), 0);
    expect(directory, STORE_TOOL_CANNOT, "not checked");
    real_close(&real);
    expect(directory, STORE_TOOL_CLEAN, NULL);
    expect("/nonexistent", STORE_TOOL_CANNOT, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "writes") == 0)
        return real_child_writes(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(fresh_written_and_killed_stores_are_clean, setup, teardown),
        cmocka_unit_test_setup_teardown(equal_content_has_equal_digests, setup, teardown),
        cmocka_unit_test_setup_teardown(json_is_one_document, setup, teardown),
        cmocka_unit_test_setup_teardown(rotten_block_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(broken_records_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(unit_in_two_places_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(unit_outside_the_drive_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_superblocks_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(store_in_use_or_absent_is_not_checked, setup, teardown),
    };
    return cmocka_run_group_tests_name("store_check", tests, NULL, NULL);
}
