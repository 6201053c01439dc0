/* SPDX-License-Identifier: Apache-2.0 */
/* core_loss: notices that acknowledged, unflushed writes were lost (R13).
 *
 * - every acknowledgement of a write carries its shard's loss number; the number of the oldest unflushed one is kept
 * - a higher number, seen in any answer, means that an elected primary may lack such a write: the handle fails for good
 * - a flush clears what was acknowledged before it was submitted
 *
 *   clean --loss_acked--> dirty(loss) --loss_flushed, nothing acknowledged since--> clean
 *                             +--higher number (loss_seen, loss_acked, loss_listed)--> lost
 *
 * Failure: "a flush never succeeds over lost data": lost is told by false, and client.c makes it sticky.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/core_internal.h"
#include "common/mutant.h"

int loss_resize(struct client *client, uint64_t size)
{
    assert(client->shard_bytes > 0);
    uint64_t count = size / client->shard_bytes + (size % client->shard_bytes != 0);
    if (count > LOSS_SHARDS_MAX)
        return -EINVAL;
    if (count <= client->shard_count)
        return 0;
    struct loss_shard *shards = calloc(count, sizeof(*shards));
    uint32_t *dirty = malloc(count * sizeof(*dirty));
    if (!shards || !dirty) {
        free(shards);
        free(dirty);
        return -ENOMEM;
    }
    if (client->shard_count > 0)
        memcpy(shards, client->shards, client->shard_count * sizeof(*shards));
    if (client->dirty_count > 0)
        memcpy(dirty, client->dirty, client->dirty_count * sizeof(*dirty));
    free(client->shards);
    free(client->dirty);
    client->shards = shards;
    client->dirty = dirty;
    client->shard_count = (uint32_t)count;
    return 0;
}

static struct loss_shard *shard_of(struct client *client, uint64_t offset)
{
    uint64_t index = offset / client->shard_bytes;
    assert(index < client->shard_count);
    return &client->shards[index];
}

bool loss_seen(struct client *client, uint64_t offset, uint64_t loss)
{
    const struct loss_shard *shard = shard_of(client, offset);
    return !shard->dirty || loss <= shard->loss || MUTANT(loss_is_not_told);
}

bool loss_acked(struct client *client, uint64_t offset, uint64_t loss, bool durable)
{
    struct loss_shard *shard = shard_of(client, offset);
    if (shard->dirty && loss > shard->loss && !MUTANT(loss_is_not_told))
        return false;
    if (durable)
        return true;
    if (!shard->dirty) {
        assert(client->dirty_count < client->shard_count);
        shard->dirty = true;
        shard->loss = loss;
        client->dirty[client->dirty_count++] = (uint32_t)(shard - client->shards);
    }
    shard->seq = ++client->ack_seq;
    return true;
}

static uint64_t number_of(const struct client_loss_run *runs, uint32_t count, uint32_t shard)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (shard < runs[middle].first)
            high = middle;
        else if (shard - runs[middle].first >= runs[middle].count)
            low = middle + 1;
        else
            return runs[middle].loss;
    }
    return 0;
}

bool loss_listed(struct client *client, const struct client_loss_run *runs, uint32_t count, uint64_t rest)
{
    uint64_t known_end = count > 0 ? (uint64_t)runs[count - 1].first + runs[count - 1].count : 0;
    for (uint32_t i = 0; i < client->dirty_count; i++) {
        uint32_t shard = client->dirty[i];
        assert(client->shards[shard].dirty);
        if (rest > 0 && shard >= known_end)
            return false; /* its number did not fit into the list: be safe */
        if (number_of(runs, count, shard) > client->shards[shard].loss && !MUTANT(loss_is_not_told))
            return false;
    }
    return true;
}

void loss_flushed(struct client *client, uint64_t seq)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < client->dirty_count; i++) {
        struct loss_shard *shard = &client->shards[client->dirty[i]];
        if (shard->seq <= seq)
            shard->dirty = false;
        else
            client->dirty[kept++] = client->dirty[i];
    }
    assert(kept <= client->dirty_count);
    client->dirty_count = kept;
}
