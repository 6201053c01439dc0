/* SPDX-License-Identifier: Apache-2.0 */
/* daemon: one ashlard from start to end.
 *
 *   - loop, mailbox, data thread, bridge; the data thread opens the store
 *   - opened: the control side starts (daemon_control.c): consensus, control core, registration
 *   - SIGTERM: leadership is handed over, the data thread takes itself down, then the control side, then the loop
 * Failure modes: what fails at start is one line and status 1. A stop that gets stuck for three seconds does without the
 * cluster; after ten the process ends as it is, which is a death that the next start recovers from.
 */
#include "server/daemon/daemon.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/env_uv.h"
#include "common/list.h"
#include "common/log.h"
#include "common/transport/stream.h"
#include "common/transport/tcp_uv.h"
#include "server/daemon/daemon_internal.h"

#define LOG_MODULE "daemon"

/* ---- stop */

static void patience_ended(struct env_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, patience_timer);
    assert(d->stopping);
    assert(d->bridge);
    if (!d->data_ended)
        log_warn("the stop takes long, going on without the cluster");
    daemon_control_end(d);
}

static void deadline_passed(struct env_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, deadline_timer);
    assert(d->stopping);
    assert(!d->data_ended || !d->control_ended);
    log_error("could not stop in order within %u s, ending as if killed data_ended=%d control_ended=%d",
              DAEMON_DEADLINE_MS / 1000, d->data_ended, d->control_ended);
    _exit(1);
}

static void leave_loop_if_ended(struct daemon *d)
{
    assert(d->stopping);
    if ((d->data_ended || !d->data_started) && d->control_ended)
        uv_stop(&d->loop);
}

void daemon_control_ended(struct daemon *d)
{
    assert(d->control_ending && !d->control_ended);
    assert(d->stopping);
    d->control_ended = true;
    leave_loop_if_ended(d);
}

void daemon_stop(struct daemon *d, int status)
{
    if (status > d->status)
        d->status = status;
    if (d->stopping)
        return;
    d->stopping = true;
    assert(d->env && d->bridge);
    assert(!d->control_ending);
    env_timer_start(d->env, &d->patience_timer, ENV_MS(DAEMON_PATIENCE_MS), patience_ended);
    env_timer_start(d->env, &d->deadline_timer, ENV_MS(DAEMON_DEADLINE_MS), deadline_passed);
    struct control_log *log = d->log ? daemon_log_base(d->log) : NULL;
    if (log && d->settings->voter_count > 1 && log->ops->is_leader(log))
        (void)log->ops->transfer(log); /* nobody has to notice our silence first */
    struct bridge_to_data *data = daemon_bridge_to_data(d->bridge);
    if (!d->data_started)
        daemon_control_end(d);
    else if (!d->data_ended) /* it may be what ended by itself: its callback goes on then */
        data->ops->stop(data);
}

/* ---- the data thread's callbacks */

static void data_opened_cb(void *arg, int rc)
{
    struct daemon *d = arg;
    assert(rc <= 0);
    assert(d->data_started && !d->control);
    if (d->stopping)
        return;
    if (rc == 0)
        rc = daemon_control_start(d);
    if (rc < 0)
        daemon_stop(d, 1);
}

static void data_start_anew(void *arg)
{
    struct daemon *d = arg;
    assert(d->bridge);
    assert(d->data_started);
    if (!d->stopping)
        d->start_anew = true;
    daemon_stop(d, 0);
}

static void data_ended_cb(void *arg, int rc)
{
    struct daemon *d = arg;
    assert(!d->data_ended);
    if (rc < 0)
        d->status = 1;
    assert(d->data_started);
    d->data_ended = true;
    if (!d->stopping)
        daemon_stop(d, 1);
    daemon_control_end(d);
    if (d->control_ended)
        leave_loop_if_ended(d);
}

/* ---- signals */

static void signalled(uv_signal_t *handle, int signum)
{
    struct daemon *d = handle->data;
    assert(signum == SIGTERM || signum == SIGINT || signum == SIGHUP);
    assert(d->settings);
    if (signum != SIGHUP) {
        log_info("stopping signal=%s", signum == SIGTERM ? "SIGTERM" : "SIGINT");
        daemon_stop(d, 0);
    } else if (d->settings->log_file[0]) {
        int rc = log_to_file(d->settings->log_file);
        if (rc < 0)
            log_error("cannot reopen the log file=%s error=\"%s\"", d->settings->log_file, strerror(-rc));
    }
}

static int watch_signals(struct daemon *d)
{
    static const int numbers[DAEMON_SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    assert(d->signal_count == 0);
    assert(d->loop_open);
    for (uint32_t i = 0; i < DAEMON_SIGNALS; i++) {
        int rc = uv_signal_init(&d->loop, &d->signals[i]);
        if (rc < 0)
            return rc;
        d->signal_count++;
        d->signals[i].data = d;
        rc = uv_signal_start(&d->signals[i], signalled, numbers[i]);
        if (rc < 0)
            return rc;
        uv_unref((uv_handle_t *)&d->signals[i]);
    }
    return 0;
}

/* ---- life */

static int make_rundir(const struct settings *settings)
{
    assert(settings);
    if (!settings->rundir[0] || mkdir(settings->rundir, 0755) == 0 || errno == EEXIST)
        return 0;
    int rc = -errno;
    log_error("cannot make node.rundir %s error=\"%s\"", settings->rundir, strerror(-rc));
    return rc;
}

/* Two sockets a client and a peer, and RocksDB's files. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    int rc = getrlimit(RLIMIT_NOFILE, &limit);
    assert(rc == 0);
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_control_thread(struct daemon *d)
{
    int rc = uv_loop_init(&d->loop);
    if (rc < 0)
        return rc;
    d->loop_open = true;
    rc = env_uv_create(&d->loop, 0, &d->env);
    if (rc < 0)
        return rc;
    rc = mailbox_init(&d->box, &d->loop);
    if (rc < 0)
        return rc;
    d->box_open = true;
    d->pool = buf_pool_create(DAEMON_CONTROL_BUFFER_BYTES);
    if (!d->pool)
        return -ENOMEM;
    rc = transport_uv_create(&d->loop, d->env, d->pool, &d->transport);
    assert(rc <= 0);
    if (rc < 0)
        return rc;
    spare_memory_start(&d->spare, d->env);
    return watch_signals(d);
}

static int open_data_thread(struct daemon *d)
{
    struct data_thread_config config = {.settings = d->settings,
                                        .control_box = &d->box,
                                        .busy_wait_ms = d->started_anew ? DAEMON_BUSY_WAIT_MS : 0,
                                        .opened = data_opened_cb,
                                        .start_anew = data_start_anew,
                                        .ended = data_ended_cb,
                                        .arg = d};
    assert(d->box_open && !d->data);
    int rc = data_thread_create(&config, &d->data);
    if (rc < 0)
        return rc;
    struct daemon_bridge_config bridge = {.data_loop = data_thread_loop(d->data),
                                          .control_box = &d->box,
                                          .data = data_thread_receiver(d->data),
                                          .before_result = data_thread_before_result,
                                          .arg = d->data};
    rc = daemon_bridge_create(&bridge, &d->bridge);
    if (rc < 0)
        return rc;
    rc = data_thread_start(d->data, daemon_bridge_to_control(d->bridge));
    d->data_started = rc == 0;
    return rc;
}

static void close_threads(struct daemon *d)
{
    assert(!d->data_started || d->data_ended);
    assert(!d->data_started || d->control_ended);
    daemon_control_destroy(d);
    if (d->data_started) {
        data_thread_join(d->data);
        daemon_bridge_data_ended(d->bridge);
    }
    if (d->box_open)
        mailbox_close(&d->box);
    data_thread_destroy(d->data);
    daemon_bridge_destroy(d->bridge);
}

static void close_loop(struct daemon *d)
{
    assert(d->loop_open);
    assert(!d->data_started || d->data_ended);
    spare_memory_stop(&d->spare);
    if (d->transport) {
        stream_transport_shutdown(d->transport);
        while (stream_transport_live(d->transport) > 0)
            (void)uv_run(&d->loop, UV_RUN_ONCE);
        stream_transport_destroy(d->transport);
    }
    for (uint32_t i = 0; i < d->signal_count; i++)
        uv_close((uv_handle_t *)&d->signals[i], NULL);
    env_uv_destroy(d->env);
    (void)uv_run(&d->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&d->loop);
    assert(rc == 0);
    buf_pool_destroy(d->pool);
}

int daemon_run(const struct settings *settings, bool started_anew, bool *ret_start_anew)
{
    struct daemon *d = calloc(1, sizeof(*d));
    assert(settings && ret_start_anew);
    if (!d)
        return 1;
    d->settings = settings;
    d->started_anew = started_anew;
    (void)signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    int rc = make_rundir(settings);
    if (rc == 0)
        rc = open_control_thread(d);
    if (rc == 0)
        rc = open_data_thread(d);
    if (rc == 0) {
        (void)uv_run(&d->loop, UV_RUN_DEFAULT);
        assert(d->stopping && d->control_ended);
    } else {
        log_error("cannot start error=\"%s\"", strerror(-rc));
        d->status = 1;
    }
    close_threads(d);
    if (d->loop_open)
        close_loop(d);
    int status = d->status;
    *ret_start_anew = d->start_anew && status == 0;
    free(d);
    assert(status == 0 || status == 1);
    return status;
}
