/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoder of the drive's superblock.
 *
 * The input is laid over a block of zeros whose checksum is then made right (unless the last input byte is odd), so that
 * the fields behind it are reached. What decodes encodes to the same identity again.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/crc32c.h"
#include "server/store/superblock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t block[STORE_BLOCK_BYTES] = {0};
    memcpy(block, data, size < sizeof(block) ? size : sizeof(block));
    if (size && !(data[size - 1] & 1)) {
        uint32_t crc = crc32c(block, sizeof(block) - 4);
        for (uint32_t i = 0; i < 4; i++)
            block[sizeof(block) - 4 + i] = (uint8_t)(crc >> (8 * i));
    }
    struct superblock self, again;
    int rc = superblock_decode(block, &self);
    assert(rc == 0 || rc == -EBADMSG || rc == -EPROTONOSUPPORT);
    if (rc)
        return 0;
    uint8_t raw[STORE_BLOCK_BYTES];
    superblock_encode(&self, raw);
    rc = superblock_decode(raw, &again);
    assert(rc == 0);
    assert(self.drive_bytes == again.drive_bytes);
    assert(self.identity.cluster_id == again.identity.cluster_id && self.identity.node == again.identity.node);
    assert(!memcmp(self.identity.uuid, again.identity.uuid, sizeof(self.identity.uuid)));
    return 0;
}
