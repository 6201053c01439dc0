/* SPDX-License-Identifier: Apache-2.0 */
/* image: the values of a snapshot, decided by the first read of each cell.
 *
 * - image_take asks the history for the candidates of each cell; where there is one, that is decided at once.
 * - a cut is an interval [low, high] of moments: low, the latest issue of a write that the snapshot has; high, the earliest moment at
 *   which something that it has was known to be overwritten. Decisions narrow it; when nothing is left, the snapshot is no cut.
 * Failure: a violation is printed with what the cell may hold.
 */
#include "tests/sim/image.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define UNDECIDED UINT64_MAX

struct image_cut {
    uint32_t refs;
    uint64_t low, high;
    uint64_t low_cell, high_cell;
    char low_name[32], high_name[32];
};

struct choice {
    uint64_t cell;
    struct history_candidate value;
};

struct image {
    uint32_t refs;
    uint64_t cells, asked_ns, answered_ns, violations;
    uint64_t *stamps; /* UNDECIDED: see choices */
    struct choice *choices;
    uint64_t count, capacity;
    struct image_cut own, *group;
    char name[32];
};

struct image_cut *image_cut_create(void)
{
    struct image_cut *cut = calloc(1, sizeof(*cut));
    assert(cut);
    cut->refs = 1;
    cut->high = HISTORY_NEVER;
    return cut;
}

void image_cut_unref(struct image_cut *cut)
{
    if (cut && --cut->refs == 0)
        free(cut);
}

static bool narrow(struct image_cut *cut, const struct image *image, uint64_t cell, uint64_t low, uint64_t high)
{
    if (low > cut->low) {
        cut->low = low;
        cut->low_cell = cell;
        memcpy(cut->low_name, image->name, sizeof(cut->low_name));
    }
    if (high < cut->high) {
        cut->high = high;
        cut->high_cell = cell;
        memcpy(cut->high_name, image->name, sizeof(cut->high_name));
    }
    return cut->low <= cut->high;
}

static void print_cut(const struct image_cut *cut)
{
    fprintf(stderr,
            "  it has what was issued at %.6f (%s cell %" PRIu64
            "), and not what was there since %.6f (%s cell %" PRIu64 ")\n",
            (double)cut->low / 1e9, cut->low_name, cut->low_cell, (double)cut->high / 1e9, cut->high_name,
            cut->high_cell);
}

static bool decide(struct image *image, uint64_t cell, const struct history_candidate *value)
{
    image->stamps[cell] = value->stamp;
    bool own = narrow(&image->own, image, cell, value->start, value->dead);
    bool group = !image->group || narrow(image->group, image, cell, value->start, value->dead_acked);
    if (own && group)
        return true;
    if (image->violations++ < 3) {
        fprintf(stderr, "VIOLATION (I10) %s cell %" PRIu64 ": no moment had all that %s holds\n", image->name, cell,
                own ? "the group" : "the snapshot");
        print_cut(own ? image->group : &image->own);
    }
    return false;
}

static void add_choice(struct image *image, uint64_t cell, const struct history_candidate *value)
{
    if (image->count == image->capacity) {
        image->capacity = image->capacity ? 2 * image->capacity : 64;
        image->choices = realloc(image->choices, image->capacity * sizeof(*image->choices));
        assert(image->choices);
    }
    image->choices[image->count++] = (struct choice){.cell = cell, .value = *value};
}

struct image *image_take(const struct history *h, uint64_t cells, uint64_t asked_ns, uint64_t answered_ns,
                         struct image_cut *cut, const char *name)
{
    struct image *image = calloc(1, sizeof(*image));
    assert(image && cells > 0);
    *image = (struct image){.refs = 1, .cells = cells, .asked_ns = asked_ns, .answered_ns = answered_ns, .group = cut};
    image->own.high = HISTORY_NEVER;
    if (cut)
        cut->refs++;
    (void)snprintf(image->name, sizeof(image->name), "%s", name);
    image->stamps = malloc(cells * sizeof(*image->stamps));
    assert(image->stamps);
    for (uint64_t cell = 0; cell < cells; cell++) {
        struct history_candidate values[HISTORY_CANDIDATES_MAX];
        uint32_t count = 1;
        if (cell < history_cells(h))
            count = history_candidates(h, cell, asked_ns, answered_ns, values);
        else
            values[0] = (struct history_candidate){.dead = HISTORY_NEVER, .dead_acked = HISTORY_NEVER};
        assert(count > 0);
        image->stamps[cell] = UNDECIDED;
        if (count == 1)
            (void)decide(image, cell, &values[0]);
        for (uint32_t i = 0; count > 1 && i < count; i++)
            add_choice(image, cell, &values[i]);
    }
    return image;
}

struct image *image_ref(struct image *image)
{
    image->refs++;
    return image;
}

void image_unref(struct image *image)
{
    if (!image || --image->refs > 0)
        return;
    image_cut_unref(image->group);
    free(image->stamps);
    free(image->choices);
    free(image);
}

uint64_t image_cells(const struct image *image)
{
    return image->cells;
}

/* The first choice of that cell. */
static uint64_t find_choice(const struct image *image, uint64_t cell)
{
    uint64_t low = 0, high = image->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (image->choices[middle].cell < cell)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct history_candidate *choice_of(const struct image *image, uint64_t cell, uint64_t stamp)
{
    for (uint64_t i = find_choice(image, cell); i < image->count && image->choices[i].cell == cell; i++)
        if (image->choices[i].value.stamp == stamp)
            return &image->choices[i].value;
    return NULL;
}

static void complain(struct image *image, uint64_t cell, uint64_t stamp)
{
    if (image->violations++ >= 3)
        return;
    fprintf(stderr,
            "VIOLATION (I10) snapshot %s cell %" PRIu64 " (block %" PRIu64
            ") asked for at %.6f, there at %.6f: a read returned ",
            image->name, cell, cell / 8, (double)image->asked_ns / 1e9, (double)image->answered_ns / 1e9);
    if (stamp == HISTORY_FOREIGN)
        fprintf(stderr, "bytes that nobody wrote\n");
    else
        fprintf(stderr, "stamp %" PRIx64 "\n", stamp);
    if (image->stamps[cell] != UNDECIDED)
        fprintf(stderr, "  it holds stamp %" PRIx64 "\n", image->stamps[cell]);
    for (uint64_t i = find_choice(image, cell); i < image->count && image->choices[i].cell == cell; i++)
        fprintf(stderr, "  candidate: stamp %" PRIx64 " issued %.6f\n", image->choices[i].value.stamp,
                (double)image->choices[i].value.start / 1e9);
}

bool image_read(struct image *image, uint64_t cell, uint64_t stamp)
{
    assert(cell < image->cells);
    if (image->stamps[cell] == stamp && stamp != HISTORY_FOREIGN)
        return true;
    const struct history_candidate *value =
        image->stamps[cell] == UNDECIDED && stamp != HISTORY_FOREIGN ? choice_of(image, cell, stamp) : NULL;
    if (value)
        return decide(image, cell, value);
    complain(image, cell, stamp);
    return false;
}

bool image_seen(struct image *image, uint64_t cell, uint64_t stamp)
{
    if (cell >= image->cells || stamp == HISTORY_ZERO || stamp == HISTORY_FOREIGN || image->stamps[cell] == stamp)
        return true;
    const struct history_candidate *value = choice_of(image, cell, stamp);
    if (!value)
        return true;
    if (image->stamps[cell] == UNDECIDED)
        return decide(image, cell, value);
    complain(image, cell, stamp);
    return false;
}

struct history *image_history(const struct image *image, uint64_t cells, const char *name)
{
    struct history *h = history_create(cells, name);
    for (uint64_t cell = 0; cell < image->cells && cell < cells; cell++) {
        if (image->stamps[cell] != UNDECIDED) {
            if (image->stamps[cell] != HISTORY_ZERO)
                history_seed(h, cell, image->stamps[cell]);
            continue;
        }
        for (uint64_t i = find_choice(image, cell); i < image->count && image->choices[i].cell == cell; i++)
            history_seed(h, cell, image->choices[i].value.stamp);
    }
    return h;
}

bool image_holds_data(const struct image *image, uint64_t cell)
{
    return image->stamps[cell] != HISTORY_ZERO && image->stamps[cell] != UNDECIDED;
}
