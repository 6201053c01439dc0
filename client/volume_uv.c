/* SPDX-License-Identifier: Apache-2.0 */
/* volume_uv: a volume handle from ashlar_open to ashlar_close, and the list of volumes.
 *
 * - ashlar_open posts the making of a core and waits until it has a session, or open_timeout passed
 * - ashlar_list does the same with a core that attaches nothing
 * - ashlar_size_now posts a question for the size and waits for the gateway's answer
 * - ashlar_close posts the core's end and waits for it
 *
 * Failure: the core's reason, with the trouble it had with the last gateway in words.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/volume.h"

void volume_wait(sem_t *sem)
{
    while (sem_wait(sem) < 0)
        assert(errno == EINTR);
}

/* ---- open and close, on the loop thread */

static void volume_closed(void *arg)
{
    struct ashlar_volume *volume = arg;
    volume->client = NULL;
    (void)sem_post(&volume->done);
}

static void give_up(struct ashlar_volume *volume, int rc)
{
    assert(rc < 0);
    if (volume->closing)
        return;
    volume->closing = true;
    volume->rc = rc;
    env_timer_stop(edge_env(volume->cluster), &volume->timer);
    (void)snprintf(volume->trouble, sizeof(volume->trouble), "%s", client_trouble(volume->client));
    client_close(volume->client, volume_closed, volume);
}

static void open_timeout(struct env_timer *timer)
{
    struct ashlar_volume *volume = list_entry(timer, struct ashlar_volume, timer);
    give_up(volume, -ETIMEDOUT);
}

static void list_done(struct client_request *request, int rc)
{
    struct ashlar_volume *volume = request->owner;
    env_timer_stop(edge_env(volume->cluster), &volume->timer);
    volume->infos = rc == 0 ? calloc(request->entry_count + 1, sizeof(*volume->infos)) : NULL;
    for (uint32_t i = 0; volume->infos && i < request->entry_count; i++) {
        struct ashlar_volume_info *info = &volume->infos[volume->info_count++];
        info->size = request->entries[i].size;
        memcpy(info->name, request->entries[i].name, sizeof(info->name));
    }
    if (volume->closing)
        return;
    volume->closing = true;
    volume->rc = rc == 0 && !volume->infos ? -ENOMEM : rc;
    client_close(volume->client, volume_closed, volume);
}

static void volume_opened(void *arg, int rc)
{
    struct ashlar_volume *volume = arg;
    if (rc < 0) {
        give_up(volume, rc);
        return;
    }
    if (volume->name[0] == '\0')
        return; /* list_done ends it */
    env_timer_stop(edge_env(volume->cluster), &volume->timer);
    atomic_store(&volume->size, client_size(volume->client));
    volume->opened = true;
    (void)sem_post(&volume->done);
}

static void open_run(struct edge_call *call)
{
    struct ashlar_volume *volume = list_entry(call, struct ashlar_volume, call);
    struct ashlar_cluster *cluster = volume->cluster;
    const struct edge_settings *settings = edge_settings(cluster);
    const char *addresses[CLIENT_GATEWAYS_MAX];
    for (uint32_t i = 0; i < settings->address_count; i++)
        addresses[i] = settings->addresses[i];
    struct client_config config = {
        .env = edge_env(cluster),
        .transport = edge_transport(cluster),
        .addresses = addresses,
        .address_count = settings->address_count,
        .open_flags = (volume->flags & ASHLAR_OPEN_READ_ONLY ? CLIENT_OPEN_READ_ONLY : 0u) |
                      (volume->flags & ASHLAR_OPEN_FORCE ? CLIENT_OPEN_FORCE : 0u),
        .io_timeout_ns = ENV_MS(settings->io_timeout_ms),
        .fail_back = true,
        .opened = volume_opened,
        .arg = volume,
    };
    const char *at = strchr(volume->name, '@');
    size_t length = at ? (size_t)(at - volume->name) : strlen(volume->name);
    assert(length < sizeof(config.volume)); /* title_valid */
    memcpy(config.volume, volume->name, length);
    if (at)
        memcpy(config.snapshot, at + 1, strlen(at + 1));
    volume->client = client_create(&config);
    if (!volume->client) {
        volume->rc = -ENOMEM;
        (void)sem_post(&volume->done);
        return;
    }
    env_timer_start(config.env, &volume->timer, ENV_MS(settings->open_timeout_ms), open_timeout);
    if (volume->name[0] != '\0')
        return;
    volume->list = (struct client_request){.op = CLIENT_LIST, .cb = list_done, .owner = volume};
    int rc = client_submit(volume->client, &volume->list);
    assert(rc == 0);
}

static void close_run(struct edge_call *call)
{
    struct ashlar_volume *volume = list_entry(call, struct ashlar_volume, call);
    assert(volume->client && !volume->closing);
    volume->closing = true;
    client_close(volume->client, volume_closed, volume);
}

/* ---- open, list, close: the caller's side */

static struct ashlar_volume *volume_new(struct ashlar_cluster *cluster, const char *name, unsigned flags)
{
    struct ashlar_volume *volume = calloc(1, sizeof(*volume));
    if (!volume)
        return NULL;
    volume->cluster = cluster;
    volume->flags = flags;
    (void)snprintf(volume->name, sizeof(volume->name), "%s", name);
    int rc = pthread_mutex_init(&volume->lock, NULL);
    assert(rc == 0);
    rc = sem_init(&volume->done, /* shared= */ 0, 0);
    assert(rc == 0);
    volume->call.run = open_run;
    edge_volume_opened(cluster, 1);
    return volume;
}

static void volume_free(struct ashlar_volume *volume)
{
    assert(volume->client == NULL);
    while (volume->free) {
        struct aio *aio = volume->free;
        volume->free = aio->next_free;
        free(aio);
    }
    (void)pthread_mutex_destroy(&volume->lock);
    (void)sem_destroy(&volume->done);
    edge_volume_opened(volume->cluster, -1);
    free(volume);
}

static int explain(const struct ashlar_volume *volume)
{
    int rc = volume->rc;
    assert(rc < 0);
    return edge_error(rc, "%s%s%s: %s", volume->name, volume->trouble[0] ? ": " : "", volume->trouble, strerror(-rc));
}

static bool title_valid(const char *title)
{
    const char *at = strchr(title, '@');
    if (!at)
        return title[0] != '\0' && strlen(title) < ASHLAR_NAME_MAX;
    return at != title && at - title < ASHLAR_NAME_MAX && at[1] != '\0' && strlen(at + 1) < ASHLAR_NAME_MAX;
}

int ashlar_open(struct ashlar_cluster *cluster, const char *name, unsigned flags, struct ashlar_volume **ret_volume)
{
    edge_error_clear();
    if (edge_on_loop(cluster))
        return edge_error(-EDEADLK, "ashlar_open in a callback");
    if (!name || !title_valid(name))
        return edge_error(-EINVAL, "a volume name has 1 to %d characters, as has a snapshot's behind an @",
                          ASHLAR_NAME_MAX - 1);
    if (strchr(name, '@'))
        flags |= ASHLAR_OPEN_READ_ONLY;
    if (flags & ~(unsigned)(ASHLAR_OPEN_READ_ONLY | ASHLAR_OPEN_FORCE))
        return edge_error(-EINVAL, "unknown flags %#x", flags);
    struct ashlar_volume *volume = volume_new(cluster, name, flags);
    if (!volume)
        return edge_error(-ENOMEM, "out of memory");
    edge_post(cluster, &volume->call);
    volume_wait(&volume->done);
    if (!volume->opened) {
        int rc = explain(volume);
        volume_free(volume);
        return rc;
    }
    *ret_volume = volume;
    return 0;
}

int ashlar_list(struct ashlar_cluster *cluster, struct ashlar_volume_info **ret_infos, size_t *ret_count)
{
    edge_error_clear();
    if (edge_on_loop(cluster))
        return edge_error(-EDEADLK, "ashlar_list in a callback");
    struct ashlar_volume *volume = volume_new(cluster, "", 0);
    if (!volume)
        return edge_error(-ENOMEM, "out of memory");
    edge_post(cluster, &volume->call);
    volume_wait(&volume->done);
    int rc = volume->rc;
    if (rc < 0) {
        rc = explain(volume);
        free(volume->infos);
    } else {
        *ret_infos = volume->infos;
        *ret_count = volume->info_count;
    }
    volume_free(volume);
    return rc;
}

void ashlar_close(struct ashlar_volume *volume)
{
    if (!volume)
        return;
    assert(!edge_on_loop(volume->cluster) && "ashlar_close in a callback");
    volume->call.run = close_run;
    edge_post(volume->cluster, &volume->call);
    volume_wait(&volume->done);
    volume_free(volume);
}

uint64_t ashlar_size(struct ashlar_volume *volume)
{
    return atomic_load_explicit(&volume->size, memory_order_relaxed);
}

/* ---- the present size */

struct size_call {
    struct edge_call call;
    struct client_ask ask;
    struct ashlar_volume *volume;
    sem_t done;
    int rc;
};

static void size_told(struct client_ask *ask, int rc)
{
    struct size_call *asked = ask->owner;
    struct ashlar_volume *volume = asked->volume;
    if (volume->client)
        atomic_store(&volume->size, client_size(volume->client));
    asked->rc = rc;
    edge_request_ended(volume->cluster, /* blocking= */ true);
    (void)sem_post(&asked->done);
}

static void size_run(struct edge_call *call)
{
    struct size_call *asked = list_entry(call, struct size_call, call);
    uint64_t timeout_ns = ENV_MS(edge_settings(asked->volume->cluster)->open_timeout_ms);
    asked->ask = (struct client_ask){.timeout_ns = timeout_ns, .cb = size_told, .owner = asked};
    client_ask_size(asked->volume->client, &asked->ask);
}

int ashlar_size_now(struct ashlar_volume *volume, uint64_t *ret_size)
{
    struct size_call asked = {.call = {.run = size_run}, .volume = volume};
    edge_error_clear();
    if (edge_on_loop(volume->cluster))
        return edge_error(-EDEADLK, "ashlar_size_now in a callback");
    int rc = sem_init(&asked.done, /* shared= */ 0, 0);
    assert(rc == 0);
    edge_request_begun(volume->cluster);
    edge_post(volume->cluster, &asked.call);
    volume_wait(&asked.done);
    (void)sem_destroy(&asked.done);
    if (asked.rc < 0)
        return edge_error(asked.rc, "%s: no gateway tells its size: %s", volume->name, strerror(-asked.rc));
    *ret_size = ashlar_size(volume);
    return 0;
}

const char *ashlar_name(const struct ashlar_volume *volume)
{
    return volume->name;
}
