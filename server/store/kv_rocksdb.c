/* SPDX-License-Identifier: Apache-2.0 */
/* kv_rocksdb: the real side of the kv seam: one kv thread in front of RocksDB, and one that syncs its log.
 *
 *   data thread: a request joins the `collected` list; a deferred task of the same turn hands the list over under the
 *     lock and wakes the kv thread if it sleeps: one lock and at most one wakeup per turn of the loop;
 *   kv thread: takes all that is queued and walks it in order: a run of writes is one WriteBatch, a run of gets one
 *     batched multi-get; what is done goes to `done`, with one mail for everything not yet fetched;
 *   sync thread: what asks for a sync goes there when it is written, and shares one WAL sync with all that came before that
 *     began. Puts and gets go on meanwhile: a sync takes milliseconds, and nobody but who asked for it waits for it. A log that ends
 *     meanwhile stays among those that RocksDB syncs until all of it was (since 7.7: kv_sync_test watches it);
 *   data thread: the mail takes the whole `done` list and runs the callbacks.
 *
 * The lock guards four lists and some flags for the time it takes to append a few pointers: the threads meet
 * there a few thousand times a second, and a lock-free queue would save some 20 ns of a put's microseconds.
 *
 * Failure modes: a failed write or sync is sticky: it fails that group, then everything with -EIO, until reopened. A
 * read-only kv answers writes with -EROFS.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "common/env.h"
#include "common/log.h"
#include "common/ring/ring.h"
#include "server/store/kv_rocksdb_db.h"

#define LOG_MODULE "kv"
#define GROUP_BYTES_MAX (4u << 20) /* of one WriteBatch; a longer run becomes several */

enum item_kind { ITEM_WRITE, ITEM_GET, ITEM_SCAN };

struct item {
    enum item_kind kind;
    union {
        struct kv_write *write;
        struct kv_get *get;
        struct kv_scan *scan;
    };
};

/* Grows to the most requests ever in flight, then allocates no more. */
struct item_list {
    struct item *items;
    uint32_t count, capacity;
};

struct kv_rocksdb {
    struct kv base;
    struct ring_loop *loop;
    /* data thread only */
    struct item_list collected, fetched;
    struct env_task hand_over;
    bool in_callbacks, closed;
    /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t wakeup, sync_wakeup;
    struct item_list queued, done;
    struct item_list to_sync; /* written; whatever was written until sync_mark is to be durable */
    uint64_t sync_mark;
    bool sleeping, stopping, mail_posted;
    bool sync_sleeping, sync_stopping;
    bool any_failed;       /* a write or a sync did: set before anybody is told, seen before a sync begins */
    struct ring_mail mail; /* posted when mail_posted goes true, free again when its callback runs */
    /* kv thread only, after the start */
    pthread_t thread;
    struct kv_db db; /* but for kv_db_sync */
    struct item_list taken, ready, held;
    bool failed;
    /* sync thread only, after the start */
    pthread_t sync_thread;
    struct item_list syncing;
    uint64_t synced; /* mark up to which everything is durable */
};

static void list_append(struct item_list *list, struct item item)
{
    assert(list->count <= list->capacity);
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 64;
        struct item *items = realloc(list->items, capacity * sizeof(*items));
        assert(items && capacity > list->capacity);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
}

/* Appends all of from to list and empties from; a plain swap when list is empty. */
static void list_move(struct item_list *list, struct item_list *from)
{
    assert(list != from);
    if (list->count == 0) {
        struct item_list empty = *list;
        *list = *from;
        *from = empty;
        return;
    }
    for (uint32_t i = 0; i < from->count; i++)
        list_append(list, from->items[i]);
    from->count = 0;
}

static void lock(struct kv_rocksdb *self)
{
    int rc = pthread_mutex_lock(&self->lock);
    assert(rc == 0);
}

static void unlock(struct kv_rocksdb *self)
{
    int rc = pthread_mutex_unlock(&self->lock);
    assert(rc == 0);
}

/* ---- data thread ---- */

static void hand_over(struct env_task *task)
{
    struct kv_rocksdb *self = (struct kv_rocksdb *)(void *)((char *)task - offsetof(struct kv_rocksdb, hand_over));
    assert(self->collected.count > 0);
    lock(self);
    list_move(&self->queued, &self->collected);
    bool wake = self->sleeping;
    self->sleeping = false;
    unlock(self);
    if (wake)
        (void)pthread_cond_signal(&self->wakeup);
    assert(self->collected.count == 0);
}

static void collect(struct kv_rocksdb *self, struct item item)
{
    list_append(&self->collected, item);
    env_defer(ring_loop_env(self->loop), &self->hand_over, hand_over); /* no-op when already queued */
}

static void submit_write(struct kv *kv, struct kv_write *req)
{
    assert(req->cb);
    assert(req->batch.count > 0 || req->sync);
    collect((struct kv_rocksdb *)kv, (struct item){.kind = ITEM_WRITE, .write = req});
}

static void submit_get(struct kv *kv, struct kv_get *req)
{
    assert(req->cb);
    assert(req->key_len > 0 && req->key_len <= KV_KEY_MAX);
    collect((struct kv_rocksdb *)kv, (struct item){.kind = ITEM_GET, .get = req});
}

static void submit_scan(struct kv *kv, struct kv_scan *req)
{
    assert(req->cb);
    assert(req->limit > 0);
    collect((struct kv_rocksdb *)kv, (struct item){.kind = ITEM_SCAN, .scan = req});
}

static void item_call_back(struct item item)
{
    switch (item.kind) {
    case ITEM_WRITE:
        assert(item.write->rc <= 0);
        item.write->cb(item.write, item.write->rc);
        break;
    case ITEM_GET:
        assert(item.get->rc <= 0);
        item.get->cb(item.get, item.get->rc);
        break;
    case ITEM_SCAN:
        assert(item.scan->rc <= 0);
        item.scan->cb(item.scan, item.scan->rc);
        break;
    }
}

static void kv_free(struct kv_rocksdb *self)
{
    struct item_list *lists[] = {&self->collected, &self->fetched, &self->queued,  &self->done,   &self->taken,
                                 &self->ready,     &self->held,    &self->to_sync, &self->syncing};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        assert(lists[i]->count == 0); /* no request in flight */
        free(lists[i]->items);
    }
    (void)pthread_cond_destroy(&self->wakeup);
    (void)pthread_cond_destroy(&self->sync_wakeup);
    (void)pthread_mutex_destroy(&self->lock);
    free(self);
}

static void mail_arrived(struct ring_mail *mail)
{
    struct kv_rocksdb *self = (struct kv_rocksdb *)(void *)((char *)mail - offsetof(struct kv_rocksdb, mail));
    assert(self->fetched.count == 0 && !self->in_callbacks);
    lock(self);
    assert(self->mail_posted);
    self->mail_posted = false;
    list_move(&self->fetched, &self->done);
    unlock(self);
    assert(self->fetched.count > 0);
    self->in_callbacks = true;
    for (uint32_t i = 0; i < self->fetched.count; i++) {
        assert(!self->closed); /* with this request in flight */
        item_call_back(self->fetched.items[i]);
    }
    self->fetched.count = 0;
    self->in_callbacks = false;
    if (self->closed) /* by the last callback */
        kv_free(self);
}

/* ---- kv thread and sync thread ---- */

static void publish(struct kv_rocksdb *self, struct item_list *ended)
{
    if (ended->count == 0)
        return;
    lock(self);
    list_move(&self->done, ended);
    bool post = !self->mail_posted;
    self->mail_posted = true;
    unlock(self);
    if (post)
        ring_post(self->loop, &self->mail, mail_arrived);
    assert(ended->count == 0);
}

static void fail(struct kv_rocksdb *self, int rc)
{
    assert(rc < 0);
    lock(self);
    bool first = !self->any_failed;
    self->any_failed = true;
    unlock(self);
    if (first)
        log_error("the metadata store failed: nothing is written to it any more error=%d", rc);
}

/* ---- sync thread ---- */

/* Everything written up to the mark becomes durable. A failure is final: a later sync might succeed without what this one lost.
 * After a failed write no sync begins: RocksDB ends the process, by an assertion, when it syncs a log whose write failed. */
static int sync_up_to(struct kv_rocksdb *self, uint64_t mark, bool failed)
{
    assert(mark >= self->synced);
    if (failed)
        return -EIO;
    int rc = mark > self->synced ? kv_db_sync(&self->db) : 0;
    if (rc == 0)
        self->synced = mark;
    else
        fail(self, rc);
    return rc;
}

static void *sync_thread(void *arg)
{
    struct kv_rocksdb *self = arg;
    for (;;) {
        lock(self);
        while (self->to_sync.count == 0 && !self->sync_stopping) {
            self->sync_sleeping = true;
            (void)pthread_cond_wait(&self->sync_wakeup, &self->lock);
        }
        self->sync_sleeping = false;
        list_move(&self->syncing, &self->to_sync);
        uint64_t mark = self->sync_mark;
        bool failed = self->any_failed;
        unlock(self);
        if (self->syncing.count == 0)
            return NULL; /* stopping */
        int rc = sync_up_to(self, mark, failed);
        for (uint32_t i = 0; i < self->syncing.count; i++) {
            assert(self->syncing.items[i].kind == ITEM_WRITE && self->syncing.items[i].write->rc == 0);
            self->syncing.items[i].write->rc = rc;
        }
        publish(self, &self->syncing);
    }
}

/* ---- kv thread ---- */

static int sticky(struct kv_rocksdb *self, int rc)
{
    assert(rc <= 0);
    if (rc < 0 && !self->failed) {
        self->failed = true;
        fail(self, rc);
    }
    return rc;
}

static int write_admitted(const struct kv_rocksdb *self)
{
    assert(!(self->failed && self->db.read_only));
    return self->failed ? -EIO : self->db.read_only ? -EROFS : 0;
}

/* One run of writes: as few WriteBatches as GROUP_BYTES_MAX allows; returns the index behind the run. */
static uint32_t run_writes(struct kv_rocksdb *self, uint32_t first)
{
    const struct item_list *taken = &self->taken;
    uint32_t end = first, bytes = 0;
    assert(taken->items[first].kind == ITEM_WRITE);
    int rc = write_admitted(self);
    while (end < taken->count && taken->items[end].kind == ITEM_WRITE && bytes < GROUP_BYTES_MAX) {
        const struct kv_batch *batch = &taken->items[end++].write->batch;
        bytes += batch->used;
        if (rc == 0)
            kv_db_group_add(&self->db, batch);
    }
    if (rc == 0)
        rc = sticky(self, kv_db_group_write(&self->db));
    for (uint32_t i = first; i < end; i++) {
        taken->items[i].write->rc = rc;
        list_append(rc == 0 && taken->items[i].write->sync ? &self->held : &self->ready, taken->items[i]);
    }
    assert(end > first);
    return end;
}

static uint32_t run_gets(struct kv_rocksdb *self, uint32_t first)
{
    struct kv_get *gets[KV_DB_GETS_MAX];
    uint32_t count = 0;
    while (first + count < self->taken.count && self->taken.items[first + count].kind == ITEM_GET &&
           count < KV_DB_GETS_MAX) {
        gets[count] = self->taken.items[first + count].get;
        count++;
    }
    assert(count > 0);
    if (self->failed) {
        for (uint32_t i = 0; i < count; i++)
            gets[i]->rc = -EIO;
    } else {
        kv_db_get(&self->db, gets, count);
    }
    for (uint32_t i = 0; i < count; i++)
        list_append(&self->ready, self->taken.items[first + i]);
    return first + count;
}

/* What wants a sync completes with the next one. */
static void hand_to_sync(struct kv_rocksdb *self)
{
    if (self->held.count == 0)
        return;
    lock(self);
    list_move(&self->to_sync, &self->held);
    self->sync_mark = self->db.written;
    bool wake = self->sync_sleeping;
    self->sync_sleeping = false;
    unlock(self);
    if (wake)
        (void)pthread_cond_signal(&self->sync_wakeup);
    assert(self->held.count == 0);
}

static void run_taken(struct kv_rocksdb *self)
{
    assert(self->taken.count > 0 && self->held.count == 0);
    for (uint32_t i = 0; i < self->taken.count;) {
        struct item item = self->taken.items[i];
        switch (item.kind) {
        case ITEM_WRITE: i = run_writes(self, i); break;
        case ITEM_GET: i = run_gets(self, i); break;
        case ITEM_SCAN:
            item.scan->rc = self->failed ? -EIO : kv_db_scan(&self->db, item.scan);
            list_append(&self->ready, item);
            i++;
            break;
        }
        publish(self, &self->ready);
    }
    hand_to_sync(self);
    self->taken.count = 0;
    assert(self->held.count == 0 && self->ready.count == 0);
}

static void sync_stop(struct kv_rocksdb *self)
{
    lock(self);
    assert(!self->sync_stopping && self->to_sync.count == 0);
    self->sync_stopping = true;
    unlock(self);
    (void)pthread_cond_signal(&self->sync_wakeup);
    int rc = pthread_join(self->sync_thread, NULL);
    assert(rc == 0);
}

static void *kv_thread(void *arg)
{
    struct kv_rocksdb *self = arg;
    for (;;) {
        lock(self);
        while (self->queued.count == 0 && !self->stopping) {
            self->sleeping = true;
            (void)pthread_cond_wait(&self->wakeup, &self->lock);
        }
        self->sleeping = false;
        assert(self->taken.count == 0);
        list_move(&self->taken, &self->queued);
        self->failed = self->failed || self->any_failed;
        unlock(self);
        if (self->taken.count == 0)
            break; /* stopping */
        run_taken(self);
    }
    sync_stop(self);
    self->db.failed = self->db.failed || self->failed || self->any_failed;
    kv_db_close(&self->db);
    return NULL;
}

/* ---- life ---- */

static void kv_rocksdb_close(struct kv *kv)
{
    struct kv_rocksdb *self = (struct kv_rocksdb *)kv;
    assert(self->collected.count == 0 && !self->hand_over.queued);
    lock(self);
    assert(!self->stopping);
    self->stopping = true;
    unlock(self);
    (void)pthread_cond_signal(&self->wakeup);
    int rc = pthread_join(self->thread, NULL);
    assert(rc == 0);
    self->closed = true;
    if (!self->in_callbacks)
        kv_free(self);
}

static int start(struct kv_rocksdb *self)
{
    int rc = -pthread_create(&self->sync_thread, NULL, sync_thread, self);
    if (rc < 0)
        return rc;
    rc = -pthread_create(&self->thread, NULL, kv_thread, self);
    if (rc < 0) {
        sync_stop(self);
        return rc;
    }
    assert(rc == 0);
    (void)pthread_setname_np(self->thread, "ashlar-kv");
    (void)pthread_setname_np(self->sync_thread, "ashlar-sync");
    return 0;
}

/* Opens the database and starts its threads with all signals blocked: they are the main thread's, and RocksDB's
 * background threads inherit the mask of whoever makes them. */
static int open_and_start(struct kv_rocksdb *self, const struct kv_rocksdb_config *config)
{
    sigset_t all, before;
    sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &before);
    assert(rc == 0);
    rc = kv_db_open(&self->db, config);
    if (rc == 0) {
        rc = start(self);
        if (rc < 0)
            kv_db_close(&self->db);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    assert(rc <= 0);
    return rc;
}

static const struct kv_ops rocksdb_ops = {
    .write = submit_write, .get = submit_get, .scan = submit_scan, .close = kv_rocksdb_close};

int kv_rocksdb_open(struct ring_loop *loop, const struct kv_rocksdb_config *config, struct kv **ret_kv)
{
    assert(loop && config && ret_kv);
    struct kv_rocksdb *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    self->base.ops = &rocksdb_ops;
    self->loop = loop;
    int rc = -pthread_mutex_init(&self->lock, NULL);
    assert(rc == 0);
    rc = -pthread_cond_init(&self->wakeup, NULL);
    assert(rc == 0);
    rc = -pthread_cond_init(&self->sync_wakeup, NULL);
    assert(rc == 0);
    rc = open_and_start(self, config);
    if (rc < 0) {
        kv_free(self);
        return rc;
    }
    *ret_kv = &self->base;
    return 0;
}
