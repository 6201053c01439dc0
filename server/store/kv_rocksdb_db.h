/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb_db: RocksDB as the kv thread uses it: blocking calls, errors translated. Private to kv_rocksdb*.c.
 *
 * Concept: one open database directory; a group of batches is one atomic WriteBatch; sync is a WAL sync.
 * Threading: one thread at a time. Errors: -errno; RocksDB's own text is logged here, once.
 * Ownership: kv_db is the caller's, zero-initialised; kv_db_close accepts a half-open one.
 */
#ifndef ASHLAR_SERVER_STORE_KV_ROCKSDB_DB_H
#define ASHLAR_SERVER_STORE_KV_ROCKSDB_DB_H

#include <rocksdb/c.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/store/kv.h"

#define KV_DB_LOG_BYTES_MAX (64u << 20) /* what a start replays at most, and a log takes on its file system, about */
#define KV_DB_GETS_MAX 32u              /* RocksDB's own bound on one batched multi-get */

struct kv_db {
    rocksdb_t *db;
    rocksdb_column_family_handle_t *family;
    rocksdb_writebatch_t *group;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;
    rocksdb_flushoptions_t *flush_options;
    uint64_t log_bytes; /* put since the log was last ended */
    rocksdb_cache_t *cache;
    bool read_only;
    uint64_t written; /* groups, ever; 1 from the start: what recovery found may never have been synced */
    bool failed;      /* a write or a sync did: nothing is written any more, and the database is never closed */
    int lock_fd;      /* of the directory; 0: none */
};

int kv_db_open(struct kv_db *self, const struct kv_rocksdb_config *config);
void kv_db_close(struct kv_db *self);

/* kv_rocksdb_db.c: logs RocksDB's text, frees it and returns the errno it amounts to; -EIO where there is no better. */
int kv_db_error(const char *what, char *text);

void kv_db_group_add(struct kv_db *self, const struct kv_batch *batch);
int kv_db_group_write(struct kv_db *self); /* atomic, unsynced; empties the group whatever happens */
int kv_db_sync(struct kv_db *self); /* everything written so far survives power loss; any thread, beside writes */
/* Fills value and rc of each request; the requests' keys need not be sorted. */
void kv_db_get(struct kv_db *self, struct kv_get *const *reqs, uint32_t count);
int kv_db_scan(struct kv_db *self, struct kv_scan *req);

#endif
