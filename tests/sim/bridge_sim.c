/* SPDX-License-Identifier: Apache-2.0 */
/* bridge_sim: mails between the two sides of a simulated daemon.
 *
 *   - a message is copied into a mail, put into the queue of its direction, and delivered by a task or timer of the receiver
 *   - a request (propose, attach) is given to control as the twin inside its mail; the twin's callback sends the mail back
 * Failure modes: control closed: requests end with -ESHUTDOWN. A hanging side leaves its mails in the queue.
 */
#include "tests/sim/bridge_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"

#define MAILS_MAX (1u << 20)

enum mail_kind {
    TO_DATA_REGISTERED,
    TO_DATA_SNAPSHOT,
    TO_DATA_ENTRY,
    TO_DATA_LEASE,
    TO_DATA_STATS_REQUEST,
    TO_DATA_STOP,
    TO_CONTROL_PROPOSE,
    TO_CONTROL_ATTACH,
    TO_CONTROL_DETACH,
    TO_CONTROL_APPLIED,
    TO_CONTROL_SUSPECT,
    TO_CONTROL_STORE_FAILED,
    TO_CONTROL_ALIVE,
    TO_CONTROL_STATS,
};

struct mail {
    struct list_node queue_node, all_node;
    struct bridge_sim *bridge;
    enum mail_kind kind;
    bool result; /* of a request, on its way back */
    uint32_t node;
    uint64_t a, b, due_ns;
    struct bridge_stats *stats;
    struct bridge_propose propose; /* twins */
    struct bridge_attach attach;
    void *request; /* the data side's */
    size_t len;
    uint8_t bytes[];
};

struct direction {
    struct bridge_sim *bridge;
    struct env *env; /* the receiver's */
    struct list_node queue;
    struct env_task task;
    struct env_timer timer;
    uint64_t last_due_ns;
    bool held; /* no receiver yet, or it hangs */
};

struct bridge_sim {
    struct bridge_to_data to_data;
    struct bridge_to_control to_control;
    struct bridge_sim_config config;
    struct direction down, up; /* control to data; data to control */
    struct list_node mails;    /* all of them */
    uint32_t mail_count;
    bool closed;
};

static struct mail *mail_create(struct bridge_sim *bridge, enum mail_kind kind, const void *bytes, size_t len)
{
    struct mail *mail = calloc(1, sizeof(*mail) + len);
    assert(mail && bridge->mail_count < MAILS_MAX);
    assert(bytes || len == 0);
    mail->bridge = bridge;
    mail->kind = kind;
    mail->len = len;
    if (len)
        memcpy(mail->bytes, bytes, len);
    list_push_back(&bridge->mails, &mail->all_node);
    bridge->mail_count++;
    return mail;
}

static void mail_destroy(struct mail *mail)
{
    assert(!list_linked(&mail->queue_node));
    assert(mail->bridge->mail_count > 0);
    list_remove(&mail->all_node);
    mail->bridge->mail_count--;
    free(mail);
}

/* ---- delivery */

static void deliver_to_data(struct mail *mail);
static void deliver_to_control(struct mail *mail);

static void expect(struct direction *direction);

/* One mail a turn, as mailboxes interleave with everything else. */
static void deliver(struct direction *direction)
{
    struct bridge_sim *bridge = direction->bridge;
    if (direction->held || list_empty(&direction->queue))
        return;
    struct mail *mail = list_entry(direction->queue.next, struct mail, queue_node);
    if (mail->due_ns > env_now_ns(direction->env)) {
        expect(direction);
        return;
    }
    list_remove(&mail->queue_node);
    expect(direction); /* before the receiver is called: it may post more, or be the last thing that happens */
    assert(mail->bridge == bridge);
    if (direction == &bridge->down)
        deliver_to_data(mail);
    else
        deliver_to_control(mail);
}

static void run_task(struct env_task *task)
{
    deliver(list_entry(task, struct direction, task));
}

static void run_timer(struct env_timer *timer)
{
    deliver(list_entry(timer, struct direction, timer));
}

static void expect(struct direction *direction)
{
    if (direction->held || list_empty(&direction->queue))
        return;
    uint64_t due_ns = list_entry(direction->queue.next, struct mail, queue_node)->due_ns;
    uint64_t now_ns = env_now_ns(direction->env);
    assert(direction->env->ops);
    if (due_ns <= now_ns)
        env_defer(direction->env, &direction->task, run_task);
    else
        env_timer_start(direction->env, &direction->timer, due_ns - now_ns, run_timer);
}

static void send(struct direction *direction, struct mail *mail)
{
    struct bridge_sim *bridge = mail->bridge;
    uint64_t due_ns = env_now_ns(direction->env);
    assert(direction == &bridge->up || direction == &bridge->down);
    if (bridge->config.delay_max_ns)
        due_ns += env_random(direction->env) % (bridge->config.delay_max_ns + 1);
    if (due_ns < direction->last_due_ns)
        due_ns = direction->last_due_ns;
    mail->due_ns = direction->last_due_ns = due_ns;
    list_push_back(&direction->queue, &mail->queue_node);
    expect(direction);
}

/* ---- control -> data */

static void deliver_result(struct mail *mail)
{
    assert(mail->result && mail->request);
    if (mail->kind == TO_CONTROL_PROPOSE) {
        struct bridge_propose *req = mail->request;
        req->result = mail->propose.result;
        struct map_result result = req->result;
        mail_destroy(mail);
        req->cb(req, &result);
        return;
    }
    struct bridge_attach *req = mail->request;
    int rc = mail->attach.rc;
    assert(mail->kind == TO_CONTROL_ATTACH);
    req->volume = mail->attach.volume;
    req->session = mail->attach.session;
    req->size = mail->attach.size;
    req->version = mail->attach.version;
    req->rc = rc;
    mail_destroy(mail);
    req->cb(req, rc);
}

static void deliver_to_data(struct mail *mail)
{
    struct bridge_to_data *data = mail->bridge->config.data;
    assert(data && data->ops);
    switch (mail->kind) {
    case TO_DATA_REGISTERED: data->ops->registered(data, mail->a, mail->node, mail->b); break;
    case TO_DATA_SNAPSHOT: data->ops->map_snapshot(data, mail->a, mail->bytes, mail->len); break;
    case TO_DATA_ENTRY: data->ops->map_entry(data, mail->a, mail->bytes, mail->len); break;
    case TO_DATA_LEASE: data->ops->lease(data, mail->a, mail->b); break;
    case TO_DATA_STATS_REQUEST: data->ops->stats_request(data); break;
    case TO_DATA_STOP: data->ops->stop(data); break;
    default: deliver_result(mail); return;
    }
    mail_destroy(mail);
}

static struct bridge_sim *of_data(struct bridge_to_data *b)
{
    struct bridge_sim *bridge = list_entry(b, struct bridge_sim, to_data);
    assert(bridge->down.env);
    return bridge;
}

static void to_data_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    struct bridge_sim *bridge = of_data(b);
    struct mail *mail = mail_create(bridge, TO_DATA_REGISTERED, NULL, 0);
    assert(node && incarnation);
    mail->a = cluster_id;
    mail->b = incarnation;
    mail->node = node;
    if (bridge->config.watch.registered)
        bridge->config.watch.registered(bridge->config.watch.arg, incarnation);
    send(&bridge->down, mail);
}

static void to_data_map_snapshot(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct bridge_sim *bridge = of_data(b);
    struct mail *mail = mail_create(bridge, TO_DATA_SNAPSHOT, bytes, len);
    assert(len > 0);
    mail->a = version;
    if (bridge->config.watch.snapshot)
        bridge->config.watch.snapshot(bridge->config.watch.arg, version, bytes, len);
    send(&bridge->down, mail);
}

static void to_data_map_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    struct bridge_sim *bridge = of_data(b);
    struct mail *mail = mail_create(bridge, TO_DATA_ENTRY, bytes, len);
    assert(version > 0);
    mail->a = version;
    if (bridge->config.watch.entry)
        bridge->config.watch.entry(bridge->config.watch.arg, version, bytes, len);
    send(&bridge->down, mail);
}

static void to_data_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t map_version)
{
    struct bridge_sim *bridge = of_data(b);
    struct mail *mail = mail_create(bridge, TO_DATA_LEASE, NULL, 0);
    mail->a = until_ns;
    mail->b = map_version;
    assert(!mail->request);
    if (bridge->config.watch.lease)
        bridge->config.watch.lease(bridge->config.watch.arg, until_ns, map_version);
    send(&bridge->down, mail);
}

static void to_data_stats_request(struct bridge_to_data *b)
{
    struct bridge_sim *bridge = of_data(b);
    assert(bridge->config.data);
    send(&bridge->down, mail_create(bridge, TO_DATA_STATS_REQUEST, NULL, 0));
}

static void to_data_stop(struct bridge_to_data *b)
{
    struct bridge_sim *bridge = of_data(b);
    assert(bridge->config.data);
    send(&bridge->down, mail_create(bridge, TO_DATA_STOP, NULL, 0));
}

static const struct bridge_to_data_ops to_data_ops = {
    .registered = to_data_registered,
    .map_snapshot = to_data_map_snapshot,
    .map_entry = to_data_map_entry,
    .lease = to_data_lease,
    .stats_request = to_data_stats_request,
    .stop = to_data_stop,
};

/* ---- data -> control */

static void propose_done(struct bridge_propose *twin, const struct map_result *result)
{
    struct mail *mail = list_entry(twin, struct mail, propose);
    assert(mail->kind == TO_CONTROL_PROPOSE && !mail->result);
    twin->result = *result;
    mail->result = true;
    send(&mail->bridge->down, mail);
}

static void attach_done(struct bridge_attach *twin, int rc)
{
    struct mail *mail = list_entry(twin, struct mail, attach);
    assert(mail->kind == TO_CONTROL_ATTACH && !mail->result);
    twin->rc = rc;
    mail->result = true;
    send(&mail->bridge->down, mail);
}

static void refuse(struct mail *mail)
{
    struct map_result result = {.rc = -ESHUTDOWN};
    assert(mail->bridge->closed);
    if (mail->kind == TO_CONTROL_PROPOSE) {
        propose_done(&mail->propose, &result);
    } else if (mail->kind == TO_CONTROL_ATTACH) {
        attach_done(&mail->attach, -ESHUTDOWN);
    } else {
        if (mail->stats)
            mail->stats->release(mail->stats);
        mail_destroy(mail);
    }
}

static void deliver_to_control(struct mail *mail)
{
    struct bridge_to_control *control = mail->bridge->config.control;
    if (mail->bridge->closed) {
        refuse(mail);
        return;
    }
    assert(control && control->ops);
    switch (mail->kind) {
    case TO_CONTROL_PROPOSE: control->ops->propose(control, &mail->propose, mail->bytes, mail->len); return;
    case TO_CONTROL_ATTACH: control->ops->attach(control, &mail->attach); return;
    case TO_CONTROL_DETACH: control->ops->detach(control, mail->a, mail->b); break;
    case TO_CONTROL_APPLIED: control->ops->applied(control, mail->a, mail->b); break;
    case TO_CONTROL_SUSPECT: control->ops->suspect(control, mail->node); break;
    case TO_CONTROL_STORE_FAILED: control->ops->store_failed(control, (int)(int64_t)mail->a); break;
    case TO_CONTROL_ALIVE: control->ops->alive(control, mail->a); break;
    case TO_CONTROL_STATS: control->ops->stats(control, mail->stats); break;
    default: assert(!"a message to data on its way to control");
    }
    mail_destroy(mail);
}

static struct mail *upward(struct bridge_to_control *b, enum mail_kind kind, const void *bytes, size_t len)
{
    struct bridge_sim *bridge = list_entry(b, struct bridge_sim, to_control);
    assert(bridge->up.env);
    return mail_create(bridge, kind, bytes, len);
}

static void send_up(struct mail *mail, uint64_t a, uint64_t b)
{
    mail->a = a;
    mail->b = b;
    assert(!mail->result);
    send(&mail->bridge->up, mail);
}

static void to_control_propose(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len)
{
    struct mail *mail = upward(b, TO_CONTROL_PROPOSE, entry, len);
    assert(req->cb && len > 0 && len <= MAP_ENTRY_BYTES_MAX);
    mail->request = req;
    mail->propose.cb = propose_done;
    send_up(mail, 0, 0);
}

static void to_control_attach(struct bridge_to_control *b, struct bridge_attach *req)
{
    struct mail *mail = upward(b, TO_CONTROL_ATTACH, NULL, 0);
    assert(req->cb);
    mail->request = req;
    mail->attach.cb = attach_done;
    mail->attach.flags = req->flags;
    memcpy(mail->attach.volume_name, req->volume_name, sizeof(req->volume_name));
    memcpy(mail->attach.attachment, req->attachment, sizeof(req->attachment));
    send_up(mail, 0, 0);
}

static void to_control_detach(struct bridge_to_control *b, uint64_t volume, uint64_t session)
{
    assert(volume && session);
    send_up(upward(b, TO_CONTROL_DETACH, NULL, 0), volume, session);
}

static void to_control_applied(struct bridge_to_control *b, uint64_t version, uint64_t hash)
{
    struct bridge_sim *bridge = list_entry(b, struct bridge_sim, to_control);
    assert(bridge->config.data);
    if (bridge->config.watch.applied)
        bridge->config.watch.applied(bridge->config.watch.arg, version);
    send_up(upward(b, TO_CONTROL_APPLIED, NULL, 0), version, hash);
}

static void to_control_suspect(struct bridge_to_control *b, uint32_t node)
{
    struct mail *mail = upward(b, TO_CONTROL_SUSPECT, NULL, 0);
    assert(node);
    mail->node = node;
    send_up(mail, 0, 0);
}

static void to_control_store_failed(struct bridge_to_control *b, int rc)
{
    assert(rc < 0);
    send_up(upward(b, TO_CONTROL_STORE_FAILED, NULL, 0), (uint64_t)(int64_t)rc, 0);
}

static void to_control_alive(struct bridge_to_control *b, uint64_t oldest_io_ns)
{
    assert(b);
    send_up(upward(b, TO_CONTROL_ALIVE, NULL, 0), oldest_io_ns, 0);
}

static void to_control_stats(struct bridge_to_control *b, struct bridge_stats *stats)
{
    struct mail *mail = upward(b, TO_CONTROL_STATS, NULL, 0);
    assert(stats && stats->release);
    mail->stats = stats;
    send_up(mail, 0, 0);
}

static const struct bridge_to_control_ops to_control_ops = {
    .propose = to_control_propose,
    .attach = to_control_attach,
    .detach = to_control_detach,
    .applied = to_control_applied,
    .suspect = to_control_suspect,
    .store_failed = to_control_store_failed,
    .alive = to_control_alive,
    .stats = to_control_stats,
};

/* ---- life */

static void direction_hold(struct direction *direction, bool held)
{
    direction->held = held;
    assert(direction->env);
    expect(direction);
}

struct bridge_sim *bridge_sim_create(const struct bridge_sim_config *config)
{
    struct bridge_sim *bridge = calloc(1, sizeof(*bridge));
    assert(bridge && config->control_env && config->data_env && config->data);
    bridge->config = *config;
    bridge->to_data.ops = &to_data_ops;
    bridge->to_control.ops = &to_control_ops;
    bridge->down.bridge = bridge->up.bridge = bridge;
    bridge->down.env = config->data_env;
    bridge->up.env = config->control_env;
    bridge->up.held = !config->control;
    list_head_init(&bridge->down.queue);
    list_head_init(&bridge->up.queue);
    list_head_init(&bridge->mails);
    return bridge;
}

void bridge_sim_destroy(struct bridge_sim *bridge)
{
    if (!bridge)
        return;
    /* A queued task cannot be taken back: it would find freed memory. A crash has emptied its env. */
    assert(!bridge->up.task.queued && !bridge->down.task.queued);
    env_timer_stop(bridge->up.env, &bridge->up.timer);
    env_timer_stop(bridge->down.env, &bridge->down.timer);
    while (!list_empty(&bridge->mails)) {
        struct mail *mail = list_entry(bridge->mails.next, struct mail, all_node);
        if (list_linked(&mail->queue_node))
            list_remove(&mail->queue_node);
        if (mail->stats)
            mail->stats->release(mail->stats);
        mail_destroy(mail);
    }
    assert(bridge->mail_count == 0);
    free(bridge);
}

struct bridge_to_data *bridge_sim_to_data(struct bridge_sim *bridge)
{
    assert(bridge);
    return &bridge->to_data;
}

struct bridge_to_control *bridge_sim_to_control(struct bridge_sim *bridge)
{
    assert(bridge);
    return &bridge->to_control;
}

const struct bridge_sim_watch *bridge_sim_of(struct bridge_to_control *b)
{
    assert(b->ops == &to_control_ops);
    return &list_entry(b, struct bridge_sim, to_control)->config.watch;
}

void bridge_sim_set_control(struct bridge_sim *bridge, struct bridge_to_control *control)
{
    assert(control && !bridge->closed);
    bridge->config.control = control;
    direction_hold(&bridge->up, false);
}

void bridge_sim_close_control(struct bridge_sim *bridge)
{
    bridge->closed = true;
    bridge->config.control = NULL;
    direction_hold(&bridge->up, false);
}

void bridge_sim_hang(struct bridge_sim *bridge, bool hangs)
{
    assert(bridge->config.control || bridge->closed || hangs);
    direction_hold(&bridge->down, hangs);
    direction_hold(&bridge->up, hangs || (!bridge->config.control && !bridge->closed));
}
