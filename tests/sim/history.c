/* SPDX-License-Identifier: Apache-2.0 */
/* history: a register checker with unique values, one register a cell.
 *
 * - Each cell keeps its writes in order of their start. `effect` is the earliest time by which a write certainly took effect:
 *   its acknowledgement, or the end of the first read that returned it.
 * - A write w is certainly overwritten (dead) once another one w' is known to come after it: w took effect before w' began and
 *   w' took effect; or w took effect before a read began and that read returned w'. A read that begins after the moment of that
 *   knowledge may not return w.
 * - A flush turns deaths by writes it covers into deaths for good; history_lost revives the others.
 * Failure: a read of something else is a violation. Zeros may have been written many times: which one a read saw cannot be told,
 * so that a read of zeros kills the values, and no zeroes.
 */
#include "tests/sim/history.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct write {
    uint64_t id, stamp, start, asked, acked;
    uint64_t effect;
    uint64_t dead_at; /* reads that begin after it may not return this write */
    uint64_t killer;  /* id of the write that overwrote it; 0: zeros, which ones is unknown */
    bool durable;     /* FUA */
    bool gone;        /* overwritten for good: no loss brings it back */
    bool lost;        /* acknowledged before a loss and not seen since: no flush proves that it is there */
};

struct cell {
    struct write *writes;
    uint32_t count, capacity;
    bool busy; /* on the list of cells with more than one write */
};

struct history {
    uint64_t cell_count, next_id, violations, reads;
    uint64_t flushed_ns; /* when the last acknowledged flush began */
    struct cell *cells;
    uint64_t *busy;
    uint64_t busy_count;
    char name[32];
};

struct history *history_create(uint64_t cell_count, const char *name)
{
    struct history *h = calloc(1, sizeof(*h));
    assert(h);
    h->cells = calloc(cell_count, sizeof(*h->cells));
    h->busy = calloc(cell_count, sizeof(*h->busy));
    assert(h->cells && h->busy);
    h->cell_count = cell_count;
    h->next_id = 1;
    (void)snprintf(h->name, sizeof(h->name), "%s", name);
    return h;
}

void history_destroy(struct history *h)
{
    if (!h)
        return;
    for (uint64_t i = 0; i < h->cell_count; i++)
        free(h->cells[i].writes);
    free(h->cells);
    free(h->busy);
    free(h);
}

static struct write *add(struct history *h, uint64_t at)
{
    struct cell *c = &h->cells[at];
    if (c->count == c->capacity) {
        c->capacity = c->capacity ? c->capacity * 2 : 4;
        c->writes = realloc(c->writes, c->capacity * sizeof(*c->writes));
        assert(c->writes);
    }
    if (!c->busy) {
        c->busy = true;
        h->busy[h->busy_count++] = at;
    }
    struct write *w = &c->writes[c->count++];
    *w = (struct write){.id = h->next_id++, .acked = HISTORY_NEVER, .effect = HISTORY_NEVER, .dead_at = HISTORY_NEVER};
    return w;
}

/* A cell that was never written holds zeros from the beginning of time. */
static struct cell *cell_at(struct history *h, uint64_t at)
{
    assert(at < h->cell_count);
    struct cell *c = &h->cells[at];
    if (c->count == 0) {
        struct write *w = add(h, at);
        w->stamp = HISTORY_ZERO;
        w->start = w->acked = w->effect = 0;
    }
    return c;
}

static struct write *find(struct cell *c, uint64_t id)
{
    for (uint32_t i = c->count; i-- > 0;)
        if (c->writes[i].id == id)
            return &c->writes[i];
    return NULL;
}

/* Writes that certainly took effect before `before` are overwritten by killer, as of now. */
static void kill_before(struct cell *c, uint64_t before, uint64_t except, bool spare_zeros, uint64_t now)
{
    for (uint32_t i = 0; i < c->count; i++) {
        struct write *w = &c->writes[i];
        if (w->id == except || w->effect >= before || now >= w->dead_at || (spare_zeros && w->stamp == HISTORY_ZERO))
            continue;
        w->dead_at = now;
        w->killer = except;
    }
}

uint64_t history_write_begin(struct history *h, uint64_t at, uint64_t stamp, uint64_t now)
{
    assert(stamp < HISTORY_STAMP_MAX);
    (void)cell_at(h, at);
    struct write *w = add(h, at);
    w->stamp = stamp;
    w->start = now;
    return w->id;
}

void history_write_acked(struct history *h, uint64_t at, uint64_t id, uint64_t asked, uint64_t now)
{
    struct cell *c = cell_at(h, at);
    struct write *w = find(c, id);
    if (!w)
        return; /* overwritten for good before its own acknowledgement arrived */
    assert(w->acked == HISTORY_NEVER && asked <= now);
    w->asked = asked;
    w->acked = now;
    if (now < w->effect)
        w->effect = now;
    kill_before(c, w->start, id, /* spare_zeros= */ false, now);
}

void history_write_durable(struct history *h, uint64_t at, uint64_t id)
{
    struct cell *c = cell_at(h, at);
    struct write *durable = find(c, id);
    uint64_t floor = durable ? durable->start : 0;
    if (durable)
        durable->durable = true;
    for (uint32_t i = 0; i < c->count; i++)
        if (c->writes[i].effect < floor && c->writes[i].acked != HISTORY_NEVER)
            c->writes[i].gone = true;
}

void history_write_refused(struct history *h, uint64_t at, uint64_t id)
{
    struct cell *c = cell_at(h, at);
    struct write *w = find(c, id);
    if (!w)
        return;
    c->count--;
    memmove(w, w + 1, (size_t)((c->writes + c->count) - w) * sizeof(*w));
}

static void print_time(FILE *out, uint64_t ns)
{
    if (ns == HISTORY_NEVER)
        fprintf(out, "never");
    else
        fprintf(out, "%.6f", (double)ns / 1e9);
}

void history_print(const struct history *h, uint64_t at, FILE *out)
{
    const struct cell *c = &h->cells[at];
    fprintf(out, "  %s cell %" PRIu64 " (block %" PRIu64 ", chunk %" PRIu64 "):\n", h->name, at, at / 8, at / 2048);
    for (uint32_t i = 0; i < c->count; i++) {
        const struct write *w = &c->writes[i];
        fprintf(out, "    write %" PRIu64 " stamp %" PRIx64 " began ", w->id, w->stamp);
        print_time(out, w->start);
        fprintf(out, " acknowledged ");
        print_time(out, w->acked);
        fprintf(out, " in effect ");
        print_time(out, w->effect);
        fprintf(out, " overwritten ");
        print_time(out, w->dead_at);
        if (w->dead_at != HISTORY_NEVER)
            fprintf(out, " by write %" PRIu64, w->killer);
        fprintf(out, "\n");
    }
}

static void complain(struct history *h, uint64_t at, uint64_t stamp, uint64_t start, uint64_t now)
{
    h->violations++;
    if (h->violations > 5)
        return;
    fprintf(stderr, "VIOLATION (I2, I7, I8) %s cell %" PRIu64 ": a read in [", h->name, at);
    print_time(stderr, start);
    fprintf(stderr, ", ");
    print_time(stderr, now);
    if (stamp == HISTORY_FOREIGN)
        fprintf(stderr, "] returned bytes that nobody wrote\n");
    else
        fprintf(stderr, "] returned stamp %" PRIx64 "\n", stamp);
    history_print(h, at, stderr);
}

/* Among writes with this stamp, one that a read of [start, now] may return. */
static struct write *candidate(struct cell *c, uint64_t stamp, uint64_t start, uint64_t now)
{
    for (uint32_t i = c->count; i-- > 0;) {
        struct write *w = &c->writes[i];
        if (w->stamp == stamp && w->start <= now && w->dead_at >= start)
            return w;
    }
    return NULL;
}

bool history_read(struct history *h, uint64_t at, uint64_t stamp, uint64_t start, uint64_t now)
{
    struct cell *c = cell_at(h, at);
    struct write *w = candidate(c, stamp, start, now);
    h->reads++;
    if (!w) {
        complain(h, at, stamp, start, now);
        return false;
    }
    if (stamp == HISTORY_ZERO) {
        if (c->count > 1)
            kill_before(c, start, 0, /* spare_zeros= */ true, now);
        return true;
    }
    w->lost = false;
    if (now < w->effect)
        w->effect = now;
    kill_before(c, start > w->start ? start : w->start, w->id, /* spare_zeros= */ false, now);
    return true;
}

/* Deaths by a durable write last; what no running read can return any more is forgotten. */
static void settle(struct cell *c, uint64_t start, uint64_t oldest_read)
{
    uint32_t out = 0;
    uint64_t floor = 0; /* began last among those the flush covers */
    for (uint32_t i = 0; i < c->count; i++)
        if (!c->writes[i].lost && c->writes[i].acked < start && c->writes[i].start > floor)
            floor = c->writes[i].start;
    for (uint32_t i = 0; i < c->count; i++) {
        struct write *w = &c->writes[i];
        const struct write *killer = w->dead_at < start && w->killer ? find(c, w->killer) : NULL;
        bool gone = w->effect < floor || (killer && killer != w && !killer->lost && killer->acked < start);
        w->gone = w->gone || (gone && w->acked != HISTORY_NEVER);
        if (w->gone && w->dead_at < oldest_read)
            continue;
        c->writes[out++] = *w;
    }
    c->count = out;
}

void history_flushed(struct history *h, uint64_t start, uint64_t oldest_read, uint64_t now)
{
    uint64_t out = 0;
    assert(start <= now);
    if (start > h->flushed_ns)
        h->flushed_ns = start;
    for (uint64_t i = 0; i < h->busy_count; i++) {
        struct cell *c = &h->cells[h->busy[i]];
        settle(c, start, oldest_read);
        assert(c->count > 0);
        if (c->count > 1 || c->writes[0].acked == HISTORY_NEVER)
            h->busy[out++] = h->busy[i];
        else
            c->busy = false;
    }
    h->busy_count = out;
}

bool history_lost(struct history *h, uint64_t first_cell, uint64_t cell_count, uint64_t since)
{
    bool dirty = false;
    for (uint64_t at = first_cell; at < first_cell + cell_count && at < h->cell_count; at++) {
        struct cell *c = &h->cells[at];
        for (uint32_t i = 0; i < c->count; i++) {
            struct write *w = &c->writes[i];
            if (w->gone)
                continue;
            w->dead_at = HISTORY_NEVER;
            dirty = dirty || (w->acked != HISTORY_NEVER && w->acked > h->flushed_ns && w->asked > since &&
                              !w->durable && !w->lost);
            w->lost = w->acked != HISTORY_NEVER;
            w->effect = w->acked; /* one that was only read may take effect again, later */
        }
    }
    return dirty;
}

void history_fence(struct history *h, uint64_t now, bool (*to_come)(void *arg, uint64_t cell, uint64_t id), void *arg)
{
    for (uint64_t i = 0; i < h->busy_count; i++) {
        struct cell *c = &h->cells[h->busy[i]];
        for (uint32_t k = 0; k < c->count; k++) {
            struct write *w = &c->writes[k];
            if (w->acked == HISTORY_NEVER && w->start <= now && w->effect > now && !to_come(arg, h->busy[i], w->id))
                w->effect = now;
        }
    }
}

/* ---- snapshots and clones ---- */

static void merge_candidate(struct history_candidate *c, const struct history_candidate *other)
{
    c->start = other->start < c->start ? other->start : c->start;
    c->dead = other->dead > c->dead ? other->dead : c->dead;
    c->dead_acked = other->dead_acked > c->dead_acked ? other->dead_acked : c->dead_acked;
}

uint32_t history_candidates(const struct history *h, uint64_t at, uint64_t from, uint64_t to,
                            struct history_candidate ret[HISTORY_CANDIDATES_MAX])
{
    const struct cell *c = &h->cells[at];
    uint32_t count = 0;
    assert(at < h->cell_count && from <= to);
    if (c->count == 0) {
        ret[0] = (struct history_candidate){.dead = HISTORY_NEVER, .dead_acked = HISTORY_NEVER};
        return 1;
    }
    for (uint32_t i = 0; i < c->count; i++) {
        const struct write *w = &c->writes[i];
        if (w->start > to || w->dead_at < from)
            continue;
        struct history_candidate one = {
            .stamp = w->stamp, .start = w->start, .dead = w->dead_at, .dead_acked = HISTORY_NEVER};
        const struct write *killer = w->dead_at != HISTORY_NEVER ? find((struct cell *)c, w->killer) : NULL;
        if (killer && killer->acked != HISTORY_NEVER)
            one.dead_acked = killer->acked > w->dead_at ? killer->acked : w->dead_at;
        uint32_t k = 0;
        while (k < count && ret[k].stamp != one.stamp)
            k++;
        assert(k < HISTORY_CANDIDATES_MAX);
        if (k < count)
            merge_candidate(&ret[k], &one);
        else
            ret[count++] = one;
    }
    return count;
}

void history_seed(struct history *h, uint64_t at, uint64_t stamp)
{
    assert(at < h->cell_count && stamp < HISTORY_STAMP_MAX);
    struct write *w = add(h, at);
    w->stamp = stamp;
    w->start = w->acked = w->effect = 0;
}

void history_resize(struct history *h, uint64_t cell_count)
{
    uint64_t out = 0, former = h->cell_count;
    for (uint64_t i = 0; i < h->busy_count; i++)
        if (h->busy[i] < cell_count)
            h->busy[out++] = h->busy[i];
    h->busy_count = out;
    for (uint64_t i = cell_count; i < former; i++)
        free(h->cells[i].writes);
    h->cells = realloc(h->cells, cell_count * sizeof(*h->cells));
    h->busy = realloc(h->busy, cell_count * sizeof(*h->busy));
    assert(h->cells && h->busy);
    if (cell_count > former)
        memset(h->cells + former, 0, (cell_count - former) * sizeof(*h->cells));
    h->cell_count = cell_count;
}

uint64_t history_cells(const struct history *h)
{
    return h->cell_count;
}

uint64_t history_violations(const struct history *h)
{
    return h->violations;
}

uint64_t history_reads(const struct history *h)
{
    return h->reads;
}

void history_fill(uint8_t *cell, uint64_t stamp)
{
    assert(stamp < HISTORY_STAMP_MAX);
    for (uint64_t i = 0; i < HISTORY_CELL / 8; i++) {
        uint64_t word = stamp == HISTORY_ZERO ? 0 : stamp + (i << 56);
        memcpy(cell + i * 8, &word, 8);
    }
}

uint64_t history_stamp_of(const uint8_t *cell)
{
    uint64_t stamp;
    memcpy(&stamp, cell, 8);
    if (stamp >= HISTORY_STAMP_MAX)
        return HISTORY_FOREIGN;
    for (uint64_t i = 1; i < HISTORY_CELL / 8; i++) {
        uint64_t word;
        memcpy(&word, cell + i * 8, 8);
        if (word != (stamp == HISTORY_ZERO ? 0 : stamp + (i << 56)))
            return HISTORY_FOREIGN;
    }
    return stamp;
}
