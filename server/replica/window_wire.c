/* SPDX-License-Identifier: Apache-2.0 */
/* window_wire: encodes and decodes the window report of a RAISE answer.
 *
 * - encode: each kept entry, oldest first; more than fit are merged into ranges of whole regions, which only makes the takeover copy more.
 * - decode: hostile bytes; every range is checked against the shard's size.
 */
#include "server/replica/window_wire.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "server/replica/replica_internal.h"

#define REGIONS_MAX (STORE_SHARD_BYTES_MAX / STORE_REGION_BYTES)

static uint32_t put(uint8_t *body, uint32_t at, uint64_t offset, uint32_t length, uint32_t generation)
{
    uint64_t o = htole64(offset);
    uint32_t l = htole32(length), g = htole32(generation);
    memcpy(body + at, &o, 8);
    memcpy(body + at + 8, &l, 4);
    memcpy(body + at + 12, &g, 4);
    return at + WINDOW_ENTRY_BYTES;
}

static uint32_t encode_regions(const struct replica *rep, uint8_t *body)
{
    replica_assert(rep);
    uint32_t generation[REGIONS_MAX] = {0};
    list_for_each(pos, &rep->window)
    {
        const struct window_entry *e = list_entry(pos, struct window_entry, link);
        for (uint64_t i = e->offset / STORE_REGION_BYTES; i <= (e->offset + e->length - 1) / STORE_REGION_BYTES; i++)
            if (i < REGIONS_MAX && e->generation > generation[i])
                generation[i] = e->generation;
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < REGIONS_MAX; i++)
        if (generation[i])
            at = put(body, at, (uint64_t)i * STORE_REGION_BYTES, STORE_REGION_BYTES, generation[i]);
    return at;
}

uint32_t window_encode(const struct replica *rep, uint8_t *body, uint32_t capacity)
{
    replica_assert(rep);
    assert(capacity >= REPLICA_WINDOW_MAX * WINDOW_ENTRY_BYTES);
    if (rep->window_count > REPLICA_WINDOW_MAX)
        return encode_regions(rep, body);
    uint32_t at = 0;
    list_for_each(pos, &rep->window)
    {
        const struct window_entry *e = list_entry(pos, struct window_entry, link);
        at = put(body, at, e->offset, e->length, e->generation);
    }
    assert(at <= capacity);
    return at;
}

int window_decode(const uint8_t *body, size_t bytes, uint64_t limit_bytes,
                  void (*fn)(void *arg, const struct window_range *range), void *arg)
{
    if (bytes % WINDOW_ENTRY_BYTES != 0)
        return -EBADMSG;
    for (size_t at = 0; at < bytes; at += WINDOW_ENTRY_BYTES) {
        struct window_range range;
        memcpy(&range.offset, body + at, 8);
        memcpy(&range.length, body + at + 8, 4);
        memcpy(&range.generation, body + at + 12, 4);
        range.offset = le64toh(range.offset);
        range.length = le32toh(range.length);
        range.generation = le32toh(range.generation);
        if (range.length == 0 || range.offset % STORE_BLOCK_BYTES || range.length % STORE_BLOCK_BYTES ||
            range.offset >= limit_bytes || range.generation == 0)
            return -EBADMSG;
        if (range.length > limit_bytes - range.offset)
            range.length = (uint32_t)(limit_bytes - range.offset);
        fn(arg, &range);
    }
    return 0;
}
