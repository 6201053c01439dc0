/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffer pool: one mapped region cut into slabs of 1 MiB, each slab into buffers of one class.
 *
 * - buf_alloc takes from a partly used slab of the class, else from an empty one of the class, else
 *   from an empty one of another class (cut anew), else from a slab never used, else from a partly
 *   used slab of a larger class
 * - a slab is cut lazily: `cut` buffers exist so far, returned ones are on `free`
 * - buf_unref gives the buffer back to its slab and wakes one waiter
 *
 * A slab is on exactly one list: partial (something used, something free), empty (nothing used), or
 * none (full, or never used). All steps are O(number of classes). Nothing is ever handed back to the
 * kernel, and nothing is allocated after buf_pool_create: exhaustion is NULL.
 *
 * Under AddressSanitizer free buffers are poisoned, so that a use after buf_unref is caught.
 */
#include "common/buf.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/list.h"

#if defined(__SANITIZE_ADDRESS__)
#define BUF_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BUF_ASAN 1
#endif
#endif
#ifdef BUF_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

#define SLAB_BYTES BUF_BYTES_MAX
#define HUGE_PAGE_BYTES (2u << 20)

enum { CLASS_COUNT = 5 };
static const uint32_t class_bytes[CLASS_COUNT] = {4u << 10, 16u << 10, 64u << 10, 256u << 10, 1u << 20};
enum { BUFS_PER_SLAB_MAX = SLAB_BYTES / BUF_ALIGN };
_Static_assert(SLAB_BYTES % BUF_ALIGN == 0, "slabs keep the alignment");

struct slab {
    struct list_node node; /* on partial[class] or empty[class], or on none */
    struct buf *free;      /* returned buffers, LIFO: the last one is the warmest */
    uint32_t class_index;
    uint32_t cut;  /* buffers cut so far */
    uint32_t used; /* buffers out */
};

struct buf_pool {
    uint8_t *base;
    size_t region_bytes;     /* mapped; a multiple of the page size in use */
    struct buf *descriptors; /* BUFS_PER_SLAB_MAX for each slab; touched when cut */
    struct slab *slabs;
    uint32_t slab_count;
    uint32_t slab_touched; /* slabs below were used once */
    struct list_node partial[CLASS_COUNT];
    struct list_node empty[CLASS_COUNT];
    uint64_t used_bytes;
    uint64_t used_bytes_max;
    uint64_t exhausted_count;
    struct buf_waiter *waiter_first;
    struct buf_waiter *waiter_last;
    uint32_t wakes; /* buffers freed and not yet told to a waiter */
    bool waking;
};

static uint32_t class_for(uint32_t bytes)
{
    assert(bytes >= 1);
    assert(bytes <= BUF_BYTES_MAX);
    uint32_t class_index = 0;
    while (class_bytes[class_index] < bytes)
        class_index++;
    return class_index;
}

static uint32_t bufs_per_slab(const struct slab *slab)
{
    assert(slab->class_index < CLASS_COUNT);
    return SLAB_BYTES / class_bytes[slab->class_index];
}

static uint8_t *slab_memory(const struct buf_pool *pool, const struct slab *slab)
{
    assert(pool != NULL);
    size_t index = (size_t)(slab - pool->slabs);
    assert(index < pool->slab_count);
    return pool->base + index * SLAB_BYTES;
}

static void *map_region(size_t bytes, int flags)
{
    assert(bytes > 0);
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    return at != MAP_FAILED ? at : NULL;
}

/* ASHLAR_HUGETLB=1 asks for explicit huge pages; without enough of them, normal ones serve. */
static void map_memory(struct buf_pool *pool)
{
    assert(pool->base == NULL);
    assert(pool->slab_count > 0);
    size_t bytes = (size_t)pool->slab_count * SLAB_BYTES;
    const char *want = getenv("ASHLAR_HUGETLB");
    if (want != NULL && strcmp(want, "1") == 0) {
        size_t rounded = (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        pool->base = map_region(rounded, MAP_HUGETLB);
        pool->region_bytes = rounded;
    }
    if (pool->base == NULL) {
        pool->base = map_region(bytes, 0);
        pool->region_bytes = bytes;
    }
}

static size_t descriptor_bytes(const struct buf_pool *pool)
{
    assert(pool != NULL);
    return (size_t)pool->slab_count * BUFS_PER_SLAB_MAX * sizeof(struct buf);
}

struct buf_pool *buf_pool_create(size_t limit_bytes)
{
    assert(limit_bytes > 0);
    assert(limit_bytes / SLAB_BYTES < UINT32_MAX);
    struct buf_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return NULL;
    pool->slab_count = limit_bytes >= SLAB_BYTES ? (uint32_t)(limit_bytes / SLAB_BYTES) : 1;
    for (uint32_t i = 0; i < CLASS_COUNT; i++) {
        list_head_init(&pool->partial[i]);
        list_head_init(&pool->empty[i]);
    }
    /* The largest first: an impossible limit fails before anything else is tried. */
    map_memory(pool);
    if (pool->base != NULL) {
        pool->slabs = calloc(pool->slab_count, sizeof(*pool->slabs));
        pool->descriptors = map_region(descriptor_bytes(pool), 0);
    }
    if (pool->slabs == NULL || pool->descriptors == NULL || pool->base == NULL) {
        buf_pool_destroy(pool);
        return NULL;
    }
    assert((uintptr_t)pool->base % BUF_ALIGN == 0);
    return pool;
}

void buf_pool_destroy(struct buf_pool *pool)
{
    if (pool == NULL)
        return;
    assert(pool->used_bytes == 0);
    assert(pool->waiter_first == NULL);
    assert(!pool->waking);
    if (pool->base != NULL) {
        ASAN_UNPOISON_MEMORY_REGION(pool->base, (size_t)pool->slab_touched * SLAB_BYTES);
        (void)munmap(pool->base, pool->region_bytes);
    }
    if (pool->descriptors != NULL)
        (void)munmap(pool->descriptors, descriptor_bytes(pool));
    free(pool->slabs);
    free(pool);
}

void buf_pool_region(const struct buf_pool *pool, void **ret_base, size_t *ret_bytes)
{
    assert(pool != NULL);
    assert(ret_base != NULL);
    assert(ret_bytes != NULL);
    *ret_base = pool->base;
    *ret_bytes = pool->region_bytes;
}

void buf_pool_stats(const struct buf_pool *pool, struct buf_pool_stats *ret_stats)
{
    assert(pool != NULL);
    assert(ret_stats != NULL);
    *ret_stats = (struct buf_pool_stats){
        .limit_bytes = (uint64_t)pool->slab_count * SLAB_BYTES,
        .used_bytes = pool->used_bytes,
        .used_bytes_max = pool->used_bytes_max,
        .exhausted_count = pool->exhausted_count,
    };
}

/* Makes an unused slab one of this class. */
static struct slab *slab_assign(struct buf_pool *pool, struct slab *slab, uint32_t class_index)
{
    assert(slab->used == 0);
    assert(!list_linked(&slab->node));
    slab->class_index = class_index;
    slab->cut = 0;
    slab->free = NULL;
    ASAN_POISON_MEMORY_REGION(slab_memory(pool, slab), SLAB_BYTES);
    return slab;
}

/* A slab that can give a buffer of this class, taken off its list; NULL: none. */
static struct slab *slab_take(struct buf_pool *pool, uint32_t class_index)
{
    assert(class_index < CLASS_COUNT);
    struct list_node *node = list_pop_front(&pool->partial[class_index]);
    if (node == NULL)
        node = list_pop_front(&pool->empty[class_index]);
    if (node != NULL)
        return list_entry(node, struct slab, node);
    for (uint32_t i = 0; i < CLASS_COUNT; i++) {
        node = list_pop_front(&pool->empty[i]);
        if (node != NULL)
            return slab_assign(pool, list_entry(node, struct slab, node), class_index);
    }
    if (pool->slab_touched < pool->slab_count)
        return slab_assign(pool, &pool->slabs[pool->slab_touched++], class_index);
    for (uint32_t i = class_index + 1; i < CLASS_COUNT; i++) {
        node = list_pop_front(&pool->partial[i]);
        if (node != NULL)
            return list_entry(node, struct slab, node);
    }
    return NULL;
}

/* Puts the slab on the list that its counters name. */
static void slab_file(struct buf_pool *pool, struct slab *slab)
{
    assert(!list_linked(&slab->node));
    assert(slab->used <= slab->cut);
    if (slab->used == 0)
        list_push_front(&pool->empty[slab->class_index], &slab->node);
    else if (slab->used < bufs_per_slab(slab))
        list_push_front(&pool->partial[slab->class_index], &slab->node);
}

static struct buf *slab_pop(struct buf_pool *pool, struct slab *slab)
{
    struct buf *buf = slab->free;
    if (buf != NULL) {
        slab->free = buf->next;
    } else {
        assert(slab->cut < bufs_per_slab(slab));
        size_t slab_index = (size_t)(slab - pool->slabs);
        uint32_t capacity = class_bytes[slab->class_index];
        buf = &pool->descriptors[slab_index * BUFS_PER_SLAB_MAX + slab->cut];
        *buf = (struct buf){
            .data = slab_memory(pool, slab) + (size_t)slab->cut * capacity,
            .capacity = capacity,
            .pool = pool,
        };
        slab->cut++;
    }
    slab->used++;
    assert(slab->used <= slab->cut);
    return buf;
}

struct buf *buf_alloc(struct buf_pool *pool, uint32_t bytes)
{
    assert(pool != NULL);
    struct slab *slab = slab_take(pool, class_for(bytes));
    if (slab == NULL) {
        pool->exhausted_count++;
        return NULL;
    }
    struct buf *buf = slab_pop(pool, slab);
    slab_file(pool, slab);
    assert(buf->refs == 0);
    assert(buf->capacity >= bytes);
    buf->refs = 1;
    buf->next = NULL;
    ASAN_UNPOISON_MEMORY_REGION(buf->data, buf->capacity);
    pool->used_bytes += buf->capacity;
    if (pool->used_bytes > pool->used_bytes_max)
        pool->used_bytes_max = pool->used_bytes;
    return buf;
}

void buf_wrap(struct buf *self, void *data, uint32_t bytes, void (*release)(struct buf *self), void *owner)
{
    assert(self != NULL);
    assert(data != NULL || bytes == 0);
    assert(release != NULL);
    *self = (struct buf){
        .data = data,
        .capacity = bytes,
        .refs = 1,
        .release = release,
        .owner = owner,
    };
}

struct buf *buf_ref(struct buf *buf)
{
    assert(buf != NULL);
    assert(buf->refs > 0);
    assert(buf->refs < UINT32_MAX);
    buf->refs++;
    return buf;
}

/* A waiter may free or wait again in its callback: it only adds to the work of the outermost call. */
static void wake_one(struct buf_pool *pool)
{
    if (pool->waiter_first == NULL)
        return;
    pool->wakes++;
    if (pool->waking)
        return;
    pool->waking = true;
    while (pool->wakes > 0 && pool->waiter_first != NULL) {
        pool->wakes--;
        struct buf_waiter *waiter = pool->waiter_first;
        assert(waiter->queued);
        pool->waiter_first = waiter->next;
        if (pool->waiter_first == NULL)
            pool->waiter_last = NULL;
        waiter->next = NULL;
        waiter->queued = 0;
        waiter->cb(waiter);
    }
    pool->wakes = 0;
    pool->waking = false;
}

static void give_back(struct buf *buf)
{
    struct buf_pool *pool = buf->pool;
    assert(pool != NULL);
    assert(buf->data >= pool->base);
    size_t slab_index = (size_t)(buf->data - pool->base) / SLAB_BYTES;
    assert(slab_index < pool->slab_touched);
    struct slab *slab = &pool->slabs[slab_index];
    assert(slab->used > 0);
    assert(class_bytes[slab->class_index] == buf->capacity);
    ASAN_POISON_MEMORY_REGION(buf->data, buf->capacity);
    pool->used_bytes -= buf->capacity;
    buf->next = slab->free;
    slab->free = buf;
    if (list_linked(&slab->node))
        list_remove(&slab->node);
    slab->used--;
    slab_file(pool, slab);
    wake_one(pool);
}

void buf_unref(struct buf *buf)
{
    if (buf == NULL)
        return;
    assert(buf->refs > 0);
    if (--buf->refs > 0)
        return;
    assert((buf->pool == NULL) != (buf->release == NULL));
    if (buf->pool != NULL)
        give_back(buf);
    else
        buf->release(buf);
}

void buf_pool_wait(struct buf_pool *pool, struct buf_waiter *waiter)
{
    assert(pool != NULL);
    assert(waiter != NULL);
    assert(waiter->cb != NULL);
    if (waiter->queued)
        return;
    waiter->queued = 1;
    waiter->next = NULL;
    if (pool->waiter_last != NULL)
        pool->waiter_last->next = waiter;
    else
        pool->waiter_first = waiter;
    pool->waiter_last = waiter;
}

void buf_pool_wait_cancel(struct buf_pool *pool, struct buf_waiter *waiter)
{
    assert(pool != NULL);
    assert(waiter != NULL);
    if (!waiter->queued)
        return;
    struct buf_waiter *before = NULL;
    struct buf_waiter *at = pool->waiter_first;
    while (at != waiter) {
        assert(at != NULL);
        before = at;
        at = at->next;
    }
    if (before != NULL)
        before->next = waiter->next;
    else
        pool->waiter_first = waiter->next;
    if (pool->waiter_last == waiter)
        pool->waiter_last = before;
    waiter->next = NULL;
    waiter->queued = 0;
}
