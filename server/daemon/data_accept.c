/* SPDX-License-Identifier: Apache-2.0 */
/* data_accept: the data thread's listeners, and who may come in.
 *
 *   - an accepted link must say hello within five seconds; then it is the peers' or the gateway's
 *   - a hello that does not fit is answered with a status and a sentence; the link is closed once that was sent
 * Failure modes: whatever a stranger sends costs it its link, and nobody else anything; logged, with a limit.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/hello.h"
#include "common/log.h"
#include "server/daemon/data_internal.h"

#define LOG_MODULE "daemon"

struct accepting {
    struct list_node link_node;
    struct data_thread *d;
    struct link *link;
    struct env_timer timer;
    bool refused;
};

static void forget(struct accepting *a)
{
    assert(list_linked(&a->link_node));
    assert(a->d->accepting_count > 0);
    env_timer_stop(a->d->env, &a->timer);
    list_remove(&a->link_node);
    a->d->accepting_count--;
    free(a);
}

static void complain(struct data_thread *d, const struct link *link, const char *what)
{
    uint32_t suppressed = 0;
    assert(what[0]);
    if (log_allow(&d->refused_limiter, env_now_ns(d->env), &suppressed))
        log_warn("refused a link peer=%s reason=\"%s\" suppressed=%u", link_peer_name(link), what, suppressed);
}

static void too_late(struct env_timer *timer)
{
    struct accepting *a = list_entry(timer, struct accepting, timer);
    assert(a->link);
    assert(list_linked(&a->link_node));
    if (!a->refused)
        complain(a->d, a->link, "no hello within five seconds");
    link_close(a->link);
}

static void refuse(struct accepting *a, const struct msg *msg, int rc, const char *sentence)
{
    struct data_thread *d = a->d;
    struct hello answer = {.version_min = WIRE_VERSION_MIN,
                           .version_max = WIRE_VERSION,
                           .role = HELLO_PEER,
                           .node = d->node,
                           .incarnation = d->incarnation,
                           .cluster_id = d->cluster_id,
                           .map_version = map_version(d->map),
                           .feature_level = MAP_FEATURE_LEVEL};
    uint8_t body[HELLO_BYTES];
    struct wire_header header = {.opcode = WIRE_HELLO | 1,
                                 .status = rc,
                                 .request_id = msg->header.request_id,
                                 .body_len = HELLO_BYTES,
                                 .src_node = d->node,
                                 .src_incarnation = d->incarnation};
    assert(rc < 0 && strlen(sentence) < HELLO_TEXT_MAX);
    assert(!a->refused);
    complain(d, a->link, sentence);
    (void)snprintf(answer.text, sizeof(answer.text), "%s", sentence);
    hello_encode(&answer, body);
    a->refused = true;
    (void)link_send(a->link, &header, body, NULL, 0);
    env_timer_start(d->env, &a->timer, DATA_REFUSED_LINGER_NS, too_late);
}

/* NULL: fits. */
static const char *judge(const struct data_thread *d, const struct hello *hello, int *ret_rc)
{
    uint16_t version;
    assert(d->cluster_id);
    assert(hello && ret_rc);
    if (hello_negotiate(hello, &version) < 0) {
        *ret_rc = -EPROTONOSUPPORT;
        return "no protocol version in common: upgrade the older side";
    }
    if (hello->role != HELLO_PEER && hello->role != HELLO_CLIENT) {
        *ret_rc = -EPROTO;
        return "this is a data address: control and admin go to the control address";
    }
    if ((hello->cluster_id || hello->role == HELLO_PEER) && hello->cluster_id != d->cluster_id) {
        *ret_rc = -EXDEV;
        return "this node belongs to another cluster";
    }
    return NULL;
}

static void first_message(struct link *link, void *owner, struct msg *msg)
{
    struct accepting *a = owner;
    struct data_thread *d = a->d;
    struct hello hello;
    int rc = 0;
    assert(a->link == link);
    assert(d->incarnation);
    if (a->refused) {
        msg_free(msg);
        return;
    }
    if (msg->header.opcode != WIRE_HELLO || msg->payload) {
        complain(d, link, "the first frame is no hello");
        msg_free(msg);
        link_close(link);
        return;
    }
    rc = hello_decode(msg->body, msg->header.body_len, &hello);
    const char *sentence = rc < 0 ? "the hello does not decode" : judge(d, &hello, &rc);
    if (sentence) {
        refuse(a, msg, rc, sentence);
        msg_free(msg);
        return;
    }
    forget(a);
    assert(d->peers && d->gateway);
    if (hello.role == HELLO_PEER)
        peers_accept(d->peers, link, msg);
    else
        gateway_accept(d->gateway, link, msg);
}

static void link_closed(struct link *link, void *owner, int reason)
{
    struct accepting *a = owner;
    assert(a->link == link);
    assert(reason <= 0);
    if (reason < 0 && reason != -EPIPE && reason != -ECONNRESET)
        complain(a->d, link, strerror(-reason));
    forget(a);
}

static const struct link_callbacks accepting_callbacks = {.message = first_message, .closed = link_closed};
static void ignore_message(struct link *link, void *owner, struct msg *msg)
{
    (void)link;
    assert(!owner);
    msg_free(msg);
}
static void ignore_closed(struct link *link, void *owner, int reason)
{
    (void)link;
    assert(!owner && reason <= 0);
}
static const struct link_callbacks unwanted_callbacks = {.message = ignore_message, .closed = ignore_closed};

static void accepted(struct listener *listener, void *arg, struct link *link)
{
    struct data_thread *d = arg;
    assert(listener == d->tcp_listener || listener == d->unix_listener || listener == d->rdma_listener);
    assert(link);
    struct accepting *a = d->accepting_count < DATA_ACCEPTING_MAX ? calloc(1, sizeof(*a)) : NULL;
    if (!a) {
        link_set_owner(link, &unwanted_callbacks, NULL);
        link_close(link);
        return;
    }
    a->d = d;
    a->link = link;
    list_push_back(&d->accepting, &a->link_node);
    d->accepting_count++;
    link_set_owner(link, &accepting_callbacks, a);
    env_timer_start(d->env, &a->timer, DATA_HELLO_TIMEOUT_NS, too_late);
}

static int listen_at(struct data_thread *d, const char *address, struct listener **ret_listener)
{
    assert(!*ret_listener);
    int rc = transport_listen(d->transport, address, accepted, d, ret_listener);
    assert(rc <= 0);
    if (rc < 0)
        log_error("cannot listen on %s error=\"%s\"; is the address this host's and free?", address, strerror(-rc));
    else
        log_info("listening for data address=%s", listener_address(*ret_listener));
    return rc;
}

/* An iWARP device without a port mapper (siw) listens in TCP's own ports: then the address is TCP's alone. */
static int listen_by_tcp(struct data_thread *d, const char *address)
{
    assert(!d->tcp_listener);
    assert(d->transport);
    if (d->rdma_listener && transport_listen(d->transport, address, accepted, d, &d->tcp_listener) == -EADDRINUSE) {
        int rc = data_rdma_give_up(d, -EADDRINUSE);
        if (rc < 0)
            return rc;
    }
    if (!d->tcp_listener)
        return listen_at(d, address, &d->tcp_listener);
    log_info("listening for data address=%s", listener_address(d->tcp_listener));
    return 0;
}

int data_listen(struct data_thread *d)
{
    const struct settings *settings = d->config.settings;
    char address[SETTINGS_PATH_MAX + 32];
    assert(d->incarnation && !d->tcp_listener);
    assert(!d->unix_listener);
    (void)snprintf(address, sizeof(address), "tcp:%s", settings->data);
    int rc = data_rdma_listen(d, accepted);
    if (rc < 0)
        return rc;
    rc = listen_by_tcp(d, address);
    if (rc == 0 && settings->rundir[0]) {
        (void)snprintf(address, sizeof(address), "unix:%s/data.sock", settings->rundir);
        rc = listen_at(d, address, &d->unix_listener);
    }
    return rc;
}

void data_unlisten(struct data_thread *d)
{
    assert(d->env);
    assert(d->state == DATA_STOPPING);
    listener_close(d->tcp_listener);
    listener_close(d->unix_listener);
    listener_close(d->rdma_listener);
    d->tcp_listener = d->unix_listener = d->rdma_listener = NULL;
    list_for_each(pos, &d->accepting)
        link_close(list_entry(pos, struct accepting, link_node)->link); /* its closed callback follows later */
}
