/* SPDX-License-Identifier: Apache-2.0 */
/* data_stop: the data thread takes everything down, from the clients to the drive.
 *
 *   - no new links; clients' links close, what they asked for ends (gateway)
 *   - replicas take nothing any more, step down and become quiet: every drive write they accepted is done
 *   - links of peers close; the store closes clean; whatever links are left go
 *   - `ended` is told, and the loop turns until the control thread says that no mail comes any more
 * Failure modes: a store that failed, or whose last unclean stop nobody was told of yet, is not closed clean (R1). What
 * never becomes quiet is the control thread's to notice: its deadline ends the process.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/transport/rdma.h"
#include "common/transport/stream.h"
#include "server/daemon/data_internal.h"

#define LOG_MODULE "daemon"
#define POLL_NS ENV_MS(5)

static void links_poll(struct env_timer *timer)
{
    struct data_thread *d = list_entry(timer, struct data_thread, stop_timer);
    assert(!d->store && !d->peers);
    assert(d->state == DATA_STOPPING);
    if (stream_transport_live(d->transport) > 0 || d->accepting_count > 0 ||
        (d->rdma && transport_rdma_live(d->rdma) > 0)) {
        env_timer_start(d->env, &d->stop_timer, POLL_NS, links_poll);
        return;
    }
    env_timer_stop(d->env, &d->alive_timer);
    d->state = DATA_ENDED;
    data_tell_ended(d, d->stop_rc);
}

static void stop_links(struct data_thread *d)
{
    assert(d->state == DATA_STOPPING);
    assert(!d->store && !d->peers);
    stream_transport_shutdown(d->transport);
    if (d->rdma)
        transport_rdma_shutdown(d->rdma);
    env_timer_start(d->env, &d->stop_timer, POLL_NS, links_poll);
}

static void store_closed(void *arg)
{
    struct data_thread *d = arg;
    assert(d->state == DATA_STOPPING);
    assert(d->store);
    d->store = NULL;
    stop_links(d);
}

/* R1: an unclean stop must be told to the cluster; until this life registered, the last one's stop stands. */
static bool may_close_clean(const struct data_thread *d)
{
    assert(d->state == DATA_STOPPING);
    assert(d->store);
    return !d->store_failed && d->stop_rc == 0 && (d->incarnation || d->opened.stop == STORE_STOP_CLEAN);
}

static void stop_store(struct data_thread *d)
{
    assert(!d->replicas && !d->peers);
    if (!d->store) {
        stop_links(d);
        return;
    }
    bool clean = may_close_clean(d);
    if (d->store_failed)
        d->stop_rc = -EIO;
    log_debug("closing the store clean=%s", clean ? "yes" : "no");
    store_close(d->store, clean, store_closed, d);
}

static void peers_closed(void *arg)
{
    struct data_thread *d = arg;
    assert(!d->peers);
    assert(!d->replicas);
    stop_store(d);
}

static void stop_peers(struct data_thread *d)
{
    struct peers *peers = d->peers;
    assert(!d->replicas && !d->gateway);
    d->peers = NULL;
    if (peers)
        peers_close(peers, peers_closed, d);
    else
        stop_store(d);
}

static void replicas_poll(struct env_timer *timer)
{
    struct data_thread *d = list_entry(timer, struct data_thread, stop_timer);
    assert(!d->gateway);
    assert(d->state == DATA_STOPPING && d->replicas);
    if (!replicas_quiet(d->replicas)) {
        env_timer_start(d->env, &d->stop_timer, POLL_NS, replicas_poll);
        return;
    }
    struct replicas *replicas = d->replicas;
    d->replicas = NULL;
    replicas_destroy(replicas);
    data_proposals_forget(d);
    stop_peers(d);
}

static void gateway_closed(void *arg)
{
    struct data_thread *d = arg;
    assert(d->state == DATA_STOPPING);
    assert(!d->gateway);
    if (d->replicas)
        env_timer_start(d->env, &d->stop_timer, 0, replicas_poll);
    else
        stop_peers(d);
}

void data_stop(struct data_thread *d)
{
    if (d->state == DATA_STOPPING || d->state == DATA_ENDED)
        return;
    if (d->store_opening) { /* how its last life ended must be known before it is closed (R1) */
        d->stop_wanted = true;
        return;
    }
    struct gateway *gateway = d->gateway;
    assert(d->state == DATA_SERVING || !d->tcp_listener || d->stop_rc < 0);
    log_info("stopping");
    d->state = DATA_STOPPING;
    map_set_observer(d->map, &(struct map_observer){.arg = NULL});
    data_unlisten(d);
    d->gateway = NULL;
    if (d->replicas)
        replicas_stop(d->replicas);
    if (gateway)
        gateway_close(gateway, gateway_closed, d);
    else
        gateway_closed(d);
}
