/* SPDX-License-Identifier: Apache-2.0 */
/* stream: encodes and decodes the head and the records of an exported snapshot; the format is in stream.h.
 *
 * - decode: hostile bytes: magic, CRC, texts, order and bounds are checked
 * Failure modes: -EBADMSG for anything that encode would not have written there, -EPROTONOSUPPORT for a later version.
 */
#include "client/cli/stream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/client_body.h"
#include "common/crc32c.h"

#define RECORD_MAGIC 0x43525841u /* "AXRC" */

static const uint8_t head_magic[8] = {'A', 'S', 'H', 'L', 'A', 'R', 'X', '1'};

uint32_t stream_head_encode(const struct stream_head *head, uint8_t out[STREAM_HEAD_BYTES])
{
    memset(out, 0, STREAM_HEAD_BYTES);
    memcpy(out, head_magic, sizeof(head_magic));
    client_put_u32(out + 8, 1);
    client_put_u32(out + 12, 4096);
    client_put_u64(out + 16, head->size);
    client_put_u64(out + 24, head->since);
    client_put_u64(out + 32, head->generation);
    client_put_u64(out + 40, head->created_ms);
    memcpy(out + 48, head->volume, sizeof(head->volume));
    memcpy(out + 112, head->snapshot, sizeof(head->snapshot));
    memcpy(out + 176, head->since_snapshot, sizeof(head->since_snapshot));
    uint32_t crc = crc32c(out, 252);
    client_put_u32(out + 252, crc);
    return crc;
}

static int get_text(const uint8_t *in, char ret[64])
{
    if (memchr(in, '\0', 64) == NULL)
        return -EBADMSG;
    memset(ret, 0, 64);
    memcpy(ret, in, strlen((const char *)in));
    return 0;
}

int stream_head_decode(const uint8_t in[STREAM_HEAD_BYTES], struct stream_head *ret_head, uint32_t *ret_chain)
{
    struct stream_head head = {.size = client_get_u64(in + 16),
                               .since = client_get_u64(in + 24),
                               .generation = client_get_u64(in + 32),
                               .created_ms = client_get_u64(in + 40)};
    if (memcmp(in, head_magic, sizeof(head_magic)) != 0 || client_get_u32(in + 252) != crc32c(in, 252))
        return -EBADMSG;
    if (client_get_u32(in + 8) != 1 || client_get_u32(in + 12) != 4096)
        return -EPROTONOSUPPORT;
    if (head.size == 0 || head.size % 4096 != 0 || head.size > INT64_MAX || head.generation == 0 ||
        head.since >= head.generation)
        return -EBADMSG;
    if (get_text(in + 48, head.volume) < 0 || get_text(in + 112, head.snapshot) < 0 ||
        get_text(in + 176, head.since_snapshot) < 0)
        return -EBADMSG;
    *ret_head = head;
    *ret_chain = client_get_u32(in + 252);
    return 0;
}

/* The CRC of the record's head, continued from the one before by taking it in. */
static uint32_t chained(uint32_t chain, const uint8_t head[28])
{
    uint8_t bytes[32];
    client_put_u32(bytes, chain);
    memcpy(bytes + 4, head, 28);
    return crc32c(bytes, sizeof(bytes));
}

uint32_t stream_record_encode(const struct stream_record *record, uint32_t chain, uint8_t out[STREAM_RECORD_BYTES])
{
    assert(record->kind >= STREAM_DATA && record->kind <= STREAM_END);
    client_put_u32(out, RECORD_MAGIC);
    client_put_u32(out + 4, record->kind);
    client_put_u64(out + 8, record->offset);
    client_put_u64(out + 16, record->length);
    client_put_u32(out + 24, record->data_crc);
    chain = chained(chain, out);
    client_put_u32(out + 28, chain);
    return chain;
}

int stream_record_decode(const uint8_t in[STREAM_RECORD_BYTES], uint64_t at, uint64_t size,
                         struct stream_record *ret_record, uint32_t *chain)
{
    struct stream_record record = {.kind = client_get_u32(in + 4),
                                   .offset = client_get_u64(in + 8),
                                   .length = client_get_u64(in + 16),
                                   .data_crc = client_get_u32(in + 24)};
    if (client_get_u32(in) != RECORD_MAGIC || client_get_u32(in + 28) != chained(*chain, in))
        return -EBADMSG;
    if (record.kind < STREAM_DATA || record.kind > STREAM_END)
        return -EBADMSG;
    if (record.kind == STREAM_END && record.offset != size)
        return -EBADMSG;
    if (record.kind != STREAM_END &&
        (record.length == 0 || record.length % 4096 != 0 || record.offset % 4096 != 0 || record.offset < at ||
         record.offset > size || record.length > size - record.offset))
        return -EBADMSG;
    if (record.kind == STREAM_DATA && record.length > STREAM_DATA_MAX)
        return -EBADMSG;
    *chain = client_get_u32(in + 28);
    *ret_record = record;
    return 0;
}
