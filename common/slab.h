/* SPDX-License-Identifier: Apache-2.0 */
/* slab: memory for very many objects of one size, that come by the thousand.
 *
 * Concept: blocks that double from 32 KiB to 2 MiB, the large ones on huge pages where the kernel has them: the first touch of
 *   memory page by page is most of what making 4096 shards costs. What is given back is kept for the next one, and
 *   goes back to the system when the slab ends. Built for a sanitizer, each object is its own allocation.
 * Threading: one thread. Errors: out of memory ends the process.
 * Ownership: an object is the taker's until slab_give; all are given back before slab_close.
 */
#ifndef ASHLAR_COMMON_SLAB_H
#define ASHLAR_COMMON_SLAB_H

#include <stddef.h>
#include <stdint.h>

struct slab_block;
struct slab {
    size_t item_bytes;
    uint64_t taken;            /* now */
    void *free_items;          /* linked through their first word */
    struct slab_block *blocks; /* newest first */
    uint8_t *next, *end;       /* never taken yet, in the newest block */
};

/* item_bytes: at most 64 KiB. */
void slab_init(struct slab *slab, size_t item_bytes);
/* Zeroed, aligned to 16 bytes. */
void *slab_take(struct slab *slab);
void slab_give(struct slab *slab, void *item);
void slab_close(struct slab *slab);

#endif
