/* SPDX-License-Identifier: Apache-2.0 */
/* core_size: how large the volume is now.
 *
 * - the answers to ATTACH and to each PING tell it (size_learn); a volume that is attached only grows
 * - client_ask_size: the answer to a PING that is sent after the question ends it; so what had grown by then is seen
 * - a session that ends takes its PING along: the next one sends another (session_ready, size_ask)
 *
 * A question is no request: it goes past the window, because it must be answered while requests wait for a shard.
 * Failure: -ETIMEDOUT, or what all requests end with; what the gateway tells wrongly is not believed.
 */
#include <assert.h>
#include <errno.h>

#include "client/core_internal.h"

int size_learn(struct client *client, uint64_t size)
{
    if (size <= client->size)
        return 0;
    if (size % WIRE_BLOCK_BYTES != 0)
        return -EINVAL;
    int rc = loss_resize(client, size);
    if (rc == 0)
        client->size = size;
    return rc;
}

static void ask_end(struct client *client, struct client_ask *ask, int rc)
{
    assert(rc <= 0);
    list_remove(&ask->link);
    ask->rc = rc;
    list_push_back(&client->asks_done, &ask->link);
    env_defer(client->env, &client->done_task, client->done_task.cb);
}

void client_ask_size(struct client *client, struct client_ask *ask)
{
    assert(ask->cb != NULL && client->cfg.volume[0] != '\0');
    assert(client->opened);
    *ask = (struct client_ask){.timeout_ns = ask->timeout_ns, .cb = ask->cb, .owner = ask->owner};
    ask->until_ns = env_now_ns(client->env) + ask->timeout_ns;
    list_push_back(&client->asks, &ask->link);
    if (client->closing)
        ask_end(client, ask, -ESHUTDOWN);
    else if (client->state == SESSION_FAILED)
        ask_end(client, ask, client->fail_rc);
    else if (client->state == SESSION_READY)
        ask->ping = session_ping(client);
}

void size_ask(struct client *client)
{
    uint64_t ping = list_empty(&client->asks) ? 0 : session_ping(client);
    list_for_each(pos, &client->asks) list_entry(pos, struct client_ask, link)->ping = ping;
}

void size_answered(struct client *client, const struct msg *msg)
{
    uint64_t answered = msg->header.request_id;
    if (client->state != SESSION_READY || client->cfg.volume[0] == '\0')
        return;
    if (msg->header.status == 0 && msg->header.session == client->session && msg->header.volume == client->volume)
        (void)size_learn(client, msg->header.length); /* 0: of an older version, which does not tell */
    list_for_each_safe(pos, tmp, &client->asks)
    {
        struct client_ask *ask = list_entry(pos, struct client_ask, link);
        if (ask->ping != 0 && ask->ping <= answered) /* answers come in order */
            ask_end(client, ask, 0);
    }
}

void size_tick(struct client *client, uint64_t now_ns)
{
    list_for_each_safe(pos, tmp, &client->asks)
    {
        struct client_ask *ask = list_entry(pos, struct client_ask, link);
        if (now_ns >= ask->until_ns)
            ask_end(client, ask, -ETIMEDOUT);
        else if (ask->ping == 0 && client->state == SESSION_READY)
            ask->ping = session_ping(client);
    }
}

void size_fail(struct client *client, int rc)
{
    assert(rc < 0);
    while (!list_empty(&client->asks))
        ask_end(client, list_entry(client->asks.next, struct client_ask, link), rc);
}

void size_done(struct client *client)
{
    struct list_node *node;
    while ((node = list_pop_front(&client->asks_done))) {
        struct client_ask *ask = list_entry(node, struct client_ask, link);
        ask->cb(ask, ask->rc); /* it may be gone */
    }
}
