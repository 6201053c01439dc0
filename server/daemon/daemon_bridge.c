/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_bridge: server/control/bridge.h between two threads.
 *
 *   - control -> data: to_data_* copies its arguments into a mail; deliver_to_data calls the receiver on the data thread
 *   - data -> control: to_control_* likewise; deliver_to_control calls the receiver on the control thread
 *   - a request (propose, attach) gets a twin in its mail, given to the receiver; its callback posts the same mail back,
 *     and request_done copies the result into the caller's request and ends it
 * Failure modes: control is closed: requests end with -ESHUTDOWN, other messages are dropped. The data thread has ended:
 * messages to it are dropped; there are no requests of it then.
 */
#include "server/daemon/daemon_bridge.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"

#define MAILS_MAX (1u << 20) /* on their way at once; more means that a thread died without telling */

enum data_kind { DATA_REGISTERED, DATA_SNAPSHOT, DATA_ENTRY, DATA_LEASE, DATA_STATS_REQUEST, DATA_STOP };
enum control_kind {
    CONTROL_PROPOSE,
    CONTROL_ATTACH,
    CONTROL_DETACH,
    CONTROL_APPLIED,
    CONTROL_SUSPECT,
    CONTROL_STORE_FAILED,
    CONTROL_ALIVE,
    CONTROL_STATS
};

struct data_mail {
    struct ring_mail mail;
    struct daemon_bridge *bridge;
    enum data_kind kind;
    uint32_t node;
    uint64_t a, b; /* by kind: cluster id and incarnation, version, until and version */
    size_t len;
    uint8_t bytes[];
};

struct control_mail {
    struct mailbox_mail mail;
    struct ring_mail back; /* the result of a request */
    struct daemon_bridge *bridge;
    enum control_kind kind;
    int rc;
    uint64_t a, b;
    struct bridge_stats *stats;
    struct bridge_propose propose; /* twins */
    struct bridge_attach attach;
    void *request; /* the data thread's */
    size_t len;
    uint8_t bytes[];
};

struct daemon_bridge {
    struct bridge_to_data to_data;
    struct bridge_to_control to_control;
    struct daemon_bridge_config config;
    bool data_ended; /* control thread only */
    atomic_uint mails;
};

static const struct bridge_to_data_ops to_data_ops;
static const struct bridge_to_control_ops to_control_ops;

static void *take_memory(struct daemon_bridge *bridge, size_t bytes)
{
    assert(bytes >= sizeof(struct data_mail));
    void *memory = calloc(1, bytes);
    if (!memory)
        abort();
    unsigned before = atomic_fetch_add(&bridge->mails, 1);
    assert(before < MAILS_MAX);
    return memory;
}

static void give_memory(struct daemon_bridge *bridge, void *memory)
{
    unsigned before = atomic_fetch_sub(&bridge->mails, 1);
    assert(memory);
    assert(before > 0);
    free(memory);
}

/* ---- control -> data */

static void deliver_to_data(struct ring_mail *ring_mail)
{
    struct data_mail *mail = list_entry(ring_mail, struct data_mail, mail);
    struct bridge_to_data *data = mail->bridge->config.data;
    assert(data && data->ops);
    assert(mail->kind <= DATA_STOP);
    switch (mail->kind) {
    case DATA_REGISTERED: data->ops->registered(data, mail->a, mail->node, mail->b); break;
    case DATA_SNAPSHOT: data->ops->map_snapshot(data, mail->a, mail->bytes, mail->len); break;
    case DATA_ENTRY: data->ops->map_entry(data, mail->a, mail->bytes, mail->len); break;
    case DATA_LEASE: data->ops->lease(data, mail->a, mail->b); break;
    case DATA_STATS_REQUEST: data->ops->stats_request(data); break;
    case DATA_STOP: data->ops->stop(data); break;
    }
    give_memory(mail->bridge, mail);
}

static void send_to_data(struct bridge_to_data *proxy, enum data_kind kind, uint32_t node, uint64_t a, uint64_t b,
                         const void *bytes, size_t len)
{
    struct daemon_bridge *bridge = list_entry(proxy, struct daemon_bridge, to_data);
    assert(proxy->ops == &to_data_ops);
    assert(bytes || len == 0);
    if (bridge->data_ended)
        return;
    struct data_mail *mail = take_memory(bridge, sizeof(*mail) + len);
    mail->bridge = bridge;
    mail->kind = kind;
    mail->node = node;
    mail->a = a;
    mail->b = b;
    mail->len = len;
    if (len)
        memcpy(mail->bytes, bytes, len);
    ring_post(bridge->config.data_loop, &mail->mail, deliver_to_data);
}

static void to_data_registered(struct bridge_to_data *b, uint64_t cluster_id, uint32_t node, uint64_t incarnation)
{
    assert(node && incarnation);
    assert(cluster_id);
    send_to_data(b, DATA_REGISTERED, node, cluster_id, incarnation, NULL, 0);
}

static void to_data_map_snapshot(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    assert(bytes && len);
    send_to_data(b, DATA_SNAPSHOT, 0, version, 0, bytes, len);
}

static void to_data_map_entry(struct bridge_to_data *b, uint64_t version, const void *bytes, size_t len)
{
    assert(version > 0);
    send_to_data(b, DATA_ENTRY, 0, version, 0, bytes, len);
}

static void to_data_lease(struct bridge_to_data *b, uint64_t until_ns, uint64_t map_version)
{
    assert(b);
    send_to_data(b, DATA_LEASE, 0, until_ns, map_version, NULL, 0);
}

static void to_data_stats_request(struct bridge_to_data *b)
{
    assert(b);
    send_to_data(b, DATA_STATS_REQUEST, 0, 0, 0, NULL, 0);
}

static void to_data_stop(struct bridge_to_data *b)
{
    assert(b);
    send_to_data(b, DATA_STOP, 0, 0, 0, NULL, 0);
}

static const struct bridge_to_data_ops to_data_ops = {
    .registered = to_data_registered,
    .map_snapshot = to_data_map_snapshot,
    .map_entry = to_data_map_entry,
    .lease = to_data_lease,
    .stats_request = to_data_stats_request,
    .stop = to_data_stop,
};

/* ---- results, control -> data */

static void request_done(struct ring_mail *back)
{
    struct control_mail *mail = list_entry(back, struct control_mail, back);
    struct daemon_bridge *bridge = mail->bridge;
    assert(mail->request);
    assert(mail->kind == CONTROL_PROPOSE || mail->kind == CONTROL_ATTACH);
    if (bridge->config.before_result)
        bridge->config.before_result(bridge->config.arg);
    if (mail->kind == CONTROL_PROPOSE) {
        struct bridge_propose *req = mail->request;
        req->result = mail->propose.result;
        struct map_result result = req->result;
        give_memory(bridge, mail);
        req->cb(req, &result);
    } else {
        struct bridge_attach *req = mail->request;
        int rc = mail->rc;
        assert(mail->kind == CONTROL_ATTACH);
        req->volume = mail->attach.volume;
        req->session = mail->attach.session;
        req->size = mail->attach.size;
        req->version = mail->attach.version;
        req->rc = rc;
        give_memory(bridge, mail);
        req->cb(req, rc);
    }
}

static void post_result(struct control_mail *mail)
{
    struct daemon_bridge *bridge = mail->bridge;
    assert(mail->kind == CONTROL_PROPOSE || mail->kind == CONTROL_ATTACH);
    assert(mail->request);
    if (bridge->data_ended) /* nobody is left to hear of it */
        give_memory(bridge, mail);
    else
        ring_post(bridge->config.data_loop, &mail->back, request_done);
}

static void propose_done(struct bridge_propose *twin, const struct map_result *result)
{
    struct control_mail *mail = list_entry(twin, struct control_mail, propose);
    assert(mail->kind == CONTROL_PROPOSE && result);
    assert(mail->request);
    twin->result = *result;
    post_result(mail);
}

static void attach_done(struct bridge_attach *twin, int rc)
{
    struct control_mail *mail = list_entry(twin, struct control_mail, attach);
    assert(mail->kind == CONTROL_ATTACH && rc <= 0);
    assert(mail->request);
    mail->rc = rc;
    post_result(mail);
}

/* ---- data -> control */

static void refuse(struct control_mail *mail)
{
    struct map_result result = {.rc = -ESHUTDOWN};
    assert(!mail->bridge->config.control);
    assert(mail->kind <= CONTROL_STATS);
    if (mail->kind == CONTROL_PROPOSE) {
        propose_done(&mail->propose, &result);
    } else if (mail->kind == CONTROL_ATTACH) {
        attach_done(&mail->attach, -ESHUTDOWN);
    } else {
        if (mail->stats)
            mail->stats->release(mail->stats);
        give_memory(mail->bridge, mail);
    }
}

static void deliver_to_control(struct mailbox_mail *box_mail)
{
    struct control_mail *mail = list_entry(box_mail, struct control_mail, mail);
    struct bridge_to_control *control = mail->bridge->config.control;
    if (!control) {
        refuse(mail);
        return;
    }
    assert(control->ops);
    switch (mail->kind) {
    case CONTROL_PROPOSE: control->ops->propose(control, &mail->propose, mail->bytes, mail->len); return;
    case CONTROL_ATTACH: control->ops->attach(control, &mail->attach); return;
    case CONTROL_DETACH: control->ops->detach(control, mail->a, mail->b); break;
    case CONTROL_APPLIED: control->ops->applied(control, mail->a, mail->b); break;
    case CONTROL_SUSPECT: control->ops->suspect(control, (uint32_t)mail->a); break;
    case CONTROL_STORE_FAILED: control->ops->store_failed(control, mail->rc); break;
    case CONTROL_ALIVE: control->ops->alive(control, mail->a); break;
    case CONTROL_STATS: control->ops->stats(control, mail->stats); break;
    }
    give_memory(mail->bridge, mail);
}

static struct control_mail *control_mail_new(struct bridge_to_control *proxy, enum control_kind kind, size_t len)
{
    struct daemon_bridge *bridge = list_entry(proxy, struct daemon_bridge, to_control);
    assert(proxy->ops == &to_control_ops);
    struct control_mail *mail = take_memory(bridge, sizeof(*mail) + len);
    assert(len <= MAP_ENTRY_BYTES_MAX);
    mail->bridge = bridge;
    mail->kind = kind;
    mail->len = len;
    return mail;
}

static void control_mail_send(struct control_mail *mail)
{
    assert(mail->kind <= CONTROL_STATS);
    assert(mail->bridge->config.control_box);
    mailbox_post(mail->bridge->config.control_box, &mail->mail, deliver_to_control);
}

static void to_control_propose(struct bridge_to_control *b, struct bridge_propose *req, const void *entry, size_t len)
{
    assert(req && req->cb && entry && len);
    assert(len <= MAP_ENTRY_BYTES_MAX);
    struct control_mail *mail = control_mail_new(b, CONTROL_PROPOSE, len);
    memcpy(mail->bytes, entry, len);
    mail->request = req;
    mail->propose.cb = propose_done;
    control_mail_send(mail);
}

static void to_control_attach(struct bridge_to_control *b, struct bridge_attach *req)
{
    assert(req && req->cb);
    assert(memchr(req->volume_name, 0, sizeof(req->volume_name)));
    struct control_mail *mail = control_mail_new(b, CONTROL_ATTACH, 0);
    mail->request = req;
    mail->attach.cb = attach_done;
    mail->attach.flags = req->flags;
    memcpy(mail->attach.volume_name, req->volume_name, sizeof(req->volume_name));
    memcpy(mail->attach.attachment, req->attachment, sizeof(req->attachment));
    control_mail_send(mail);
}

static void send_to_control(struct bridge_to_control *b, enum control_kind kind, uint64_t first, uint64_t second,
                            int rc, struct bridge_stats *stats)
{
    struct control_mail *mail = control_mail_new(b, kind, 0);
    assert(kind != CONTROL_PROPOSE && kind != CONTROL_ATTACH);
    assert(mail->bridge && mail->kind == kind);
    mail->a = first;
    mail->b = second;
    mail->rc = rc;
    mail->stats = stats;
    control_mail_send(mail);
}

static void to_control_detach(struct bridge_to_control *b, uint64_t volume, uint64_t session)
{
    assert(volume && session);
    send_to_control(b, CONTROL_DETACH, volume, session, 0, NULL);
}

static void to_control_applied(struct bridge_to_control *b, uint64_t version, uint64_t hash)
{
    assert(b);
    send_to_control(b, CONTROL_APPLIED, version, hash, 0, NULL);
}

static void to_control_suspect(struct bridge_to_control *b, uint32_t node)
{
    assert(node);
    send_to_control(b, CONTROL_SUSPECT, node, 0, 0, NULL);
}

static void to_control_store_failed(struct bridge_to_control *b, int rc)
{
    assert(rc < 0);
    send_to_control(b, CONTROL_STORE_FAILED, 0, 0, rc, NULL);
}

static void to_control_alive(struct bridge_to_control *b, uint64_t oldest_io_ns)
{
    assert(b);
    send_to_control(b, CONTROL_ALIVE, oldest_io_ns, 0, 0, NULL);
}

static void to_control_stats(struct bridge_to_control *b, struct bridge_stats *stats)
{
    assert(stats && stats->release);
    send_to_control(b, CONTROL_STATS, 0, 0, 0, stats);
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

int daemon_bridge_create(const struct daemon_bridge_config *config, struct daemon_bridge **ret_bridge)
{
    assert(config && config->data_loop && config->control_box && config->data);
    assert(ret_bridge);
    struct daemon_bridge *bridge = calloc(1, sizeof(*bridge));
    if (!bridge)
        return -ENOMEM;
    bridge->to_data.ops = &to_data_ops;
    bridge->to_control.ops = &to_control_ops;
    bridge->config = *config;
    atomic_init(&bridge->mails, 0);
    *ret_bridge = bridge;
    return 0;
}

void daemon_bridge_destroy(struct daemon_bridge *bridge)
{
    if (!bridge)
        return;
    assert(atomic_load(&bridge->mails) == 0);
    assert(bridge->to_data.ops == &to_data_ops);
    free(bridge);
}

struct bridge_to_data *daemon_bridge_to_data(struct daemon_bridge *bridge)
{
    assert(bridge);
    return &bridge->to_data;
}

struct bridge_to_control *daemon_bridge_to_control(struct daemon_bridge *bridge)
{
    assert(bridge);
    return &bridge->to_control;
}

void daemon_bridge_set_control(struct daemon_bridge *bridge, struct bridge_to_control *control)
{
    assert(bridge);
    bridge->config.control = control;
}

void daemon_bridge_data_ended(struct daemon_bridge *bridge)
{
    assert(!bridge->data_ended);
    bridge->data_ended = true;
}
