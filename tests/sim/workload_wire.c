/* SPDX-License-Identifier: Apache-2.0 */
/* workload_wire: operations go through the shipped client core, over simulated links, to the shipped gateways.
 *
 * - the guest's host is a world node of its own; its client knows every node's address and fails over by itself (R19).
 * - told of lost data (-EIO, R13) the guest does what a machine does whose disk failed: it closes the volume and opens it again;
 *   what was in flight then has an unknown outcome.
 * Failure: -EIO without a loss, or a client that cannot open, is a failure of the run.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/transport/stream.h"
#include "tests/sim/workload.h"

#define POOL_BYTES (48u << 20)

struct wire_op {
    struct client_request request;
    struct slot *slot; /* NULL: the client was closed under it */
    bool former;       /* of the client that the guest migrates away from */
    uint8_t *data;
    uint64_t begun_ns;
};

struct wire {
    struct guest *guest;
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct client *client; /* NULL: between two lives */
    struct client *former; /* its volume is being taken from it; NULL: none */
    bool opened, closing, former_closing;
    uint64_t losses; /* when it was opened */
    uint32_t in_flight, lives;
    struct world_event open_event;
    struct wire_op *ops[SLOTS_MAX];
};

static void wire_open(struct world_event *event);

static struct world *world_of(const struct wire *w)
{
    return w->guest->sim->world;
}

static void closed(void *arg)
{
    struct wire *w = arg;
    w->client = NULL;
    w->closing = false;
    if (w->guest->detached)
        return;
    world_schedule(world_of(w), &w->open_event, sim_guest_node(w->guest->sim, w->guest->index), ENV_MS(20), wire_open);
}

static void start_over(struct wire *w)
{
    if (w->closing || !w->client)
        return;
    w->opened = false;
    w->closing = true;
    client_close(w->client, closed, w);
}

static void former_closed(void *arg)
{
    struct wire *w = arg;
    w->former = NULL;
    w->former_closing = false;
}

static void check_former(struct wire *w)
{
    for (uint32_t i = 0; i < SLOTS_MAX; i++)
        if (w->ops[i] && w->ops[i]->former)
            return;
    if (!w->former || w->former_closing)
        return;
    w->former_closing = true;
    client_close(w->former, former_closed, w);
}

/* Was begun, but no client has it yet. */
static bool to_come(void *arg, uint64_t cell, uint64_t id)
{
    const struct wire *w = arg;
    for (uint32_t i = 0; i < w->guest->slot_count; i++) {
        const struct slot *slot = &w->guest->slots[i];
        uint64_t first = slot->offset / HISTORY_CELL;
        if (slot->busy && slot->ids && !w->ops[i] && cell >= first && cell < first + slot->cells &&
            slot->ids[cell - first] == id)
            return true;
    }
    return false;
}

static void opened(void *arg, int rc)
{
    struct wire *w = arg;
    struct guest *g = w->guest;
    if (rc != 0) {
        sim_note(w->guest->sim, "volume %" PRIu64 ": cannot open: %s", w->guest->volume, strerror(-rc));
        start_over(w);
        return;
    }
    w->opened = true;
    w->losses = w->guest->losses;
    w->guest->lost_dirty = false;
    uint64_t size = client_size(w->client); /* what the operators were not told yet may be refused again */
    g->bytes = size < g->size ? size : g->size;
    history_fence(g->history, world_now_ns(world_of(w)), to_come, w);
    check_former(w);
}

static void wire_open(struct world_event *event)
{
    struct wire *w = list_entry(event, struct wire, open_event);
    struct sim *sim = w->guest->sim;
    const char *addresses[SIM_NODES_MAX];
    struct client_config config = {.env = w->env,
                                   .transport = w->transport,
                                   .addresses = addresses,
                                   .opened = opened,
                                   .arg = w,
                                   .fail_back = guest_random(w->guest, 2) == 0,
                                   .open_flags = CLIENT_OPEN_FORCE};
    uint32_t first = (uint32_t)guest_random(w->guest, (uint64_t)sim->node_count);
    for (uint32_t i = 0; i < (uint32_t)sim->node_count; i++)
        addresses[i] = sim_node_address(sim->nodes[1 + (first + i) % (uint32_t)sim->node_count]);
    config.address_count = (uint32_t)sim->node_count;
    (void)snprintf(config.volume, sizeof(config.volume), "%s", w->guest->name);
    assert(!w->client && !w->guest->detached);
    w->guest->life_ns = world_now_ns(world_of(w));
    w->lives++;
    w->client = client_create(&config);
    assert(w->client);
}

/* ---- migration ---- */

static void wire_migrate(struct guest *g)
{
    struct wire *w = g->impl;
    if (!w->opened || w->closing || w->former)
        return;
    for (uint32_t i = 0; i < SLOTS_MAX; i++)
        if (w->ops[i])
            w->ops[i]->former = true;
    w->former = w->client;
    w->client = NULL;
    w->opened = false;
    world_schedule(world_of(w), &w->open_event, sim_guest_node(g->sim, g->index), 0, wire_open);
}

static void wire_detach(struct guest *g)
{
    struct wire *w = g->impl;
    world_cancel(world_of(w), &w->open_event);
    if (w->former && !w->former_closing) {
        w->former_closing = true;
        client_close(w->former, former_closed, w);
    }
    start_over(w);
}

static void wire_attach(struct guest *g)
{
    struct wire *w = g->impl;
    assert(!w->client && !w->former && w->in_flight == 0);
    world_schedule(world_of(w), &w->open_event, sim_guest_node(g->sim, g->index), ENV_MS(1), wire_open);
}

/* ---- operations ---- */

static void op_done(struct client_request *request, int rc)
{
    struct wire_op *op = request->owner;
    struct slot *slot = op->slot;
    struct wire *w = slot->guest->impl;
    w->ops[slot - slot->guest->slots] = NULL;
    w->in_flight--;
    if (rc == -ESHUTDOWN)
        rc = -EOWNERDEAD; /* we closed it after a loss: the outcome is unknown */
    /* An attach by force of its former life that was still on its way took the volume from it: it starts over. */
    bool robbed = rc == -ESTALE && w->lives > 1;
    bool former = op->former;
    if (former)
        rc = rc == -ESTALE || (rc == -EIO && w->guest->losses > 0) ? -EOWNERDEAD : rc;
    else if (robbed || (rc == -EIO && w->guest->losses > w->losses)) {
        rc = -EOWNERDEAD;
        start_over(w);
    }
    slot_ended(slot, rc, op->data, op->begun_ns, 0);
    free(op->data);
    free(op);
    if (former)
        check_former(w);
}

static void wire_submit(struct slot *slot)
{
    struct wire *w = slot->guest->impl;
    static const enum client_op ops[] = {CLIENT_READ, CLIENT_WRITE, CLIENT_ZERO, CLIENT_FLUSH};
    if (slot->guest->detached || (w->opened && slot->offset + slot->length > slot->guest->bytes)) {
        slot_unsent(slot); /* or the volume is smaller than it was */
        return;
    }
    if (!w->opened) {
        slot_retry(slot);
        return;
    }
    struct wire_op *op = calloc(1, sizeof(*op));
    assert(op);
    op->slot = slot;
    op->begun_ns = world_now_ns(world_of(w));
    op->data = malloc(slot->length ? slot->length : 1);
    assert(op->data);
    if (slot->kind == KIND_WRITE)
        slot_fill(slot, op->data);
    op->request = (struct client_request){.op = ops[slot->kind],
                                          .offset = slot->offset,
                                          .length = slot->length,
                                          .data = op->data,
                                          .cb = op_done,
                                          .owner = op};
    op->request.flags = slot->fua ? CLIENT_FUA : 0;
    if (slot->kind == KIND_ZERO)
        op->request.flags |= slot->stamp & 1 ? CLIENT_NO_HOLE : CLIENT_TRIM;
    slot->tries++;
    slot->start_ns = slot->kind == KIND_FLUSH ? op->begun_ns : slot->start_ns;
    w->ops[slot - slot->guest->slots] = op;
    w->in_flight++;
    int rc = client_submit(w->client, &op->request);
    assert(rc == 0);
}

/* ---- life ---- */

static void wire_failover(struct guest *g)
{
    int node = sim_guest_node(g->sim, g->index);
    for (int i = 1; i <= g->sim->node_count; i++)
        sim_net_reset(g->sim->net, node, i);
}

static void wire_crash(struct guest *g)
{
    start_over(g->impl);
}

static void wire_create(struct guest *g)
{
    struct wire *w = calloc(1, sizeof(*w));
    int node = sim_guest_node(g->sim, g->index);
    assert(w);
    g->impl = w;
    w->guest = g;
    w->env = world_env_create(g->sim->world, node);
    w->pool = buf_pool_create(POOL_BYTES);
    int rc = transport_sim_create(g->sim->net, node, w->env, w->pool, &w->transport);
    assert(rc == 0 && w->pool);
    world_schedule(world_of(w), &w->open_event, node, ENV_MS(1), wire_open);
}

static bool ended(void *arg)
{
    struct wire *w = arg;
    if (w->client || w->former || w->in_flight > 0)
        return false;
    stream_transport_shutdown(w->transport);
    return stream_transport_live(w->transport) == 0;
}

static void wire_destroy(struct guest *g)
{
    struct wire *w = g->impl;
    for (uint32_t i = 0; i < g->slot_count; i++)
        world_cancel(world_of(w), &g->slots[i].event);
    g->quiet = g->detached = true;
    wire_detach(g);
    bool quiet = world_run_until(world_of(w), ended, w, ENV_MS(20000));
    assert(quiet);
    world_cancel(world_of(w), &w->open_event);
    transport_sim_destroy(w->transport);
    buf_pool_destroy(w->pool);
    free(w);
}

static bool wire_idle(const struct guest *g)
{
    const struct wire *w = g->impl;
    return w->in_flight == 0 && (!g->detached || (!w->client && !w->former));
}

static void wire_print(const struct slot *slot)
{
    const struct wire *w = slot->guest->impl;
    fprintf(stderr, " %s, gateway %s, trouble: %s", w->opened ? "open" : "not open",
            w->client ? client_gateway(w->client) : "-", w->client ? client_trouble(w->client) : "-");
}

const struct driver workload_wire = {
    .create = wire_create,
    .destroy = wire_destroy,
    .submit = wire_submit,
    .failover = wire_failover,
    .crash = wire_crash,
    .idle = wire_idle,
    .print = wire_print,
    .detach = wire_detach,
    .attach = wire_attach,
    .migrate = wire_migrate,
};
