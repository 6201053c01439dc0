/* SPDX-License-Identifier: Apache-2.0 */
/* real_fixture: a store on its real edges in a scratch directory, and a writer child to be killed, for tests.
 *
 * Block number `slot` is written with a content that tells which write it is of. A test program that kills writers hands
 * argv {"writes", DIRECTORY} to real_child_writes. Threading: one thread. Errors: cmocka assertions.
 * Ownership: real_close frees what real_open made.
 */
#ifndef ASHLAR_TESTS_REAL_FIXTURE_H
#define ASHLAR_TESTS_REAL_FIXTURE_H

#include "server/store/store.h"
#include "tests/unit/store_edges/edges_fixture.h"

#define FILE_BYTES (256u << 20)
#define SHARD_BYTES (128ull << 20)
#define SLOTS 400u /* blocks written to, spread over the shard */

struct real {
    struct edges edges; /* its loop */
    struct buf_pool *pool;
    struct store *store;
    struct store_shard *shard;
    bool opened, closed;
    int opened_rc;
};

void real_format(const struct edges *edges, char ret_path[256]); /* DIR/store */
int real_open(struct real *real, const char *directory);
void real_close(struct real *real); /* a clean stop */

uint64_t real_slot_offset(uint32_t slot); /* in the shard */
void real_slot_content(uint32_t write, uint8_t *block);
int real_io(struct real *real, enum store_op op, uint64_t offset, struct buf *buf, uint64_t lsn);
int real_flush(struct real *real);

int real_child_writes(const char *directory);                      /* until killed */
uint32_t real_kill_writer(const char *directory, uint32_t writes); /* how many were answered, at least `writes` */
/* Each slot holds its last answered write. */
void real_check_slots(struct real *real, uint32_t answered);

#endif
