/* SPDX-License-Identifier: Apache-2.0 */
/* slab: memory for very many objects of one size.
 *
 * - slab_take: one that was given back, zeroed anew; else the next one of the newest block, which is zero already
 * - add_block: twice the last one's size; at 2 MiB aligned, for a huge page
 * Failure: out of memory ends the process.
 */
#include "common/slab.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK_BYTES_MIN ((size_t)32 << 10)
#define BLOCK_BYTES_MAX ((size_t)2 << 20)
#define ITEM_BYTES_MAX ((size_t)64 << 10)

#if defined(__SANITIZE_ADDRESS__)
#define ONE_BY_ONE 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ONE_BY_ONE 1
#endif
#endif
#ifndef ONE_BY_ONE
#define ONE_BY_ONE 0
#endif

struct slab_block {
    struct slab_block *older;
    size_t bytes;
};

void slab_init(struct slab *slab, size_t item_bytes)
{
    assert(item_bytes >= sizeof(void *) && item_bytes <= ITEM_BYTES_MAX);
    *slab = (struct slab){.item_bytes = (item_bytes + 15) / 16 * 16};
    assert(!slab->blocks && slab->taken == 0);
}

static void add_block(struct slab *slab)
{
    size_t bytes = slab->blocks ? slab->blocks->bytes * 2 : BLOCK_BYTES_MIN;
    while (bytes < 4 * slab->item_bytes)
        bytes *= 2;
    if (bytes > BLOCK_BYTES_MAX)
        bytes = BLOCK_BYTES_MAX;
    struct slab_block *block = aligned_alloc(bytes < BLOCK_BYTES_MAX ? 4096 : BLOCK_BYTES_MAX, bytes);
    if (!block)
        abort();
    if (bytes == BLOCK_BYTES_MAX)
        (void)madvise(block, bytes, MADV_HUGEPAGE);
    memset(block, 0, bytes);
    block->older = slab->blocks;
    block->bytes = bytes;
    slab->blocks = block;
    slab->next = (uint8_t *)block + (sizeof(*block) + 15) / 16 * 16;
    slab->end = (uint8_t *)block + bytes;
    assert(slab->next + slab->item_bytes <= slab->end);
}

void *slab_take(struct slab *slab)
{
    assert(slab->item_bytes > 0);
    void *item = slab->free_items;
    slab->taken++;
    if (ONE_BY_ONE) {
        item = calloc(1, slab->item_bytes);
        if (!item)
            abort();
        return item;
    }
    if (item) {
        memcpy(&slab->free_items, item, sizeof(slab->free_items));
        memset(item, 0, slab->item_bytes);
        return item;
    }
    if (!slab->blocks || slab->next + slab->item_bytes > slab->end)
        add_block(slab);
    item = slab->next;
    slab->next += slab->item_bytes;
    assert(slab->next <= slab->end);
    return item;
}

void slab_give(struct slab *slab, void *item)
{
    assert(item && slab->taken > 0);
    slab->taken--;
    if (ONE_BY_ONE) {
        free(item);
        return;
    }
    assert(slab->blocks);
    memcpy(item, &slab->free_items, sizeof(slab->free_items));
    slab->free_items = item;
}

void slab_close(struct slab *slab)
{
    assert(slab->taken == 0);
    while (slab->blocks) {
        struct slab_block *block = slab->blocks;
        slab->blocks = block->older;
        free(block);
    }
    slab->free_items = NULL;
    slab->next = slab->end = NULL;
    assert(!slab->blocks);
}
