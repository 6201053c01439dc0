/* SPDX-License-Identifier: Apache-2.0 */
/* image: what a snapshot may hold, cell by cell, and as a whole (I10).
 *
 * Concept: a snapshot is one read of all cells at a moment between asking for it and its acknowledgement. So each cell has the values
 *   that such a read may return; the first real read decides, and all later ones must agree, whatever happens to the cluster. And
 *   the decisions must agree with one moment (a cut): if the snapshot has a write B, it has every write that was acknowledged
 *   before B was issued, in every shard and in every volume of its group.
 * Threading: one thread. Errors: a violation is told and counted. Ownership: references; image_unref by each who holds one.
 */
#ifndef ASHLAR_TESTS_SIM_IMAGE_H
#define ASHLAR_TESTS_SIM_IMAGE_H

#include "tests/sim/history.h"

struct image;
struct image_cut; /* of a group */

struct image_cut *image_cut_create(void);
void image_cut_unref(struct image_cut *cut); /* accepts NULL */
/* cells: as many as the snapshot has for certain. cut: the group's, a reference is taken; NULL: of one volume. */
struct image *image_take(const struct history *h, uint64_t cells, uint64_t asked_ns, uint64_t answered_ns,
                         struct image_cut *cut, const char *name);
struct image *image_ref(struct image *image);
void image_unref(struct image *image); /* accepts NULL */
uint64_t image_cells(const struct image *image);
/* A read of that cell of the snapshot returned stamp. False: violation. */
bool image_read(struct image *image, uint64_t cell, uint64_t stamp);
/* A clone's first value was read, or shows through: the same, but silent for what the snapshot cannot have held (somebody wrote it). */
bool image_seen(struct image *image, uint64_t cell, uint64_t stamp);
/* The history of a volume that begins as this image, cells long. */
struct history *image_history(const struct image *image, uint64_t cells, const char *name);
bool image_holds_data(const struct image *image, uint64_t cell); /* something else than zeros for certain */

#endif
