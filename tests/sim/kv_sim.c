/* SPDX-License-Identifier: Apache-2.0 */
/* kv_sim: see kv_sim.h.
 *
 * - `current` is the map that reads see, `durable` what a sync made safe; between them a log of unsynced batches.
 * - Maps are treaps whose priorities are a hash of the key: same content, same shape.
 * - Requests wait in a queue; one timer serves its head. What wants a sync goes on to a second one, whose timer makes durable
 *   what was in the log when it began, and the queue goes on meanwhile.
 */
#include "tests/sim/kv_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"
#include "common/prng.h"

struct entry {
    struct entry *left, *right;
    uint64_t priority;
    uint32_t key_len, value_len;
    uint8_t bytes[]; /* key, value */
};

enum request_kind { REQUEST_WRITE, REQUEST_GET, REQUEST_SCAN };
struct request {
    struct list_node link;
    enum request_kind kind;
    void *req;
    int rc;
    struct request *abandoned;
};

struct handle {
    struct kv kv;
    struct kv_sim_base *base;
    struct env *env;
    struct env_timer timer, sync_timer;
    struct list_node queue;
    struct list_node to_sync, syncing; /* written; syncing: by the sync under way, which covers so much of the log */
    uint32_t sync_covers;
    bool failed;
};

struct kv_sim_base {
    struct entry *current, *durable;
    struct kv_batch *log; /* unsynced batches, copies */
    uint32_t log_count, log_capacity;
    struct prng prng;
    struct kv_sim_faults faults;
    struct kv_sim_stats stats;
    struct handle *handle;
    void (*trace)(void *arg, const struct kv_batch *batch, bool sync, bool done);
    void *trace_arg;
};

/* --- the map --- */

static int compare(const void *a, uint32_t a_len, const void *b, uint32_t b_len)
{
    assert(a && b);
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    if (order)
        return order;
    return a_len < b_len ? -1 : a_len > b_len;
}

static int compare_entry(const void *key, uint32_t key_len, const struct entry *entry)
{
    assert(entry);
    return compare(key, key_len, entry->bytes, entry->key_len);
}

static uint64_t hash(const uint8_t *key, uint32_t key_len)
{
    uint64_t h = 0xcbf29ce484222325u;
    assert(key_len > 0);
    for (uint32_t i = 0; i < key_len; i++)
        h = (h ^ key[i]) * 0x100000001b3u;
    return prng_splitmix(&h);
}

static struct entry *entry_create(const void *key, uint32_t key_len, const void *value, uint32_t value_len)
{
    struct entry *entry = calloc(1, sizeof(*entry) + key_len + value_len);
    assert(entry && key_len <= KV_KEY_MAX);
    entry->priority = hash(key, key_len);
    entry->key_len = key_len;
    entry->value_len = value_len;
    memcpy(entry->bytes, key, key_len);
    if (value_len)
        memcpy(entry->bytes + key_len, value, value_len);
    return entry;
}

/* Splits into keys below and keys from `key` on. */
static void split(struct entry *root, const void *key, uint32_t key_len, struct entry **ret_low,
                  struct entry **ret_high)
{
    if (!root) {
        *ret_low = *ret_high = NULL;
    } else if (compare_entry(key, key_len, root) <= 0) {
        split(root->left, key, key_len, ret_low, &root->left);
        *ret_high = root;
    } else {
        split(root->right, key, key_len, &root->right, ret_high);
        *ret_low = root;
    }
}

static struct entry *join(struct entry *low, struct entry *high)
{
    if (!low || !high)
        return low ? low : high;
    if (low->priority >= high->priority) {
        low->right = join(low->right, high);
        return low;
    }
    high->left = join(low, high->left);
    return high;
}

static void map_delete(struct entry **root, const void *key, uint32_t key_len)
{
    struct entry **at = root;
    assert(key_len > 0);
    while (*at) {
        int order = compare_entry(key, key_len, *at);
        if (!order) {
            struct entry *gone = *at;
            *at = join(gone->left, gone->right);
            free(gone);
            return;
        }
        at = order < 0 ? &(*at)->left : &(*at)->right;
    }
}

static void map_put(struct entry **root, const void *key, uint32_t key_len, const void *value, uint32_t value_len)
{
    struct entry *low, *high;
    map_delete(root, key, key_len);
    split(*root, key, key_len, &low, &high);
    *root = join(join(low, entry_create(key, key_len, value, value_len)), high);
    assert(*root);
}

/* First entry from the key on. */
static const struct entry *map_from(const struct entry *root, const void *key, uint32_t key_len, bool inclusive)
{
    const struct entry *best = NULL;
    while (root) {
        int order = compare_entry(key, key_len, root);
        if (order < 0 || (order == 0 && inclusive)) {
            best = root;
            root = root->left;
        } else {
            root = root->right;
        }
    }
    return best;
}

static void map_free(struct entry *root)
{
    if (!root)
        return;
    map_free(root->left);
    map_free(root->right);
    free(root);
}

static struct entry *map_copy(const struct entry *root)
{
    if (!root)
        return NULL;
    struct entry *copy = entry_create(root->bytes, root->key_len, root->bytes + root->key_len, root->value_len);
    assert(copy->priority == root->priority);
    copy->left = map_copy(root->left);
    copy->right = map_copy(root->right);
    return copy;
}

static void apply(struct entry **root, const struct kv_batch *batch)
{
    uint32_t cursor = 0, key_len, value_len;
    const uint8_t *key, *value;
    bool is_delete;
    assert(root);
    while (kv_batch_next(batch, &cursor, &key, &key_len, &value, &value_len, &is_delete)) {
        if (is_delete)
            map_delete(root, key, key_len);
        else
            map_put(root, key, key_len, value, value_len);
    }
}

/* --- the base --- */

struct kv_sim_base *kv_sim_base_create(uint64_t seed)
{
    struct kv_sim_base *base = calloc(1, sizeof(*base));
    assert(base);
    prng_seed(&base->prng, seed);
    return base;
}

/* A dead process frees nothing: its requests stay reachable from here, which keeps leak checkers quiet about them. */
static struct request *abandoned;

static void free_handle(struct kv_sim_base *base)
{
    struct handle *handle = base->handle;
    struct list_node *node;
    assert(handle);
    struct list_node *lists[] = {&handle->queue, &handle->to_sync, &handle->syncing};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        while ((node = list_pop_front(lists[i]))) {
            struct request *request = list_entry(node, struct request, link);
            request->abandoned = abandoned;
            abandoned = request;
        }
    env_timer_stop(handle->env, &handle->timer);
    env_timer_stop(handle->env, &handle->sync_timer);
    free(handle);
    base->handle = NULL;
}

static void log_clear(struct kv_sim_base *base)
{
    for (uint32_t i = 0; i < base->log_count; i++)
        kv_batch_free(&base->log[i]);
    base->log_count = 0;
    assert(base->log_count <= base->log_capacity);
}

void kv_sim_base_destroy(struct kv_sim_base *base)
{
    if (!base)
        return;
    if (base->handle)
        free_handle(base);
    assert(!base->handle);
    log_clear(base);
    free(base->log);
    map_free(base->current);
    map_free(base->durable);
    free(base);
}

static void log_batch(struct kv_sim_base *base, const struct kv_batch *batch)
{
    if (base->log_count == base->log_capacity) {
        base->log_capacity = base->log_capacity ? 2 * base->log_capacity : 64;
        base->log = realloc(base->log, base->log_capacity * sizeof(*base->log));
        assert(base->log);
    }
    struct kv_batch copy = *batch;
    copy.bytes = malloc(batch->used ? batch->used : 1);
    assert(copy.bytes);
    if (batch->used)
        memcpy(copy.bytes, batch->bytes, batch->used);
    copy.capacity = batch->used;
    base->log[base->log_count++] = copy;
}

/* The log up to count becomes durable. */
static void log_sync(struct kv_sim_base *base, uint32_t count)
{
    assert(count <= base->log_count);
    for (uint32_t i = 0; i < count; i++) {
        apply(&base->durable, &base->log[i]);
        kv_batch_free(&base->log[i]);
    }
    base->log_count -= count;
    if (base->log_count)
        memmove(base->log, base->log + count, base->log_count * sizeof(*base->log));
}

static void serve_write(struct kv_sim_base *base, const struct kv_write *write)
{
    apply(&base->current, &write->batch);
    log_batch(base, &write->batch);
    assert(base->log_count > 0);
    if (base->trace && !write->sync)
        base->trace(base->trace_arg, &write->batch, /* sync= */ false, /* done= */ true);
}

static int serve_get(struct kv_sim_base *base, struct kv_get *get)
{
    const struct entry *entry = map_from(base->current, get->key, get->key_len, /* inclusive= */ true);
    assert(get->key_len <= KV_KEY_MAX);
    if (!entry || compare_entry(get->key, get->key_len, entry))
        return -ENOENT;
    if (get->value_capacity < entry->value_len) {
        get->value = realloc(get->value, entry->value_len);
        assert(get->value);
        get->value_capacity = entry->value_len;
    }
    get->value_len = entry->value_len;
    if (entry->value_len)
        memcpy(get->value, entry->bytes + entry->key_len, entry->value_len);
    return 0;
}

static void serve_scan(struct kv_sim_base *base, struct kv_scan *scan)
{
    const struct entry *entry = map_from(base->current, scan->from, scan->from_len, /* inclusive= */ true);
    kv_batch_reset(&scan->pairs);
    scan->more = false;
    assert(scan->limit > 0);
    while (entry && compare_entry(scan->to, scan->to_len, entry) > 0) {
        if (scan->pairs.count == scan->limit) {
            scan->more = true;
            break;
        }
        kv_batch_put(&scan->pairs, entry->bytes, entry->key_len, entry->bytes + entry->key_len, entry->value_len);
        entry = map_from(base->current, entry->bytes, entry->key_len, /* inclusive= */ false);
    }
}

/* --- the queue --- */

static void fired(struct env_timer *timer);

static void arm(struct handle *handle)
{
    struct kv_sim_base *base = handle->base;
    if (handle->timer.armed || list_empty(&handle->queue))
        return;
    uint64_t delay = 2000 + prng_below(&base->prng, 30000);
    if (prng_below(&base->prng, 1000) < base->faults.slow_permille)
        delay = base->faults.slow_ns;
    assert(delay > 0);
    env_timer_start(handle->env, &handle->timer, delay, fired);
}

static void synced(struct env_timer *timer);

/* One at a time, for all that was written when it begins. */
static void sync_start(struct handle *handle)
{
    struct kv_sim_base *base = handle->base;
    struct list_node *node;
    if (handle->sync_timer.armed || list_empty(&handle->to_sync))
        return;
    assert(list_empty(&handle->syncing));
    while ((node = list_pop_front(&handle->to_sync)))
        list_push_back(&handle->syncing, node);
    handle->sync_covers = base->log_count;
    uint64_t delay = 100000 + prng_below(&base->prng, 300000);
    if (prng_below(&base->prng, 1000) < base->faults.slow_permille)
        delay = base->faults.slow_ns;
    env_timer_start(handle->env, &handle->sync_timer, delay, synced);
}

static void synced(struct env_timer *timer)
{
    struct handle *handle = list_entry(timer, struct handle, sync_timer);
    struct kv_sim_base *base = handle->base;
    struct list_node done, *node;
    int rc = handle->failed ? -EIO : 0;
    list_head_init(&done);
    while ((node = list_pop_front(&handle->syncing)))
        list_push_back(&done, node);
    if (rc == 0)
        log_sync(base, handle->sync_covers);
    sync_start(handle);
    while ((node = list_pop_front(&done))) {
        struct request *request = list_entry(node, struct request, link);
        struct kv_write *write = request->req;
        assert(request->kind == REQUEST_WRITE && write->sync);
        free(request);
        if (rc == 0 && base->trace)
            base->trace(base->trace_arg, &write->batch, /* sync= */ true, /* done= */ true);
        write->cb(write, rc);
    }
}

static void fired(struct env_timer *timer)
{
    struct handle *handle = list_entry(timer, struct handle, timer);
    struct kv_sim_base *base = handle->base;
    struct request *request = list_entry(list_pop_front(&handle->queue), struct request, link);
    enum request_kind kind = request->kind;
    void *req = request->req;
    int rc = request->rc;
    arm(handle);
    if (kind == REQUEST_WRITE) {
        if (rc)
            handle->failed = true;
        if (handle->failed)
            rc = -EIO;
        else
            serve_write(base, req);
        if (rc == 0 && ((struct kv_write *)req)->sync) {
            list_push_back(&handle->to_sync, &request->link);
            sync_start(handle);
            return;
        }
    }
    free(request);
    if (kind == REQUEST_WRITE) {
        ((struct kv_write *)req)->cb(req, rc);
    } else if (kind == REQUEST_GET) {
        rc = rc ? rc : serve_get(base, req);
        ((struct kv_get *)req)->cb(req, rc);
    } else {
        assert(kind == REQUEST_SCAN);
        if (!rc)
            serve_scan(base, req);
        ((struct kv_scan *)req)->cb(req, rc);
    }
}

static void enqueue(struct kv *kv, enum request_kind kind, void *req)
{
    struct handle *handle = list_entry(kv, struct handle, kv);
    struct kv_sim_base *base = handle->base;
    struct request *request = calloc(1, sizeof(*request));
    assert(request && req);
    request->kind = kind;
    request->req = req;
    if (base->faults.fail_nth && --base->faults.fail_nth == 0) {
        request->rc = -EIO;
        base->stats.failed++;
    }
    list_push_back(&handle->queue, &request->link);
    arm(handle);
}

static void submit_write(struct kv *kv, struct kv_write *req)
{
    struct kv_sim_base *base = list_entry(kv, struct handle, kv)->base;
    assert(req->cb);
    assert(req->sync || req->batch.count);
    base->stats.writes++;
    base->stats.syncs += req->sync;
    if (base->trace)
        base->trace(base->trace_arg, &req->batch, req->sync, /* done= */ false);
    enqueue(kv, REQUEST_WRITE, req);
}

static void submit_get(struct kv *kv, struct kv_get *req)
{
    assert(req->cb && req->key_len);
    list_entry(kv, struct handle, kv)->base->stats.gets++;
    enqueue(kv, REQUEST_GET, req);
}

static void submit_scan(struct kv *kv, struct kv_scan *req)
{
    assert(req->cb && req->limit);
    list_entry(kv, struct handle, kv)->base->stats.scans++;
    enqueue(kv, REQUEST_SCAN, req);
}

static void close_handle(struct kv *kv)
{
    struct handle *handle = list_entry(kv, struct handle, kv);
    assert(list_empty(&handle->queue) && list_empty(&handle->to_sync) && list_empty(&handle->syncing));
    assert(handle->base->handle == handle);
    free_handle(handle->base);
}

static const struct kv_ops ops = {.write = submit_write, .get = submit_get, .scan = submit_scan, .close = close_handle};

int kv_sim_open(struct kv_sim_base *base, struct env *env, struct kv **ret_kv)
{
    assert(base && env);
    if (base->handle)
        return -EBUSY;
    struct handle *handle = calloc(1, sizeof(*handle));
    assert(handle);
    handle->base = base;
    handle->env = env;
    handle->kv.ops = &ops;
    list_head_init(&handle->queue);
    list_head_init(&handle->to_sync);
    list_head_init(&handle->syncing);
    base->handle = handle;
    *ret_kv = &handle->kv;
    return 0;
}

/* A prefix of what was in flight took effect (a sync among it is not one that anybody was told of). */
static void crash_in_flight(struct kv_sim_base *base)
{
    assert(base->handle);
    list_for_each(node, &base->handle->queue)
    {
        const struct request *request = list_entry(node, struct request, link);
        if (request->rc || base->handle->failed || prng_below(&base->prng, 2))
            return;
        if (request->kind == REQUEST_WRITE)
            serve_write(base, request->req);
    }
}

void kv_sim_crash(struct kv_sim_base *base, enum kv_sim_crash kind)
{
    assert(kind == KV_SIM_PROCESS || kind == KV_SIM_POWER);
    if (base->handle) {
        crash_in_flight(base);
        free_handle(base);
    }
    if (kind == KV_SIM_PROCESS)
        return;
    uint64_t mood = prng_below(&base->prng, 3);
    uint64_t keep = mood == 0   ? 0
                    : mood == 1 ? base->log_count
                                : prng_below(&base->prng, (uint64_t)base->log_count + 1);
    if (base->faults.power_keeps_all)
        keep = base->log_count;
    if (base->faults.power_drops_all)
        keep = 0;
    log_sync(base, (uint32_t)keep);
    log_clear(base); /* the rest is lost */
    map_free(base->current);
    base->current = map_copy(base->durable);
    assert(!base->log_count);
}

struct kv_sim_faults *kv_sim_faults(struct kv_sim_base *base)
{
    assert(base);
    return &base->faults;
}

struct kv_sim_stats *kv_sim_stats(struct kv_sim_base *base)
{
    assert(base);
    return &base->stats;
}

bool kv_sim_next(struct kv_sim_base *base, uint8_t key[KV_KEY_MAX], uint32_t *key_len, bool inclusive,
                 const uint8_t **ret_value, uint32_t *ret_value_len)
{
    assert(key && key_len);
    const struct entry *entry = map_from(base->current, key, *key_len, inclusive);
    if (!entry)
        return false;
    memcpy(key, entry->bytes, entry->key_len);
    *key_len = entry->key_len;
    *ret_value = entry->bytes + entry->key_len;
    *ret_value_len = entry->value_len;
    return true;
}

void kv_sim_put(struct kv_sim_base *base, const void *key, uint32_t key_len, const void *value, uint32_t value_len)
{
    struct entry **maps[] = {&base->current, &base->durable};
    assert(key && key_len);
    for (uint32_t i = 0; i < 2; i++) {
        if (value)
            map_put(maps[i], key, key_len, value, value_len);
        else
            map_delete(maps[i], key, key_len);
    }
}

void kv_sim_trace(struct kv_sim_base *base,
                  void (*trace)(void *arg, const struct kv_batch *batch, bool sync, bool done), void *arg)
{
    assert(base);
    base->trace = trace;
    base->trace_arg = arg;
}
