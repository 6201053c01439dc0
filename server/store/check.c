/* SPDX-License-Identifier: Apache-2.0 */
/* check: walks the records of a store and, record by record, the data they point to.
 *
 *   - both superblocks, then the super record: was the last stop clean?
 *   - scans, kind by kind: removals, shards, marks; then maps, each with its references and its data (check_chunk.c);
 *     then checksums, each of which must have a map; last, what is no record at all
 *   - a unit belongs to one place of one chunk, whatever the generation, of one family of clones (I11, I12): owners[] says
 *     which (check_family.c); a base is there, and no chain of bases is too long
 * Nothing is written, not even what a start would repair (a superblock's bad copy, unsettled blocks).
 * Failure modes: see check.h; a page of the kv that can not be read ends the check, a record that can not is a finding.
 */
#include "server/store/check_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_PAIRS 512u

/* What is scanned, in this order: [from, to). kind 0: a gap between the kinds, where nothing may be. */
static const struct {
    enum record_kind kind;
    const char *from, *to;
    uint32_t from_len;
} scans[] = {
    {RECORD_DROP, "x", "y", 1}, {RECORD_SHARD, "s", "t", 1},
    {RECORD_MARK, "d", "e", 1}, {RECORD_MAP, "c", "d", 1},
    {RECORD_SUMS, "u", "v", 1}, {0, "\0", "S", 1},
    {0, "S\0", "T", 2},         {0, "T", "c", 1},
    {0, "e", "s", 1},           {0, "t", "u", 1},
    {0, "v", "x", 1},           {0, "y", "\xff", 1},
};
#define SCAN_COUNT ((uint32_t)(sizeof(scans) / sizeof(scans[0])))

static void scan_start(struct check *check);

void check_damage(struct check *check, const char *what, const struct store_shard_id *id, uint32_t chunk,
                  uint32_t generation, uint32_t block, uint32_t unit)
{
    static const struct store_shard_id none;
    struct store_check_finding finding = {
        .what = what, .id = id ? *id : none, .chunk = chunk, .generation = generation, .block = block, .unit = unit};
    assert(what && what[0]);
    assert(block == STORE_CHECK_NONE || block < STORE_CHUNK_BLOCKS);
    check->stats.damage++;
    check->config.found(check->config.arg, &finding);
}

static void damage_of_store(struct check *check, const char *what)
{
    assert(what && check->config.found);
    check_damage(check, what, NULL, STORE_CHECK_NONE, STORE_CHECK_NONE, STORE_CHECK_NONE, STORE_CHECK_NONE);
}

void check_end(struct check *check, int rc)
{
    struct store_check config = check->config;
    struct store_check_stats stats = check->stats;
    assert(rc <= 0);
    assert(check->chunk.pending == 0 && check->superblocks_pending == 0);
    assert(config.done);
    for (uint32_t unit = check->unit_first; check->owners && unit < check->unit_count; unit++)
        stats.units_referenced += check->owners[unit] != 0;
    kv_batch_free(&check->scan.pairs);
    kv_get_free(&check->get);
    kv_get_free(&check->chunk.get);
    buf_unref(check->buf);
    free(check->owners);
    free(check->marks);
    free(check->families);
    free(check->shards);
    free(check->drops);
    free(check);
    config.done(config.arg, rc, &stats);
}

/* ---- marks */

int check_compare_ids(const struct store_shard_id *a, const struct store_shard_id *b)
{
    assert(a && b);
    if (a->volume != b->volume)
        return a->volume < b->volume ? -1 : 1;
    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    return a->instance < b->instance ? -1 : a->instance > b->instance;
}

static int compare_marks(const void *a, const void *b)
{
    const struct check_mark *left = a, *right = b;
    int order = check_compare_ids(&left->id, &right->id);
    assert(left->region < STORE_SHARD_CHUNKS && right->region < STORE_SHARD_CHUNKS);
    return order ? order : left->region < right->region ? -1 : left->region > right->region;
}

bool check_marked(const struct check *check, const struct store_shard_id *id, uint32_t chunk)
{
    struct check_mark wanted = {.id = *id, .region = chunk / (STORE_REGION_BYTES / STORE_CHUNK_BYTES)};
    assert(chunk < STORE_SHARD_CHUNKS);
    return check->mark_count > 0 &&
           bsearch(&wanted, check->marks, check->mark_count, sizeof(wanted), compare_marks) != NULL;
}

static int add_mark(struct check *check, const struct store_shard_id *id, uint32_t region)
{
    assert(check->mark_count <= check->mark_capacity);
    assert(region < STORE_SHARD_CHUNKS / (STORE_REGION_BYTES / STORE_CHUNK_BYTES));
    if (check->mark_count == check->mark_capacity) {
        uint32_t capacity = check->mark_capacity ? 2 * check->mark_capacity : 256;
        struct check_mark *marks = realloc(check->marks, capacity * sizeof(*marks));
        if (!marks)
            return -ENOMEM;
        check->marks = marks;
        check->mark_capacity = capacity;
    }
    check->marks[check->mark_count++] = (struct check_mark){.id = *id, .region = region};
    return 0;
}

/* ---- references */

static void claim_unit(struct check *check, const struct check_mark *where, uint32_t generation, uint32_t slot,
                       uint32_t unit)
{
    uint32_t owner = (check->family * STORE_SHARD_CHUNKS + where->region) * STORE_CHUNK_UNITS + slot + 1;
    assert(slot < STORE_CHUNK_UNITS);
    assert(check->owners && owner > 0);
    if (unit == RECORD_UNIT_NONE)
        return;
    if (unit < check->unit_first || unit >= check->unit_count)
        check_damage(check, "a map points outside the drive", &where->id, where->region, generation, STORE_CHECK_NONE,
                     unit);
    else if (check->owners[unit] != 0 && check->owners[unit] != owner)
        check_damage(check, "a unit belongs to two places", &where->id, where->region, generation, STORE_CHECK_NONE,
                     unit);
    else
        check->owners[unit] = owner;
}

/* true: I/O was begun. */
static bool map_check(struct check *check, const struct store_shard_id *id, uint32_t index,
                      const struct record_map *map)
{
    struct check_mark where = {.id = *id, .region = index}; /* here: the chunk */
    bool newest = check->stats.maps == 1 || check->last_chunk != index || check_compare_ids(&check->last_id, id) != 0;
    assert(check->stats.maps > 0);
    assert(index < STORE_SHARD_CHUNKS);
    if (check->stats.maps == 1 || check_compare_ids(&check->last_id, id) != 0)
        check->family = check_family_of(check, id);
    check->last_id = *id;
    check->last_chunk = index;
    if (check->family == UINT32_MAX)
        return false; /* told */
    for (uint32_t slot = 0; slot < STORE_CHUNK_UNITS; slot++) {
        claim_unit(check, &where, map->generation, slot, map->own[slot]);
        claim_unit(check, &where, map->generation, slot, map->base[slot]);
    }
    return check_chunk_start(check, id, index, map, newest);
}

/* ---- one pair of a page; true: I/O was begun, check_resume follows */

static void map_got(struct kv_get *get, int rc)
{
    struct check *check = get->owner;
    assert(get == &check->get);
    if (rc && rc != -ENOENT) {
        check_end(check, rc);
        return;
    }
    assert(scans[check->step].kind == RECORD_SUMS);
    check->stats.sums_left_over += rc == -ENOENT;
    check_resume(check);
}

static bool sums_check(struct check *check, const uint8_t *key, uint32_t key_len)
{
    assert(key_len == RECORD_KEY_BYTES);
    check->stats.sums++;
    memcpy(check->get.key, key, key_len);
    check->get.key[0] = RECORD_MAP;
    check->get.key_len = key_len;
    check->get.cb = map_got;
    check->get.owner = check;
    kv_get(check->config.kv, &check->get);
    return true;
}

static int decode_small(struct check *check, enum record_kind kind, const struct store_shard_id *id, uint32_t index,
                        const uint8_t *key, uint32_t key_len, const uint8_t *value, uint32_t value_len)
{
    struct record_mark mark;
    struct record_shard shard;
    int rc;
    assert(kind == scans[check->step].kind);
    switch (kind) {
    case RECORD_DROP:
        check->stats.drops++;
        rc = record_drop_decode(key, key_len, value, value_len);
        return rc < 0 ? rc : check_family_drop(check, id);
    case RECORD_SHARD:
        check->stats.shards++;
        rc = record_shard_decode(key, key_len, value, value_len, &shard);
        return rc < 0 ? rc : check_family_add(check, id, &shard);
    default:
        assert(kind == RECORD_MARK);
        check->stats.marks++;
        rc = record_mark_decode(key, key_len, value, value_len, &mark);
        return rc < 0 ? rc : add_mark(check, id, index);
    }
}

static bool pair_check(struct check *check, const uint8_t *key, uint32_t key_len, const uint8_t *value,
                       uint32_t value_len)
{
    enum record_kind kind;
    struct store_shard_id id;
    uint32_t index, generation;
    struct record_map map;
    if (record_key_decode(key, key_len, &kind, &id, &index, &generation) < 0 || kind != scans[check->step].kind) {
        damage_of_store(check, "a record that is of no known kind");
        return false;
    }
    assert(kind != RECORD_SUPER);
    assert(index < STORE_SHARD_CHUNKS);
    if (kind == RECORD_SUMS)
        return sums_check(check, key, key_len);
    if (kind == RECORD_MAP) {
        check->stats.maps++;
        if (record_map_decode(key, key_len, value, value_len, &map) == 0)
            return map_check(check, &id, index, &map);
        check_damage(check, "a map record is broken", &id, index, generation, STORE_CHECK_NONE, STORE_CHECK_NONE);
        return false;
    }
    if (decode_small(check, kind, &id, index, key, key_len, value, value_len) < 0)
        check_damage(check,
                     kind == RECORD_MARK    ? "a mark is broken"
                     : kind == RECORD_SHARD ? "a shard's record is broken"
                                            : "a record of a removal is broken",
                     &id, STORE_CHECK_NONE, STORE_CHECK_NONE, STORE_CHECK_NONE, STORE_CHECK_NONE);
    return false;
}

/* ---- scans */

static void page_scanned(struct kv_scan *scan, int rc)
{
    struct check *check = scan->owner;
    assert(scan == &check->scan);
    assert(check->chunk.pending == 0);
    if (rc) {
        check_end(check, rc);
        return;
    }
    check->cursor = 0;
    check_resume(check);
}

static void page_scan(struct check *check)
{
    assert(check->scan.from_len > 0 && check->scan.to_len > 0);
    assert(check->step < SCAN_COUNT);
    check->scan.limit = PAGE_PAIRS;
    check->scan.cb = page_scanned;
    check->scan.owner = check;
    kv_scan(check->config.kv, &check->scan);
}

void check_resume(struct check *check)
{
    const uint8_t *key = NULL, *value;
    uint32_t key_len = 0, value_len;
    bool is_delete;
    assert(check->step < SCAN_COUNT);
    while (kv_batch_next(&check->scan.pairs, &check->cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        /* The successor of this key, should it be the page's last. */
        if (key_len < KV_KEY_MAX) {
            memcpy(check->scan.from, key, key_len);
            check->scan.from[key_len] = 0;
            check->scan.from_len = key_len + 1;
        }
        if (pair_check(check, key, key_len, value, value_len))
            return;
    }
    if (check->scan.more && key_len < KV_KEY_MAX) {
        page_scan(check);
        return;
    }
    if (scans[check->step].kind == RECORD_SHARD)
        check_families(check);
    check->step++;
    scan_start(check);
}

static void scan_start(struct check *check)
{
    assert(check->step <= SCAN_COUNT);
    if (check->step == SCAN_COUNT) {
        check_end(check, 0);
        return;
    }
    uint32_t from_len = scans[check->step].from_len;
    assert(from_len == 1 || from_len == 2);
    memcpy(check->scan.from, scans[check->step].from, from_len);
    check->scan.from_len = from_len;
    check->scan.to[0] = (uint8_t)scans[check->step].to[0];
    check->scan.to_len = 1;
    page_scan(check);
}

/* ---- superblocks and the super record */

static void super_got(struct kv_get *get, int rc)
{
    struct check *check = get->owner;
    assert(get == &check->get);
    if (rc && rc != -ENOENT) {
        check_end(check, rc);
        return;
    }
    assert(check->owners);
    check->stats.clean = true; /* freshly formatted */
    if (rc == 0) {
        if (record_super_decode(get->value, get->value_len, &check->super) < 0)
            damage_of_store(check, "the super record is broken");
        check->stats.clean = check->super.clean;
    }
    scan_start(check);
}

static int size_tables(struct check *check, const struct superblock *super)
{
    uint64_t units = check->config.drive->bytes / STORE_UNIT_BYTES;
    if (super->drive_bytes > check->config.drive->bytes)
        damage_of_store(check, "the drive is smaller than it was formatted");
    if (units >= RECORD_UNIT_NONE || units <= STORE_CHUNK_UNITS)
        return -EINVAL;
    check->unit_first = STORE_CHUNK_BYTES / STORE_UNIT_BYTES;
    check->unit_count = (uint32_t)units;
    check->stats.units_total = check->unit_count - check->unit_first;
    check->owners = calloc(units, sizeof(*check->owners));
    assert(check->unit_first < check->unit_count);
    assert(check->stats.units_total > 0);
    return check->owners ? 0 : -ENOMEM;
}

static void superblocks_judge(struct check *check)
{
    struct superblock supers[SUPERBLOCK_COPIES];
    int good = -1;
    assert(check->superblocks_pending == 0);
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        int rc = check->superblock_rcs[i];
        if (rc == 0)
            rc = superblock_decode(check->buf->data + i * STORE_BLOCK_BYTES, &supers[i]);
        if (rc < 0)
            damage_of_store(check, i == 0 ? "the first superblock is broken" : "the second superblock is broken");
        else
            good = good < 0 ? (int)i : good;
    }
    assert(good < (int)SUPERBLOCK_COPIES);
    if (good == 0 && check->stats.damage == 0 &&
        memcmp(check->buf->data, check->buf->data + STORE_BLOCK_BYTES, STORE_BLOCK_BYTES) != 0)
        damage_of_store(check, "the two superblocks differ");
    int rc = good < 0 ? -EBADMSG : size_tables(check, &supers[good]);
    if (rc < 0) {
        check_end(check, rc);
        return;
    }
    check->stats.identity = supers[good].identity;
    struct record_key key = record_key_super();
    memcpy(check->get.key, key.bytes, key.len);
    check->get.key_len = key.len;
    check->get.cb = super_got;
    check->get.owner = check;
    kv_get(check->config.kv, &check->get);
}

static void superblock_read(struct drive_io *io, int rc)
{
    struct check *check = io->owner;
    assert(check->superblocks_pending > 0);
    assert(rc <= 0);
    check->superblock_rcs[io - check->superblock_ios] = rc;
    if (--check->superblocks_pending == 0)
        superblocks_judge(check);
}

int store_check_start(const struct store_check *config)
{
    assert(config && config->drive && config->kv && config->pool);
    assert(config->found && config->done);
    if (config->drive->bytes < superblock_offsets[SUPERBLOCK_COPIES - 1] + STORE_BLOCK_BYTES)
        return -EINVAL;
    struct check *check = calloc(1, sizeof(*check));
    struct buf *buf = buf_alloc(config->pool, STORE_CHUNK_BYTES);
    if (!check || !buf) {
        buf_unref(buf);
        free(check);
        return -ENOMEM;
    }
    check->config = *config;
    check->buf = buf;
    check->superblocks_pending = SUPERBLOCK_COPIES;
    for (uint32_t i = 0; i < SUPERBLOCK_COPIES; i++) {
        struct drive_io *io = &check->superblock_ios[i];
        *io = (struct drive_io){.op = DRIVE_READ,
                                .offset = superblock_offsets[i],
                                .length = STORE_BLOCK_BYTES,
                                .data = buf->data + i * STORE_BLOCK_BYTES,
                                .cb = superblock_read,
                                .owner = check};
        drive_submit(config->drive, io);
    }
    return 0;
}
