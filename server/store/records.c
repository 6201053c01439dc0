/* SPDX-License-Identifier: Apache-2.0 */
/* records: encoders and bounded decoders of the store's keys and values.
 *
 * - record_key_* builds a key, record_key_decode takes it apart.
 * - record_X_encode writes {u8 format, ...} and seals it with CRC32C(key, value); record_X_decode checks length,
 *   format, seal and that every field is one an encoder could have written.
 * Failure: -EBADMSG; nothing is written to the out parameter.
 */
#include "server/store/records.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"

enum { FORMAT = 1 };
enum { MAP_UNITS = 1, MAP_BASE = 2, MAP_FRESH0 = 4, MAP_FRESH1 = 8, MAP_BARE = 16, MAP_FLAGS = 31 };
enum { MARK_FROZEN = 1 };
enum { SHARD_BASE = 1 };
enum { SUPER_CLEAN = 1, SUPER_SUSPECT = 2 };
enum { MAP_HEAD_BYTES = 16, STATES_BYTES = STORE_CHUNK_BLOCKS / 4, FRESH_BYTES = 40, SEAL_BYTES = 4 };

_Static_assert(MAP_HEAD_BYTES + 4 * STORE_CHUNK_UNITS * 2 + STATES_BYTES + 2 * FRESH_BYTES + SEAL_BYTES <=
                   RECORD_MAP_BYTES_MAX,
               "the largest map record");
_Static_assert(RECORD_SUMS_BYTES == 4 + 4 * STORE_CHUNK_BLOCKS + SEAL_BYTES, "sums record");

static void put_le(uint8_t *at, uint64_t value, uint32_t bytes)
{
    assert(bytes <= 8);
    value = htole64(value);
    memcpy(at, &value, bytes); /* one store where the size is known: sums are on the path of every first write */
}

static uint64_t get_le(const uint8_t *at, uint32_t bytes)
{
    assert(bytes <= 8);
    uint64_t value = 0;
    memcpy(&value, at, bytes);
    return le64toh(value);
}

static void put_be(uint8_t *at, uint64_t value, uint32_t bytes)
{
    assert(bytes <= 8);
    for (uint32_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

static uint64_t get_be(const uint8_t *at, uint32_t bytes)
{
    assert(bytes <= 8);
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static uint32_t seal_of(const void *key, size_t key_len, const void *value, size_t bytes)
{
    assert(bytes > SEAL_BYTES);
    return crc32c_extend(crc32c(key, key_len), value, bytes - SEAL_BYTES);
}

static void seal(const struct record_key *key, uint8_t *value, size_t bytes)
{
    assert(key->len >= 1 && key->len <= RECORD_KEY_BYTES);
    put_le(value + bytes - SEAL_BYTES, seal_of(key->bytes, key->len, value, bytes), SEAL_BYTES);
}

static bool sealed(const void *key, size_t key_len, const uint8_t *value, size_t bytes)
{
    if (bytes <= SEAL_BYTES || value[0] != FORMAT)
        return false;
    return get_le(value + bytes - SEAL_BYTES, SEAL_BYTES) == seal_of(key, key_len, value, bytes);
}

static struct record_key key_of(enum record_kind kind, const struct store_shard_id *id)
{
    struct record_key key = {.len = 21};
    key.bytes[0] = (uint8_t)kind;
    put_be(key.bytes + 1, id->volume, 8);
    put_be(key.bytes + 9, id->shard, 4);
    put_be(key.bytes + 13, id->instance, 8);
    return key;
}

struct record_key record_key_super(void)
{
    struct record_key key = {.len = 1, .bytes = {RECORD_SUPER}};
    return key;
}

struct record_key record_key_chunk(enum record_kind kind, const struct store_shard_id *id, uint32_t chunk,
                                   uint32_t generation)
{
    assert(kind == RECORD_MAP || kind == RECORD_SUMS);
    assert(chunk < STORE_SHARD_CHUNKS);
    struct record_key key = key_of(kind, id);
    put_be(key.bytes + 21, chunk, 2);
    put_be(key.bytes + 23, (uint32_t)~generation, 4);
    key.len = 27;
    return key;
}

struct record_key record_key_mark(const struct store_shard_id *id, uint32_t region)
{
    assert(region < STORE_SHARD_CHUNKS / 16);
    struct record_key key = key_of(RECORD_MARK, id);
    put_be(key.bytes + 21, region, 2);
    key.len = 23;
    return key;
}

struct record_key record_key_shard(enum record_kind kind, const struct store_shard_id *id)
{
    assert(kind == RECORD_DROP || kind == RECORD_SHARD);
    return key_of(kind, id);
}

struct record_key record_key_first(enum record_kind kind)
{
    struct record_key key = {.len = 1};
    key.bytes[0] = (uint8_t)kind;
    return key;
}

struct record_key record_key_end(enum record_kind kind)
{
    assert((int)kind < 255);
    struct record_key key = {.len = 1};
    key.bytes[0] = (uint8_t)((uint32_t)kind + 1u);
    return key;
}

int record_key_decode(const void *key, size_t key_len, enum record_kind *ret_kind, struct store_shard_id *ret_id,
                      uint32_t *ret_index, uint32_t *ret_generation)
{
    assert(key && ret_kind && ret_id && ret_index && ret_generation);
    const uint8_t *at = key;
    if (key_len < 1)
        return -EBADMSG;
    size_t expected = 0;
    switch (at[0]) {
    case RECORD_SUPER: expected = 1; break;
    case RECORD_MAP:
    case RECORD_SUMS: expected = 27; break;
    case RECORD_MARK: expected = 23; break;
    case RECORD_DROP:
    case RECORD_SHARD: expected = 21; break;
    default: return -EBADMSG;
    }
    if (key_len != expected)
        return -EBADMSG;
    struct store_shard_id id = {0};
    uint32_t index = 0, generation = 0;
    if (expected >= 21) {
        id.volume = get_be(at + 1, 8);
        id.shard = (uint32_t)get_be(at + 9, 4);
        id.instance = get_be(at + 13, 8);
    }
    if (expected >= 23)
        index = (uint32_t)get_be(at + 21, 2);
    if (expected >= 27)
        generation = (uint32_t)~get_be(at + 23, 4);
    uint32_t index_max = expected == 27 ? STORE_SHARD_CHUNKS : STORE_SHARD_CHUNKS / 16;
    if (index >= index_max)
        return -EBADMSG;
    *ret_kind = (enum record_kind)at[0];
    *ret_id = id;
    *ret_index = index;
    *ret_generation = generation;
    return 0;
}

static bool any_unit(const uint32_t units[STORE_CHUNK_UNITS])
{
    assert(units);
    for (uint32_t i = 0; i < STORE_CHUNK_UNITS; i++)
        if (units[i] != RECORD_UNIT_NONE)
            return true;
    return false;
}

static uint32_t put_units(uint8_t *at, const uint32_t units[STORE_CHUNK_UNITS])
{
    assert(at && units);
    for (uint32_t i = 0; i < STORE_CHUNK_UNITS; i++)
        put_le(at + 4 * i, units[i], 4);
    return 4 * STORE_CHUNK_UNITS;
}

uint32_t record_map_encode(const struct record_key *key, const struct record_map *map,
                           uint8_t out[RECORD_MAP_BYTES_MAX])
{
    assert(key->bytes[0] == RECORD_MAP);
    assert(key->len == 27);
    uint8_t flags = 0;
    uint32_t at = MAP_HEAD_BYTES;
    memset(out, 0, MAP_HEAD_BYTES);
    bool has_base = any_unit(map->base);
    if (has_base || any_unit(map->own)) {
        flags |= MAP_UNITS;
        at += put_units(out + at, map->own);
        memcpy(out + at, map->states, STATES_BYTES);
        at += STATES_BYTES;
    }
    if (has_base) {
        flags |= MAP_BASE;
        at += put_units(out + at, map->base);
    }
    for (uint32_t c = 0; c < 2; c++) {
        if (!map->fresh[c].seq)
            continue;
        flags |= c ? MAP_FRESH1 : MAP_FRESH0;
        put_le(out + at, map->fresh[c].seq, 8);
        for (uint32_t w = 0; w < 4; w++)
            put_le(out + at + 8 + 8 * w, map->fresh[c].bits[w], 8);
        at += FRESH_BYTES;
    }
    if (map->bare) {
        assert(!flags);
        flags = MAP_BARE;
    }
    out[0] = FORMAT;
    out[1] = flags;
    put_le(out + 8, map->mod_epoch, 8);
    at += SEAL_BYTES;
    assert(at <= RECORD_MAP_BYTES_MAX);
    seal(key, out, at);
    return at;
}

static bool map_consistent(const struct record_map *map)
{
    for (uint32_t b = 0; b < STORE_CHUNK_BLOCKS; b++) {
        enum block_state state = record_state_get(map->states, b);
        if ((state == BLOCK_OWN || state == BLOCK_OVER) && map->own[b / 16] == RECORD_UNIT_NONE)
            return false;
        if ((state == BLOCK_BASE || state == BLOCK_OVER) && map->base[b / 16] == RECORD_UNIT_NONE)
            return false;
        for (uint32_t c = 0; c < 2; c++)
            if (map->fresh[c].bits[b / 64] >> (b % 64) & 1 && state != BLOCK_OWN && state != BLOCK_OVER)
                return false;
    }
    for (uint32_t u = 0; u < STORE_CHUNK_UNITS; u++)
        if (map->own[u] != RECORD_UNIT_NONE && map->own[u] == map->base[u])
            return false;
    return true;
}

int record_map_decode(const void *key, size_t key_len, const void *value, size_t bytes, struct record_map *ret_map)
{
    assert(key && value && ret_map);
    const uint8_t *in = value;
    if (key_len != RECORD_KEY_BYTES || bytes < MAP_HEAD_BYTES + SEAL_BYTES || bytes > RECORD_MAP_BYTES_MAX ||
        !sealed(key, key_len, in, bytes))
        return -EBADMSG;
    uint8_t flags = in[1];
    size_t expected = MAP_HEAD_BYTES + SEAL_BYTES;
    expected += flags & MAP_UNITS ? 4 * STORE_CHUNK_UNITS + STATES_BYTES : 0;
    expected += flags & MAP_BASE ? 4 * STORE_CHUNK_UNITS : 0;
    expected += flags & MAP_FRESH0 ? FRESH_BYTES : 0;
    expected += flags & MAP_FRESH1 ? FRESH_BYTES : 0;
    if (flags & ~MAP_FLAGS || bytes != expected || ((flags & MAP_BASE) && !(flags & MAP_UNITS)) ||
        ((flags & MAP_BARE) && flags != MAP_BARE))
        return -EBADMSG;
    struct record_map map = {.mod_epoch = get_le(in + 8, 8), .bare = flags & MAP_BARE};
    map.generation = (uint32_t)~get_be((const uint8_t *)key + 23, 4);
    const uint8_t *at = in + MAP_HEAD_BYTES;
    memset(map.own, 0xff, sizeof(map.own));
    memset(map.base, 0xff, sizeof(map.base));
    if (flags & MAP_UNITS) {
        for (uint32_t i = 0; i < STORE_CHUNK_UNITS; i++, at += 4)
            map.own[i] = (uint32_t)get_le(at, 4);
        memcpy(map.states, at, STATES_BYTES);
        at += STATES_BYTES;
    }
    for (uint32_t i = 0; flags & MAP_BASE && i < STORE_CHUNK_UNITS; i++, at += 4)
        map.base[i] = (uint32_t)get_le(at, 4);
    for (uint32_t c = 0; c < 2; c++) {
        if (!(flags & (c ? MAP_FRESH1 : MAP_FRESH0)))
            continue;
        map.fresh[c].seq = get_le(at, 8);
        for (uint32_t w = 0; w < 4; w++)
            map.fresh[c].bits[w] = get_le(at + 8 + 8 * w, 8);
        at += FRESH_BYTES;
        if (!map.fresh[c].seq)
            return -EBADMSG;
    }
    assert(at + SEAL_BYTES == in + bytes);
    if (!map_consistent(&map))
        return -EBADMSG;
    *ret_map = map;
    return 0;
}

void record_sums_encode(const struct record_key *key, const uint32_t crcs[STORE_CHUNK_BLOCKS],
                        uint8_t out[RECORD_SUMS_BYTES])
{
    assert(key->bytes[0] == RECORD_SUMS);
    assert(key->len == 27);
    memset(out, 0, 4);
    out[0] = FORMAT;
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++)
        put_le(out + 4 + 4 * i, crcs[i], 4);
    seal(key, out, RECORD_SUMS_BYTES);
}

int record_sums_decode(const void *key, size_t key_len, const void *value, size_t bytes,
                       uint32_t ret_crcs[STORE_CHUNK_BLOCKS])
{
    assert(key && value && ret_crcs);
    const uint8_t *in = value;
    if (bytes != RECORD_SUMS_BYTES || !sealed(key, key_len, in, bytes))
        return -EBADMSG;
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++)
        ret_crcs[i] = (uint32_t)get_le(in + 4 + 4 * i, 4);
    return 0;
}

void record_mark_encode(const struct record_key *key, const struct record_mark *mark, uint8_t out[RECORD_MARK_BYTES])
{
    assert(key->bytes[0] == RECORD_MARK);
    assert(key->len == 23);
    memset(out, 0, RECORD_MARK_BYTES);
    out[0] = FORMAT;
    out[1] = mark->frozen ? MARK_FROZEN : 0;
    put_le(out + 8, mark->epoch, 8);
    put_le(out + 16, mark->suspect_from, 4);
    seal(key, out, RECORD_MARK_BYTES);
}

int record_mark_decode(const void *key, size_t key_len, const void *value, size_t bytes, struct record_mark *ret_mark)
{
    assert(key && value && ret_mark);
    const uint8_t *in = value;
    if (bytes != RECORD_MARK_BYTES || !sealed(key, key_len, in, bytes) || in[1] & ~MARK_FROZEN)
        return -EBADMSG;
    ret_mark->epoch = get_le(in + 8, 8);
    ret_mark->suspect_from = (uint32_t)get_le(in + 16, 4);
    ret_mark->frozen = in[1] & MARK_FROZEN;
    return 0;
}

void record_shard_encode(const struct record_key *key, const struct record_shard *shard,
                         uint8_t out[RECORD_SHARD_BYTES])
{
    assert(key->bytes[0] == RECORD_SHARD);
    assert(shard->bytes <= STORE_SHARD_BYTES_MAX);
    memset(out, 0, RECORD_SHARD_BYTES);
    out[0] = FORMAT;
    out[1] = shard->has_base ? SHARD_BASE : 0;
    put_le(out + 8, shard->bytes, 8);
    put_le(out + 16, shard->origin, 8);
    if (shard->has_base) {
        put_le(out + 24, shard->base.id.volume, 8);
        put_le(out + 32, shard->base.id.shard, 4);
        put_le(out + 36, shard->base.generation, 4);
        put_le(out + 40, shard->base.id.instance, 8);
    }
    seal(key, out, RECORD_SHARD_BYTES);
}

int record_shard_decode(const void *key, size_t key_len, const void *value, size_t bytes,
                        struct record_shard *ret_shard)
{
    assert(key && value && ret_shard);
    const uint8_t *in = value;
    if ((bytes != RECORD_SHARD_BYTES && bytes != RECORD_SHARD_BYTES_FORMER) || !sealed(key, key_len, in, bytes))
        return -EBADMSG;
    bool former = bytes == RECORD_SHARD_BYTES_FORMER;
    if (in[1] & ~(former ? 0 : SHARD_BASE) || key_len < 9)
        return -EBADMSG;
    struct record_shard shard = {.bytes = get_le(in + 8, 8), .has_base = in[1] & SHARD_BASE};
    shard.origin = former ? get_be((const uint8_t *)key + 1, 8) : get_le(in + 16, 8); /* its own volume */
    if (shard.has_base) {
        shard.base.id.volume = get_le(in + 24, 8);
        shard.base.id.shard = (uint32_t)get_le(in + 32, 4);
        shard.base.generation = (uint32_t)get_le(in + 36, 4);
        shard.base.id.instance = get_le(in + 40, 8);
    }
    if (shard.bytes > STORE_SHARD_BYTES_MAX)
        return -EBADMSG;
    *ret_shard = shard;
    return 0;
}

void record_drop_encode(const struct record_key *key, uint8_t out[RECORD_DROP_BYTES])
{
    assert(key->bytes[0] == RECORD_DROP);
    memset(out, 0, RECORD_DROP_BYTES);
    out[0] = FORMAT;
    seal(key, out, RECORD_DROP_BYTES);
}

int record_drop_decode(const void *key, size_t key_len, const void *value, size_t bytes)
{
    assert(key && value);
    if (bytes != RECORD_DROP_BYTES || !sealed(key, key_len, value, bytes))
        return -EBADMSG;
    return 0;
}

void record_super_encode(const struct record_super *super, uint8_t out[RECORD_SUPER_BYTES])
{
    struct record_key key = record_key_super();
    memset(out, 0, RECORD_SUPER_BYTES);
    out[0] = FORMAT;
    out[1] = (uint8_t)((super->clean ? SUPER_CLEAN : 0) | (super->suspect ? SUPER_SUSPECT : 0));
    put_le(out + 8, super->settled_seq, 8);
    put_le(out + 16, super->watermark_units, 8);
    put_le(out + 24, super->scrub_volume, 8);
    put_le(out + 32, super->scrub_shard, 4);
    put_le(out + 36, super->scrub_chunk, 4);
    memcpy(out + 40, super->boot_id, sizeof(super->boot_id));
    assert(super->boot_id[sizeof(super->boot_id) - 1] == '\0');
    seal(&key, out, RECORD_SUPER_BYTES);
}

int record_super_decode(const void *value, size_t bytes, struct record_super *ret_super)
{
    assert(value && ret_super);
    struct record_key key = record_key_super();
    const uint8_t *in = value;
    if (bytes != RECORD_SUPER_BYTES || !sealed(key.bytes, key.len, in, bytes) ||
        in[1] & ~(SUPER_CLEAN | SUPER_SUSPECT) || in[40 + 39] != '\0')
        return -EBADMSG;
    ret_super->clean = in[1] & SUPER_CLEAN;
    ret_super->suspect = in[1] & SUPER_SUSPECT;
    ret_super->settled_seq = get_le(in + 8, 8);
    ret_super->watermark_units = get_le(in + 16, 8);
    ret_super->scrub_volume = get_le(in + 24, 8);
    ret_super->scrub_shard = (uint32_t)get_le(in + 32, 4);
    ret_super->scrub_chunk = (uint32_t)get_le(in + 36, 4);
    memcpy(ret_super->boot_id, in + 40, sizeof(ret_super->boot_id));
    return 0;
}
