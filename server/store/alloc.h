/* SPDX-License-Identifier: Apache-2.0 */
/* alloc: which 64 KiB units of the drive are free, referenced how often, or in quarantine.
 *
 * Concept: derived at start from the map records (alloc_ref for each pointer), never stored: it can't disagree with
 *   them (I11). A chunk's units are taken adjacent: from a wholly free group of 16 when there is one. A unit whose last
 *   reference went is in quarantine until its owner says alloc_free (R22).
 * Threading: the data thread's. Errors: RECORD_UNIT_NONE when nothing fits. Ownership: embedded by the store.
 */
#ifndef ASHLAR_SERVER_STORE_ALLOC_H
#define ASHLAR_SERVER_STORE_ALLOC_H

#include <stdbool.h>
#include <stdint.h>

#include "common/map_u64.h"

struct alloc {
    /* read-only */
    uint32_t unit_first;  /* first data unit */
    uint32_t unit_count;  /* units on the drive, reserved ones included */
    uint32_t free;        /* free now */
    uint32_t quarantined; /* referenced by nobody, not reusable yet */
    uint32_t reserved;    /* promised by alloc_reserve */
    uint32_t held_back;   /* 2 % for merges, cleaning, trims */
    uint32_t watermark;   /* only units below are handed out (prewritten) */
    uint32_t free_below;  /* free units below the watermark */
    /* private */
    uint16_t *refs;          /* UINT16_MAX: and what overflow says beyond it */
    struct map_u64 overflow; /* unit -> how many more, as a pointer's value */
    uint64_t *free_map;      /* bit set: free */
    uint32_t groups_free;
    uint32_t cursor_group, cursor_word;
};

int alloc_init(struct alloc *alloc, uint64_t drive_bytes); /* everything free, watermark at the end */
void alloc_close(struct alloc *alloc);
void alloc_set_watermark(struct alloc *alloc, uint32_t unit);

bool alloc_valid(const struct alloc *alloc, uint32_t unit); /* a data unit of this drive */
int alloc_ref(struct alloc *alloc, uint32_t unit);          /* one more reference: 0, -ERANGE */
bool alloc_unref(struct alloc *alloc, uint32_t unit);       /* true: it was the last, now in quarantine */
void alloc_free(struct alloc *alloc, uint32_t unit);        /* out of quarantine */
uint32_t alloc_refs(const struct alloc *alloc, uint32_t unit);
bool alloc_is_free(const struct alloc *alloc, uint32_t unit);
/* Takes a unit with one reference, wish (or RECORD_UNIT_NONE) if it is free; slot: 0..15 inside its chunk. */
uint32_t alloc_take(struct alloc *alloc, uint32_t wish, uint32_t slot);
void alloc_give_back(struct alloc *alloc,
                     uint32_t unit); /* taken, but nothing was written to it and no record names it */

int alloc_reserve(struct alloc *alloc, uint32_t units); /* 0 or -ENOSPC */
void alloc_unreserve(struct alloc *alloc, uint32_t units);

#endif
