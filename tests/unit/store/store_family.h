/* SPDX-License-Identifier: Apache-2.0 */
/* store_family: volumes with snapshots and clones on one store, and what each generation of each must hold.
 *
 * The model keeps whole copies: no sharing, no records. Every sector of a write names its family, its block and its number, so
 * that foreign bytes (I12) and misplaced blocks show. What no flush covered may be lost at power loss: such generations are dirty, and
 * what is found there afterwards is taken as given, if it could have been written there.
 */
#ifndef ASHLAR_TESTS_UNIT_STORE_FAMILY_H
#define ASHLAR_TESTS_UNIT_STORE_FAMILY_H

#include "common/prng.h"
#include "tests/unit/store/store_fixture.h"

#define FAMILY_VOLUMES 10u
#define FAMILY_GENERATIONS 200u

struct family_volume {
    bool exists;  /* its shard is on the store */
    bool deleted; /* only what clones hold is left */
    uint64_t id;
    uint32_t family;
    struct store_shard *shard;
    uint32_t head;
    struct family_volume *base; /* NULL: none */
    uint32_t base_generation;
    uint64_t *content[FAMILY_GENERATIONS]; /* live generations: id of each sector; the head, too */
    bool snapshot[FAMILY_GENERATIONS];     /* not deleted */
    bool dirty[FAMILY_GENERATIONS];
};

struct family {
    struct fixture *f;
    struct prng prng;
    struct family_volume volumes[FAMILY_VOLUMES];
    uint32_t blocks;
    uint64_t next_volume, next_id;
    bool failed; /* the store answered -EIO: only crash and reopen help */
    uint32_t nospace;
};

void family_create(struct family *family, struct fixture *f, uint64_t seed);
void family_destroy(struct family *family);
uint64_t family_below(struct family *family, uint64_t bound);

struct family_volume *family_volume(struct family *family, uint32_t root); /* a new one; NULL: no slot */
/* Writes (or zeroes) at the head, or with generation < head as a copy (resync). */
void family_write(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t first,
                  uint32_t count);
void family_zero(struct family *family, struct family_volume *volume, uint32_t generation, uint32_t first,
                 uint32_t count);
void family_snapshot(struct family *family, struct family_volume *volume); /* of the head; the next one opens */
void family_delete_snapshot(struct family *family, struct family_volume *volume, uint32_t generation);
struct family_volume *family_clone(struct family *family, struct family_volume *volume, uint32_t generation);
void family_delete(struct family *family, struct family_volume *volume);
void family_rollback(struct family *family, struct family_volume *volume, uint32_t generation);
void family_flatten(struct family *family, struct family_volume *volume);
void family_flush(struct family *family);

bool family_held(const struct family *family, const struct family_volume *volume, uint32_t generation); /* by a clone */
bool family_has_clones(const struct family *family, const struct family_volume *volume);
void family_check(struct family *family, struct family_volume *volume, uint32_t generation); /* exact */
void family_check_diff(struct family *family, struct family_volume *volume, uint32_t since, uint32_t generation);
void family_check_all(struct family *family);
void family_check_records(
    struct family *family); /* waits for the reaper: no record serves nobody; what opens is what was */
void family_check_offline(struct family *family); /* `store check` finds nothing; closes and opens */
void family_crash(struct family *family, bool power);

#endif
