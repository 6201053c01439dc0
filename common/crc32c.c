/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums by ISA-L, which picks the fastest instruction set at run time.
 *
 * - crc32c_extend turns our convention (a CRC is always the finished one) into ISA-L's raw state
 * - crc32c and crc32c_blocks are built on it
 *
 * Nothing fails; lengths above INT_MAX (ISA-L's limit for CRC-32C) are taken in pieces.
 */
#include "common/crc32c.h"

#include <assert.h>
#include <isa-l/crc.h>
#include <isa-l/crc64.h>

#include "common/wire.h"

enum { PIECE_BYTES = 1 << 30 };

uint32_t crc32c_extend(uint32_t crc, const void *data, size_t bytes)
{
    assert(data != NULL || bytes == 0);
    /* ISA-L does not write through the pointer; its prototype only lacks the const. */
    uint8_t *at = (uint8_t *)(uintptr_t)data;
    uint32_t state = ~crc;
    while (bytes > 0) {
        int piece = bytes < PIECE_BYTES ? (int)bytes : (int)PIECE_BYTES;
        assert(piece > 0);
        state = crc32_iscsi(at, piece, state);
        at += piece;
        bytes -= (size_t)piece;
    }
    return ~state;
}

uint32_t crc32c(const void *data, size_t bytes)
{
    assert(data != NULL || bytes == 0);
    return crc32c_extend(0, data, bytes);
}

void crc32c_blocks(const void *data, uint32_t block_count, uint32_t *ret_crcs)
{
    assert(data != NULL || block_count == 0);
    assert(ret_crcs != NULL || block_count == 0);
    const uint8_t *at = data;
    for (uint32_t i = 0; i < block_count; i++)
        ret_crcs[i] = crc32c_extend(0, at + (size_t)i * WIRE_BLOCK_BYTES, WIRE_BLOCK_BYTES);
}

uint32_t crc32c_zero_block(void)
{
    _Static_assert(WIRE_BLOCK_BYTES == 4096, "the constant below is that of 4096 zeros");
    return 0x98f94189u;
}

uint64_t crc64(const void *data, size_t bytes)
{
    assert(data != NULL || bytes == 0);
    if (bytes == 0)
        return 0;
    return crc64_ecma_refl(0, data, bytes);
}
