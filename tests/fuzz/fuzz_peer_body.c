/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoders of the bodies between members; the first byte picks one.
 *
 * Whatever decodes stays within its shard: chunks, blocks and ranges are bounded, whoever sent them.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "server/replica/sync_wire.h"
#include "server/replica/window_wire.h"

#define SHARD_BYTES ((uint64_t)64 << 20)
#define GENERATIONS_MAX 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct store_block_digest blocks[STORE_CHUNK_BLOCKS];

static void listed(void *arg, const struct store_chunk_info *info)
{
    size_t *left = arg;
    assert(info->chunk < STORE_SHARD_CHUNKS);
    assert(*left >= SYNC_LIST_ENTRY_BYTES);
    *left -= SYNC_LIST_ENTRY_BYTES;
}

static void ranged(void *arg, const struct window_range *range)
{
    size_t *left = arg;
    assert(range->length > 0 && range->offset < SHARD_BYTES && range->length <= SHARD_BYTES - range->offset);
    assert(range->offset % STORE_BLOCK_BYTES == 0 && range->length % STORE_BLOCK_BYTES == 0);
    assert(*left >= WINDOW_ENTRY_BYTES);
    *left -= WINDOW_ENTRY_BYTES;
}

static void check_digest(const uint8_t *data, size_t size)
{
    static uint8_t raw[SYNC_DIGEST_BYTES];
    if (sync_digest_decode(data, size, blocks) != 0)
        return;
    assert(size == SYNC_DIGEST_BYTES);
    for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++)
        assert(blocks[i].state <= 2);
    sync_digest_encode(blocks, raw);
    assert(memcmp(raw, data, size) == 0);
}

static void check_generations(const uint8_t *data, size_t size)
{
    uint32_t generations[GENERATIONS_MAX], count = 0;
    if (sync_generations_decode(data, size, generations, GENERATIONS_MAX, &count) != 0)
        return;
    assert(count <= GENERATIONS_MAX);
    for (uint32_t i = 0; i < count; i++)
        assert(generations[i] > (i > 0 ? generations[i - 1] : 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t left = size - 1;
    switch (data[0] % 4) {
    case 0: (void)sync_list_decode(data + 1, size - 1, listed, &left); break;
    case 1: check_digest(data + 1, size - 1); break;
    case 2: (void)window_decode(data + 1, size - 1, SHARD_BYTES, ranged, &left); break;
    case 3: check_generations(data + 1, size - 1); break;
    }
    return 0;
}
