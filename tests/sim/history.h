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
void history_write_acked(struct history *h, uint64_t cell, uint64_t id, uint64_t now);
/* This acknowledged write is durable by itself (FUA). */
void history_write_durable(struct history *h, uint64_t cell, uint64_t id);
/* A write that was refused before it had any effect (ENOSPC): no read may return it. */
void history_write_refused(struct history *h, uint64_t cell, uint64_t id);
/* A read of one cell that began at start and ended now returned stamp. False: violation. */
bool history_read(struct history *h, uint64_t cell, uint64_t stamp, uint64_t start, uint64_t now);
/* A flush that began at start was acknowledged now. No read that still runs began before oldest_read. */
void history_flushed(struct history *h, uint64_t start, uint64_t oldest_read, uint64_t now);
/* Unflushed writes to these cells may be gone. True: among them are some that were acknowledged since then, to a client that must be
 * told so (R13). */
bool history_lost(struct history *h, uint64_t first_cell, uint64_t cell_count, uint64_t since);
uint64_t history_violations(const struct history *h);
uint64_t history_reads(const struct history *h); /* cells judged so far */
void history_print(const struct history *h, uint64_t cell, FILE *out);

/* Fills a cell with a stamp, and reads it back. */
void history_fill(uint8_t *cell, uint64_t stamp);
uint64_t history_stamp_of(const uint8_t *cell);

#endif
