/* SPDX-License-Identifier: Apache-2.0 */
/* peers_path: by which transport our link to a node is made, and what happens when that does not work.
 *
 *   - auto: RDMA first; where it cannot be had, TCP at once, and the reason is kept for `ashlar status`;
 *   - a link that fell back stays on TCP while it is busy. RDMA is probed beside it, after one second (a daemon that starts
 *     may have refused because it did not listen by RDMA yet), then less and less often, every ten seconds at last; when
 *     the probe connects and nothing is under way, the TCP link is closed and made anew by RDMA;
 *   - rdma: RDMA or no link; tcp: never RDMA.
 * Failure modes: none of its own: a node that no transport reaches is down for us, and peers.c tries again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "server/replica/peers_internal.h"

#define LOG_MODULE "peers"
#define RDMA_AGAIN_MIN_NS ENV_MS(1000)
#define RDMA_AGAIN_MAX_NS ENV_MS(10000)

static bool may_rdma(const struct peer_out *out)
{
    const struct peers_config *cfg = &out->peers->cfg;
    out_assert(out);
    if (!cfg->rdma || cfg->kind == PEERS_TRANSPORT_TCP)
        return false;
    return cfg->kind == PEERS_TRANSPORT_RDMA || env_now_ns(out->peers->env) >= out->rdma_at_ns;
}

/* No RDMA for a while, each time for longer. */
static void rest(struct peer_out *out)
{
    uint64_t rest_ns = out->rdma_rest_ns * 2;
    assert(out->rdma_rest_ns <= RDMA_AGAIN_MAX_NS);
    rest_ns = rest_ns < RDMA_AGAIN_MIN_NS ? RDMA_AGAIN_MIN_NS : rest_ns;
    out->rdma_rest_ns = rest_ns > RDMA_AGAIN_MAX_NS ? RDMA_AGAIN_MAX_NS : rest_ns;
    out->rdma_at_ns = env_now_ns(out->peers->env) + out->rdma_rest_ns;
}

/* RDMA did not work: TCP is next, at once, unless it must not be. */
bool peers_path_failed(struct peer_out *out, int rc)
{
    struct peers *p = out->peers;
    assert(rc < 0);
    if (out->rdma_error != rc)
        log_at(p->cfg.kind == PEERS_TRANSPORT_RDMA ? LOG_WARN : LOG_INFO, "node %u cannot be reached by RDMA: %s; %s",
               out->node, strerror(-rc),
               p->cfg.kind == PEERS_TRANSPORT_RDMA ? "trying again (node.transport=rdma)" : "using TCP");
    out->rdma_error = rc;
    rest(out);
    return p->cfg.kind == PEERS_TRANSPORT_AUTO;
}

static int connect_to(struct peer_out *out, bool rdma, const struct link_callbacks *callbacks, struct link **ret_link)
{
    struct peers *p = out->peers;
    const struct map_node *node = map_node_by_id(p->cfg.map, out->node);
    char address[MAP_ADDRESS_MAX + 8];
    assert(node != NULL && ret_link != NULL);
    if (!rdma)
        return transport_connect(p->cfg.transport, node->data_address, callbacks, out, ret_link);
    const char *colon = strchr(node->data_address, ':'); /* "tcp:HOST:PORT": RDMA listens at the same */
    if (!colon)
        return -EINVAL;
    (void)snprintf(address, sizeof(address), "rdma%s", colon);
    return transport_connect(p->cfg.rdma, address, callbacks, out, ret_link);
}

int peers_path_connect(struct peer_out *out, const struct link_callbacks *callbacks)
{
    out_assert(out);
    out->by_rdma = may_rdma(out);
    int rc = connect_to(out, out->by_rdma, callbacks, &out->link);
    if (rc != 0 && out->by_rdma && peers_path_failed(out, rc)) {
        out->by_rdma = false;
        rc = connect_to(out, /* rdma= */ false, callbacks, &out->link);
    }
    assert(rc <= 0);
    return rc;
}

void peers_path_connect_done(struct peer_out *out)
{
    assert(out->link != NULL);
    if (!out->by_rdma)
        return;
    out->rdma_error = 0;
    out->rdma_rest_ns = 0;
}

static void probe_connected(struct link *link, void *owner)
{
    struct peer_out *out = owner;
    assert(out->probe == link);
    out->rdma_error = 0;
    out->rdma_at_ns = out->rdma_rest_ns = 0;
    link_close(link);
    if (out->state == OUT_UP && !out->by_rdma && list_empty(&out->order)) {
        log_info("node %u can be reached by RDMA again", out->node);
        out->retry_at_ns = 0;
        link_close(out->link);
    }
}

static void probe_message(struct link *link, void *owner, struct msg *msg)
{
    assert(link != NULL && owner != NULL);
    msg_free(msg);
}

static void probe_closed(struct link *link, void *owner, int reason)
{
    struct peer_out *out = owner;
    assert(out->probe == link && reason <= 0);
    out->probe = NULL;
    peers_link_gone(out->peers);
}

static const struct link_callbacks probe_callbacks = {
    .connected = probe_connected, .message = probe_message, .closed = probe_closed};

/* A link that fell back to TCP, and has nothing to do just now. */
void peers_path_tick(struct peer_out *out)
{
    struct peers *p = out->peers;
    out_assert(out);
    if (out->state != OUT_UP || out->by_rdma || out->probe || p->closing || !may_rdma(out) || !list_empty(&out->order))
        return;
    rest(out);
    if (connect_to(out, /* rdma= */ true, &probe_callbacks, &out->probe) == 0)
        p->links++;
    else
        out->probe = NULL;
}

void peers_without_rdma(struct peers *p, int reason)
{
    peers_assert(p);
    assert(reason < 0 && p->cfg.kind != PEERS_TRANSPORT_RDMA);
    p->cfg.rdma = NULL;
    for (uint32_t id = 1; id <= MAP_NODES_MAX; id++) {
        assert(!p->out[id].link && !p->out[id].probe);
        p->out[id].rdma_error = reason;
    }
}

void peers_link_info(const struct peers *p, uint32_t node, struct peers_link_info *ret_info)
{
    peers_assert(p);
    assert(node > 0 && node <= MAP_NODES_MAX);
    const struct peer_out *out = &p->out[node];
    *ret_info = (struct peers_link_info){.up = out->state == OUT_UP,
                                         .rdma = out->by_rdma,
                                         .rdma_error = out->by_rdma ? 0 : out->rdma_error,
                                         .link = out->link};
}
