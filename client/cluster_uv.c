/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_uv: the loop thread of a cluster handle.
 *
 * - ashlar_connect resolves the settings and starts the thread: loop, env, buffers, transport
 * - edge_post pushes a call; the push that finds the stack empty wakes the loop, which takes the whole stack and runs it in the
 *   order of posting: one wake-up for all that came meanwhile
 * - ashlar_disconnect posts the end; the thread closes links and handles and is joined
 *
 * Failure: no thread, memory or descriptors: ashlar_connect fails. All signals are blocked on the thread: they are the
 * caller's.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uv.h>

#include "client/edge.h"
#include "common/env_uv.h"
#include "common/transport/tcp_uv.h"

#define POOL_BYTES (64u << 20) /* address space; memory is touched when a payload first needs it */

struct ashlar_cluster {
    pthread_t thread;
    uv_loop_t loop;
    int wake_fd; /* eventfd: uv_async_t spins when the loop is awake before the sender is back from its write */
    uv_poll_t wake;
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct edge_settings settings;
    _Atomic(struct edge_call *) inbox; /* newest first */
    atomic_int volumes;
    struct edge_call stop;
    bool stopping; /* loop thread only */
};

void edge_post(struct ashlar_cluster *cluster, struct edge_call *call)
{
    struct edge_call *head = atomic_load_explicit(&cluster->inbox, memory_order_relaxed);
    do {
        call->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&cluster->inbox, &head, call, memory_order_release,
                                                    memory_order_relaxed));
    uint64_t one = 1;
    if (!head && write(cluster->wake_fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN); /* the counter is full: it is readable */
}

static void run_inbox(uv_poll_t *handle, int status, int events)
{
    struct ashlar_cluster *cluster = handle->data;
    uint64_t count;
    (void)status;
    (void)events;
    if (read(cluster->wake_fd, &count, sizeof(count)) < 0)
        assert(errno == EAGAIN || errno == EINTR);
    struct edge_call *newest = atomic_exchange_explicit(&cluster->inbox, NULL, memory_order_acquire), *first = NULL;
    while (newest) { /* into the order of posting */
        struct edge_call *next = newest->next;
        newest->next = first;
        first = newest;
        newest = next;
    }
    while (first) {
        struct edge_call *call = first;
        first = first->next; /* run may free it */
        call->run(call);
    }
}

bool edge_on_loop(const struct ashlar_cluster *cluster)
{
    return pthread_equal(pthread_self(), cluster->thread);
}

struct env *edge_env(struct ashlar_cluster *cluster)
{
    return cluster->env;
}

struct transport *edge_transport(struct ashlar_cluster *cluster)
{
    return cluster->transport;
}

const struct edge_settings *edge_settings(const struct ashlar_cluster *cluster)
{
    return &cluster->settings;
}

void edge_volume_opened(struct ashlar_cluster *cluster, int delta)
{
    int before = atomic_fetch_add(&cluster->volumes, delta);
    assert(before + delta >= 0);
}

/* ---- the thread */

static void *loop_thread(void *arg)
{
    struct ashlar_cluster *cluster = arg;
    while (!cluster->stopping)
        (void)uv_run(&cluster->loop, UV_RUN_DEFAULT); /* until uv_stop */
    stream_transport_shutdown(cluster->transport);
    while (stream_transport_live(cluster->transport) > 0)
        (void)uv_run(&cluster->loop, UV_RUN_ONCE);
    stream_transport_destroy(cluster->transport);
    env_uv_destroy(cluster->env);
    uv_close((uv_handle_t *)&cluster->wake, NULL);
    (void)uv_run(&cluster->loop, UV_RUN_DEFAULT);
    return NULL;
}

static int start_thread(struct ashlar_cluster *cluster)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &before);
    assert(rc == 0);
    rc = pthread_create(&cluster->thread, NULL, loop_thread, cluster);
    int restored = pthread_sigmask(SIG_SETMASK, &before, NULL);
    assert(restored == 0);
    return -rc;
}

static int open_loop(struct ashlar_cluster *cluster)
{
    int rc = uv_loop_init(&cluster->loop);
    if (rc < 0)
        return rc;
    cluster->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    rc = cluster->wake_fd < 0 ? -errno : uv_poll_init(&cluster->loop, &cluster->wake, cluster->wake_fd);
    if (rc < 0)
        goto err_after_loop;
    cluster->wake.data = cluster;
    rc = uv_poll_start(&cluster->wake, UV_READABLE, run_inbox);
    if (rc < 0)
        goto err_after_wake;
    rc = env_uv_create(&cluster->loop, /* seed= */ 0, &cluster->env);
    if (rc < 0)
        goto err_after_wake;
    cluster->pool = buf_pool_create(POOL_BYTES);
    rc =
        cluster->pool ? transport_uv_create(&cluster->loop, cluster->env, cluster->pool, &cluster->transport) : -ENOMEM;
    if (rc < 0)
        goto err_after_env;
    return 0;

err_after_env:
    buf_pool_destroy(cluster->pool);
    env_uv_destroy(cluster->env);
err_after_wake:
    uv_close((uv_handle_t *)&cluster->wake, NULL);
    (void)uv_run(&cluster->loop, UV_RUN_DEFAULT);
err_after_loop:
    (void)uv_loop_close(&cluster->loop);
    if (cluster->wake_fd >= 0)
        (void)close(cluster->wake_fd);
    assert(rc < 0);
    return rc;
}

static void close_loop(struct ashlar_cluster *cluster)
{
    int rc = uv_loop_close(&cluster->loop);
    assert(rc == 0);
    (void)close(cluster->wake_fd);
    buf_pool_destroy(cluster->pool);
    free(cluster);
}

int ashlar_connect(const struct ashlar_options *options, struct ashlar_cluster **ret_cluster)
{
    edge_error_clear();
    struct ashlar_cluster *cluster = calloc(1, sizeof(*cluster));
    if (!cluster)
        return edge_error(-ENOMEM, "out of memory");
    int rc = edge_settings_read(options, &cluster->settings);
    if (rc < 0)
        goto err_after_alloc;
    rc = open_loop(cluster);
    if (rc < 0) {
        (void)edge_error(rc, "no event loop: %s", strerror(-rc));
        goto err_after_alloc;
    }
    rc = start_thread(cluster);
    if (rc < 0) {
        (void)edge_error(rc, "no thread: %s", strerror(-rc));
        goto err_after_loop;
    }
    *ret_cluster = cluster;
    return 0;

err_after_loop:
    cluster->stopping = true;
    (void)loop_thread(cluster);
    close_loop(cluster);
    return rc;
err_after_alloc:
    free(cluster);
    assert(rc < 0);
    return rc;
}

static void stop_run(struct edge_call *call)
{
    struct ashlar_cluster *cluster = list_entry(call, struct ashlar_cluster, stop);
    cluster->stopping = true;
    uv_stop(&cluster->loop);
}

void ashlar_disconnect(struct ashlar_cluster *cluster)
{
    if (!cluster)
        return;
    assert(!edge_on_loop(cluster) && "ashlar_disconnect in a callback");
    assert(atomic_load(&cluster->volumes) == 0 && "ashlar_disconnect before ashlar_close");
    cluster->stop.run = stop_run;
    edge_post(cluster, &cluster->stop);
    int rc = pthread_join(cluster->thread, NULL);
    assert(rc == 0);
    close_loop(cluster);
}
