/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoders of the bodies between client and gateway; the first byte picks one.
 *
 * Whatever decodes keeps the promises of common/client_body.h: names and addresses end, runs ascend, counts are
 * bounded; and it encodes to the same bytes again.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/client_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct client_loss_run runs[CLIENT_LOSS_RUNS_MAX];

static void check_attach(const uint8_t *data, size_t size)
{
    struct client_attach attach, again;
    uint8_t raw[CLIENT_ATTACH_SNAPSHOT_BYTES];
    int rc = client_attach_decode(data, size, &attach);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc < 0)
        return;
    assert(size == CLIENT_ATTACH_BYTES || size == CLIENT_ATTACH_SNAPSHOT_BYTES);
    assert(attach.name[0] != '\0' && memchr(attach.name, '\0', sizeof(attach.name)));
    size_t bytes = client_attach_encode(&attach, raw);
    rc = client_attach_decode(raw, bytes, &again);
    assert(rc == 0 && memcmp(&attach, &again, sizeof(attach)) == 0);
}

static void check_losses(const uint8_t *data, size_t size)
{
    static uint8_t raw[CLIENT_LOSS_RUNS_MAX * CLIENT_LOSS_RUN_BYTES];
    uint32_t count = 0;
    uint64_t next = 0;
    int rc = client_loss_decode(data, size, runs, CLIENT_LOSS_RUNS_MAX, &count);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc < 0)
        return;
    for (uint32_t i = 0; i < count; i++) {
        assert(runs[i].first >= next && runs[i].count > 0 && runs[i].loss > 0);
        next = (uint64_t)runs[i].first + runs[i].count;
    }
    size_t bytes = client_loss_encode(runs, count, raw);
    assert(bytes == size && (size == 0 || memcmp(raw, data, size) == 0));
}

static void check_attached(const uint8_t *data, size_t size)
{
    struct client_attached attached;
    char address[CLIENT_ADDRESS_MAX];
    int rc = client_attached_decode(data, size, &attached);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc < 0)
        return;
    assert(attached.shard_bytes > 0);
    assert(attached.runs_bytes + attached.addresses_bytes <= size);
    check_losses(attached.runs, attached.runs_bytes);
    for (uint32_t i = 0; rc == 0; i++) {
        assert(i <= CLIENT_ADDRESSES_MAX);
        rc = client_attached_next(&attached, address);
        assert(rc != 0 || strlen(address) > 0);
    }
    assert(rc == -ENOENT || rc == -EBADMSG);
}

static void check_list(const uint8_t *data, size_t size)
{
    struct client_list_entry entry;
    if (size < CLIENT_LIST_ENTRY_BYTES)
        return;
    int rc = client_list_entry_decode(data, &entry);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc == 0)
        assert(memchr(entry.name, '\0', sizeof(entry.name)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0: check_attach(data + 1, size - 1); break;
    case 1: check_losses(data + 1, size - 1); break;
    case 2: check_attached(data + 1, size - 1); break;
    default: check_list(data + 1, size - 1);
    }
    return 0;
}
