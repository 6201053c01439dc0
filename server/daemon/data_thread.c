/* SPDX-License-Identifier: Apache-2.0 */
/* data_thread: life of the data thread, and how its rooms are joined.
 *
 *   - create: loop, buffers, map; start: the thread, which opens the store (data_open.c) and runs the loop
 *   - registered: peers, replicas, gateway are made and know each other by the callbacks below; then it listens
 *   - stop (data_stop.c), ended, join, destroy
 * Failure modes: the store cannot be opened, a listener cannot be made: told once, and the process ends. The store fails
 * later: replicas and control are told (R13), the thread goes on as a gateway.
 */
#include "server/daemon/data_thread.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma.h"
#include "common/transport/tcp_ring.h"
#include "server/daemon/data_internal.h"

#define LOG_MODULE "daemon"
#define RING_ENTRIES 512u
#define RING_FILES 1024u

/* ---- what the peers tell */

static bool is_gateway_request(uint16_t opcode)
{
    switch (opcode) {
    case WIRE_READ:
    case WIRE_WRITE:
    case WIRE_ZERO:
    case WIRE_FLUSH:
    case WIRE_EXTENTS: return true;
    default: return false;
    }
}

static void peer_request(void *arg, const struct peer_source *source, struct msg *msg)
{
    struct data_thread *d = arg;
    assert(d->replicas && source->node);
    assert(msg);
    if (!is_gateway_request(msg->header.opcode))
        replicas_message(d->replicas, source, msg);
    else if (d->gateway)
        gateway_peer_request(d->gateway, source, msg);
    else
        msg_free(msg); /* stopping: the link goes next, and the other gateway parks its request */
}

static void peer_up(void *arg, uint32_t node)
{
    struct data_thread *d = arg;
    assert(node);
    assert(node != d->node);
    if (d->replicas)
        replicas_peer_up(d->replicas, node);
    if (d->gateway)
        gateway_peer_up(d->gateway, node);
}

static void peer_down(void *arg, uint32_t node)
{
    struct data_thread *d = arg;
    assert(node);
    if (d->replicas)
        replicas_peer_down(d->replicas, node);
}

static void peer_source_lost(void *arg, const struct peer_source *source)
{
    struct data_thread *d = arg;
    assert(source);
    if (d->replicas)
        replicas_source_lost(d->replicas, source);
}

static void peer_suspect(void *arg, uint32_t node)
{
    struct data_thread *d = arg;
    assert(node);
    assert(node != d->node);
    if (d->state == DATA_SERVING)
        d->control->ops->suspect(d->control, node);
}

static void damage_found(void *arg, uint64_t volume, uint32_t shard, uint64_t offset, bool repaired)
{
    struct data_thread *d = arg;
    uint32_t held_back = 0;
    assert(d->replicas);
    if (!repaired)
        log_error("damaged here, and no other in_sync member has a good copy volume=%llu shard=%u offset=%llu",
                  (unsigned long long)volume, shard, (unsigned long long)offset);
    else if (log_allow(&d->repaired_limiter, env_now_ns(d->env), &held_back))
        log_warn("repaired from another member volume=%llu shard=%u offset=%llu lines_held_back=%u",
                 (unsigned long long)volume, shard, (unsigned long long)offset, held_back);
}

/* ---- registered */

static int make_peers(struct data_thread *d)
{
    struct peers_config config = {
        .env = d->env,
        .transport = d->transport,
        .rdma = d->rdma,
        .kind = d->config.settings->transport,
        .map = d->map,
        .node = d->node,
        .incarnation = d->incarnation,
        .callbacks = {.request = peer_request,
                      .peer_up = peer_up,
                      .peer_down = peer_down,
                      .source_lost = peer_source_lost,
                      .suspect = peer_suspect},
        .arg = d,
    };
    assert(!d->peers);
    d->peers = peers_create(&config);
    assert(!d->replicas && !d->gateway);
    return d->peers ? 0 : -ENOMEM;
}

static int make_replicas(struct data_thread *d)
{
    const struct settings *settings = d->config.settings;
    struct replicas_config config = {
        .env = d->env,
        .store = d->store,
        .peers = d->peers,
        .pool = d->pool,
        .map = d->map,
        .node = d->node,
        .incarnation = d->incarnation,
        .drop_after_ns = ENV_MS(settings->drop_after_ms),
        .sync_shards_max = settings->sync_shards_max,
        .sync_chunks_max = settings->sync_chunks_max,
        .sync_bytes_per_s = settings->sync_bytes_per_s,
        .callbacks = {.propose = data_propose, .damage_found = damage_found},
        .arg = d,
    };
    assert(d->peers && !d->replicas);
    d->replicas = replicas_create(&config);
    return d->replicas ? 0 : -ENOMEM;
}

static int make_gateway(struct data_thread *d)
{
    struct gateway_config config = {
        .env = d->env,
        .peers = d->peers,
        .replicas = d->replicas,
        .pool = d->pool,
        .map = d->map,
        .control = d->control,
        .node = d->node,
        .incarnation = d->incarnation,
    };
    assert(d->peers && d->replicas && !d->gateway);
    d->gateway = gateway_create(&config);
    return d->gateway ? 0 : -ENOMEM;
}

int data_registered(struct data_thread *d, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    assert(d->state == DATA_OPEN);
    assert(node == d->opened.identity.node);
    assert(cluster_id && incarnation);
    d->cluster_id = cluster_id;
    d->node = node;
    d->incarnation = incarnation;
    int rc = data_rdma_open(d);
    if (rc == 0)
        rc = make_peers(d);
    if (rc == 0)
        rc = make_replicas(d);
    if (rc == 0)
        rc = make_gateway(d);
    if (rc == 0)
        rc = data_listen(d);
    if (rc < 0)
        return rc;
    d->state = DATA_SERVING;
    data_map_observe(d);
    log_info("registered incarnation=%llu map_version=%llu", (unsigned long long)incarnation,
             (unsigned long long)map_version(d->map));
    return 0;
}

/* ---- to the control thread */

static void deliver_opened(struct mailbox_mail *mail)
{
    struct data_thread *d = list_entry(mail, struct data_thread, opened_mail);
    assert(d->started);
    assert(d->opened_rc <= 0);
    d->config.opened(d->config.arg, d->opened_rc);
}

void data_tell_opened(struct data_thread *d, int rc)
{
    assert(rc <= 0);
    d->opened_rc = rc;
    assert(!d->opened_mail.cb);
    mailbox_post(d->config.control_box, &d->opened_mail, deliver_opened);
}

static void deliver_anew(struct mailbox_mail *mail)
{
    struct data_thread *d = list_entry(mail, struct data_thread, anew_mail);
    assert(d->started);
    assert(d->config.start_anew);
    d->config.start_anew(d->config.arg);
}

void data_tell_anew(struct data_thread *d)
{
    assert(d->anew_mail.cb == NULL); /* once */
    mailbox_post(d->config.control_box, &d->anew_mail, deliver_anew);
}

static void deliver_ended(struct mailbox_mail *mail)
{
    struct data_thread *d = list_entry(mail, struct data_thread, ended_mail);
    assert(d->started);
    assert(d->stop_rc <= 0);
    d->config.ended(d->config.arg, d->stop_rc);
}

void data_tell_ended(struct data_thread *d, int rc)
{
    assert(d->state == DATA_ENDED);
    d->stop_rc = rc;
    assert(!d->store && !d->peers);
    mailbox_post(d->config.control_box, &d->ended_mail, deliver_ended);
}

/* ---- life */

int data_thread_create(const struct data_thread_config *config, struct data_thread **ret_thread)
{
    struct ring_config ring = {.entries = RING_ENTRIES, .fixed_files = RING_FILES};
    assert(config && config->settings && config->control_box);
    assert(config->opened && config->start_anew && config->ended);
    struct data_thread *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->config = *config;
    d->receiver.ops = &data_receiver_ops;
    d->state = DATA_OPENING;
    list_head_init(&d->accepting);
    list_head_init(&d->proposals);
    int rc = ring_loop_create(&ring, &d->loop);
    if (rc < 0)
        goto err_after_alloc;
    d->env = ring_loop_env(d->loop);
    rc = -ENOMEM;
    d->entry_buffer = malloc(MAP_ENTRY_BYTES_MAX);
    d->map = map_create();
    d->pool = buf_pool_create(config->settings->buffer_bytes);
    if (!d->entry_buffer || !d->map || !d->pool)
        goto err_after_alloc;
    rc = transport_ring_create(d->loop, d->pool, &d->transport);
    if (rc < 0)
        goto err_after_alloc;
    *ret_thread = d;
    return 0;

err_after_alloc:
    data_thread_destroy(d);
    assert(rc < 0);
    return rc;
}

struct ring_loop *data_thread_loop(struct data_thread *thread)
{
    assert(thread->loop);
    return thread->loop;
}

struct bridge_to_data *data_thread_receiver(struct data_thread *thread)
{
    assert(thread->receiver.ops);
    return &thread->receiver;
}

void data_thread_before_result(void *thread)
{
    assert(thread);
    data_settle_now(thread);
}

static void *run(void *arg)
{
    struct data_thread *d = arg;
    assert(d->control && d->state == DATA_OPENING);
    (void)pthread_setname_np(pthread_self(), "data");
    data_open(d);
    int rc = ring_loop_run(d->loop);
    if (rc < 0) {
        log_error("the data thread's loop failed error=\"%s\"", strerror(-rc));
        abort(); /* nothing of it can be trusted; a supervisor starts us again */
    }
    assert(d->state == DATA_ENDED);
    return NULL;
}

int data_thread_start(struct data_thread *thread, struct bridge_to_control *control)
{
    sigset_t all, before;
    assert(control && !thread->started);
    thread->control = control;
    (void)sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the control thread's */
    assert(rc == 0);
    rc = -pthread_create(&thread->pthread, NULL, run, thread);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    thread->started = rc == 0;
    return rc;
}

const struct data_opened *data_thread_opened(const struct data_thread *thread)
{
    assert(thread->opened_rc == 0);
    return &thread->opened;
}

static void leave_loop(struct ring_mail *mail)
{
    struct data_thread *d = list_entry(mail, struct data_thread, exit_mail);
    assert(d->state == DATA_ENDED);
    ring_loop_stop(d->loop);
}

void data_thread_join(struct data_thread *thread)
{
    assert(thread->loop);
    assert(thread->started);
    ring_post(thread->loop, &thread->exit_mail, leave_loop);
    int rc = pthread_join(thread->pthread, NULL);
    assert(rc == 0);
    thread->started = false;
}

void data_thread_destroy(struct data_thread *thread)
{
    if (!thread)
        return;
    assert(!thread->started);
    assert(!thread->peers && !thread->replicas && !thread->gateway && !thread->store);
    data_proposals_forget(thread);
    transport_rdma_destroy(thread->rdma);
    if (thread->transport)
        stream_transport_destroy(thread->transport);
    map_destroy(thread->map);
    buf_pool_destroy(thread->pool);
    if (thread->loop)
        ring_loop_destroy(thread->loop);
    free(thread->entry_buffer);
    free(thread);
}
