/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus on a libuv loop: the directory, libraft's uv backend, the transport.
 *
 * What is in the directory:
 *    lock          held while open, so that two processes never share a log
 *    raft/         libraft's: metadata1, metadata2, segments, snapshots
 *    bootstrapped  the first entry is durable; made before the first start
 *    probation     started empty, has not caught up with a leader since (C2)
 *
 * The happy path of a first start:
 *  - consensus_open() takes the lock, sees no marker, makes raft/ and the
 *    probation marker, bootstraps, makes the bootstrapped marker.
 *  - consensus_start() loads and listens; the first leader ends the probation.
 * Of a later one: marker and metadata are there; nothing is written.
 *
 * Failure modes:
 *  - Crash within the bootstrap: raft/ without the marker is swept and made
 *    anew; it never took part in anything, so it promised nothing.
 *  - The marker without metadata: the log was lost; refused (-ENODATA).
 *  - A corrupt closed segment: refused (-EBADMSG). libraft's "auto recovery"
 *    would drop acknowledged entries and go on voting; it is turned off.
 */
#include "server/control/consensus_tcp_uv.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARKER_BOOTSTRAPPED "bootstrapped"
#define MARKER_PROBATION "probation"
#define REAPER_TURNS 3u

struct backend {
    struct consensus *c;
    struct consensus_tcp tcp;
    struct raft_io io;
    uv_timer_t reaper; /* its close callback is a stack without libraft on it */
    unsigned reaper_turns;
    int dir_fd;
    int lock_fd;
    char raft_dir[PATH_MAX];
    bool fresh; /* must be bootstrapped */
    consensus_close_fn close_cb;
    void *close_arg;
};

static bool marker_exists(const struct backend *b, const char *name)
{
    assert(b->dir_fd >= 0);
    return faccessat(b->dir_fd, name, F_OK, 0) == 0;
}

static int make_marker(const struct backend *b, const char *name)
{
    assert(b->dir_fd >= 0);
    int fd = openat(b->dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 || fsync(b->dir_fd) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

static int take_lock(struct backend *b)
{
    assert(b->lock_fd < 0);
    b->lock_fd = openat(b->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (b->lock_fd < 0)
        return -errno;
    if (flock(b->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    return 0;
}

static int sweep_raft_dir(struct backend *b)
{
    int rc = 0;
    DIR *dir = opendir(b->raft_dir);
    if (dir == NULL)
        return -errno;
    assert(!marker_exists(b, MARKER_BOOTSTRAPPED));
    for (const struct dirent *entry = readdir(dir); entry != NULL && rc == 0; entry = readdir(dir)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        rc = unlinkat(dirfd(dir), entry->d_name, 0) < 0 ? -errno : 0;
    }
    closedir(dir);
    return rc;
}

static bool has_metadata(const struct backend *b)
{
    assert(b->dir_fd >= 0);
    return faccessat(b->dir_fd, "raft/metadata1", F_OK, 0) == 0 || faccessat(b->dir_fd, "raft/metadata2", F_OK, 0) == 0;
}

static int open_dir(struct backend *b, const struct consensus_config *config)
{
    b->dir_fd = open(config->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->dir_fd < 0)
        return -errno;
    int n = snprintf(b->raft_dir, sizeof(b->raft_dir), "%s/raft", config->dir);
    if (n < 0 || (size_t)n >= sizeof(b->raft_dir))
        return -ENAMETOOLONG;
    int rc = take_lock(b);
    if (rc < 0)
        return rc;
    bool bootstrapped = marker_exists(b, MARKER_BOOTSTRAPPED);
    if (bootstrapped && has_metadata(b))
        return 0;
    if (bootstrapped || !config->may_bootstrap)
        return -ENODATA;
    if (mkdirat(b->dir_fd, "raft", 0700) < 0 && errno != EEXIST)
        return -errno;
    rc = sweep_raft_dir(b);
    if (rc < 0)
        return rc;
    assert(!has_metadata(b));
    b->fresh = true;
    return make_marker(b, MARKER_PROBATION);
}

static bool sigpipe_is_ignored(void)
{
    struct sigaction action;
    int rc = sigaction(SIGPIPE, NULL, &action);
    assert(rc == 0);
    return (action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL;
}

static uint64_t clock_ms(void *arg)
{
    assert(arg != NULL);
    return uv_hrtime() / 1000000;
}

static void probation_over(void *arg)
{
    const struct backend *b = arg;
    assert(b->dir_fd >= 0);
    /* If this is lost in a crash the probation is simply served again. */
    (void)unlinkat(b->dir_fd, MARKER_PROBATION, 0);
}

static void destroy_backend(struct backend *b)
{
    if (b == NULL)
        return;
    if (b->io.impl != NULL)
        raft_uv_close(&b->io);
    if (b->lock_fd >= 0)
        close(b->lock_fd); /* and with it goes the lock */
    if (b->dir_fd >= 0)
        close(b->dir_fd);
    consensus_core_destroy(b->c);
    free(b);
}

/* Handles that libraft closed in this turn of the loop may still have their callbacks before them (libuv takes the last closed first),
 * and these look at its state: the segment writer's do, after libraft said that it is closed. */
static void reap(uv_handle_t *handle)
{
    struct backend *b = handle->data;
    if (++b->reaper_turns < REAPER_TURNS) {
        int uv_rc = uv_timer_init(handle->loop, &b->reaper);
        assert(uv_rc == 0);
        uv_close(handle, reap);
        return;
    }
    consensus_close_fn cb = b->close_cb;
    void *arg = b->close_arg;
    assert(b->c->close_submitted);
    destroy_backend(b);
    if (cb != NULL)
        cb(arg);
}

static void released(void *arg, consensus_close_fn cb, void *cb_arg)
{
    struct backend *b = arg;
    assert(b->close_cb == NULL);
    b->close_cb = cb;
    b->close_arg = cb_arg;
    uv_close((uv_handle_t *)&b->reaper, reap);
}

static int init_raft_uv(struct backend *b, const struct consensus_config *config, uv_loop_t *loop)
{
    size_t segment = config->segment_bytes ? config->segment_bytes : CONSENSUS_SEGMENT_BYTES;
    unsigned retry_ms = config->connect_retry_ms ? config->connect_retry_ms : CONSENSUS_CONNECT_RETRY_MS;
    assert(segment % 4096 == 0);
    int raft_rc = raft_uv_init(&b->io, loop, b->raft_dir, &b->tcp.transport);
    if (raft_rc != 0) {
        b->io.impl = NULL;
        return consensus_errno(raft_rc);
    }
    raft_uv_set_segment_size(&b->io, segment);
    raft_uv_set_connect_retry_delay(&b->io, retry_ms);
    raft_uv_set_auto_recovery(&b->io, false);
    return 0;
}

static int prepare_log(struct backend *b, const struct consensus_config *config)
{
    int rc = 0;
    assert(b->c != NULL);
    if (b->fresh) {
        rc = consensus_core_bootstrap(b->c);
        if (rc == 0)
            rc = make_marker(b, MARKER_BOOTSTRAPPED);
    } else {
        b->c->probation = b->c->peers_count > 1 && marker_exists(b, MARKER_PROBATION);
        if (config->force_voters)
            rc = consensus_core_force_voters(b->c);
    }
    assert(!b->c->started);
    return rc;
}

int consensus_open(const struct consensus_config *config, struct uv_loop_s *loop,
                   const struct consensus_callbacks *callbacks, struct consensus **ret)
{
    assert(config != NULL && loop != NULL && callbacks != NULL);
    assert(sigpipe_is_ignored());
    int rc = consensus_config_check(config);
    if (rc < 0)
        return rc;
    consensus_heap_install(); /* before anything of libraft allocates */
    struct backend *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return -ENOMEM;
    b->dir_fd = -1;
    b->lock_fd = -1;
    rc = open_dir(b, config);
    if (rc == 0)
        rc = consensus_tcp_init(&b->tcp, loop, config);
    if (rc == 0)
        rc = init_raft_uv(b, config, loop);
    if (rc == 0)
        rc = consensus_core_create(config, &b->io, callbacks, &b->c);
    if (rc < 0)
        goto err_before_handles;
    b->c->backend = b;
    b->c->released = released;
    b->c->probation_over = probation_over;
    b->c->clock_ms = clock_ms;
    int uv_rc = uv_timer_init(loop, &b->reaper);
    assert(uv_rc == 0); /* cannot fail */
    b->reaper.data = b;
    rc = prepare_log(b, config);
    if (rc < 0) {
        consensus_close(b->c, NULL, NULL); /* frees itself as the loop turns */
        return rc;
    }
    *ret = b->c;
    return 0;

err_before_handles:
    destroy_backend(b);
    assert(rc < 0);
    return rc;
}

int consensus_start(struct consensus *c)
{
    assert(c != NULL);
    const struct backend *b = c->backend;
    int rc = consensus_core_start(c);
    if (rc < 0 && b->tcp.last_errno < 0)
        return b->tcp.last_errno;
    return rc;
}
