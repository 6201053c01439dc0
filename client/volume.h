/* SPDX-License-Identifier: Apache-2.0 */
/* volume: the volume handle, shared by volume_uv.c and aio_uv.c. Threading: fields say who; lock: edge.h. Errors, ownership:
 * ashlar.h. */
#ifndef ASHLAR_CLIENT_VOLUME_H
#define ASHLAR_CLIENT_VOLUME_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "client/edge.h"

struct aio {
    struct edge_call call;
    struct client_request request;
    struct ashlar_volume *volume;
    ashlar_cb cb;
    ashlar_extents_cb extents_cb;
    void *arg;
    bool blocking; /* one of waiter's callbacks */
    struct aio *next_free;
};

struct ashlar_volume {
    struct ashlar_cluster *cluster;
    char name[ASHLAR_TITLE_MAX]; /* "volume" or "volume@snapshot" */
    unsigned flags;
    _Atomic uint64_t size;
    struct client *client; /* loop thread only */
    pthread_mutex_t lock;  /* of free (edge.h says why) */
    struct aio *free;
    /* open, close, list */
    struct edge_call call;
    struct env_timer timer;
    sem_t done;
    int rc;
    bool opened, closing;
    char trouble[200];
    struct client_request list;
    struct ashlar_volume_info *infos;
    size_t info_count;
};

void volume_wait(sem_t *sem);

#endif
