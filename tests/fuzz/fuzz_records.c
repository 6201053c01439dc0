/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoders of the store's kv records.
 *
 * Input: u8 kind, u8 flags (bit 0: leave the seal as it is), value. The value is sealed for the kind's key, so that the
 * fields behind the checksum are reached. Whatever decodes is within bounds and encodes to the same bytes again. The whole
 * input is decoded as a key, too.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/crc32c.h"
#include "server/store/records.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VALUE_MAX = 2048 };
static const struct store_shard_id id = {.volume = 1, .shard = 2, .instance = 3};

static void check_key(const uint8_t *data, size_t size)
{
    enum record_kind kind;
    struct store_shard_id decoded;
    uint32_t index, generation;
    int rc = record_key_decode(data, size, &kind, &decoded, &index, &generation);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc)
        return;
    struct record_key again = record_key_super();
    if (kind == RECORD_MAP || kind == RECORD_SUMS)
        again = record_key_chunk(kind, &decoded, index, generation);
    else if (kind == RECORD_MARK)
        again = record_key_mark(&decoded, index);
    else if (kind == RECORD_DROP || kind == RECORD_SHARD)
        again = record_key_shard(kind, &decoded);
    assert(again.len == size && !memcmp(again.bytes, data, size));
}

static void check_map(const struct record_key *key, const uint8_t *value, size_t bytes)
{
    struct record_map map, twice;
    uint8_t raw[RECORD_MAP_BYTES_MAX];
    int rc = record_map_decode(key->bytes, key->len, value, bytes, &map);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc)
        return;
    assert(bytes <= RECORD_MAP_BYTES_MAX);
    for (uint32_t b = 0; b < STORE_CHUNK_BLOCKS; b++) {
        enum block_state state = record_state_get(map.states, b);
        assert(state == BLOCK_ZERO || state == BLOCK_BASE || map.own[b / 16] != RECORD_UNIT_NONE);
        assert(state == BLOCK_ZERO || state == BLOCK_OWN || map.base[b / 16] != RECORD_UNIT_NONE);
    }
    uint32_t again = record_map_encode(key, &map, raw);
    rc = record_map_decode(key->bytes, key->len, raw, again, &twice);
    assert(rc == 0);
    assert(!memcmp(map.own, twice.own, sizeof(map.own)) && map.mod_epoch == twice.mod_epoch);
    assert(!memcmp(map.base, twice.base, sizeof(map.base)));
    assert(!memcmp(map.states, twice.states, sizeof(map.states)));
    assert(!memcmp(map.fresh, twice.fresh, sizeof(map.fresh)));
}

static void check_small(enum record_kind kind, const struct record_key *key, const uint8_t *value, size_t bytes)
{
    struct record_mark mark;
    struct record_super super;
    uint32_t crcs[STORE_CHUNK_BLOCKS];
    struct record_shard shard;
    int rc = -EBADMSG;
    if (kind == RECORD_SUMS)
        rc = record_sums_decode(key->bytes, key->len, value, bytes, crcs);
    else if (kind == RECORD_MARK)
        rc = record_mark_decode(key->bytes, key->len, value, bytes, &mark);
    else if (kind == RECORD_DROP)
        rc = record_drop_decode(key->bytes, key->len, value, bytes);
    else if (kind == RECORD_SUPER)
        rc = record_super_decode(value, bytes, &super);
    else if (kind == RECORD_SHARD)
        rc = record_shard_decode(key->bytes, key->len, value, bytes, &shard);
    assert(rc == 0 || rc == -EBADMSG);
    if (!rc && kind == RECORD_SHARD)
        assert(shard.bytes <= STORE_SHARD_BYTES_MAX);
    if (!rc && kind == RECORD_SUPER)
        assert(memchr(super.boot_id, '\0', sizeof(super.boot_id)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum record_kind kinds[] = {RECORD_MAP,  RECORD_SUMS,  RECORD_MARK,
                                             RECORD_DROP, RECORD_SHARD, RECORD_SUPER};
    uint8_t value[VALUE_MAX];
    if (size)
        check_key(data, size);
    if (size < 2 || size - 2 > sizeof(value))
        return 0;
    size_t bytes = size - 2;
    memcpy(value, data + 2, bytes);
    enum record_kind kind = kinds[data[0] % 6];
    struct record_key key = record_key_super();
    if (kind == RECORD_MAP || kind == RECORD_SUMS)
        key = record_key_chunk(kind, &id, 7, 9);
    else if (kind == RECORD_MARK)
        key = record_key_mark(&id, 7);
    else if (kind != RECORD_SUPER)
        key = record_key_shard(kind, &id);
    if (!(data[1] & 1) && bytes >= 4) {
        uint32_t seal = crc32c_extend(crc32c(key.bytes, key.len), value, bytes - 4);
        for (uint32_t i = 0; i < 4; i++)
            value[bytes - 4 + i] = (uint8_t)(seal >> (8 * i));
    }
    if (kind == RECORD_MAP)
        check_map(&key, value, bytes);
    else
        check_small(kind, &key, value, bytes);
    return 0;
}
