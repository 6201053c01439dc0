/* SPDX-License-Identifier: Apache-2.0 */
/* raft_sim: a voter: the raft_io between the shipped consensus core and a simulated disk and network.
 *
 *   - open: bootstraps an empty disk if it may, else loads; start: ticks and messages begin
 *   - time and randomness are the env's; every callback of raft_io comes from a task, a timer or an event, never from a call
 *   - close: all callbacks with RAFT_CANCELED, then that of close; crash: the same, at once, when the env is dead already
 * Failure modes: those of the disk and of the network; see there.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "tests/sim/raft_sim_internal.h"

#define LOG_MODULE "raft"

static struct raft_sim *of_io(const struct raft_io *io)
{
    assert(io->impl);
    return io->impl;
}

static int told(struct raft_io *io, int rc)
{
    if (rc != 0)
        (void)snprintf(io->errmsg, sizeof(io->errmsg), "simulated failure %d", rc);
    assert(rc >= 0);
    return rc;
}

/* ---- disk ---- */

static int io_init(struct raft_io *io, raft_id id, const char *address)
{
    assert(id == (raft_id)of_io(io)->config.node && address);
    return 0;
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *voted_for, struct raft_snapshot **snapshot,
                   raft_index *start_index, struct raft_entry *entries[], size_t *n_entries)
{
    struct raft_sim_disk *disk = of_io(io)->config.disk;
    return told(io, raft_sim_disk_load(disk, term, voted_for, snapshot, start_index, entries, n_entries));
}

static int io_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    return told(io, raft_sim_disk_bootstrap(of_io(io)->config.disk, conf));
}

static int io_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    return told(io, raft_sim_disk_recover(of_io(io)->config.disk, conf));
}

static int io_set_term(struct raft_io *io, raft_term term)
{
    return told(io, raft_sim_disk_set_term(of_io(io)->config.disk, term));
}

static int io_set_vote(struct raft_io *io, raft_id id)
{
    return told(io, raft_sim_disk_set_vote(of_io(io)->config.disk, id));
}

static int io_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                     raft_io_append_cb cb)
{
    assert(!of_io(io)->closed);
    req->cb = cb;
    return told(io, raft_sim_disk_append(of_io(io)->config.disk, req, entries, n, cb));
}

static int io_truncate(struct raft_io *io, raft_index index)
{
    assert(!of_io(io)->closed);
    return told(io, raft_sim_disk_truncate(of_io(io)->config.disk, index));
}

static int io_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                           const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    assert(!of_io(io)->closed);
    req->cb = cb;
    return told(io, raft_sim_disk_put(of_io(io)->config.disk, trailing, req, snapshot, cb));
}

/* ---- what is called back in a later turn ---- */

static void run_later(struct env_task *task)
{
    struct raft_sim *raft = list_entry(task, struct raft_sim, later_task);
    struct list_node *node;
    if (raft->closed) /* finish_close calls them back */
        return;
    while (!raft->closed && (node = list_pop_front(&raft->sends)) != NULL) {
        struct raft_sim_send *send = list_entry(node, struct raft_sim_send, node);
        struct raft_sim_send copy = *send;
        free(send);
        if (copy.cb) /* raft_transfer() wants none */
            copy.cb(copy.req, copy.status);
    }
    while (!raft->closed && (node = list_pop_front(&raft->gets)) != NULL) {
        struct raft_sim_get *get = list_entry(node, struct raft_sim_get, node);
        struct raft_sim_get copy = *get;
        free(get);
        struct raft_snapshot *snapshot = raft_sim_disk_get(raft->config.disk);
        copy.cb(copy.req, snapshot, snapshot ? 0 : RAFT_NOTFOUND);
    }
}

static int io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb cb)
{
    struct raft_sim *raft = of_io(io);
    struct raft_sim_get *get = calloc(1, sizeof(*get));
    assert(get && !raft->closed);
    req->cb = cb;
    *get = (struct raft_sim_get){.req = req, .cb = cb};
    list_push_back(&raft->gets, &get->node);
    env_defer(raft->env, &raft->later_task, run_later);
    return 0;
}

static int io_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message, raft_io_send_cb cb)
{
    struct raft_sim *raft = of_io(io);
    struct raft_sim_send *send = calloc(1, sizeof(*send));
    assert(send && !raft->closed);
    req->cb = cb;
    *send = (struct raft_sim_send){.req = req, .cb = cb};
    send->status = raft_sim_net_send(raft->config.net, raft->config.node, message);
    list_push_back(&raft->sends, &send->node);
    env_defer(raft->env, &raft->later_task, run_later);
    return 0;
}

/* ---- time, randomness, messages ---- */

static raft_time io_time(struct raft_io *io)
{
    return env_now_ns(of_io(io)->env) / 1000000u;
}

static int io_random(struct raft_io *io, int min, int max)
{
    assert(min >= 0 && min <= max);
    return min + (int)(env_random(of_io(io)->env) % (uint64_t)(max - min + 1));
}

static void ticks(struct env_timer *timer)
{
    struct raft_sim *raft = list_entry(timer, struct raft_sim, tick_timer);
    assert(!raft->closed);
    env_timer_start(raft->env, &raft->tick_timer, ENV_MS(raft->tick_ms), ticks);
    raft->tick(&raft->io);
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct raft_sim *raft = of_io(io);
    assert(msecs > 0 && !raft->tick);
    raft->tick_ms = msecs;
    raft->tick = tick;
    raft->recv = recv;
    env_timer_start(raft->env, &raft->tick_timer, ENV_MS(msecs), ticks);
    raft_sim_net_attach(raft->config.net, raft->config.node, raft);
    return 0;
}

void raft_sim_receive(struct raft_sim *raft, struct raft_message *message)
{
    assert(!raft->closed && raft->recv);
    raft->recv(&raft->io, message);
}

/* ---- the end ---- */

static void finish_close(struct raft_sim *raft)
{
    struct list_node *node;
    assert(raft->closed && raft->close_cb);
    raft_sim_disk_detach(raft->config.disk);
    while ((node = list_pop_front(&raft->sends)) != NULL) {
        struct raft_sim_send *send = list_entry(node, struct raft_sim_send, node);
        if (send->cb)
            send->cb(send->req, RAFT_CANCELED);
        free(send);
    }
    while ((node = list_pop_front(&raft->gets)) != NULL) {
        struct raft_sim_get *get = list_entry(node, struct raft_sim_get, node);
        get->cb(get->req, /* snapshot= */ NULL, RAFT_CANCELED);
        free(get);
    }
    raft->close_cb(&raft->io); /* ends in released() */
}

static void close_later(struct env_task *task)
{
    finish_close(list_entry(task, struct raft_sim, close_task));
}

static void io_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_sim *raft = of_io(io);
    assert(!raft->closed);
    raft->closed = true;
    raft->close_cb = cb;
    env_timer_stop(raft->env, &raft->tick_timer);
    if (raft->tick)
        raft_sim_net_attach(raft->config.net, raft->config.node, NULL);
    env_defer(raft->env, &raft->close_task, close_later); /* a crash does not wait for it */
}

static void released(void *arg, consensus_close_fn cb, void *cb_arg)
{
    struct raft_sim *raft = arg;
    assert(raft->closed && list_empty(&raft->sends));
    consensus_core_destroy(raft->consensus);
    assert(!raft->later_task.queued && !raft->close_task.queued); /* tasks are first in, first out */
    assert(!cb && !cb_arg);
    consensus_close_fn end = raft->cb;
    void *end_arg = raft->cb_arg;
    free(raft);
    if (end)
        end(end_arg);
}

void raft_sim_close(struct raft_sim *raft, consensus_close_fn cb, void *arg)
{
    assert(!raft->closing && cb);
    raft->closing = true;
    raft->cb = cb;
    raft->cb_arg = arg;
    consensus_close(raft->consensus, NULL, NULL);
}

void raft_sim_crash(struct raft_sim *raft)
{
    assert(!world_node_up(raft->config.world, raft->config.node));
    raft->cb = NULL;
    if (!raft->closing) {
        raft->closing = true;
        consensus_close(raft->consensus, NULL, NULL);
    }
    if (!raft->closed)
        raft->tick(&raft->io); /* submits the close */
    assert(raft->closed && !raft->close_task.queued);
    finish_close(raft);
}

/* ---- the beginning ---- */

static void probation_over(void *arg)
{
    struct raft_sim *raft = arg;
    assert(raft->consensus);
    raft_sim_disk_probation_over(raft->config.disk);
}

static void wire(struct raft_sim *raft)
{
    raft->io = (struct raft_io){
        .version = 1,
        .impl = raft,
        .init = io_init,
        .close = io_close,
        .load = io_load,
        .start = io_start,
        .bootstrap = io_bootstrap,
        .recover = io_recover,
        .set_term = io_set_term,
        .set_vote = io_set_vote,
        .send = io_send,
        .append = io_append,
        .truncate = io_truncate,
        .snapshot_put = io_snapshot_put,
        .snapshot_get = io_snapshot_get,
        .time = io_time,
        .random = io_random,
    };
    assert(!raft->io.async_work);
}

int raft_sim_open(const struct raft_sim_config *config, const struct consensus_callbacks *callbacks,
                  struct raft_sim **ret_raft)
{
    struct consensus_config consensus = *config->consensus;
    assert(config->env && config->net && config->disk && config->node > 0);
    consensus.dir = "";
    if (!raft_sim_disk_bootstrapped(config->disk) && !consensus.may_bootstrap)
        return -ENODATA;
    int rc = consensus_config_check(&consensus);
    if (rc < 0)
        return rc;
    struct raft_sim *raft = calloc(1, sizeof(*raft));
    assert(raft);
    raft->config = *config;
    raft->config.consensus = NULL; /* borrowed for the call only */
    raft->env = config->env;
    list_head_init(&raft->sends);
    list_head_init(&raft->gets);
    wire(raft);
    rc = consensus_core_create(&consensus, &raft->io, callbacks, &raft->consensus);
    if (rc < 0) {
        free(raft);
        return rc;
    }
    raft->consensus->backend = raft;
    raft->consensus->released = released;
    raft->consensus->probation_over = probation_over;
    raft_sim_disk_attach(config->disk);
    if (raft_sim_disk_bootstrapped(config->disk))
        raft->consensus->probation = consensus.voters_count > 1 && raft_sim_disk_probation(config->disk);
    else
        rc = consensus_core_bootstrap(raft->consensus);
    assert(rc == 0);
    *ret_raft = raft;
    return 0;
}

int raft_sim_start(struct raft_sim *raft)
{
    assert(!raft->closing);
    return consensus_core_start(raft->consensus);
}

struct consensus *raft_sim_consensus(struct raft_sim *raft)
{
    assert(raft);
    return raft->consensus;
}
