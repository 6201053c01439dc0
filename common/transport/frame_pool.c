/* SPDX-License-Identifier: Apache-2.0 */
/* frame_pool: free lists, so that the data path does not malloc in steady state.
 *
 *   - messages, send chunks and staging areas are taken from last-in first-out lists (warm in the cache);
 *   - up to FRAME_POOL_KEEP_MAX of a kind are kept, what is above goes back to the heap;
 *   - only a body above FRAME_BODY_INLINE costs a malloc, bounded by WIRE_BODY_MAX.
 * Failure modes: out of memory is NULL, the link that asked is closed.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/transport/frame_internal.h"

#define FRAME_POOL_KEEP_MAX 1024u
#define FRAME_POOL_STAGING_KEEP_MAX 16u

struct frame_free {
    struct frame_free *next;
};

struct frame_list {
    struct frame_free *head;
    uint32_t free_count;
    uint32_t used_count;
};

struct frame_pool {
    struct buf_pool *bufs;
    struct frame_list msgs, chunks, stagings;
    struct list_node live; /* messages given out */
};

static void *list_take(struct frame_list *list, size_t bytes)
{
    struct frame_free *item = list->head;
    if (item) {
        assert(list->free_count > 0);
        list->head = item->next;
        list->free_count--;
    } else {
        item = malloc(bytes);
    }
    if (item)
        list->used_count++;
    return item;
}

static void list_give(struct frame_list *list, void *memory, uint32_t keep_max)
{
    struct frame_free *item = memory;
    assert(list->used_count > 0);
    list->used_count--;
    if (list->free_count >= keep_max) {
        free(memory);
        return;
    }
    item->next = list->head;
    list->head = item;
    list->free_count++;
}

static void list_clear(struct frame_list *list)
{
    assert(list->used_count == 0);
    while (list->head) {
        struct frame_free *item = list->head;
        list->head = item->next;
        free(item);
    }
}

struct frame_pool *frame_pool_create(struct buf_pool *bufs)
{
    assert(bufs);
    struct frame_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return NULL;
    pool->bufs = bufs;
    list_head_init(&pool->live);
    return pool;
}

void frame_pool_destroy(struct frame_pool *pool)
{
    if (!pool)
        return;
    assert(list_empty(&pool->live));
    list_clear(&pool->msgs);
    list_clear(&pool->chunks);
    list_clear(&pool->stagings);
    free(pool);
}

void frame_pool_abandon(struct frame_pool *pool)
{
    while (!list_empty(&pool->live)) {
        struct frame_msg *self = list_entry(pool->live.next, struct frame_msg, live);
        assert(self->pool == pool);
        msg_free(&self->msg);
    }
}

struct buf_pool *frame_pool_bufs(const struct frame_pool *pool)
{
    assert(pool != NULL);
    return pool->bufs;
}

static void frame_msg_release(struct msg *msg)
{
    assert(msg != NULL);
    struct frame_msg *self = (struct frame_msg *)(void *)msg; /* msg is its first field */
    assert(self->pool);
    list_remove(&self->live);
    buf_unref(msg->payload);
    free(self->body_heap);
    list_give(&self->pool->msgs, self, FRAME_POOL_KEEP_MAX);
}

struct msg *frame_pool_msg(struct frame_pool *pool, uint32_t body_bytes)
{
    assert(pool != NULL);
    assert(body_bytes <= WIRE_BODY_MAX);
    struct frame_msg *self = list_take(&pool->msgs, sizeof(*self));
    if (!self)
        return NULL;
    memset(self, 0, offsetof(struct frame_msg, body_inline));
    self->pool = pool;
    self->msg.release = frame_msg_release;
    list_push_back(&pool->live, &self->live);
    if (body_bytes > FRAME_BODY_INLINE) {
        self->body_heap = malloc(body_bytes);
        if (!self->body_heap) {
            msg_free(&self->msg);
            return NULL;
        }
    }
    if (body_bytes > 0)
        self->msg.body = self->body_heap ? self->body_heap : self->body_inline;
    return &self->msg;
}

struct frame_chunk *frame_pool_chunk(struct frame_pool *pool, uint32_t body_bytes)
{
    assert(pool != NULL);
    assert(body_bytes <= WIRE_BODY_MAX);
    struct frame_chunk *chunk = list_take(&pool->chunks, sizeof(*chunk));
    if (!chunk)
        return NULL;
    memset(chunk, 0, offsetof(struct frame_chunk, head_inline));
    chunk->head = chunk->head_inline;
    if (body_bytes > FRAME_BODY_INLINE)
        chunk->head = malloc(WIRE_HEADER_BYTES + body_bytes);
    if (!chunk->head) {
        list_give(&pool->chunks, chunk, FRAME_POOL_KEEP_MAX);
        return NULL;
    }
    return chunk;
}

void frame_pool_chunk_put(struct frame_pool *pool, struct frame_chunk *chunk)
{
    assert(pool != NULL);
    assert(chunk->head);
    if (chunk->head != chunk->head_inline)
        free(chunk->head);
    buf_unref(chunk->payload);
    list_give(&pool->chunks, chunk, FRAME_POOL_KEEP_MAX);
}

uint8_t *frame_pool_staging(struct frame_pool *pool)
{
    assert(pool != NULL);
    return list_take(&pool->stagings, FRAME_STAGING_BYTES);
}

void frame_pool_staging_put(struct frame_pool *pool, uint8_t *staging)
{
    assert(pool != NULL);
    assert(staging);
    list_give(&pool->stagings, staging, FRAME_POOL_STAGING_KEEP_MAX);
}
