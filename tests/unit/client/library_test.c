/* SPDX-License-Identifier: Apache-2.0 */
/* libashlar over real sockets: its loop thread, blocking and asynchronous calls from many threads, words about errors. */
#include <ashlar.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "common/env_uv.h"
#include "common/prng.h"
#include "common/transport/tcp_uv.h"
#include "tests/unit/client/fake_gateway.h"

#define THREADS 4
#define AREA (8u << 20)

/* A gateway on its own thread, at a unix socket in a folder of its own. */
struct server {
    struct fake *fake;
    char dir[32];
    char address[64];
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t wake;
    sem_t ready;
    atomic_int command; /* 1: end, 2: drop every link, 3: loss of shard 0 */
};

static void server_command(uv_async_t *handle)
{
    struct server *server = handle->data;
    struct fake_gateway *gateway = &server->fake->gateways[0];
    switch (atomic_exchange(&server->command, 0)) {
    case 1: uv_stop(&server->loop); break;
    case 2:
        fake_down(gateway);
        fake_up(gateway);
        break;
    case 3: server->fake->loss[0]++; break;
    default: break;
    }
    (void)sem_post(&server->ready);
}

static void *server_run(void *arg)
{
    struct server *server = arg;
    struct fake_gateway *gateway = &server->fake->gateways[0];
    struct fake_side *side = &gateway->side;
    assert_int_equal(uv_loop_init(&server->loop), 0);
    assert_int_equal(uv_async_init(&server->loop, &server->wake, server_command), 0);
    server->wake.data = server;
    assert_int_equal(env_uv_create(&server->loop, 1, &side->env), 0);
    side->bufs = buf_pool_create(64u << 20);
    assert_non_null(side->bufs);
    assert_int_equal(transport_uv_create(&server->loop, side->env, side->bufs, &side->transport), 0);
    memcpy(gateway->address, server->address, sizeof(gateway->address));
    fake_up(gateway);
    (void)sem_post(&server->ready);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    stream_transport_shutdown(side->transport);
    while (stream_transport_live(side->transport) > 0)
        (void)uv_run(&server->loop, UV_RUN_ONCE);
    stream_transport_destroy(side->transport);
    env_uv_destroy(side->env);
    uv_close((uv_handle_t *)&server->wake, NULL);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&server->loop), 0);
    buf_pool_destroy(side->bufs);
    return NULL;
}

static void server_do(struct server *server, int command)
{
    atomic_store(&server->command, command);
    (void)uv_async_send(&server->wake);
    assert_int_equal(sem_wait(&server->ready), 0);
}

static struct server *server_start(void)
{
    struct server *server = calloc(1, sizeof(*server));
    assert_non_null(server);
    server->fake = fake_create_bare();
    (void)snprintf(server->dir, sizeof(server->dir), "/tmp/ashlar-XXXXXX");
    assert_non_null(mkdtemp(server->dir));
    (void)snprintf(server->address, sizeof(server->address), "unix:%s/sock", server->dir);
    assert_int_equal(sem_init(&server->ready, 0, 0), 0);
    assert_int_equal(pthread_create(&server->thread, NULL, server_run, server), 0);
    assert_int_equal(sem_wait(&server->ready), 0);
    return server;
}

static void server_stop(struct server *server)
{
    char path[64];
    server_do(server, 1);
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/sock", server->dir);
    (void)unlink(path);
    assert_int_equal(rmdir(server->dir), 0);
    (void)sem_destroy(&server->ready);
    fake_destroy_bare(server->fake);
    free(server);
}

static struct ashlar_cluster *must_connect(const char *where)
{
    struct ashlar_cluster *cluster = NULL;
    struct ashlar_options options = {.where = where, .open_timeout_ms = 20000};
    assert_int_equal(ashlar_connect(&options, &cluster), 0);
    assert_non_null(cluster);
    return cluster;
}

/* ---- blocking */

struct worker {
    pthread_t thread;
    struct ashlar_volume *volume;
    uint64_t area;
    uint64_t seed;
    int rc;
};

static void *worker_run(void *arg)
{
    struct worker *worker = arg;
    struct prng prng;
    uint8_t *model = calloc(1, AREA), *data = malloc(AREA);
    prng_seed(&prng, worker->seed);
    for (int i = 0; i < 150 && worker->rc == 0; i++) {
        uint64_t length = 1 + prng_below(&prng, prng_below(&prng, 4) ? 9000 : 2u << 20);
        uint64_t offset = prng_below(&prng, AREA - length);
        if (prng_below(&prng, 2)) {
            memset(data, (int)prng_next(&prng), length);
            memcpy(model + offset, data, length);
            worker->rc = ashlar_write(worker->volume, data, length, worker->area + offset, 0);
        } else {
            worker->rc = ashlar_read(worker->volume, data, length, worker->area + offset);
            if (worker->rc == 0 && memcmp(data, model + offset, length) != 0)
                worker->rc = -EILSEQ;
        }
        if (worker->rc == 0 && prng_below(&prng, 20) == 0)
            worker->rc = ashlar_flush(worker->volume);
    }
    free(model);
    free(data);
    return NULL;
}

/* Goal: threads share a volume handle, each sees its own bytes, also while links break. */
static void threads_share_a_volume(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster = must_connect(server->address);
    struct ashlar_volume *volume;
    struct worker workers[THREADS];
    assert_int_equal(ashlar_open(cluster, "vol", 0, &volume), 0);
    assert_int_equal(ashlar_size(volume), FAKE_SIZE);
    assert_string_equal(ashlar_name(volume), "vol");
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.volume = volume, .area = (uint64_t)i * AREA + 512, .seed = (uint64_t)i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        (void)usleep(20000); /* anywhere in the middle: whenever it is, the outcome is the same */
        server_do(server, 2);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
        assert_int_equal(workers[i].rc, 0);
    }
    struct ashlar_stats stats;
    assert_int_equal(ashlar_volume_stats(volume, &stats), 0);
    assert_true(stats.op[ASHLAR_OP_WRITE].count + stats.op[ASHLAR_OP_READ].count == THREADS * 150);
    assert_true(stats.op[ASHLAR_OP_WRITE].p50_ns > 0);
    assert_true(stats.failovers >= 1);
    assert_int_equal(stats.in_flight, 0);
    ashlar_close(volume);
    ashlar_disconnect(cluster);
    assert_int_equal(server->fake->detaches, 1);
    server_stop(server);
}

struct asker {
    pthread_t thread;
    struct ashlar_volume *volume;
    int rc;
};

static void *asker_run(void *arg)
{
    struct asker *asker = arg;
    for (int i = 0; i < 300 && asker->rc == 0; i++) {
        uint64_t size = 0;
        asker->rc = ashlar_size_now(asker->volume, &size);
        if (asker->rc == 0 && size != FAKE_SIZE)
            asker->rc = -EILSEQ;
    }
    return NULL;
}

/* Goal: the size is told at once beside blocking I/O on other threads, whoever runs the loop. */
static void size_is_told_beside_requests(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster = must_connect(server->address);
    struct asker asker = {.rc = 0};
    struct worker worker = {.area = 512, .seed = 3};
    assert_int_equal(ashlar_open(cluster, "vol", 0, &asker.volume), 0);
    worker.volume = asker.volume;
    assert_int_equal(pthread_create(&worker.thread, NULL, worker_run, &worker), 0);
    assert_int_equal(pthread_create(&asker.thread, NULL, asker_run, &asker), 0);
    assert_int_equal(pthread_join(asker.thread, NULL), 0);
    assert_int_equal(pthread_join(worker.thread, NULL), 0);
    assert_int_equal(asker.rc, 0);
    assert_int_equal(worker.rc, 0);
    asker_run(&asker); /* nobody else is there */
    assert_int_equal(asker.rc, 0);
    ashlar_close(asker.volume);
    ashlar_disconnect(cluster);
    server_stop(server);
}

/* ---- asynchronous */

struct chain {
    struct ashlar_volume *volume;
    uint8_t data[4096];
    uint32_t left;
    int rc, nested_rc;
    sem_t done;
};

static void chain_next(void *arg, int rc)
{
    struct chain *chain = arg;
    chain->rc = rc;
    chain->nested_rc = ashlar_flush(chain->volume); /* a blocking call must refuse here */
    if (rc == 0 && chain->left-- > 0)
        chain->rc = ashlar_aio_write(chain->volume, chain->data, sizeof(chain->data), chain->left * 4096ull, ASHLAR_FUA,
                                     chain_next, chain);
    else
        (void)sem_post(&chain->done);
}

static void callbacks_may_submit(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster = must_connect(server->address);
    struct chain chain = {.left = 200};
    assert_int_equal(sem_init(&chain.done, 0, 0), 0);
    assert_int_equal(ashlar_open(cluster, "vol", 0, &chain.volume), 0);
    assert_int_equal(ashlar_aio_zero(chain.volume, 1 << 20, 0, 0, chain_next, &chain), 0);
    assert_int_equal(sem_wait(&chain.done), 0);
    assert_int_equal(chain.rc, 0);
    assert_int_equal(chain.nested_rc, -EDEADLK);
    ashlar_close(chain.volume);
    ashlar_disconnect(cluster);
    assert_int_equal(server->fake->writes_applied, 200);
    (void)sem_destroy(&chain.done);
    server_stop(server);
}

static void count_end(void *arg, int rc)
{
    atomic_int *counts = arg;
    atomic_fetch_add(&counts[rc == 0 ? 0 : 1], 1);
}

/* Goal: closing right after submitting ends every request, exactly once. */
static void close_with_requests_in_flight(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster = must_connect(server->address);
    uint8_t *data = calloc(1, 1 << 20);
    for (int round = 0; round < 20; round++) {
        struct ashlar_volume *volume;
        atomic_int counts[2] = {0, 0};
        assert_int_equal(ashlar_open(cluster, "vol", ASHLAR_OPEN_FORCE, &volume), 0);
        for (int i = 0; i < 50; i++)
            assert_int_equal(ashlar_aio_write(volume, data, 1 << 20, 0, 0, count_end, counts), 0);
        ashlar_close(volume);
        assert_int_equal(atomic_load(&counts[0]) + atomic_load(&counts[1]), 50);
    }
    free(data);
    ashlar_disconnect(cluster);
    server_stop(server);
}

/* ---- words and refusals */

static void errors_are_explained(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster = NULL, *second;
    struct ashlar_volume *volume = NULL, *other = NULL;
    uint8_t data[512] = {0};
    assert_int_equal(ashlar_connect(&(struct ashlar_options){.where = "tcp:1:2,nonsense"}, &cluster), -EINVAL);
    assert_non_null(strstr(ashlar_error(), "nonsense"));
    assert_int_equal(ashlar_connect(&(struct ashlar_options){.where = "/nowhere/cluster.conf"}, &cluster), -ENOENT);
    assert_non_null(strstr(ashlar_error(), "/nowhere/cluster.conf"));
    cluster = must_connect(server->address);
    assert_string_equal(ashlar_error(), "");
    assert_int_equal(ashlar_open(cluster, "nothing", 0, &volume), -ENOENT);
    assert_non_null(strstr(ashlar_error(), "no such volume"));
    assert_int_equal(ashlar_open(cluster, "", 0, &volume), -EINVAL);
    assert_int_equal(ashlar_open(cluster, "vol", 128, &volume), -EINVAL);
    assert_int_equal(ashlar_open(cluster, "vol", 0, &volume), 0);
    second = must_connect(server->address);
    assert_int_equal(ashlar_open(second, "vol", 0, &other), -EBUSY);
    assert_int_equal(ashlar_read(volume, data, sizeof(data), FAKE_SIZE), -EINVAL);
    assert_non_null(strstr(ashlar_error(), "outside"));
    assert_int_equal(ashlar_write(volume, data, sizeof(data), 0, ASHLAR_TRIM), -EINVAL);
    assert_int_equal(ashlar_open(second, "vol", ASHLAR_OPEN_FORCE | ASHLAR_OPEN_READ_ONLY, &other), 0);
    assert_int_equal(ashlar_write(other, data, sizeof(data), 0, 0), -EROFS);
    assert_int_equal(ashlar_write(volume, data, sizeof(data), 0, 0), -ESTALE);
    ashlar_close(volume);
    ashlar_close(other);
    ashlar_close(NULL);
    ashlar_disconnect(second);
    ashlar_disconnect(cluster);
    ashlar_disconnect(NULL);
    assert_true(strlen(ashlar_version()) > 0);
    server_stop(server);
}

static void open_gives_up_in_time(void **state)
{
    (void)state;
    struct ashlar_cluster *cluster;
    struct ashlar_volume *volume;
    struct ashlar_volume_info *infos;
    size_t count;
    struct ashlar_options options = {.where = "unix:/nowhere/a.sock,tcp:127.0.0.1:1", .open_timeout_ms = 300};
    assert_int_equal(ashlar_connect(&options, &cluster), 0);
    assert_int_equal(ashlar_open(cluster, "vol", 0, &volume), -ETIMEDOUT);
    assert_true(strlen(ashlar_error()) > 20); /* names a gateway and its trouble */
    assert_int_equal(ashlar_list(cluster, &infos, &count), -ETIMEDOUT);
    ashlar_disconnect(cluster);
}

static void cluster_file_is_read(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster;
    struct ashlar_volume_info *infos;
    char path[64];
    size_t count;
    (void)snprintf(path, sizeof(path), "%s/cluster.conf", server->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fprintf(file, "[client]\naddresses = tcp:127.0.0.1:1, %s\nio_timeout = 5s\n", server->address);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(setenv("ASHLAR_CLUSTER", path, 1), 0);
    assert_int_equal(ashlar_connect(NULL, &cluster), 0);
    assert_int_equal(ashlar_list(cluster, &infos, &count), 0);
    assert_int_equal(count, 3);
    assert_string_equal(infos[2].name, "vol");
    free(infos);
    ashlar_disconnect(cluster);
    file = fopen(path, "w");
    (void)fprintf(file, "[client]\nio_timeout = 5s\n");
    assert_int_equal(fclose(file), 0);
    assert_int_equal(ashlar_connect(NULL, &cluster), -EINVAL);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unsetenv("ASHLAR_CLUSTER"), 0);
    server_stop(server);
}

static void extents_and_losses_reach_the_caller(void **state)
{
    (void)state;
    struct server *server = server_start();
    struct ashlar_cluster *cluster = must_connect(server->address);
    struct ashlar_volume *volume;
    struct ashlar_extent extents[3];
    uint8_t data[4096] = {0};
    size_t count;
    assert_int_equal(ashlar_open(cluster, "vol", 0, &volume), 0);
    assert_int_equal(ashlar_extents(volume, 8 << 20, 0, extents, 3, &count), 0);
    assert_int_equal(count, 3);
    assert_int_equal(extents[0].state, ASHLAR_EXTENT_HOLE | ASHLAR_EXTENT_ZERO);
    assert_int_equal(extents[1].state, ASHLAR_EXTENT_DATA);
    assert_int_equal(extents[2].offset, 2 << 20);
    assert_int_equal(ashlar_write(volume, data, sizeof(data), 0, 0), 0);
    server_do(server, 3);
    assert_int_equal(ashlar_flush(volume), -EIO); /* R13 */
    assert_int_equal(ashlar_read(volume, data, sizeof(data), 0), -EIO);
    ashlar_close(volume);
    ashlar_disconnect(cluster);
    server_stop(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_share_a_volume), cmocka_unit_test(size_is_told_beside_requests),
        cmocka_unit_test(callbacks_may_submit),   cmocka_unit_test(close_with_requests_in_flight),
        cmocka_unit_test(errors_are_explained),   cmocka_unit_test(open_gives_up_in_time),
        cmocka_unit_test(cluster_file_is_read),   cmocka_unit_test(extents_and_losses_reach_the_caller),
    };
    return cmocka_run_group_tests_name("client/library", tests, NULL, NULL);
}
