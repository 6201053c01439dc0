/* SPDX-License-Identifier: Apache-2.0 */
/* superblock: one 4 KiB block, little-endian:
 *    0  magic "ASHLARST"      8  u32 format (1)      12  u32 unit bytes (65536)
 *   16  uuid[16]             32  u64 cluster id      40  u32 node   44  zero
 *   48  u64 drive bytes      56  zeros              4092 u32 CRC32C of bytes 0..4091
 * Failure: -EBADMSG (not ours, or damaged), -EPROTONOSUPPORT (ours, but of a later format).
 */
#include "server/store/superblock.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"

static const uint8_t magic[8] = {'A', 'S', 'H', 'L', 'A', 'R', 'S', 'T'};
enum { FORMAT = 1, CRC_AT = STORE_BLOCK_BYTES - 4 };

static void put_le(uint8_t *at, uint64_t value, uint32_t bytes)
{
    assert(bytes <= 8);
    for (uint32_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_le(const uint8_t *at, uint32_t bytes)
{
    assert(bytes <= 8);
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

void superblock_encode(const struct superblock *self, uint8_t block[STORE_BLOCK_BYTES])
{
    assert(self && block);
    memset(block, 0, STORE_BLOCK_BYTES);
    memcpy(block, magic, sizeof(magic));
    put_le(block + 8, FORMAT, 4);
    put_le(block + 12, STORE_UNIT_BYTES, 4);
    memcpy(block + 16, self->identity.uuid, 16);
    put_le(block + 32, self->identity.cluster_id, 8);
    put_le(block + 40, self->identity.node, 4);
    put_le(block + 48, self->drive_bytes, 8);
    put_le(block + CRC_AT, crc32c(block, CRC_AT), 4);
}

int superblock_decode(const uint8_t block[STORE_BLOCK_BYTES], struct superblock *ret_self)
{
    assert(block && ret_self);
    if (memcmp(block, magic, sizeof(magic)) != 0 || get_le(block + CRC_AT, 4) != crc32c(block, CRC_AT))
        return -EBADMSG;
    if (get_le(block + 8, 4) != FORMAT || get_le(block + 12, 4) != STORE_UNIT_BYTES)
        return -EPROTONOSUPPORT;
    memcpy(ret_self->identity.uuid, block + 16, 16);
    ret_self->identity.cluster_id = get_le(block + 32, 8);
    ret_self->identity.node = (uint32_t)get_le(block + 40, 4);
    ret_self->drive_bytes = get_le(block + 48, 8);
    return 0;
}

int store_format_superblock(uint8_t block[STORE_BLOCK_BYTES], const struct store_identity *id, uint64_t drive_bytes)
{
    assert(block && id);
    if (drive_bytes < 4ull * STORE_CHUNK_BYTES || drive_bytes / STORE_UNIT_BYTES >= UINT32_MAX)
        return -EINVAL;
    struct superblock self = {.identity = *id, .drive_bytes = drive_bytes};
    superblock_encode(&self, block);
    return 0;
}
