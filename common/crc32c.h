/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c: CRC-32C (Castagnoli, RFC 3720 appendix B.4 conventions: init ~0, final xor ~0) and CRC-64, by ISA-L.
 *
 * Concept: one function per checksum; crc32c_blocks fills one CRC per 4 KiB block.
 * Threading: pure functions. Errors: none. Ownership: none taken.
 */
#ifndef ASHLAR_COMMON_CRC32C_H
#define ASHLAR_COMMON_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *data, size_t bytes);                                /* "123456789" -> 0xe3069283 */
uint32_t crc32c_extend(uint32_t crc, const void *data, size_t bytes);           /* crc: of what came before */
void crc32c_blocks(const void *data, uint32_t block_count, uint32_t *ret_crcs); /* 4 KiB blocks */
uint32_t crc32c_zero_block(void);                                               /* CRC of a 4 KiB block of zeros */
uint64_t crc64(const void *data, size_t bytes); /* CRC-64/ECMA-182 reflected (XZ); pairs with crc32c in resync (R16) */

#endif
