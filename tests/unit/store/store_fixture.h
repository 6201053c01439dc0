/* SPDX-License-Identifier: Apache-2.0 */
/* store_fixture: one store over a simulated drive and kv in virtual time, with calls that wait for their end. */
#ifndef ASHLAR_TESTS_UNIT_STORE_FIXTURE_H
#define ASHLAR_TESTS_UNIT_STORE_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "server/store/store.h"
#include "tests/sim/drive_sim.h"
#include "tests/sim/kv_sim.h"
#include "tests/sim/world.h"

#define FIXTURE_VOLUME 7u
#define FIXTURE_WAIT_NS ENV_MS(600000) /* virtual time: a hang guard */

struct fixture {
    struct world *world;
    int node;
    struct env *env;
    struct drive_sim_disk *disk;
    struct kv_sim_base *base;
    struct buf_pool *pool;
    struct store_config config; /* change before fixture_open */
    struct store *store;
    struct store_shard *shard; /* (volume 7, shard 0, instance 1) when opened with fixture_open_shard */
    uint64_t shard_bytes;
    uint32_t boot; /* boot_id follows it */
    int opened_rc;
    bool opened, closed;
    uint32_t failed_count, damaged_count, space_count;
    uint64_t damaged_offset;
    uint64_t epoch, lsn_n;
    uint32_t generation;
};

void fixture_create(struct fixture *f, uint64_t drive_bytes, uint64_t seed);
void fixture_destroy(struct fixture *f);    /* closes the store if need be; asserts that no buffer leaked */
int fixture_open(struct fixture *f);        /* store only */
void fixture_open_shard(struct fixture *f); /* both; must succeed */
void fixture_close(struct fixture *f, bool clean);
void fixture_crash(struct fixture *f, bool power); /* the store's memory is abandoned, drive and kv crash */

struct fixture_io {
    struct store_io io;
    struct fixture *f;
    uint32_t crcs[STORE_CHUNK_BLOCKS];
    bool done;
    int rc;
};
/* Asynchronous: caller waits with fixture_wait_io. fill: bytes of the write, copied. */
struct fixture_io *fixture_submit(struct fixture *f, enum store_op op, uint64_t offset, uint32_t length,
                                  const uint8_t *data);
struct fixture_io *fixture_submit_flags(struct fixture *f, enum store_op op, uint64_t offset, uint32_t length,
                                        const uint8_t *data, uint32_t flags);
bool fixture_wait(struct fixture *f, const bool *done); /* false: virtual time ran out */
int fixture_end(struct fixture_io *io);                 /* waits, frees, returns rc */

int fixture_write(struct fixture *f, uint64_t offset, uint32_t length, uint8_t fill);
int fixture_write_data(struct fixture *f, uint64_t offset, uint32_t length, const uint8_t *data);
int fixture_read(struct fixture *f, uint64_t offset, uint32_t length, uint8_t *ret_data);
int fixture_zero(struct fixture *f, uint64_t offset, uint32_t length, uint32_t flags);
int fixture_flush(struct fixture *f);
void fixture_commit_all(struct fixture *f); /* tells the store that everything so far is committed */
/* True when every byte of the range is `fill`. */
bool fixture_holds(struct fixture *f, uint64_t offset, uint32_t length, uint8_t fill);
struct store_stats fixture_stats(struct fixture *f);
void fixture_run(struct fixture *f, uint64_t duration_ns);

#endif
