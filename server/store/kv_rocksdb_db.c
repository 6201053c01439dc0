/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb_db: the blocking calls on an open RocksDB: write a group, sync, get, scan.
 *
 *   - kv_db_group_add copies batches into one WriteBatch, kv_db_group_write hands it over: WAL (one write(2), so it
 *     survives the death of the process) and memtable;
 *   - kv_db_sync is SyncWAL;
 *   - gets go as one batched multi-get; scans copy out a page of pairs.
 *
 * Failure modes: a failed write or sync is final (the caller makes it sticky); a failed read is -EIO, -EUCLEAN where
 * RocksDB says corruption.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/store/kv_rocksdb_db.h"

#define LOG_MODULE "kv"
#define SCAN_PAGE_BYTES_MAX (1u << 20) /* a scan must not keep puts waiting for long */

int kv_db_error(const char *what, char *text)
{
    static const struct {
        const char *part;
        int rc;
    } known[] = {
        {"Corruption", -EUCLEAN},
        {"No space left", -ENOSPC},
        {"Disk quota exceeded", -EDQUOT},
        {"While lock file", -EBUSY},
        {"lock hold by current process", -EBUSY},
        {"does not exist", -ENOENT},
        {"No such file or directory", -ENOENT},
        {"Permission denied", -EACCES},
        {"Read-only file system", -EROFS},
        {"Direct I/O is not supported", -EOPNOTSUPP},
    };
    int rc = -EIO;
    assert(what && text);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && rc == -EIO; i++) {
        if (strstr(text, known[i].part))
            rc = known[i].rc;
    }
    log_error("%s failed rocksdb=\"%s\"", what, text);
    rocksdb_free(text);
    assert(rc < 0);
    return rc;
}

void kv_db_group_add(struct kv_db *self, const struct kv_batch *batch)
{
    uint32_t cursor = 0, key_len, value_len, entries = 0;
    const uint8_t *key, *value;
    bool is_delete;
    assert(self->group && !self->read_only);
    while (kv_batch_next(batch, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        if (is_delete)
            rocksdb_writebatch_delete(self->group, (const char *)key, key_len);
        else
            rocksdb_writebatch_put(self->group, (const char *)key, key_len, (const char *)value, value_len);
        entries++;
    }
    assert(entries == batch->count);
}

/* RocksDB ends a log when the memtable is full; puts that overwrite each other never fill it. */
static int log_end(struct kv_db *self)
{
    char *error = NULL;
    assert(self->log_bytes >= KV_DB_LOG_BYTES_MAX && !self->failed);
    self->log_bytes = 0;
    rocksdb_flush_cf(self->db, self->flush_options, self->family, &error);
    self->failed = error != NULL;
    return error ? kv_db_error("end of a log", error) : 0;
}

int kv_db_group_write(struct kv_db *self)
{
    char *error = NULL;
    size_t bytes = 0;
    assert(!self->read_only && !self->failed);
    if (rocksdb_writebatch_count(self->group) == 0)
        return 0;
    (void)rocksdb_writebatch_data(self->group, &bytes);
    self->log_bytes += bytes;
    self->written++;
    rocksdb_write(self->db, self->write_options, self->group, &error);
    rocksdb_writebatch_clear(self->group);
    self->failed = error != NULL;
    if (error)
        return kv_db_error("write", error);
    return self->log_bytes >= KV_DB_LOG_BYTES_MAX ? log_end(self) : 0;
}

/* SyncWAL runs beside writes: it takes the logs there are, and syncs them without RocksDB's locks. */
int kv_db_sync(struct kv_db *self)
{
    char *error = NULL;
    assert(self->db);
    assert(!self->read_only);
    rocksdb_flush_wal(self->db, /* sync= */ 1, &error);
    return error ? kv_db_error("WAL sync", error) : 0;
}

static int value_copy(struct kv_get *req, const char *value, size_t value_len)
{
    assert(value || value_len == 0);
    if (value_len > KV_VALUE_MAX) {
        log_error("get found a value of %zu bytes: more than was ever written", value_len);
        return -EUCLEAN;
    }
    if (value_len > req->value_capacity) {
        uint8_t *bytes = realloc(req->value, value_len);
        if (!bytes)
            return -ENOMEM;
        req->value = bytes;
        req->value_capacity = (uint32_t)value_len;
    }
    if (value_len)
        memcpy(req->value, value, value_len);
    req->value_len = (uint32_t)value_len;
    return 0;
}

static int get_one_done(struct kv_get *req, rocksdb_pinnableslice_t *slice, char *error)
{
    int rc = -ENOENT;
    assert(!(slice && error));
    req->value_len = 0;
    if (error) {
        rc = kv_db_error("get", error);
        if (rc != -EUCLEAN)
            rc = -EIO; /* -ENOENT must mean that the key does not exist */
    } else if (slice) {
        size_t value_len = 0;
        const char *value = rocksdb_pinnableslice_value(slice, &value_len);
        rc = value_copy(req, value, value_len);
        rocksdb_pinnableslice_destroy(slice);
    }
    return rc;
}

void kv_db_get(struct kv_db *self, struct kv_get *const *reqs, uint32_t count)
{
    const char *keys[KV_DB_GETS_MAX];
    size_t key_lens[KV_DB_GETS_MAX];
    rocksdb_pinnableslice_t *slices[KV_DB_GETS_MAX] = {NULL};
    char *errors[KV_DB_GETS_MAX] = {NULL};
    assert(count > 0 && count <= KV_DB_GETS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        assert(reqs[i]->key_len > 0 && reqs[i]->key_len <= KV_KEY_MAX);
        keys[i] = (const char *)reqs[i]->key;
        key_lens[i] = reqs[i]->key_len;
    }
    if (count == 1)
        slices[0] = rocksdb_get_pinned_cf(self->db, self->read_options, self->family, keys[0], key_lens[0], &errors[0]);
    else
        rocksdb_batched_multi_get_cf(self->db, self->read_options, self->family, count, keys, key_lens, slices, errors,
                                     /* sorted_input= */ false);
    for (uint32_t i = 0; i < count; i++)
        reqs[i]->rc = get_one_done(reqs[i], slices[i], errors[i]);
}

static int page_fill(struct kv_scan *req, rocksdb_iterator_t *it)
{
    char *error = NULL;
    for (; rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t key_len = 0, value_len = 0;
        const char *key = rocksdb_iter_key(it, &key_len), *value = rocksdb_iter_value(it, &value_len);
        if (key_len == 0 || key_len > KV_KEY_MAX || value_len > KV_VALUE_MAX) {
            log_error("scan found a pair of %zu and %zu bytes: more than was ever written", key_len, value_len);
            return -EUCLEAN;
        }
        if (req->pairs.count == req->limit || req->pairs.used >= SCAN_PAGE_BYTES_MAX) {
            req->more = true;
            return 0;
        }
        kv_batch_put(&req->pairs, key, key_len, value, value_len);
    }
    assert(!req->more);
    rocksdb_iter_get_error(it, &error);
    return error ? kv_db_error("scan", error) : 0;
}

int kv_db_scan(struct kv_db *self, struct kv_scan *req)
{
    assert(req->limit > 0);
    assert(req->from_len <= KV_KEY_MAX && req->to_len > 0 && req->to_len <= KV_KEY_MAX);
    kv_batch_reset(&req->pairs);
    req->more = false;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_iterate_upper_bound(options, (const char *)req->to, req->to_len);
    rocksdb_readoptions_set_fill_cache(options, 0); /* a scan passes once: it must not evict what gets use */
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(self->db, options, self->family);
    rocksdb_iter_seek(it, (const char *)req->from, req->from_len);
    int rc = page_fill(req, it);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    return rc;
}
