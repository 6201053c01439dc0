/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies between client and gateway, laid out in client_body.h.
 *
 * - encoders write into buffers whose size the header's *_MAX constants bound
 * - decoders check every length and every order before they believe it
 *
 * Malformed bytes are -EBADMSG.
 */
#include "common/client_body.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define ADDRESS_COUNT_AT 12u

size_t client_attach_encode(const struct client_attach *attach, uint8_t out[CLIENT_ATTACH_SNAPSHOT_BYTES])
{
    assert(attach != NULL);
    assert(memchr(attach->name, '\0', sizeof(attach->name)) != NULL);
    assert(memchr(attach->snapshot, '\0', sizeof(attach->snapshot)) != NULL);
    memset(out, 0, CLIENT_ATTACH_BYTES);
    memcpy(out, attach->attachment, sizeof(attach->attachment));
    memcpy(out + sizeof(attach->attachment), attach->name, strlen(attach->name));
    if (attach->snapshot[0] == '\0')
        return CLIENT_ATTACH_BYTES;
    memset(out + CLIENT_ATTACH_BYTES, 0, sizeof(attach->snapshot));
    memcpy(out + CLIENT_ATTACH_BYTES, attach->snapshot, strlen(attach->snapshot));
    return CLIENT_ATTACH_SNAPSHOT_BYTES;
}

int client_attach_decode(const void *body, size_t bytes, struct client_attach *ret_attach)
{
    assert(ret_attach != NULL);
    assert(body != NULL || bytes == 0);
    const uint8_t *at = body;
    if (bytes != CLIENT_ATTACH_BYTES && bytes != CLIENT_ATTACH_SNAPSHOT_BYTES)
        return -EBADMSG;
    const uint8_t *snapshot = bytes == CLIENT_ATTACH_SNAPSHOT_BYTES ? at + CLIENT_ATTACH_BYTES : NULL;
    if (snapshot && (memchr(snapshot, '\0', CLIENT_NAME_MAX) == NULL || snapshot[0] == '\0'))
        return -EBADMSG;
    const uint8_t *name = at + sizeof(ret_attach->attachment);
    if (memchr(name, '\0', CLIENT_NAME_MAX) == NULL || name[0] == '\0')
        return -EBADMSG;
    *ret_attach = (struct client_attach){0};
    memcpy(ret_attach->attachment, at, sizeof(ret_attach->attachment));
    memcpy(ret_attach->name, name, strlen((const char *)name));
    if (snapshot)
        memcpy(ret_attach->snapshot, snapshot, strlen((const char *)snapshot));
    return 0;
}

size_t client_loss_encode(const struct client_loss_run *runs, uint32_t count, uint8_t *out)
{
    assert(count <= CLIENT_LOSS_RUNS_MAX);
    assert(runs != NULL || count == 0);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = out + (size_t)i * CLIENT_LOSS_RUN_BYTES;
        client_put_u32(at, runs[i].first);
        client_put_u32(at + 4, runs[i].count);
        client_put_u64(at + 8, runs[i].loss);
    }
    return (size_t)count * CLIENT_LOSS_RUN_BYTES;
}

int client_loss_decode(const void *body, size_t bytes, struct client_loss_run *ret_runs, uint32_t max,
                       uint32_t *ret_count)
{
    assert(ret_runs != NULL);
    assert(ret_count != NULL);
    if (bytes % CLIENT_LOSS_RUN_BYTES != 0 || bytes / CLIENT_LOSS_RUN_BYTES > max)
        return -EBADMSG;
    uint64_t next = 0;
    for (size_t i = 0; i < bytes / CLIENT_LOSS_RUN_BYTES; i++) {
        const uint8_t *at = (const uint8_t *)body + i * CLIENT_LOSS_RUN_BYTES;
        struct client_loss_run run = {client_get_u32(at), client_get_u32(at + 4), client_get_u64(at + 8)};
        if (run.first < next || run.count == 0 || run.loss == 0)
            return -EBADMSG;
        next = (uint64_t)run.first + run.count;
        if (next > UINT32_MAX)
            return -EBADMSG;
        ret_runs[i] = run;
    }
    *ret_count = (uint32_t)(bytes / CLIENT_LOSS_RUN_BYTES);
    return 0;
}

void client_list_entry_encode(const struct client_list_entry *entry, uint8_t out[CLIENT_LIST_ENTRY_BYTES])
{
    assert(entry != NULL);
    assert(memchr(entry->name, '\0', sizeof(entry->name)) != NULL);
    memset(out, 0, CLIENT_LIST_ENTRY_BYTES);
    client_put_u64(out, entry->id);
    client_put_u64(out + 8, entry->size);
    client_put_u32(out + 16, entry->flags);
    memcpy(out + 24, entry->name, strlen(entry->name));
}

int client_list_entry_decode(const uint8_t in[CLIENT_LIST_ENTRY_BYTES], struct client_list_entry *ret_entry)
{
    assert(in != NULL);
    assert(ret_entry != NULL);
    if (memchr(in + 24, '\0', CLIENT_NAME_MAX) == NULL)
        return -EBADMSG;
    *ret_entry = (struct client_list_entry){
        .id = client_get_u64(in), .size = client_get_u64(in + 8), .flags = client_get_u32(in + 16)};
    memcpy(ret_entry->name, in + 24, strlen((const char *)in + 24));
    return 0;
}

size_t client_attached_begin(uint8_t *out, uint64_t shard_bytes, const struct client_loss_run *runs, uint32_t run_count)
{
    assert(shard_bytes > 0);
    assert(run_count <= CLIENT_LOSS_RUNS_MAX);
    client_put_u64(out, shard_bytes);
    client_put_u32(out + 8, run_count);
    client_put_u32(out + ADDRESS_COUNT_AT, 0);
    return CLIENT_ATTACHED_HEAD_BYTES + client_loss_encode(runs, run_count, out + CLIENT_ATTACHED_HEAD_BYTES);
}

size_t client_attached_address(uint8_t *out, size_t bytes, const char *address)
{
    uint32_t count = client_get_u32(out + ADDRESS_COUNT_AT);
    size_t len = strlen(address);
    assert(bytes >= CLIENT_ATTACHED_HEAD_BYTES);
    if (count >= CLIENT_ADDRESSES_MAX || len == 0 || len >= CLIENT_ADDRESS_MAX)
        return bytes;
    assert(bytes + 2 + len <= CLIENT_ATTACHED_BYTES_MAX);
    out[bytes] = (uint8_t)len;
    out[bytes + 1] = 0;
    memcpy(out + bytes + 2, address, len);
    client_put_u32(out + ADDRESS_COUNT_AT, count + 1);
    return bytes + 2 + len;
}

int client_attached_decode(const void *body, size_t bytes, struct client_attached *ret_attached)
{
    assert(ret_attached != NULL);
    assert(body != NULL || bytes == 0);
    const uint8_t *at = body;
    if (bytes < CLIENT_ATTACHED_HEAD_BYTES)
        return -EBADMSG;
    uint64_t shard_bytes = client_get_u64(at);
    uint32_t run_count = client_get_u32(at + 8), address_count = client_get_u32(at + ADDRESS_COUNT_AT);
    size_t rest = bytes - CLIENT_ATTACHED_HEAD_BYTES;
    if (shard_bytes == 0 || run_count > CLIENT_LOSS_RUNS_MAX || address_count > CLIENT_ADDRESSES_MAX)
        return -EBADMSG;
    if ((size_t)run_count * CLIENT_LOSS_RUN_BYTES > rest)
        return -EBADMSG;
    ret_attached->shard_bytes = shard_bytes;
    ret_attached->runs = at + CLIENT_ATTACHED_HEAD_BYTES;
    ret_attached->runs_bytes = (size_t)run_count * CLIENT_LOSS_RUN_BYTES;
    ret_attached->addresses = ret_attached->runs + ret_attached->runs_bytes;
    ret_attached->addresses_bytes = rest - ret_attached->runs_bytes;
    ret_attached->address_count = address_count;
    return 0;
}

int client_attached_next(struct client_attached *attached, char ret_address[CLIENT_ADDRESS_MAX])
{
    assert(attached != NULL);
    assert(ret_address != NULL);
    if (attached->address_count == 0)
        return -ENOENT;
    if (attached->addresses_bytes < 2)
        return -EBADMSG;
    size_t len = (size_t)attached->addresses[0] | (size_t)attached->addresses[1] << 8;
    if (len == 0 || len >= CLIENT_ADDRESS_MAX || len > attached->addresses_bytes - 2)
        return -EBADMSG;
    if (memchr(attached->addresses + 2, '\0', len) != NULL)
        return -EBADMSG;
    memcpy(ret_address, attached->addresses + 2, len);
    ret_address[len] = '\0';
    attached->addresses += 2 + len;
    attached->addresses_bytes -= 2 + len;
    attached->address_count--;
    return 0;
}
