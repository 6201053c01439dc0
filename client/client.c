/* SPDX-License-Identifier: Apache-2.0 */
/* client: a client from create to close, and its requests from submit to callback.
 *
 * - client_submit: checks the range, queues the request, lets core_piece.c cut and send it
 * - client_request_check: a request whose pieces have all ended goes to the done list; done_run calls it back, a turn later
 * - client_fail: fenced, deleted or data lost: this and all later requests end with the reason
 * - client_close: requests end with -ESHUTDOWN, then DETACH, then the links
 *
 * Failure: running out of memory while opening is told by opened; while running, by the request that needed it.
 */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/core_internal.h"
#include "common/log.h"

#define LOG_MODULE "client"

/* ---- the end of a request */

static void note_stats(struct client *client, const struct client_request *request, int rc)
{
    struct client_stats *stats = &client->stats;
    assert(request->op < CLIENT_OP_COUNT);
    if (rc < 0) {
        stats->errors[request->op]++;
        return;
    }
    uint64_t now_ns = env_now_ns(client->env);
    stats->count[request->op]++;
    stats->bytes[request->op] += request->op == CLIENT_FLUSH || request->op == CLIENT_LIST ? 0 : request->length;
    histogram_record(&stats->latency[request->op], now_ns > request->submitted_ns ? now_ns - request->submitted_ns : 0);
}

static void done_run(struct env_task *task)
{
    struct client *client = list_entry(task, struct client, done_task);
    piece_released(client);
    struct list_node *node;
    size_done(client);
    while ((node = list_pop_front(&client->done))) {
        struct client_request *request = list_entry(node, struct client_request, link);
        struct client_extent *extents = request->extents;
        struct client_list_entry *entries = request->entries;
        assert(request->pieces == 0);
        client->requests_count--;
        note_stats(client, request, request->rc);
        request->cb(request, request->rc); /* may submit, and may free the request */
        free(extents);
        free(entries);
    }
    client_check_closed(client);
}

void client_request_check(struct client *client, struct client_request *request)
{
    if (request->pieces > 0 || (!request->failed && request->cursor < request->end))
        return;
    assert(list_linked(&request->link));
    if (list_linked(&request->pending_link))
        list_remove(&request->pending_link);
    list_remove(&request->link);
    list_push_back(&client->done, &request->link);
    env_defer(client->env, &client->done_task, done_run);
}

void client_request_fail(struct client *client, struct client_request *request, int rc)
{
    assert(rc < 0);
    assert(!request->failed);
    request->failed = true;
    request->rc = rc;
    if (list_linked(&request->pending_link))
        list_remove(&request->pending_link);
    if (request->pieces == 0) {
        client_request_check(client, request);
        return;
    }
    piece_drop_request(client, request);
}

static void fail_all(struct client *client, int rc)
{
    list_for_each_safe(pos, tmp, &client->requests)
    {
        struct client_request *request = list_entry(pos, struct client_request, link);
        if (!request->failed)
            client_request_fail(client, request, rc);
    }
    size_fail(client, rc);
}

void client_fail(struct client *client, int rc, const char *why)
{
    assert(rc < 0);
    if (client->state == SESSION_FAILED || client->closing)
        return;
    bool opened = client->opened;
    if (opened)
        log_error("volume=%s fails for good: %s", client->cfg.volume, why);
    session_stop(client);
    session_note_trouble(client, why, 0);
    client->state = SESSION_FAILED;
    client->fail_rc = rc;
    fail_all(client, rc);
    if (opened)
        return;
    client->opened = true;
    client->cfg.opened(client->cfg.arg, rc);
}

/* ---- submit */

static bool range_valid(const struct client *client, const struct client_request *request)
{
    return request->length <= client->size && request->offset <= client->size - request->length;
}

static int check(const struct client *client, const struct client_request *request)
{
    uint32_t flags = 0;
    switch (request->op) {
    case CLIENT_LIST: return request->flags ? -EINVAL : 0;
    case CLIENT_FLUSH: return request->flags || client->cfg.volume[0] == '\0' ? -EINVAL : 0;
    case CLIENT_WRITE: flags = CLIENT_FUA; break;
    case CLIENT_ZERO: flags = CLIENT_FUA | CLIENT_TRIM | CLIENT_NO_HOLE; break;
    default: break;
    }
    if ((request->flags & ~flags) != 0 || client->cfg.volume[0] == '\0' || !range_valid(client, request))
        return -EINVAL;
    if (request->op == CLIENT_EXTENTS && request->length == 0)
        return -EINVAL;
    if ((request->op == CLIENT_WRITE || request->op == CLIENT_ZERO) && (client->cfg.open_flags & CLIENT_OPEN_READ_ONLY))
        return -EROFS;
    return 0;
}

int client_submit(struct client *client, struct client_request *request)
{
    assert(request->cb != NULL);
    assert(client->opened || request->op == CLIENT_LIST);
    int rc = client->closing ? -ESHUTDOWN : check(client, request);
    if (rc < 0)
        return rc;
    memset(&request->link, 0, sizeof(request->link));
    memset(&request->pending_link, 0, sizeof(request->pending_link));
    bool unit = request->op == CLIENT_FLUSH || request->op == CLIENT_LIST;
    request->cursor = unit ? 0 : request->offset;
    request->end = unit ? 1 : request->offset + request->length;
    request->pieces = 0;
    request->rc = 0;
    request->failed = false;
    request->extents = NULL;
    request->entries = NULL;
    request->extent_count = request->entry_count = 0;
    request->submitted_ns = env_now_ns(client->env);
    request->flush_seq = client->ack_seq;
    list_push_back(&client->requests, &request->link);
    client->requests_count++;
    if (client->state == SESSION_FAILED) {
        client_request_fail(client, request, client->fail_rc);
        return 0;
    }
    if (request->cursor == request->end) {
        client_request_check(client, request);
        return 0;
    }
    list_push_back(&client->pending, &request->pending_link);
    piece_pump(client);
    return 0;
}

/* ---- create, close */

struct client *client_create(const struct client_config *config)
{
    assert(config->env && config->transport && config->opened);
    assert(config->address_count > 0 && config->address_count <= CLIENT_GATEWAYS_MAX);
    struct client *client = calloc(1, sizeof(*client));
    if (!client)
        return NULL;
    client->pieces = calloc(CLIENT_PIECES_MAX, sizeof(*client->pieces));
    client->sink = malloc(CLIENT_CHUNK_BYTES); /* touched only if it is needed */
    if (!client->pieces || !client->sink) {
        free(client->sink);
        free(client->pieces);
        free(client);
        return NULL;
    }
    client->cfg = *config;
    client->cfg.addresses = NULL;
    client->env = config->env;
    for (uint32_t i = 0; i < config->address_count; i++) {
        size_t len = strlen(config->addresses[i]);
        if (len == 0 || len >= CLIENT_ADDRESS_MAX)
            continue; /* it could not be connected to either */
        memcpy(client->addresses[client->address_count++], config->addresses[i], len + 1);
    }
    if (client->address_count == 0) {
        free(client->sink);
        free(client->pieces);
        free(client);
        return NULL;
    }
    list_head_init(&client->conns);
    list_head_init(&client->requests);
    list_head_init(&client->pending);
    list_head_init(&client->done);
    list_head_init(&client->asks);
    list_head_init(&client->asks_done);
    client->done_task.cb = done_run;
    piece_init(client);
    for (size_t i = 0; i < sizeof(client->attachment); i += sizeof(uint64_t)) {
        uint64_t random = env_random(client->env);
        memcpy(client->attachment + i, &random, sizeof(random));
    }
    session_start(client);
    return client;
}

static void close_finish(struct env_task *task)
{
    struct client *client = list_entry(task, struct client, close_task);
    void (*cb)(void *) = client->close_cb;
    void *arg = client->close_arg;
    assert(client->state == SESSION_CLOSED);
    free(client->shards);
    free(client->dirty);
    free(client->sink);
    free(client->pieces);
    free(client);
    if (cb)
        cb(arg);
}

void client_check_closed(struct client *client)
{
    if (!client->closing || client->state == SESSION_CLOSED || client->state == SESSION_DETACHING)
        return;
    if (client->requests_count > 0 || !list_empty(&client->conns) || client->done_task.queued ||
        client->dial_task.queued || !list_empty(&client->released) || !list_empty(&client->asks_done))
        return;
    assert(list_empty(&client->requests));
    client->state = SESSION_CLOSED;
    env_timer_stop(client->env, &client->tick);
    env_timer_stop(client->env, &client->backoff);
    env_defer(client->env, &client->close_task, close_finish);
}

void client_close(struct client *client, void (*cb)(void *arg), void *arg)
{
    assert(!client->closing);
    client->closing = true;
    client->close_cb = cb;
    client->close_arg = arg;
    bool quiet = client->sent_count == 0;
    fail_all(client, -ESHUTDOWN);
    if (client->state == SESSION_READY && quiet && client->session != 0) {
        session_detach(client);
    } else {
        session_stop(client);
        client->state = SESSION_FAILED;
        client->fail_rc = -ESHUTDOWN;
    }
    env_defer(client->env, &client->done_task, done_run); /* looks whether all is closed */
}

/* ---- telling */

uint64_t client_size(const struct client *client)
{
    return client->size;
}

uint32_t client_in_flight(const struct client *client)
{
    return client->requests_count;
}

const struct client_stats *client_stats(const struct client *client)
{
    return &client->stats;
}

const char *client_gateway(const struct client *client)
{
    return client->state == SESSION_READY ? client->addresses[client->address_at] : "";
}

const char *client_trouble(const struct client *client)
{
    return client->trouble;
}
