/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_uv: the loop of a cluster handle, and who runs it.
 *
 * - ashlar_connect resolves the settings and starts the loop thread: loop, env, buffers, transport
 * - edge_post pushes a call; the push that finds the stack empty wakes whoever runs the loop, which takes the whole stack and
 *   runs it in the order of posting: one wake-up for all that came meanwhile
 * - a blocking caller that finds the loop free runs it itself until its request is done (edge_enter, edge_run_until): at
 *   depth 1 that saves both wake-ups between caller and loop thread. What is still under way then is left to the thread.
 * - ashlar_disconnect posts the end; the thread closes links and handles and is joined
 *
 *             a blocking caller enters                 its request is done, nothing else is under way
 *   THREAD ◀───────────── NOBODY ───────────▶ CALLER ───────────────▶ NOBODY
 *     │  somebody posts, or no    ▲              │ its request is done, something is under way: THREAD
 *     │  caller for IDLE_NS       │
 *     └──▶ the last request of a blocking caller ended
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
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "client/edge.h"
#include "common/env_uv.h"
#include "common/transport/tcp_uv.h"

#define POOL_BYTES (64u << 20)    /* address space; memory is touched when a payload first needs it */
#define IDLE_NS (2 * 1000 * 1000) /* after that long without a blocking caller the thread takes the loop back */

enum runner { RUNNER_NOBODY, RUNNER_THREAD, RUNNER_CALLER };

struct ashlar_cluster {
    pthread_t thread;
    pthread_mutex_t lock; /* of runner, wanted, entries: the loop goes from thread to thread under it */
    pthread_cond_t turn;  /* the thread's */
    enum runner runner;
    bool wanted;                  /* the thread shall run the loop when nobody does */
    uint64_t entries;             /* of blocking callers: the thread sees whether there are any */
    _Atomic(uintptr_t) runner_id; /* pthread_self() of who runs the loop */
    atomic_uint pending;          /* requests that have not ended */
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
    bool turning, stopping; /* by the loop; turning: it will see what is written to wake_fd */
};

static void wake_loop(struct ashlar_cluster *cluster)
{
    uint64_t one = 1;
    if (write(cluster->wake_fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN); /* the counter is full: it is readable */
}

void edge_post(struct ashlar_cluster *cluster, struct edge_call *call)
{
    struct edge_call *head = atomic_load_explicit(&cluster->inbox, memory_order_relaxed);
    do {
        call->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&cluster->inbox, &head, call, memory_order_release,
                                                    memory_order_relaxed));
    if (head) /* the first one wakes for all */
        return;
    if (edge_on_loop(cluster)) {
        if (cluster->turning) /* from a callback; else edge_run_until is still to come, and looks first */
            wake_loop(cluster);
        return;
    }
    (void)pthread_mutex_lock(&cluster->lock);
    if (cluster->runner == RUNNER_NOBODY) {
        cluster->wanted = true;
        (void)pthread_cond_signal(&cluster->turn);
    } else {
        wake_loop(cluster);
    }
    (void)pthread_mutex_unlock(&cluster->lock);
}

static void take_inbox(struct ashlar_cluster *cluster)
{
    struct edge_call *newest = atomic_exchange_explicit(&cluster->inbox, NULL, memory_order_acquire), *first = NULL;
    assert(edge_on_loop(cluster));
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

static void run_inbox(uv_poll_t *handle, int status, int events)
{
    struct ashlar_cluster *cluster = handle->data;
    uint64_t count;
    (void)status;
    (void)events;
    if (read(cluster->wake_fd, &count, sizeof(count)) < 0)
        assert(errno == EAGAIN || errno == EINTR);
    take_inbox(cluster);
}

bool edge_on_loop(const struct ashlar_cluster *cluster)
{
    return atomic_load_explicit(&cluster->runner_id, memory_order_relaxed) == (uintptr_t)pthread_self();
}

/* ---- who runs the loop */

/* lock held */
static void set_runner(struct ashlar_cluster *cluster, enum runner runner)
{
    assert((cluster->runner == RUNNER_NOBODY) != (runner == RUNNER_NOBODY));
    cluster->runner = runner;
    atomic_store_explicit(&cluster->runner_id, runner == RUNNER_NOBODY ? 0 : (uintptr_t)pthread_self(),
                          memory_order_relaxed);
}

/* Whoever finds the inbox empty under the lock may leave: the next post sees that nobody is there. Returns with the lock. */
static void leave_loop(struct ashlar_cluster *cluster)
{
    bool more = false;
    assert(edge_on_loop(cluster));
    for (;;) {
        (void)pthread_mutex_lock(&cluster->lock);
        if (!atomic_load_explicit(&cluster->inbox, memory_order_acquire))
            break;
        (void)pthread_mutex_unlock(&cluster->lock);
        take_inbox(cluster);
        more = true;
    }
    cluster->wanted |= more; /* what they began has to go on */
    set_runner(cluster, RUNNER_NOBODY);
}

bool edge_enter(struct ashlar_cluster *cluster)
{
    if (atomic_load_explicit(&cluster->runner_id, memory_order_relaxed) != 0)
        return false;
    (void)pthread_mutex_lock(&cluster->lock);
    bool free = cluster->runner == RUNNER_NOBODY && !cluster->wanted;
    if (free) {
        set_runner(cluster, RUNNER_CALLER);
        cluster->entries++;
    }
    (void)pthread_mutex_unlock(&cluster->lock);
    return free;
}

void edge_run_until(struct ashlar_cluster *cluster, const bool *done)
{
    assert(cluster->runner == RUNNER_CALLER && edge_on_loop(cluster));
    cluster->turning = true;
    take_inbox(cluster);
    while (!*done)
        (void)uv_run(&cluster->loop, UV_RUN_ONCE);
    cluster->turning = false;
    leave_loop(cluster);
    if (cluster->wanted || atomic_load_explicit(&cluster->pending, memory_order_relaxed) > 0) {
        cluster->wanted = true;
        (void)pthread_cond_signal(&cluster->turn);
    }
    (void)pthread_mutex_unlock(&cluster->lock);
}

void edge_request_begun(struct ashlar_cluster *cluster)
{
    (void)atomic_fetch_add_explicit(&cluster->pending, 1, memory_order_relaxed);
}

void edge_request_ended(struct ashlar_cluster *cluster, bool blocking)
{
    unsigned before = atomic_fetch_sub_explicit(&cluster->pending, 1, memory_order_relaxed);
    assert(before > 0 && edge_on_loop(cluster));
    if (before == 1 && blocking)
        uv_stop(&cluster->loop); /* the next blocking caller may run it */
}

/* lock held. Until somebody posted or no blocking caller came for IDLE_NS. */
static void await_turn(struct ashlar_cluster *cluster)
{
    assert(cluster->runner != RUNNER_THREAD);
    while (!cluster->wanted || cluster->runner != RUNNER_NOBODY) {
        uint64_t entries = cluster->entries;
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += IDLE_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        int rc = pthread_cond_timedwait(&cluster->turn, &cluster->lock, &until);
        assert(rc == 0 || rc == ETIMEDOUT);
        if (rc == ETIMEDOUT && cluster->runner == RUNNER_NOBODY && cluster->entries == entries)
            break;
    }
    cluster->wanted = false;
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
    bool again = true;
    (void)pthread_mutex_lock(&cluster->lock);
    while (again) {
        await_turn(cluster);
        set_runner(cluster, RUNNER_THREAD);
        (void)pthread_mutex_unlock(&cluster->lock);
        cluster->turning = true;
        take_inbox(cluster);
        if (!cluster->stopping)
            (void)uv_run(&cluster->loop, UV_RUN_DEFAULT); /* until uv_stop */
        cluster->turning = false;
        leave_loop(cluster);
        again = !cluster->stopping;
    }
    set_runner(cluster, RUNNER_THREAD);
    (void)pthread_mutex_unlock(&cluster->lock);
    stream_transport_shutdown(cluster->transport);
    while (stream_transport_live(cluster->transport) > 0)
        (void)uv_run(&cluster->loop, UV_RUN_ONCE);
    stream_transport_destroy(cluster->transport);
    env_uv_destroy(cluster->env);
    uv_close((uv_handle_t *)&cluster->wake, NULL);
    while (uv_run(&cluster->loop, UV_RUN_DEFAULT) !=
           0) /* a stop that no run has noticed yet ends the first one at once */
        ;
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

static void init_locks(struct ashlar_cluster *cluster)
{
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);
    assert(rc == 0);
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    assert(rc == 0);
    rc = pthread_cond_init(&cluster->turn, &attributes);
    assert(rc == 0);
    rc = pthread_mutex_init(&cluster->lock, NULL);
    assert(rc == 0);
    (void)pthread_condattr_destroy(&attributes);
}

static int open_loop(struct ashlar_cluster *cluster)
{
    int rc = uv_loop_init(&cluster->loop);
    if (rc < 0)
        return rc;
    init_locks(cluster);
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
    (void)pthread_cond_destroy(&cluster->turn);
    (void)pthread_mutex_destroy(&cluster->lock);
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
