/* SPDX-License-Identifier: Apache-2.0 */
/* kv_batch: the byte string that carries puts and deletes to a kv, and pairs back from a scan.
 *
 * - kv_batch_put and kv_batch_delete append {u8 op, u8 key_len, u32 value_len (host order), key, value}.
 * - kv_batch_next walks it.
 * Failure: memory exhaustion aborts (a batch that lost an entry would be corruption).
 */
#include "server/store/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_PUT = 0, ENTRY_DELETE = 1, ENTRY_HEAD_BYTES = 6 };

static uint8_t *batch_grow(struct kv_batch *batch, uint32_t bytes)
{
    assert(bytes <= KV_KEY_MAX + KV_VALUE_MAX + ENTRY_HEAD_BYTES);
    assert(batch->used <= UINT32_MAX / 4);
    if (batch->used + bytes > batch->capacity) {
        uint32_t capacity = batch->capacity ? batch->capacity : 512;
        while (capacity < batch->used + bytes)
            capacity *= 2;
        uint8_t *memory = realloc(batch->bytes, capacity);
        if (!memory)
            abort();
        batch->bytes = memory;
        batch->capacity = capacity;
    }
    uint8_t *at = batch->bytes + batch->used;
    batch->used += bytes;
    batch->count++;
    return at;
}

static void batch_append(struct kv_batch *batch, uint8_t op, const void *key, size_t key_len, const void *value,
                         size_t value_len)
{
    assert(key_len > 0 && key_len <= KV_KEY_MAX);
    assert(value_len <= KV_VALUE_MAX);
    uint32_t len = (uint32_t)value_len;
    uint8_t *at = batch_grow(batch, (uint32_t)(ENTRY_HEAD_BYTES + key_len + value_len));
    at[0] = op;
    at[1] = (uint8_t)key_len;
    memcpy(at + 2, &len, sizeof(len));
    memcpy(at + ENTRY_HEAD_BYTES, key, key_len);
    if (value_len)
        memcpy(at + ENTRY_HEAD_BYTES + key_len, value, value_len);
}

void kv_batch_put(struct kv_batch *batch, const void *key, size_t key_len, const void *value, size_t value_len)
{
    assert(value || !value_len);
    batch_append(batch, ENTRY_PUT, key, key_len, value, value_len);
}

void kv_batch_delete(struct kv_batch *batch, const void *key, size_t key_len)
{
    assert(key);
    batch_append(batch, ENTRY_DELETE, key, key_len, NULL, 0);
}

void kv_batch_reset(struct kv_batch *batch)
{
    assert(batch->used <= batch->capacity);
    batch->used = 0;
    batch->count = 0;
}

void kv_batch_free(struct kv_batch *batch)
{
    assert(batch->used <= batch->capacity);
    free(batch->bytes);
    memset(batch, 0, sizeof(*batch));
}

bool kv_batch_next(const struct kv_batch *batch, uint32_t *cursor, const uint8_t **ret_key, uint32_t *ret_key_len,
                   const uint8_t **ret_value, uint32_t *ret_value_len, bool *ret_is_delete)
{
    assert(*cursor <= batch->used);
    if (*cursor == batch->used)
        return false;
    assert(batch->used - *cursor >= ENTRY_HEAD_BYTES);
    const uint8_t *at = batch->bytes + *cursor;
    uint32_t value_len;
    memcpy(&value_len, at + 2, sizeof(value_len));
    uint32_t bytes = ENTRY_HEAD_BYTES + at[1] + value_len;
    assert(bytes <= batch->used - *cursor);
    *ret_is_delete = at[0] == ENTRY_DELETE;
    *ret_key_len = at[1];
    *ret_key = at + ENTRY_HEAD_BYTES;
    *ret_value_len = value_len;
    *ret_value = at + ENTRY_HEAD_BYTES + at[1];
    *cursor += bytes;
    return true;
}

void kv_get_free(struct kv_get *req)
{
    assert(req->value_len <= req->value_capacity);
    free(req->value);
    req->value = NULL;
    req->value_len = req->value_capacity = 0;
}
