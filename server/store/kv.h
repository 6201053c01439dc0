/* SPDX-License-Identifier: Apache-2.0 */
/* kv: the seam to the metadata store. Real: RocksDB behind one kv thread. Simulated: a sorted map with crash rules.
 *
 * Concept: ordered byte keys; atomic batches, applied in submission order; an unsynced batch survives the death of
 *   the process (it is in the kernel's hands), a synced one survives power loss. Scans only at start and in the background.
 *   Unsynced writes, gets and scans end in their order. A synced write ends when it is durable, with all before it; what was
 *   submitted behind it may end first.
 * Threading: called on the data thread, callbacks on the data thread; the work happens on the kv thread. Data threads never
 *   call RocksDB. One WriteBatch per turn of the kv thread groups what is queued; syncs are shared, and have a thread of their own.
 * Errors: -EIO and friends in the callback; after a failed write the kv is sticky-failed (-EIO for everything).
 * Ownership: kv_req is embedded by the caller, borrowed until cb; batch memory belongs to the req (kv_batch_*).
 */
#ifndef ASHLAR_SERVER_STORE_KV_H
#define ASHLAR_SERVER_STORE_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_KEY_MAX 64u
#define KV_VALUE_MAX (64u * 1024u)

/* A batch is a growable byte string of {u8 op, u8 key_len, u32 value_len, key, value}; zero-initialise. */
struct kv_batch {
    uint8_t *bytes;
    uint32_t used, capacity;
    uint32_t count;
};
void kv_batch_put(struct kv_batch *batch, const void *key, size_t key_len, const void *value, size_t value_len);
void kv_batch_delete(struct kv_batch *batch, const void *key, size_t key_len);
void kv_batch_reset(struct kv_batch *batch); /* keeps the memory */
void kv_batch_free(struct kv_batch *batch);

struct kv;

/* Write: a batch, or (batch.count == 0 and sync) a sync of everything before it. */
struct kv_write {
    struct kv_batch batch;
    bool sync;
    void (*cb)(struct kv_write *req, int rc);
    void *owner;
    struct kv_write *next; /* private */
    int rc;                /* private */
};

/* Point read: value is filled by the kv into a buffer of the request (grown as needed, freed by kv_get_free). */
struct kv_get {
    uint8_t key[KV_KEY_MAX];
    uint32_t key_len;
    uint8_t *value;
    uint32_t value_len, value_capacity;
    void (*cb)(struct kv_get *req, int rc); /* -ENOENT: no such key */
    void *owner;
    struct kv_get *next; /* private */
    int rc;              /* private */
};
void kv_get_free(struct kv_get *req);

/* Scan: up to limit pairs with from <= key < to, copied into the request as a kv_batch of puts; more says whether
 * pairs remain (continue with from = successor of the last key). Sees every batch submitted before it. */
struct kv_scan {
    uint8_t from[KV_KEY_MAX], to[KV_KEY_MAX];
    uint32_t from_len, to_len;
    uint32_t limit;
    struct kv_batch pairs;
    bool more;
    void (*cb)(struct kv_scan *req, int rc);
    void *owner;
    struct kv_scan *next; /* private */
    int rc;               /* private */
};
/* Walks the pairs of a batch: returns false at the end. */
bool kv_batch_next(const struct kv_batch *batch, uint32_t *cursor, const uint8_t **ret_key, uint32_t *ret_key_len,
                   const uint8_t **ret_value, uint32_t *ret_value_len, bool *ret_is_delete);

struct kv_ops {
    void (*write)(struct kv *kv, struct kv_write *req);
    void (*get)(struct kv *kv, struct kv_get *req);
    void (*scan)(struct kv *kv, struct kv_scan *req);
    void (*close)(struct kv *kv); /* no request in flight; joins the kv thread, frees */
};
struct kv {
    const struct kv_ops *ops;
};
static inline void kv_write(struct kv *kv, struct kv_write *req)
{
    kv->ops->write(kv, req);
}
static inline void kv_get(struct kv *kv, struct kv_get *req)
{
    kv->ops->get(kv, req);
}
static inline void kv_scan(struct kv *kv, struct kv_scan *req)
{
    kv->ops->scan(kv, req);
}
static inline void kv_close(struct kv *kv)
{
    if (kv)
        kv->ops->close(kv);
}

struct ring_loop;
struct kv_rocksdb_config {
    const char *path;     /* directory */
    uint64_t cache_bytes; /* block cache */
    bool read_only;       /* `store check` */
    bool create;          /* `store format` */
};
int kv_rocksdb_open(struct ring_loop *loop, const struct kv_rocksdb_config *config, struct kv **ret_kv);

#endif
