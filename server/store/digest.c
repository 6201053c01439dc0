/* SPDX-License-Identifier: Apache-2.0 */
/* digest: recomputes from the drive what a chunk holds as one generation sees it (R16): per block CRC32C, CRC64, state.
 *
 * - The chunk is read a unit at a time (raw: stored checksums play no part), each unit excluded from writes while it is read.
 * Failure: -EILSEQ when a block can't be read, -EIO when the store failed, -EAGAIN when no buffer is free.
 */
#include "server/store/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

struct digest_run {
    struct store_digest *req;
    struct store *store;
    struct env_task task;
    struct buf *buf;
    uint32_t unit;
    int rc;
};

static void digest_unit(struct digest_run *run);

static void digest_end(struct env_task *task)
{
    struct digest_run *run = list_entry(task, struct digest_run, task);
    struct store *store = run->store;
    struct store_digest *req = run->req;
    int rc = run->rc;
    assert(req->impl == run);
    assert(store->background->digests > 0);
    store->background->digests--;
    buf_unref(run->buf);
    free(run);
    req->impl = NULL;
    req->cb(req, rc);
    store_close_advance(store);
}

/* Zeros: a hole, or space kept. */
static uint32_t zero_state(const struct digest_run *run, uint32_t block)
{
    struct store_extent extent = {.state = 0};
    uint64_t offset = (uint64_t)run->req->chunk * STORE_CHUNK_BYTES + (uint64_t)block * STORE_BLOCK_BYTES;
    assert(block < STORE_CHUNK_BLOCKS);
    if (offset >= run->req->shard->bytes)
        return 0;
    (void)store_extents(run->req->shard, run->req->generation, offset, STORE_BLOCK_BYTES, &extent, 1);
    return extent.state == 2 ? 2 : 0;
}

static void unit_done(struct piece *piece)
{
    struct digest_run *run = piece->owner;
    assert(run->unit < STORE_CHUNK_UNITS);
    run->rc = piece->rc;
    for (uint32_t i = 0; i < UNIT_BLOCKS && !run->rc; i++) {
        struct store_block_digest *block = &run->req->blocks[run->unit * UNIT_BLOCKS + i];
        const uint8_t *data = run->buf->data + (size_t)i * STORE_BLOCK_BYTES;
        block->state = piece->valid[0] >> i & 1 ? 1 : zero_state(run, run->unit * UNIT_BLOCKS + i);
        if (block->state != 1)
            continue; /* nobody compares the bytes of zeros */
        block->crc32c = crc32c(data, STORE_BLOCK_BYTES);
        block->crc64 = crc64(data, STORE_BLOCK_BYTES);
    }
    run->unit++;
    if (run->rc || run->unit == STORE_CHUNK_UNITS)
        digest_end(&run->task);
    else
        digest_unit(run);
}

static void digest_unit(struct digest_run *run)
{
    assert(run->unit < STORE_CHUNK_UNITS && !run->rc);
    struct store_digest *req = run->req;
    struct piece *piece = piece_create(req->shard, PIECE_READ, req->chunk, run->unit * UNIT_BLOCKS, UNIT_BLOCKS);
    assert(run->buf);
    piece->flags = STORE_IO_RAW;
    piece->generation = req->generation;
    piece->data = run->buf->data;
    piece->done = unit_done;
    piece->owner = run;
    piece_submit(piece);
}

void store_digest(struct store_digest *req)
{
    assert(req->shard && req->shard->open && req->blocks && req->cb);
    assert(req->chunk < STORE_SHARD_CHUNKS);
    struct store *store = req->shard->store;
    struct digest_run *run = store_malloc(sizeof(*run));
    run->req = req;
    run->store = store;
    req->impl = run;
    store->background->digests++;
    run->buf = buf_alloc(store->config.pool, STORE_UNIT_BYTES);
    if (!run->buf || store->failed) {
        run->rc = run->buf ? -EIO : -EAGAIN;
        env_defer(store->env, &run->task, digest_end);
        return;
    }
    store->submit_depth++;
    digest_unit(run);
    store->submit_depth--;
}
