/* SPDX-License-Identifier: Apache-2.0 */
/* superblock: who a drive belongs to. Two copies in the reserved first MiB; store_open repairs a bad one from the other.
 * Threading: pure functions. Errors: -EBADMSG, -EPROTONOSUPPORT (a format of the future). Ownership: none taken. */
#ifndef ASHLAR_SERVER_STORE_SUPERBLOCK_H
#define ASHLAR_SERVER_STORE_SUPERBLOCK_H

#include <stdint.h>

#include "server/store/store.h"

#define SUPERBLOCK_COPIES 2u
/* Offsets of the copies on the drive; data units begin at STORE_CHUNK_BYTES. */
static const uint64_t superblock_offsets[SUPERBLOCK_COPIES] = {0, 512u * 1024u};

struct superblock {
    struct store_identity identity;
    uint64_t drive_bytes;
};
void superblock_encode(const struct superblock *self, uint8_t block[STORE_BLOCK_BYTES]);
int superblock_decode(const uint8_t block[STORE_BLOCK_BYTES], struct superblock *ret_self);

#endif
