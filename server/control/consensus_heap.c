/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libraft's heap, counted and bounded (rule 41: libraft does allocate as it runs, so
 * it gets a bound instead of a pool).
 *
 * The happy path: every allocation adds its usable size to one counter, every
 * free takes it off; used by the loop thread and by libuv's pool threads (log
 * segments, snapshot compression), hence atomic.
 *
 * Failure modes: above the bound an allocation returns NULL. libraft turns that
 * into RAFT_NOMEM, which fails a request, a connection or the instance. The
 * bound is checked before counting, so threads may overshoot it together by one
 * allocation each.
 */
#include "server/control/consensus_ops.h"

#include <assert.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static atomic_size_t heap_used;
static atomic_size_t heap_max = CONSENSUS_HEAP_BYTES_MAX;
static atomic_bool heap_installed;

static bool heap_full(size_t size)
{
    size_t used = atomic_load(&heap_used);
    size_t max = atomic_load(&heap_max);
    assert(max > 0);
    return size > max || used > max - size;
}

static void *counted(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_add(&heap_used, malloc_usable_size(ptr));
    return ptr;
}

static void uncount(void *ptr)
{
    size_t size = ptr == NULL ? 0 : malloc_usable_size(ptr);
    size_t before = atomic_fetch_sub(&heap_used, size);
    assert(before >= size);
}

static void *heap_malloc(void *data, size_t size)
{
    (void)data;
    return heap_full(size) ? NULL : counted(malloc(size));
}

static void heap_free(void *data, void *ptr)
{
    (void)data;
    uncount(ptr);
    free(ptr);
}

static void *heap_calloc(void *data, size_t nmemb, size_t size)
{
    (void)data;
    if (size != 0 && nmemb > SIZE_MAX / size)
        return NULL;
    return heap_full(nmemb * size) ? NULL : counted(calloc(nmemb, size));
}

static void *heap_realloc(void *data, void *ptr, size_t size)
{
    (void)data;
    size_t old = ptr == NULL ? 0 : malloc_usable_size(ptr);
    if (size > old && heap_full(size - old))
        return NULL;
    void *moved = realloc(ptr, size);
    if (moved == NULL && size != 0)
        return NULL; /* the old block stays, and stays counted */
    size_t before = atomic_fetch_sub(&heap_used, old);
    assert(before >= old);
    return counted(moved);
}

static void *heap_aligned_alloc(void *data, size_t alignment, size_t size)
{
    (void)data;
    assert(alignment > 0 && (alignment & (alignment - 1)) == 0);
    return heap_full(size) ? NULL : counted(aligned_alloc(alignment, size));
}

static void heap_aligned_free(void *data, size_t alignment, void *ptr)
{
    (void)alignment;
    heap_free(data, ptr);
}

static struct raft_heap heap = {
    .data = NULL,
    .malloc = heap_malloc,
    .free = heap_free,
    .calloc = heap_calloc,
    .realloc = heap_realloc,
    .aligned_alloc = heap_aligned_alloc,
    .aligned_free = heap_aligned_free,
};

void consensus_heap_install(void)
{
    if (!atomic_exchange(&heap_installed, true)) {
        assert(atomic_load(&heap_used) == 0);
        raft_heap_set(&heap);
    }
}

void consensus_heap_set_max(size_t bytes_max)
{
    assert(bytes_max > 0);
    atomic_store(&heap_max, bytes_max);
}

size_t consensus_heap_used(void)
{
    return atomic_load(&heap_used);
}
