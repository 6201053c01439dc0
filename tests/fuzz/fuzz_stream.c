/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_stream: an exported snapshot: what decodes must be what encode writes, in order and inside the volume. */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "client/cli/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t take_record(const uint8_t *data, size_t size, const struct stream_head *head, uint64_t *at,
                          uint32_t *chain)
{
    struct stream_record record;
    uint8_t again[STREAM_RECORD_BYTES];
    uint32_t before = *chain;
    if (size < STREAM_RECORD_BYTES)
        return 0;
    int rc = stream_record_decode(data, *at, head->size, &record, chain);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc < 0 || record.kind == STREAM_END)
        return 0;
    assert(record.offset >= *at && record.length > 0);
    assert(record.offset + record.length <= head->size);
    assert(stream_record_encode(&record, before, again) == *chain);
    assert(memcmp(again, data, sizeof(again)) == 0);
    *at = record.offset + record.length;
    size_t used = STREAM_RECORD_BYTES + (record.kind == STREAM_DATA ? (size_t)record.length : 0);
    return used <= size ? used : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream_head head;
    uint32_t chain;
    uint64_t at = 0;
    if (size < STREAM_HEAD_BYTES)
        return 0;
    int rc = stream_head_decode(data, &head, &chain);
    assert(rc == 0 || rc == -EBADMSG || rc == -EPROTONOSUPPORT);
    if (rc < 0)
        return 0;
    assert(head.size > 0 && head.size % 4096 == 0 && head.since < head.generation);
    size_t used = STREAM_HEAD_BYTES, taken;
    while ((taken = take_record(data + used, size - used, &head, &at, &chain)) > 0)
        used += taken;
    return 0;
}
