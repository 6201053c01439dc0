/* SPDX-License-Identifier: Apache-2.0 */
/* aio_uv: requests of the library: posted to the loop, answered by callbacks; the blocking ones wait for theirs.
 *
 * - ashlar_aio_*: check, take a free request, post it; the core's callback calls the caller's and gives the request back
 * - ashlar_read and its like run the loop until their request is done, or wait on a semaphore if somebody else runs it
 * - ashlar_volume_stats reads the core's counters on the loop thread
 *
 * Failure: what the core ends a request with (ashlar.h).
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/volume.h"

/* ---- what a blocking request waits with */

struct waiter {
    sem_t sem;
    bool running; /* the caller runs the loop */
    bool done;    /* read by itself only */
    int rc;
    struct ashlar_extent *extents;
    size_t max, count;
};

static void waiter_done(void *arg, int rc)
{
    struct waiter *waiter = arg;
    waiter->rc = rc;
    waiter->done = true;
    if (!waiter->running)
        (void)sem_post(&waiter->sem); /* it may be gone from here on */
}

static void waiter_extents(void *arg, int rc, const struct ashlar_extent *extents, size_t count)
{
    struct waiter *waiter = arg;
    waiter->count = count < waiter->max ? count : waiter->max;
    if (waiter->count > 0)
        memcpy(waiter->extents, extents, waiter->count * sizeof(*extents));
    waiter_done(waiter, rc);
}

/* ---- asynchronous requests */

static struct aio *aio_take(struct ashlar_volume *volume)
{
    (void)pthread_mutex_lock(&volume->lock);
    struct aio *aio = volume->free;
    if (aio)
        volume->free = aio->next_free;
    (void)pthread_mutex_unlock(&volume->lock);
    return aio ? aio : malloc(sizeof(*aio));
}

static void aio_give(struct aio *aio)
{
    struct ashlar_volume *volume = aio->volume;
    (void)pthread_mutex_lock(&volume->lock);
    aio->next_free = volume->free;
    volume->free = aio;
    (void)pthread_mutex_unlock(&volume->lock);
}

static void extents_end(struct aio *aio, int rc)
{
    struct ashlar_extent *extents = NULL;
    const struct client_request *request = &aio->request;
    if (rc == 0 && !(extents = calloc(request->extent_count, sizeof(*extents))))
        rc = -ENOMEM;
    for (uint32_t i = 0; extents && i < request->extent_count; i++) {
        const struct client_extent *from = &request->extents[i];
        extents[i] = (struct ashlar_extent){.offset = from->offset, .length = from->length};
        if (from->state == 0)
            extents[i].state = ASHLAR_EXTENT_HOLE | ASHLAR_EXTENT_ZERO;
        else if (from->state == 2)
            extents[i].state = ASHLAR_EXTENT_ZERO;
        else if (from->state == 3)
            extents[i].state = ASHLAR_EXTENT_SAME;
    }
    ashlar_extents_cb cb = aio->extents_cb;
    void *arg = aio->arg;
    size_t count = rc == 0 ? request->extent_count : 0;
    aio_give(aio);
    cb(arg, rc, extents, count);
    free(extents);
}

static void aio_done(struct client_request *request, int rc)
{
    struct aio *aio = request->owner;
    struct ashlar_volume *volume = aio->volume;
    if (volume->client)
        atomic_store_explicit(&volume->size, client_size(volume->client), memory_order_relaxed);
    edge_request_ended(volume->cluster, aio->blocking);
    if (aio->extents_cb) {
        extents_end(aio, rc);
        return;
    }
    ashlar_cb cb = aio->cb;
    void *arg = aio->arg;
    aio_give(aio); /* first: the callback may submit the next one */
    cb(arg, rc);
}

static void aio_run(struct edge_call *call)
{
    struct aio *aio = list_entry(call, struct aio, call);
    int rc = client_submit(aio->volume->client, &aio->request);
    if (rc < 0)
        aio_done(&aio->request, rc);
}

static int aio_check(struct ashlar_volume *volume, enum client_op op, uint64_t length, uint64_t offset, unsigned flags,
                     unsigned flags_known)
{
    uint64_t size = ashlar_size(volume);
    edge_error_clear();
    if (flags & ~flags_known)
        return edge_error(-EINVAL, "unknown flags %#x", flags);
    if (length > size || offset > size - length)
        return edge_error(-EINVAL, "%s: outside the volume: offset %llu, length %llu, size %llu", volume->name,
                          (unsigned long long)offset, (unsigned long long)length, (unsigned long long)size);
    if ((op == CLIENT_READ || op == CLIENT_WRITE) && length > ASHLAR_LENGTH_MAX)
        return edge_error(-EINVAL, "more than %u bytes at once", ASHLAR_LENGTH_MAX);
    if ((op == CLIENT_WRITE || op == CLIENT_ZERO) && (volume->flags & ASHLAR_OPEN_READ_ONLY))
        return edge_error(-EROFS, "%s was opened read-only", volume->name);
    return 0;
}

static int aio_post(struct ashlar_volume *volume, const struct client_request *request, ashlar_cb cb,
                    ashlar_extents_cb extents_cb, void *arg)
{
    struct aio *aio = aio_take(volume);
    assert((cb != NULL) != (extents_cb != NULL));
    if (!aio)
        return edge_error(-ENOMEM, "out of memory");
    *aio = (struct aio){.request = *request, .volume = volume, .cb = cb, .extents_cb = extents_cb, .arg = arg};
    aio->request.cb = aio_done;
    aio->request.owner = aio;
    aio->call.run = aio_run;
    aio->blocking = cb == waiter_done || extents_cb == waiter_extents;
    edge_request_begun(volume->cluster);
    edge_post(volume->cluster, &aio->call);
    return 0;
}

_Static_assert((int)ASHLAR_FUA == (int)CLIENT_FUA && (int)ASHLAR_TRIM == (int)CLIENT_TRIM &&
                   (int)ASHLAR_NO_HOLE == (int)CLIENT_NO_HOLE,
               "flags pass through");

int ashlar_aio_read(struct ashlar_volume *volume, void *buffer, size_t length, uint64_t offset, ashlar_cb cb, void *arg)
{
    struct client_request request = {.op = CLIENT_READ, .offset = offset, .length = length, .data = buffer};
    int rc = aio_check(volume, CLIENT_READ, length, offset, 0, 0);
    return rc < 0 ? rc : aio_post(volume, &request, cb, NULL, arg);
}

int ashlar_aio_write(struct ashlar_volume *volume, const void *buffer, size_t length, uint64_t offset, unsigned flags,
                     ashlar_cb cb, void *arg)
{
    struct client_request request = {.op = CLIENT_WRITE, .flags = flags, .offset = offset, .length = length};
    request.data = (uint8_t *)(uintptr_t)buffer; /* only read from */
    int rc = aio_check(volume, CLIENT_WRITE, length, offset, flags, ASHLAR_FUA);
    return rc < 0 ? rc : aio_post(volume, &request, cb, NULL, arg);
}

int ashlar_aio_zero(struct ashlar_volume *volume, uint64_t length, uint64_t offset, unsigned flags, ashlar_cb cb,
                    void *arg)
{
    struct client_request request = {.op = CLIENT_ZERO, .flags = flags, .offset = offset, .length = length};
    int rc = aio_check(volume, CLIENT_ZERO, length, offset, flags, ASHLAR_FUA | ASHLAR_TRIM | ASHLAR_NO_HOLE);
    return rc < 0 ? rc : aio_post(volume, &request, cb, NULL, arg);
}

int ashlar_aio_flush(struct ashlar_volume *volume, ashlar_cb cb, void *arg)
{
    struct client_request request = {.op = CLIENT_FLUSH};
    edge_error_clear();
    return aio_post(volume, &request, cb, NULL, arg);
}

int ashlar_aio_extents(struct ashlar_volume *volume, uint64_t length, uint64_t offset, ashlar_extents_cb cb, void *arg)
{
    return ashlar_aio_changes(volume, /* since= */ 0, length, offset, cb, arg);
}

int ashlar_aio_changes(struct ashlar_volume *volume, uint32_t since, uint64_t length, uint64_t offset,
                       ashlar_extents_cb cb, void *arg)
{
    struct client_request request = {.op = CLIENT_EXTENTS, .since = since, .offset = offset, .length = length};
    int rc = aio_check(volume, CLIENT_EXTENTS, length, offset, 0, 0);
    if (rc == 0 && length == 0)
        rc = edge_error(-EINVAL, "extents of nothing");
    return rc < 0 ? rc : aio_post(volume, &request, NULL, cb, arg);
}

/* ---- blocking requests */

static int waiter_begin(struct ashlar_volume *volume, struct waiter *waiter)
{
    edge_error_clear();
    if (edge_on_loop(volume->cluster))
        return edge_error(-EDEADLK, "a blocking call in a callback");
    memset(waiter, 0, sizeof(*waiter));
    int rc = sem_init(&waiter->sem, /* shared= */ 0, 0);
    assert(rc == 0);
    waiter->running = edge_enter(volume->cluster);
    return 0;
}

/* rc: of the submit. */
static int waiter_end(const struct ashlar_volume *volume, struct waiter *waiter, int rc)
{
    if (waiter->running) {
        waiter->done |= rc < 0; /* nothing was posted */
        edge_run_until(volume->cluster, &waiter->done);
    }
    if (rc == 0) {
        if (!waiter->running)
            volume_wait(&waiter->sem);
        rc = waiter->rc;
        if (rc < 0)
            (void)edge_error(rc, "%s: %s", volume->name, strerror(-rc));
    }
    (void)sem_destroy(&waiter->sem);
    return rc;
}

int ashlar_read(struct ashlar_volume *volume, void *buffer, size_t length, uint64_t offset)
{
    struct waiter waiter;
    int rc = waiter_begin(volume, &waiter);
    if (rc < 0)
        return rc;
    return waiter_end(volume, &waiter, ashlar_aio_read(volume, buffer, length, offset, waiter_done, &waiter));
}

int ashlar_write(struct ashlar_volume *volume, const void *buffer, size_t length, uint64_t offset, unsigned flags)
{
    struct waiter waiter;
    int rc = waiter_begin(volume, &waiter);
    if (rc < 0)
        return rc;
    return waiter_end(volume, &waiter, ashlar_aio_write(volume, buffer, length, offset, flags, waiter_done, &waiter));
}

int ashlar_zero(struct ashlar_volume *volume, uint64_t length, uint64_t offset, unsigned flags)
{
    struct waiter waiter;
    int rc = waiter_begin(volume, &waiter);
    if (rc < 0)
        return rc;
    return waiter_end(volume, &waiter, ashlar_aio_zero(volume, length, offset, flags, waiter_done, &waiter));
}

int ashlar_flush(struct ashlar_volume *volume)
{
    struct waiter waiter;
    int rc = waiter_begin(volume, &waiter);
    if (rc < 0)
        return rc;
    return waiter_end(volume, &waiter, ashlar_aio_flush(volume, waiter_done, &waiter));
}

int ashlar_changes(struct ashlar_volume *volume, uint32_t since, uint64_t length, uint64_t offset,
                   struct ashlar_extent *ret_extents, size_t max, size_t *ret_count)
{
    struct waiter waiter;
    if (max == 0)
        return edge_error(-EINVAL, "room for no extent");
    int rc = waiter_begin(volume, &waiter);
    if (rc < 0)
        return rc;
    waiter.extents = ret_extents;
    waiter.max = max;
    rc = waiter_end(volume, &waiter, ashlar_aio_changes(volume, since, length, offset, waiter_extents, &waiter));
    if (rc == 0)
        *ret_count = waiter.count;
    return rc;
}

int ashlar_extents(struct ashlar_volume *volume, uint64_t length, uint64_t offset, struct ashlar_extent *ret_extents,
                   size_t max, size_t *ret_count)
{
    return ashlar_changes(volume, /* since= */ 0, length, offset, ret_extents, max, ret_count);
}

/* ---- statistics */

struct stats_call {
    struct edge_call call;
    struct ashlar_volume *volume;
    struct ashlar_stats *stats;
    sem_t done;
};

static void fill_latency(const struct client_stats *from, enum client_op op, struct ashlar_latency *ret_latency)
{
    const struct histogram *h = &from->latency[op];
    *ret_latency = (struct ashlar_latency){
        .count = from->count[op],
        .bytes = from->bytes[op],
        .errors = from->errors[op],
        .mean_ns = histogram_mean(h),
        .p50_ns = histogram_percentile(h, 50),
        .p90_ns = histogram_percentile(h, 90),
        .p99_ns = histogram_percentile(h, 99),
        .p999_ns = histogram_percentile(h, 99.9),
        .max_ns = h->max_ns,
    };
}

static void stats_run(struct edge_call *call)
{
    struct stats_call *ask = list_entry(call, struct stats_call, call);
    struct client *client = ask->volume->client;
    const struct client_stats *from = client_stats(client);
    struct ashlar_stats *to = ask->stats;
    uint64_t writes = from->write_pieces ? from->write_pieces : 1, reads = from->read_pieces ? from->read_pieces : 1;
    memset(to, 0, sizeof(*to));
    fill_latency(from, CLIENT_READ, &to->op[ASHLAR_OP_READ]);
    fill_latency(from, CLIENT_WRITE, &to->op[ASHLAR_OP_WRITE]);
    fill_latency(from, CLIENT_ZERO, &to->op[ASHLAR_OP_ZERO]);
    fill_latency(from, CLIENT_FLUSH, &to->op[ASHLAR_OP_FLUSH]);
    to->write_gateway_ns = from->write_stage_ns[0] / writes;
    to->write_primary_ns = from->write_stage_ns[1] / writes;
    to->write_network_ns = from->write_stage_ns[2] / writes;
    to->write_drive_ns = from->write_stage_ns[3] / writes;
    to->write_wire_ns = from->write_wire_ns / writes;
    to->read_gateway_ns = from->read_stage_ns[0] / reads;
    to->read_primary_ns = from->read_stage_ns[1] / reads;
    to->read_drive_ns = from->read_stage_ns[3] / reads;
    to->read_wire_ns = from->read_wire_ns / reads;
    to->failovers = from->failovers;
    to->resent = from->resent;
    to->checksum_errors = from->checksum_errors;
    to->in_flight = client_in_flight(client);
    (void)snprintf(to->gateway, sizeof(to->gateway), "%s", client_gateway(client));
    to->attached = to->gateway[0] != '\0';
    (void)sem_post(&ask->done);
}

int ashlar_volume_stats(struct ashlar_volume *volume, struct ashlar_stats *ret_stats)
{
    struct stats_call ask = {.call = {.run = stats_run}, .volume = volume, .stats = ret_stats};
    edge_error_clear();
    if (edge_on_loop(volume->cluster))
        return edge_error(-EDEADLK, "ashlar_volume_stats in a callback");
    int rc = sem_init(&ask.done, /* shared= */ 0, 0);
    assert(rc == 0);
    edge_post(volume->cluster, &ask.call);
    volume_wait(&ask.done);
    (void)sem_destroy(&ask.done);
    return 0;
}
