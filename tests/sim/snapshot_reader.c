/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_reader: attaches one snapshot after the other through the shipped client core, reads, and has it judged.
 *
 * - some reads at random places (rather where there is data), or the whole snapshot from its beginning to its end.
 * - what was read with success is right also while the snapshot is being deleted; an error is right only then.
 * Failure: told by sim_fail.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/transport/stream.h"
#include "tests/sim/operators_internal.h"

#define READ_BYTES STORE_CHUNK_BYTES
#define POOL_BYTES (16u << 20)
#define OPEN_TRIES 40u

struct snapshot_reader {
    struct sim *sim;
    int node;
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct client *client;
    struct client_request request;
    struct world_event event;
    struct snap *snap;
    bool everything, busy, opened;
    uint64_t at, left, reads;
    uint32_t tries;
    uint8_t data[READ_BYTES];
};

static void reader_open(struct world_event *event);
static void reader_read(struct world_event *event);

static uint64_t below(const struct snapshot_reader *r, uint64_t bound)
{
    return world_random_below(r->sim->world, bound);
}

static void reader_end(struct snapshot_reader *r)
{
    struct snap *snap = r->snap;
    r->snap = NULL;
    r->busy = false;
    if (--snap->readers == 0 && snap->gone)
        snap_gone(snap);
}

static void reader_closed(void *arg)
{
    struct snapshot_reader *r = arg;
    r->client = NULL;
    if (r->opened || r->snap->deleting || r->tries >= OPEN_TRIES) {
        if (!r->opened && !r->snap->deleting)
            sim_fail(r->sim, "snapshot %s@%s cannot be attached", r->snap->guest->name, r->snap->name);
        reader_end(r);
        return;
    }
    world_schedule(r->sim->world, &r->event, r->node, ENV_MS(100), reader_open);
}

static void reader_opened(void *arg, int rc)
{
    struct snapshot_reader *r = arg;
    if (rc != 0) { /* a gateway may not have heard of it yet */
        sim_note(r->sim, "snapshot %s@%s: cannot be attached: %s", r->snap->guest->name, r->snap->name, strerror(-rc));
        client_close(r->client, reader_closed, r);
        return;
    }
    r->opened = true;
    if (client_size(r->client) < image_cells(r->snap->image) * HISTORY_CELL)
        sim_fail(r->sim, "snapshot %s@%s is shorter than its volume was", r->snap->guest->name, r->snap->name);
    world_schedule(r->sim->world, &r->event, r->node, ENV_MS(1), reader_read);
}

static void reader_open(struct world_event *event)
{
    struct snapshot_reader *r = list_entry(event, struct snapshot_reader, event);
    const char *addresses[SIM_NODES_MAX];
    uint32_t nodes = (uint32_t)r->sim->node_count, first = (uint32_t)below(r, nodes);
    struct client_config config = {.env = r->env,
                                   .transport = r->transport,
                                   .addresses = addresses,
                                   .address_count = nodes,
                                   .opened = reader_opened,
                                   .arg = r,
                                   .open_flags = CLIENT_OPEN_READ_ONLY};
    for (uint32_t i = 0; i < nodes; i++)
        addresses[i] = sim_node_address(r->sim->nodes[1 + (first + i) % nodes]);
    (void)snprintf(config.volume, sizeof(config.volume), "%s", r->snap->guest->name);
    (void)snprintf(config.snapshot, sizeof(config.snapshot), "%s", r->snap->name);
    assert(!r->client);
    r->tries++;
    r->client = client_create(&config);
    assert(r->client);
}

static void read_done(struct client_request *request, int rc)
{
    struct snapshot_reader *r = request->owner;
    struct snap *snap = r->snap;
    uint64_t first = request->offset / HISTORY_CELL;
    r->reads++;
    for (uint64_t i = 0; rc == 0 && i < request->length / HISTORY_CELL; i++) {
        if (image_read(snap->image, first + i, history_stamp_of(r->data + i * HISTORY_CELL)))
            continue;
        sim_fail(r->sim, "snapshot %s@%s offset %" PRIu64 ": wrong content (I10)", snap->guest->name, snap->name,
                 (first + i) * HISTORY_CELL);
        r->left = 0;
        break;
    }
    if (rc != 0) {
        if (!snap->deleting)
            sim_fail(r->sim, "a read of snapshot %s@%s ended with %s: %s", snap->guest->name, snap->name, strerror(-rc),
                     client_trouble(r->client));
        r->left = 0;
    }
    world_schedule(r->sim->world, &r->event, r->node, r->everything ? 0 : below(r, ENV_MS(10)), reader_read);
}

/* Rather where something is. */
static void choose(struct snapshot_reader *r, uint64_t *ret_first, uint64_t *ret_count)
{
    const struct image *image = r->snap->image;
    uint64_t cells = image_cells(image), at = 0;
    for (uint32_t i = 0; i < 24; i++) {
        at = below(r, cells);
        if (image_holds_data(image, at))
            break;
    }
    at -= at % 8;
    uint64_t count = below(r, 4) == 0 ? 8 * (1 + below(r, 32)) : 8 + below(r, 24);
    *ret_first = at;
    *ret_count = count < cells - at ? count : cells - at;
}

static void reader_read(struct world_event *event)
{
    struct snapshot_reader *r = list_entry(event, struct snapshot_reader, event);
    uint64_t cells = image_cells(r->snap->image), first = r->at, count;
    if (r->left == 0 || (r->everything && r->at >= cells)) {
        client_close(r->client, reader_closed, r);
        return;
    }
    if (r->everything) {
        count = READ_BYTES / HISTORY_CELL < cells - first ? READ_BYTES / HISTORY_CELL : cells - first;
        r->at += count;
    } else {
        choose(r, &first, &count);
        r->left--;
    }
    r->request = (struct client_request){.op = CLIENT_READ,
                                         .offset = first * HISTORY_CELL,
                                         .length = count * HISTORY_CELL,
                                         .data = r->data,
                                         .cb = read_done,
                                         .owner = r};
    int rc = client_submit(r->client, &r->request);
    assert(rc == 0);
}

struct snapshot_reader *snapshot_reader_create(struct sim *sim, int world_node)
{
    struct snapshot_reader *r = calloc(1, sizeof(*r));
    assert(r);
    r->sim = sim;
    r->node = world_node;
    r->env = world_env_create(sim->world, world_node);
    r->pool = buf_pool_create(POOL_BYTES);
    int rc = transport_sim_create(sim->net, world_node, r->env, r->pool, &r->transport);
    assert(rc == 0 && r->pool);
    return r;
}

void snapshot_reader_start(struct snapshot_reader *r, struct snap *snap, bool everything)
{
    assert(!r->busy && snap->image && !snap->gone);
    r->busy = true;
    r->opened = false;
    r->snap = snap;
    snap->readers++;
    r->everything = everything;
    r->at = 0;
    r->left = 5 + below(r, 30);
    r->tries = 0;
    world_schedule(r->sim->world, &r->event, r->node, ENV_MS(1), reader_open);
}

bool snapshot_reader_idle(const struct snapshot_reader *r)
{
    return !r->busy;
}

uint64_t snapshot_reader_reads(const struct snapshot_reader *r)
{
    return r->reads;
}

static bool reader_quiet(void *arg)
{
    const struct snapshot_reader *r = arg;
    stream_transport_shutdown(r->transport);
    return stream_transport_live(r->transport) == 0;
}

/* After a run that failed it may still be at work: its memory is left alone then. */
void snapshot_reader_destroy(struct snapshot_reader *r)
{
    world_cancel(r->sim->world, &r->event);
    if (r->busy)
        return;
    bool quiet = world_run_until(r->sim->world, reader_quiet, r, ENV_MS(20000));
    assert(quiet);
    transport_sim_destroy(r->transport);
    buf_pool_destroy(r->pool);
    free(r);
}
