/* SPDX-License-Identifier: Apache-2.0 */
/* sync_wire: encodes and decodes the bodies of resync answers.
 *
 * - encode: what the own store told. - decode: hostile bytes: counts, chunk numbers and states are checked.
 * Failure: -EBADMSG, nothing was told to the caller but what came before the bad entry.
 */
#include "server/replica/sync_wire.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

static void put32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, 4);
}

static void put64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, 8);
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return le32toh(value);
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, 8);
    return le64toh(value);
}

void sync_list_put(uint8_t *body, uint32_t index, const struct store_chunk_info *info)
{
    uint8_t *at = body + (size_t)index * SYNC_LIST_ENTRY_BYTES;
    assert(info->chunk < STORE_SHARD_CHUNKS);
    assert(index < STORE_SHARD_CHUNKS);
    put32(at, info->chunk);
    put32(at + 4, info->marked ? 1 : 0);
    put64(at + 8, info->mod_epoch);
}

int sync_list_decode(const uint8_t *body, size_t bytes, void (*fn)(void *arg, const struct store_chunk_info *info),
                     void *arg)
{
    if (bytes % SYNC_LIST_ENTRY_BYTES != 0 || bytes > (size_t)STORE_SHARD_CHUNKS * SYNC_LIST_ENTRY_BYTES)
        return -EBADMSG;
    for (size_t at = 0; at < bytes; at += SYNC_LIST_ENTRY_BYTES) {
        struct store_chunk_info info = {
            .chunk = get32(body + at), .marked = get32(body + at + 4) != 0, .mod_epoch = get64(body + at + 8)};
        if (info.chunk >= STORE_SHARD_CHUNKS)
            return -EBADMSG;
        fn(arg, &info);
    }
    return 0;
}

void sync_digest_encode(const struct store_block_digest blocks[STORE_CHUNK_BLOCKS], uint8_t body[SYNC_DIGEST_BYTES])
{
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++) {
        assert(blocks[i].state <= 2);
        put32(body + i * 16u, blocks[i].crc32c);
        put32(body + i * 16u + 4, blocks[i].state);
        put64(body + i * 16u + 8, blocks[i].crc64);
    }
}

int sync_digest_decode(const uint8_t *body, size_t bytes, struct store_block_digest ret_blocks[STORE_CHUNK_BLOCKS])
{
    if (bytes != SYNC_DIGEST_BYTES)
        return -EBADMSG;
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++) {
        ret_blocks[i].crc32c = get32(body + i * 16u);
        ret_blocks[i].state = get32(body + i * 16u + 4);
        ret_blocks[i].crc64 = get64(body + i * 16u + 8);
        if (ret_blocks[i].state > 2)
            return -EBADMSG;
    }
    return 0;
}

size_t sync_generations_encode(const uint32_t *generations, uint32_t count, uint8_t *body)
{
    for (uint32_t i = 0; i < count; i++) {
        assert(i == 0 || generations[i - 1] < generations[i]);
        put32(body + (size_t)i * 4, generations[i]);
    }
    return (size_t)count * 4;
}

int sync_generations_decode(const uint8_t *body, size_t bytes, uint32_t *ret_generations, uint32_t max,
                            uint32_t *ret_count)
{
    if (bytes % 4 != 0 || bytes / 4 > max)
        return -EBADMSG;
    for (size_t i = 0; i < bytes / 4; i++) {
        ret_generations[i] = get32(body + i * 4);
        if (i > 0 && ret_generations[i] <= ret_generations[i - 1])
            return -EBADMSG;
    }
    *ret_count = (uint32_t)(bytes / 4);
    return 0;
}
