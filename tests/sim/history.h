/* SPDX-License-Identifier: Apache-2.0 */
/* history: judges what clients saw, cell by cell (I2, I7, I8). It knows nothing of the cluster.
 *
 * Concept: a cell is 512 bytes, the smallest thing a client writes. Every written cell carries a unique stamp. A write spans
 *   [start, acknowledged or never]; a read must return a write that began before the read ended and that was not certainly
 *   overwritten before the read began; what one read returned no later read takes back. An acknowledged flush makes what it
 *   covers the floor that even power loss of all members keeps.
 * Threading: one thread. Errors: a violation is printed with the cell's history and counted. Ownership: copies everything.
 */
#ifndef ASHLAR_TESTS_SIM_HISTORY_H
#define ASHLAR_TESTS_SIM_HISTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define HISTORY_CELL 512u
#define HISTORY_NEVER UINT64_MAX
#define HISTORY_ZERO 0u            /* the stamp of a cell of zeros */
#define HISTORY_FOREIGN UINT64_MAX /* neither a stamp nor zeros: torn, or somebody else's bytes */
#define HISTORY_STAMP_MAX (1ull << 48)

struct history;

struct history *history_create(uint64_t cell_count, const char *name);
void history_destroy(struct history *history); /* accepts NULL */
/* A write of one cell begins; stamp HISTORY_ZERO for trims and zeroes. Returns its id. */
uint64_t history_write_begin(struct history *h, uint64_t cell, uint64_t stamp, uint64_t now);
/* asked: when the request was sent that is acknowledged now; a former client's may be answered after its successor began. */
void history_write_acked(struct history *h, uint64_t cell, uint64_t id, uint64_t asked, uint64_t now);
/* This acknowledged write is durable by itself (FUA). */
void history_write_durable(struct history *h, uint64_t cell, uint64_t id);
/* A write that was refused before it had any effect (ENOSPC): no read may return it. */
void history_write_refused(struct history *h, uint64_t cell, uint64_t id);
/* A read of one cell that began at start and ended now returned stamp. False: violation. */
bool history_read(struct history *h, uint64_t cell, uint64_t stamp, uint64_t start, uint64_t now);
/* A flush that began at start was acknowledged now. No read that still runs began before oldest_read. */
void history_flushed(struct history *h, uint64_t start, uint64_t oldest_read, uint64_t now);
/* Unflushed writes to these cells may be gone. True: among them are acknowledged ones of a client that began at since, and must be told
 * so (R13): what an earlier one asked for is not its to lose. */
bool history_lost(struct history *h, uint64_t first_cell, uint64_t cell_count, uint64_t since);
/* No write that began before now and is not acknowledged takes effect later than now: its session is fenced (R19, I6). to_come says
 * which ones were not sent yet. */
void history_fence(struct history *h, uint64_t now, bool (*to_come)(void *arg, uint64_t cell, uint64_t id), void *arg);

/* What a read of [from, to] may return; equal stamps are told once. */
struct history_candidate {
    uint64_t stamp;
    uint64_t start;      /* when it was issued */
    uint64_t dead;       /* when it was known to be overwritten; HISTORY_NEVER */
    uint64_t dead_acked; /* the same, by a write that had been acknowledged */
};
#define HISTORY_CANDIDATES_MAX 1024u
uint32_t history_candidates(const struct history *h, uint64_t cell, uint64_t from, uint64_t to,
                            struct history_candidate ret[HISTORY_CANDIDATES_MAX]);
/* Before anything else happened to the cell: it may have begun with that stamp (a clone's does); several: with any of them. */
void history_seed(struct history *h, uint64_t cell, uint64_t stamp);
void history_resize(struct history *h, uint64_t cell_count); /* new cells are zeros; what is cut off is forgotten */
uint64_t history_cells(const struct history *h);
uint64_t history_violations(const struct history *h);
uint64_t history_reads(const struct history *h); /* cells judged so far */
void history_print(const struct history *h, uint64_t cell, FILE *out);

/* Fills a cell with a stamp, and reads it back. */
void history_fill(uint8_t *cell, uint64_t stamp);
uint64_t history_stamp_of(const uint8_t *cell);

#endif
