/* SPDX-License-Identifier: Apache-2.0 */
/* stream: the bytes of an exported snapshot (docs/internals/stream.md).
 *
 *   head, 256 bytes:   0 "ASHLARX1"   8 u32 version 1   12 u32 block bytes 4096   16 u64 size of the volume
 *                     24 u64 since: generation that it builds on, 0: complete   32 u64 generation   40 u64 created, ms since 1970
 *                     48 volume[64]  112 snapshot[64]  176 since snapshot[64]  240 12 zero bytes  252 u32 CRC32C of bytes 0 to 251
 *   record, 32 bytes:  0 u32 "AXRC"   4 u32 kind   8 u64 offset   16 u64 length   24 u32 CRC32C of its data   28 u32 CRC32C of bytes 0 to 27,
 *                      chained from the record before (the first: from the head's)
 *   kind 1: length bytes of data follow; 2: zeros; 3: end, offset: size of the volume, length: records before it
 *
 * Concept: records ascend and do not overlap; what no record covers is as it is in `since`, or zero when the stream is complete. The chained
 *   CRC notices a record that is missing, repeated or in the wrong place; a stream without its end is not complete.
 * Threading: pure. Errors: -EBADMSG. Ownership: none taken.
 */
#ifndef ASHLAR_CLIENT_CLI_STREAM_H
#define ASHLAR_CLIENT_CLI_STREAM_H

#include <stddef.h>
#include <stdint.h>

#define STREAM_HEAD_BYTES 256u
#define STREAM_RECORD_BYTES 32u
#define STREAM_DATA_MAX (1u << 20)

enum stream_kind { STREAM_DATA = 1, STREAM_ZERO = 2, STREAM_END = 3 };

struct stream_head {
    uint64_t size, since, generation, created_ms;
    char volume[64], snapshot[64], since_snapshot[64];
};

struct stream_record {
    uint32_t kind;
    uint64_t offset, length;
    uint32_t data_crc;
};

/* Both give the CRC that the next record is chained from. */
uint32_t stream_head_encode(const struct stream_head *head, uint8_t out[STREAM_HEAD_BYTES]);
uint32_t stream_record_encode(const struct stream_record *record, uint32_t chain, uint8_t out[STREAM_RECORD_BYTES]);
int stream_head_decode(const uint8_t in[STREAM_HEAD_BYTES], struct stream_head *ret_head, uint32_t *ret_chain);
/* Checks it against what came before: at: end of the last record's range, size: of the volume. */
int stream_record_decode(const uint8_t in[STREAM_RECORD_BYTES], uint64_t at, uint64_t size,
                         struct stream_record *ret_record, uint32_t *chain);

#endif
