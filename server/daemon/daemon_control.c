/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_control: the control side of a daemon, from the moment its store is open.
 *
 *   - what registration says about this node (R1), the log if it is a voter, the control core; then both start
 *   - the core's hooks: the map is saved, registration noted, deposition and fatal errors end the process
 *   - end: the core ends every request, the log closes, nothing of the data thread reaches them any more
 * Failure modes: whatever cannot be made is one line, and the daemon stops with status 1.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"
#include "common/log.h"
#include "server/daemon/daemon_internal.h"
#include "server/daemon/daemon_stats.h"

#define LOG_MODULE "daemon"

/* ---- hooks of the core, called inside its turn: what they cause comes in a later one */

static void stop_task_run(struct env_task *task)
{
    struct daemon *d = list_entry(task, struct daemon, stop_task);
    assert(d->bridge);
    daemon_stop(d, d->stop_task_status);
}

static void stop_later(struct daemon *d, int status)
{
    if (status > d->stop_task_status)
        d->stop_task_status = status;
    assert(d->env);
    env_defer(d->env, &d->stop_task, stop_task_run);
}

static void persist(void *arg, uint64_t version, const void *bytes, size_t len)
{
    struct daemon *d = arg;
    assert(bytes && version);
    assert(len > 0);
    int rc = node_state_save_map(d->settings->store, bytes, len);
    if (rc < 0)
        log_warn("cannot save the cluster map version=%llu error=\"%s\"", (unsigned long long)version, strerror(-rc));
}

static void registered(void *arg, uint64_t incarnation)
{
    struct daemon *d = arg;
    assert(d->control_started && d->data);
    assert(incarnation);
    int rc = node_state_registered(d->settings->store, &data_thread_opened(d->data)->identity);
    if (rc < 0) {
        log_error("cannot write %s/registered error=\"%s\"", d->settings->store, strerror(-rc));
        stop_later(d, 1);
    }
}

static void deposed(void *arg)
{
    struct daemon *d = arg;
    assert(d->control_started);
    assert(d->control);
    log_warn("declared down while alive: all that was held is void, the process starts anew");
    d->start_anew = true;
    stop_later(d, 0);
}

static void fatal(void *arg, int rc, const char *sentence)
{
    struct daemon *d = arg;
    assert(sentence);
    assert(rc < 0);
    log_error("cannot go on: %s error=\"%s\"", sentence, strerror(-rc));
    stop_later(d, 1);
}

static void log_failed(void *arg, int rc)
{
    struct daemon *d = arg;
    assert(d->settings->voter_count > 0);
    assert(rc < 0);
    stop_later(d, 1);
}

static char *stats_json(void *arg, const struct bridge_stats *stats)
{
    (void)stats; /* the core tells those itself */
    assert(arg);
    return daemon_stats_json();
}

/* ---- start */

static int copy_text(char *to, size_t capacity, const char *from)
{
    assert(capacity > 0);
    int n = snprintf(to, capacity, "%s", from);
    return n < 0 || (size_t)n >= capacity ? -ENAMETOOLONG : 0;
}

/* What registration says. */
static int describe_self(const struct daemon *d, struct map_node *ret_self)
{
    const struct settings *settings = d->settings;
    const struct data_opened *opened = data_thread_opened(d->data);
    enum map_stop stop;
    memset(ret_self, 0, sizeof(*ret_self));
    int rc = node_state_last_stop(settings->store, &opened->identity, opened->stop, &stop);
    if (rc < 0)
        return rc;
    assert(opened->identity.node == settings->node);
    assert(opened->identity.cluster_id == settings->cluster_id);
    ret_self->id = settings->node;
    ret_self->stop = (uint8_t)stop;
    ret_self->capacity_bytes = opened->capacity_bytes;
    memcpy(ret_self->store_uuid, opened->identity.uuid, sizeof(ret_self->store_uuid));
    rc = settings_advertised(settings, settings->data, ret_self->data_address, sizeof(ret_self->data_address));
    if (rc == 0)
        rc = settings_advertised(settings, settings->control, ret_self->control_address,
                                 sizeof(ret_self->control_address));
    if (rc == 0 && settings->rundir[0]) {
        char path[SETTINGS_PATH_MAX + 32];
        (void)snprintf(path, sizeof(path), "unix:%s/data.sock", settings->rundir);
        rc = copy_text(ret_self->unix_address, sizeof(ret_self->unix_address), path);
    }
    if (rc == 0)
        rc = copy_text(ret_self->host, sizeof(ret_self->host), settings->host);
    if (rc == 0)
        rc = copy_text(ret_self->rack, sizeof(ret_self->rack), settings->rack);
    return rc;
}

static int open_log(struct daemon *d, const char *directory)
{
    assert(!d->log);
    assert(directory[0]);
    if (!settings_own_voter(d->settings))
        return 0;
    bool first = !node_state_is_voter(d->settings->store);
    return daemon_log_open(d->settings, directory, first, &d->loop, log_failed, d, &d->log);
}

static void fill_voters(const struct settings *settings, struct control_config *config)
{
    assert(settings->voter_count <= CONTROL_VOTERS_MAX);
    assert(config->voter_count == 0);
    config->voter_count = settings->voter_count;
    for (uint32_t i = 0; i < settings->voter_count; i++) {
        config->voters[i].node = settings->voters[i].id;
        (void)snprintf(config->voters[i].address, sizeof(config->voters[i].address), "tcp:%s",
                       settings->voters[i].control);
    }
}

static int make_control(struct daemon *d, struct control_config *config)
{
    const struct settings *settings = d->settings;
    char tcp[SETTINGS_ADDRESS_MAX + 8], path[SETTINGS_PATH_MAX + 32];
    (void)snprintf(tcp, sizeof(tcp), "tcp:%s", settings->control);
    (void)snprintf(path, sizeof(path), "unix:%s/control.sock", settings->rundir);
    config->listen[config->listen_count++] = tcp;
    if (settings->rundir[0])
        config->listen[config->listen_count++] = path;
    fill_voters(settings, config);
    if (!d->log && node_state_load_map(settings->store, &d->saved_map, &config->saved_map_len) == 0)
        config->saved_map = d->saved_map;
    int rc = control_create(config, &d->control);
    assert(rc <= 0);
    if (rc < 0) {
        log_error("cannot make the control core error=\"%s\"", strerror(-rc));
        return rc;
    }
    daemon_bridge_set_control(d->bridge, control_bridge(d->control));
    rc = d->log ? daemon_log_start(d->log, d->control) : 0;
    if (rc < 0)
        return rc;
    rc = control_start(d->control);
    if (rc < 0)
        log_error("cannot listen on %s or %s error=\"%s\"; is the address this host's and free?", tcp, path,
                  strerror(-rc));
    d->control_started = rc == 0;
    return rc;
}

int daemon_control_start(struct daemon *d)
{
    const struct settings *settings = d->settings;
    char directory[NODE_STATE_PATH_MAX];
    assert(!d->control && !d->stopping);
    assert(d->transport && d->bridge);
    struct control_config config = {
        .env = d->env,
        .transport = d->transport,
        .data = daemon_bridge_to_data(d->bridge),
        .hooks = {.persist = persist,
                  .registered = registered,
                  .deposed = deposed,
                  .fatal = fatal,
                  .stats_json = stats_json},
        .arg = d,
        .cluster_id = settings->cluster_id,
        .node = settings->node,
        .heartbeat_ns = ENV_MS(settings->heartbeat_ms),
        .node_timeout_ns = ENV_MS(settings->node_timeout_ms),
        .lease_ns = ENV_MS(settings->lease_ms),
        .io_stall_ns = ENV_MS(settings->io_stall_ms),
        .out_after_ns = ENV_MS(settings->out_after_ms),
        .elect_grace_ns = ENV_MS(settings->elect_grace_ms),
        .shard_bytes = settings->shard_bytes,
    };
    int rc = node_state_make(settings->store, directory);
    if (rc == 0)
        rc = describe_self(d, &config.self);
    if (rc < 0) {
        log_error("store %s: cannot prepare the control side error=\"%s\"", settings->store, strerror(-rc));
        return rc;
    }
    rc = open_log(d, directory);
    if (rc < 0)
        return rc;
    config.log = d->log ? daemon_log_base(d->log) : NULL;
    rc = make_control(d, &config);
    if (rc == 0 && d->log)
        rc = node_state_set_voter(settings->store);
    return rc;
}

/* ---- end */

static void log_closed(void *arg)
{
    struct daemon *d = arg;
    assert(d->control_ending);
    assert(!d->control_ended);
    d->log = NULL;
    daemon_control_ended(d);
}

static void control_stopped(void *arg)
{
    struct daemon *d = arg;
    assert(d->control_ending);
    assert(!d->control_ended);
    daemon_log_close(d->log, log_closed, d);
}

void daemon_control_end(struct daemon *d)
{
    if (d->control_ending)
        return;
    d->control_ending = true;
    assert(d->stopping);
    assert(!d->control_ended);
    daemon_bridge_set_control(d->bridge, NULL);
    if (d->control)
        control_stop(d->control, control_stopped, d);
    else
        control_stopped(d);
}

void daemon_control_destroy(struct daemon *d)
{
    assert(!d->log);
    control_destroy(d->control);
    d->control = NULL;
    free(d->saved_map);
}
