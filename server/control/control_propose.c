/* SPDX-License-Identifier: Apache-2.0 */
/* control_propose: entries this core wants committed, until there is a result.
 *
 * - each has a request id: however often it is sent, and to however many leaders, it is applied once (map.h)
 * - it is sent to the leader at once, again when the leader changes or its link comes back, and each CONTROL_RESEND_NS
 * - it is done when the leader answered, this node's map has the entry, and the data thread was fed with it: whoever hears the
 *   result sees its effect. Entries but sessions and resizes are also done when our own
 *   map shows the result.
 *
 * Failure: -ESHUTDOWN when the core stops; -EPERM, -EBADMSG, -EMSGSIZE from the leader; nothing else ends a proposal.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "control"
#include "common/log.h"
#include "server/control/control_state.h"

static void finish(struct control *c, struct control_proposal *p, const struct map_result *result)
{
    assert(c->proposal_count > 0);
    assert(!list_linked(&p->node_link));
    c->proposal_count--;
    if (p->cb)
        p->cb(p->arg, result);
    free(p->bytes);
    free(p);
}

static void send_proposal(struct control *c, struct control_proposal *p)
{
    assert(c != NULL);
    assert(!p->answered);
    p->resend_ns = control_now(c) + CONTROL_RESEND_NS;
    if (c->leading) {
        control_submit(c, /* conn= */ 0, p->serial, p->bytes, p->len);
        return;
    }
    struct wire_header header = {.opcode = WIRE_CTL_PROPOSE, .request_id = p->serial, .body_len = (uint32_t)p->len};
    (void)control_peer_send(c, control_leader_node(c), &header, p->bytes);
}

int control_propose(struct control *c, const void *bytes, size_t len,
                    void (*cb)(void *arg, const struct map_result *result), void *arg)
{
    static const uint8_t none[16];
    assert(len <= MAP_ENTRY_BYTES_MAX);
    if (len < MAP_ENTRY_HEADER_BYTES)
        return -EBADMSG;
    if (c->stopping || c->dead)
        return -ESHUTDOWN;
    if (c->proposal_count >= CONTROL_PROPOSALS_MAX)
        return -EAGAIN;
    struct control_proposal *p = calloc(1, sizeof *p);
    uint8_t *copy = malloc(len);
    if (!p || !copy) {
        free(p);
        free(copy);
        return -ENOMEM;
    }
    memcpy(copy, bytes, len);
    (void)map_entry_request(copy, len, p->request);
    if (memcmp(p->request, none, sizeof none) == 0) {
        uint64_t random[2] = {env_random(c->env), env_random(c->env)};
        memcpy(p->request, random, sizeof p->request);
        p->request[0] |= 1;
        (void)map_entry_set_request(copy, len, p->request);
    }
    p->serial = control_id(c);
    p->bytes = copy;
    p->len = len;
    p->awaited = copy[1] == MAP_ENTRY_SESSION_OPEN || copy[1] == MAP_ENTRY_VOLUME_RESIZE;
    p->cb = cb;
    p->arg = arg;
    p->resend_ns = 0; /* by the next turn */
    list_push_back(&c->proposals, &p->node_link);
    c->proposal_count++;
    control_wake(c);
    assert(c->proposal_count <= CONTROL_PROPOSALS_MAX);
    return 0;
}

int control_propose_entry(struct control *c, const struct map_entry *entry,
                          void (*cb)(void *arg, const struct map_result *result), void *arg)
{
    uint8_t *bytes = malloc(MAP_ENTRY_BYTES_MAX);
    assert(entry->kind != 0);
    if (!bytes)
        return -ENOMEM;
    int rc = map_entry_encode(entry, bytes, MAP_ENTRY_BYTES_MAX);
    if (rc > 0)
        rc = control_propose(c, bytes, (size_t)rc, cb, arg);
    free(bytes);
    assert(rc <= 0);
    return rc;
}

/* May p->cb be called now? Fed: the data thread was given the entry. */
static bool complete(struct control *c, struct control_proposal *p)
{
    assert(c != NULL);
    if (!p->answered && !p->awaited && map_request_result(c->map, p->request, &p->result))
        p->answered = true;
    if (!p->answered)
        return false;
    assert(p->result.rc <= 0);
    return c->data_version >= p->result.version;
}

void control_propose_turn(struct control *c)
{
    struct list_node done;
    list_head_init(&done);
    list_for_each_safe(node, tmp, &c->proposals)
    {
        struct control_proposal *p = list_entry(node, struct control_proposal, node_link);
        if (complete(c, p)) {
            list_remove(&p->node_link);
            list_push_back(&done, &p->node_link);
        } else if (!p->answered && p->resend_ns == 0) {
            send_proposal(c, p);
        }
    }
    while (!list_empty(&done)) {
        struct control_proposal *p = list_entry(list_pop_front(&done), struct control_proposal, node_link);
        struct map_result result = p->result;
        assert(p->answered);
        finish(c, p, &result);
    }
    assert(list_empty(&done));
}

void control_propose_tick(struct control *c)
{
    assert(c != NULL);
    uint64_t now = control_now(c);
    assert(c->started);
    list_for_each(node, &c->proposals)
    {
        struct control_proposal *p = list_entry(node, struct control_proposal, node_link);
        if (!p->answered && now >= p->resend_ns)
            p->resend_ns = 0; /* the turn after this tick sends it */
    }
}

void control_propose_resend(struct control *c)
{
    assert(c != NULL);
    assert(c->env != NULL);
    list_for_each(node, &c->proposals) list_entry(node, struct control_proposal, node_link)->resend_ns = 0;
    control_wake(c);
}

/* The leader, or whoever we took for it, has spoken. status 0: result holds; otherwise it is not (yet) done. */
void control_propose_done(struct control *c, uint64_t serial, int status, uint32_t leader,
                          const struct map_result *result)
{
    assert(c != NULL);
    (void)leader;
    list_for_each(node, &c->proposals)
    {
        struct control_proposal *p = list_entry(node, struct control_proposal, node_link);
        if (p->serial != serial || p->answered)
            continue;
        if (status == 0) {
            p->answered = true;
            p->result = *result;
        } else if (status == -EPERM || status == -EBADMSG || status == -EMSGSIZE) {
            p->answered = true;
            p->result = (struct map_result){.rc = status};
        } /* -EAGAIN, -EBUSY, ...: again later */
        assert(p->result.rc <= 0);
        control_wake(c);
        return;
    }
}

void control_propose_answer(struct control *c, uint32_t from, const struct wire_header *reply, const void *body)
{
    assert(c != NULL);
    struct map_result result = {0};
    assert(from != 0);
    if (reply->status == -EAGAIN)
        control_leader_hint(c, from, (uint32_t)reply->aux);
    else
        c->leader_answered_ns = control_now(c);
    if (reply->status == 0 && !body)
        return;
    if (reply->status == 0)
        control_submit_result_decode(body, &result);
    if (result.rc <= 0)
        control_propose_done(c, reply->request_id, reply->status, (uint32_t)reply->aux, &result);
}

void control_propose_close(struct control *c)
{
    struct map_result result = {.rc = -ESHUTDOWN};
    assert(c->stopping);
    while (!list_empty(&c->proposals))
        finish(c, list_entry(list_pop_front(&c->proposals), struct control_proposal, node_link), &result);
    assert(c->proposal_count == 0);
}
