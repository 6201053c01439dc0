/* SPDX-License-Identifier: Apache-2.0 */
/* sync_wire: bodies of resync answers (docs/internals/wire.md), little-endian.
 *
 * SYNC_START answer: entries of {u32 chunk, u32 marked, u64 mod_epoch}. SYNC_DIGEST answer: 256 entries of
 * {u32 crc32c, u32 state, u64 crc64}. Threading: pure. Errors: -EBADMSG. Ownership: none taken. */
#ifndef ASHLAR_SERVER_REPLICA_SYNC_WIRE_H
#define ASHLAR_SERVER_REPLICA_SYNC_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "server/store/store.h"

#define SYNC_LIST_ENTRY_BYTES 16u
#define SYNC_DIGEST_BYTES (STORE_CHUNK_BLOCKS * 16u)

void sync_list_put(uint8_t *body, uint32_t index, const struct store_chunk_info *info);
int sync_list_decode(const uint8_t *body, size_t bytes, void (*fn)(void *arg, const struct store_chunk_info *info),
                     void *arg);
void sync_digest_encode(const struct store_block_digest blocks[STORE_CHUNK_BLOCKS], uint8_t body[SYNC_DIGEST_BYTES]);
int sync_digest_decode(const uint8_t *body, size_t bytes, struct store_block_digest ret_blocks[STORE_CHUNK_BLOCKS]);

/* u32 generations, ascending, at least 1. */
size_t sync_generations_encode(const uint32_t *generations, uint32_t count, uint8_t *body);
int sync_generations_decode(const uint8_t *body, size_t bytes, uint32_t *ret_generations, uint32_t max,
                            uint32_t *ret_count);

#endif
