/* SPDX-License-Identifier: Apache-2.0 */
/* fake_ashlar: a stand-in for libashlar, for tests of the plugin that no real cluster can bring about.
 *
 *   - volumes live in memory; one thread completes the requests, in the order of their submission, after a pause
 *   - the name says what a volume does: "mem..." works; "fail-N" answers each request with -N; "open-N" cannot be opened (-N)
 *   - at ashlar_disconnect one line of counters goes to the file $FAKE_ASHLAR_LOG
 * Preload it (LD_PRELOAD) in front of the library.
 */
#include <ashlar.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAKE_BYTES (64ull << 20)
#define BLOCKS (FAKE_BYTES / ASHLAR_BLOCK_BYTES)

struct task {
    ashlar_cb cb;
    void *arg;
    int rc;
    struct task *next;
};
struct ashlar_volume {
    char name[ASHLAR_NAME_MAX];
    bool read_only;
    int rc; /* of every request */
    unsigned char *bytes;
    unsigned char state[BLOCKS]; /* enum ashlar_extent_state */
};
struct ashlar_cluster {
    pthread_t thread;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct task *first, **last = &first;
static bool stopping;
static unsigned opens, closes, reads, writes, zeroes, trims, flushes, fua, no_hole, force, pid_of_connect;

static void *complete(void *unused)
{
    (void)unused;
    (void)pthread_mutex_lock(&lock);
    while (!stopping || first) {
        if (!first) {
            (void)pthread_cond_wait(&changed, &lock);
            continue;
        }
        struct task *task = first;
        first = task->next;
        last = first ? last : &first;
        (void)pthread_mutex_unlock(&lock);
        task->cb(task->arg, task->rc);
        free(task);
        (void)pthread_mutex_lock(&lock);
    }
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static int later(ashlar_cb cb, void *arg, int rc)
{
    struct task *task = malloc(sizeof(*task));
    assert(task);
    *task = (struct task){.cb = cb, .arg = arg, .rc = rc};
    *last = task;
    last = &task->next;
    (void)pthread_cond_signal(&changed);
    return 0;
}

int ashlar_connect(const struct ashlar_options *options, struct ashlar_cluster **ret_cluster)
{
    if (options && options->where && strstr(options->where, "nowhere"))
        return -ENOENT;
    *ret_cluster = calloc(1, sizeof(**ret_cluster));
    pid_of_connect = (unsigned)getpid();
    return -pthread_create(&(*ret_cluster)->thread, NULL, complete, NULL);
}

void ashlar_disconnect(struct ashlar_cluster *cluster)
{
    const char *path = getenv("FAKE_ASHLAR_LOG");
    if (!cluster)
        return;
    (void)pthread_mutex_lock(&lock);
    stopping = true;
    (void)pthread_cond_signal(&changed);
    (void)pthread_mutex_unlock(&lock);
    (void)pthread_join(cluster->thread, NULL);
    free(cluster);
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(
            file,
            "opens=%u closes=%u reads=%u writes=%u zeroes=%u trims=%u flushes=%u fua=%u no_hole=%u force=%u after_fork=%d\n",
            opens, closes, reads, writes, zeroes, trims, flushes, fua, no_hole, force,
            pid_of_connect == (unsigned)getpid());
        (void)fclose(file);
    }
}

int ashlar_list(struct ashlar_cluster *cluster, struct ashlar_volume_info **ret_infos, size_t *ret_count)
{
    static const struct ashlar_volume_info infos[] = {{"mem-a", FAKE_BYTES}, {"mem-b", FAKE_BYTES}};
    assert(cluster);
    *ret_infos = malloc(sizeof(infos));
    memcpy(*ret_infos, infos, sizeof(infos));
    *ret_count = sizeof(infos) / sizeof(infos[0]);
    return 0;
}

int ashlar_open(struct ashlar_cluster *cluster, const char *name, unsigned flags, struct ashlar_volume **ret_volume)
{
    assert(cluster);
    if (strncmp(name, "open-", 5) == 0)
        return -atoi(name + 5);
    if (strncmp(name, "mem", 3) != 0 && strncmp(name, "fail-", 5) != 0)
        return -ENOENT;
    struct ashlar_volume *volume = calloc(1, sizeof(*volume));
    assert(volume);
    strcpy(volume->name, name);
    volume->read_only = flags & ASHLAR_OPEN_READ_ONLY;
    volume->rc = strncmp(name, "fail-", 5) == 0 ? -atoi(name + 5) : 0;
    volume->bytes = calloc(1, FAKE_BYTES);
    memset(volume->state, ASHLAR_EXTENT_HOLE | ASHLAR_EXTENT_ZERO, BLOCKS);
    opens++;
    force += (flags & ASHLAR_OPEN_FORCE) != 0;
    *ret_volume = volume;
    return 0;
}

void ashlar_close(struct ashlar_volume *volume)
{
    if (!volume)
        return;
    closes++;
    free(volume->bytes);
    free(volume);
}

uint64_t ashlar_size(struct ashlar_volume *volume)
{
    assert(volume);
    return FAKE_BYTES;
}

int ashlar_size_now(struct ashlar_volume *volume, uint64_t *ret_size)
{
    assert(volume);
    *ret_size = FAKE_BYTES;
    return 0;
}

const char *ashlar_name(const struct ashlar_volume *volume)
{
    return volume->name;
}

int ashlar_aio_read(struct ashlar_volume *volume, void *buffer, size_t length, uint64_t offset, ashlar_cb cb, void *arg)
{
    assert(offset + length <= FAKE_BYTES);
    (void)pthread_mutex_lock(&lock);
    reads++;
    memcpy(buffer, volume->bytes + offset, length);
    int rc = later(cb, arg, volume->rc);
    (void)pthread_mutex_unlock(&lock);
    return rc;
}

int ashlar_aio_write(struct ashlar_volume *volume, const void *buffer, size_t length, uint64_t offset, unsigned flags,
                     ashlar_cb cb, void *arg)
{
    assert(offset + length <= FAKE_BYTES);
    assert((flags & ~(unsigned)ASHLAR_FUA) == 0);
    if (volume->read_only)
        return -EROFS;
    (void)pthread_mutex_lock(&lock);
    writes++;
    fua += (flags & ASHLAR_FUA) != 0;
    memcpy(volume->bytes + offset, buffer, length);
    for (uint64_t i = offset / ASHLAR_BLOCK_BYTES; i * ASHLAR_BLOCK_BYTES < offset + length; i++)
        volume->state[i] = ASHLAR_EXTENT_DATA;
    int rc = later(cb, arg, volume->rc);
    (void)pthread_mutex_unlock(&lock);
    return rc;
}

int ashlar_aio_zero(struct ashlar_volume *volume, uint64_t length, uint64_t offset, unsigned flags, ashlar_cb cb,
                    void *arg)
{
    assert(offset + length <= FAKE_BYTES);
    if (volume->read_only)
        return -EROFS;
    (void)pthread_mutex_lock(&lock);
    trims += (flags & ASHLAR_TRIM) != 0;
    zeroes += (flags & ASHLAR_TRIM) == 0;
    fua += (flags & ASHLAR_FUA) != 0;
    no_hole += (flags & ASHLAR_NO_HOLE) != 0;
    uint64_t begin = (offset + ASHLAR_BLOCK_BYTES - 1) / ASHLAR_BLOCK_BYTES;
    uint64_t end = (offset + length) / ASHLAR_BLOCK_BYTES;
    if (!(flags & ASHLAR_TRIM))
        memset(volume->bytes + offset, 0, length);
    for (uint64_t i = begin; i < end; i++) {
        memset(volume->bytes + i * ASHLAR_BLOCK_BYTES, 0, ASHLAR_BLOCK_BYTES);
        volume->state[i] = ASHLAR_EXTENT_ZERO | (flags & ASHLAR_NO_HOLE ? 0 : ASHLAR_EXTENT_HOLE);
    }
    int rc = later(cb, arg, volume->rc);
    (void)pthread_mutex_unlock(&lock);
    return rc;
}

int ashlar_aio_flush(struct ashlar_volume *volume, ashlar_cb cb, void *arg)
{
    (void)pthread_mutex_lock(&lock);
    flushes++;
    int rc = later(cb, arg, volume->rc);
    (void)pthread_mutex_unlock(&lock);
    return rc;
}

/* ---- the blocking ones: a request as above, and a wait for the thread that completes it */

struct wait {
    sem_t done;
    int rc;
};

static void waited(void *arg, int rc)
{
    struct wait *wait = arg;
    wait->rc = rc;
    (void)sem_post(&wait->done);
}

static void wait_begin(struct wait *wait)
{
    int rc = sem_init(&wait->done, /* pshared= */ 0, 0);
    assert(rc == 0);
}

/* submitted: what the submit returned; the callback comes only if that is 0. */
static int wait_end(struct wait *wait, int submitted)
{
    if (submitted == 0) {
        while (sem_wait(&wait->done) < 0)
            assert(errno == EINTR);
        submitted = wait->rc;
    }
    (void)sem_destroy(&wait->done);
    return submitted;
}

int ashlar_read(struct ashlar_volume *volume, void *buffer, size_t length, uint64_t offset)
{
    struct wait wait;
    wait_begin(&wait);
    return wait_end(&wait, ashlar_aio_read(volume, buffer, length, offset, waited, &wait));
}

int ashlar_write(struct ashlar_volume *volume, const void *buffer, size_t length, uint64_t offset, unsigned flags)
{
    struct wait wait;
    wait_begin(&wait);
    return wait_end(&wait, ashlar_aio_write(volume, buffer, length, offset, flags, waited, &wait));
}

int ashlar_zero(struct ashlar_volume *volume, uint64_t length, uint64_t offset, unsigned flags)
{
    struct wait wait;
    wait_begin(&wait);
    return wait_end(&wait, ashlar_aio_zero(volume, length, offset, flags, waited, &wait));
}

int ashlar_flush(struct ashlar_volume *volume)
{
    struct wait wait;
    wait_begin(&wait);
    return wait_end(&wait, ashlar_aio_flush(volume, waited, &wait));
}

/* At most a mebibyte at once, so that the caller has to ask again. */
int ashlar_extents(struct ashlar_volume *volume, uint64_t length, uint64_t offset, struct ashlar_extent *ret_extents,
                   size_t max, size_t *ret_count)
{
    uint64_t end = offset + (length < (1u << 20) ? length : 1u << 20);
    assert(end <= FAKE_BYTES && max > 0);
    if (volume->rc < 0)
        return volume->rc;
    for (*ret_count = 0; offset < end && *ret_count < max; ++*ret_count) {
        uint64_t next = (offset / ASHLAR_BLOCK_BYTES + 1) * ASHLAR_BLOCK_BYTES;
        next = next < end ? next : end;
        ret_extents[*ret_count] =
            (struct ashlar_extent){offset, next - offset, volume->state[offset / ASHLAR_BLOCK_BYTES]};
        offset = next;
    }
    return 0;
}

const char *ashlar_error(void)
{
    return "the stand-in says no";
}

const char *ashlar_version(void)
{
    return "stand-in";
}
