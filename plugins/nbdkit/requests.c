/* SPDX-License-Identifier: Apache-2.0 */
/* requests: one NBD request is one submit and one wait.
 *
 *   - request_*: submit with a struct wait on the stack; wait_for sleeps until request_done (loop thread) posts
 *   - request_extents: asks piece by piece, since an answer may cover less than was asked for
 * Failure modes: the library retries over fail-overs itself; what it gives up on becomes an NBD error by request_failed. Errors
 * that NBD has no number for become EIO, never EINVAL, which a guest would take for its own mistake.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "plugins/nbdkit/requests.h"

#include <assert.h>
#include <errno.h>
#include <semaphore.h>
#include <string.h>

/* Extents asked for in one go, and the most that one NBD request is answered with. */
#define EXTENT_BATCH 512u
#define EXTENTS_MAX 8192u

struct wait {
    sem_t done;
    int rc; /* written by request_done before it posts */
};

static void request_done(void *arg, int rc)
{
    struct wait *wait = arg;
    assert(rc <= 0);
    wait->rc = rc;
    (void)sem_post(&wait->done); /* the waiter may be gone from here on */
}

static void wait_init(struct wait *wait)
{
    wait->rc = 0;
    int rc = sem_init(&wait->done, /* pshared= */ 0, 0);
    assert(rc == 0);
}

/* submitted: what the submit returned; the callback comes only if that is 0. */
static int wait_for(struct wait *wait, int submitted)
{
    if (submitted == 0) {
        while (sem_wait(&wait->done) < 0)
            assert(errno == EINTR);
        submitted = wait->rc;
    }
    (void)sem_destroy(&wait->done);
    return submitted;
}

/* The NBD protocol has nine error numbers; nbdkit turns any other one into EINVAL. */
static int nbd_error_of(int rc)
{
    switch (rc) {
    case -ESTALE: return EPERM; /* fenced: another client has the volume now */
    case -EROFS:
    case -EPERM: return EPERM;
    case -ENOSPC:
    case -EDQUOT: return ENOSPC;
    case -ENOMEM: return ENOMEM;
    case -EINVAL: return EINVAL;
    case -EOVERFLOW: return EOVERFLOW;
    case -EOPNOTSUPP: return EOPNOTSUPP;
    case -ESHUTDOWN: return ESHUTDOWN;
    default: return EIO;
    }
}

static const char *reason_of(int rc)
{
    switch (rc) {
    case -ESTALE: return "fenced: another client attached the volume";
    case -ENOENT: return "the volume was deleted";
    case -EILSEQ: return "no replica has undamaged data";
    case -ETIMEDOUT: return "io_timeout passed";
    case -EIO: return "acknowledged data that was never flushed may be lost, or a drive failed; see: ashlar status";
    default: return strerror(-rc);
    }
}

static int request_failed(const char *what, uint64_t count, uint64_t offset, int rc)
{
    assert(rc < 0);
    nbdkit_error("%s of %llu bytes at %llu: %s", what, (unsigned long long)count, (unsigned long long)offset,
                 reason_of(rc));
    nbdkit_set_error(nbd_error_of(rc));
    return -1;
}

int request_read(struct ashlar_volume *volume, void *buffer, uint32_t count, uint64_t offset)
{
    struct wait wait;
    wait_init(&wait);
    int rc = wait_for(&wait, ashlar_aio_read(volume, buffer, count, offset, request_done, &wait));
    return rc == 0 ? 0 : request_failed("read", count, offset, rc);
}

int request_write(struct ashlar_volume *volume, const void *buffer, uint32_t count, uint64_t offset, unsigned flags)
{
    struct wait wait;
    wait_init(&wait);
    int rc = wait_for(&wait, ashlar_aio_write(volume, buffer, count, offset, flags, request_done, &wait));
    return rc == 0 ? 0 : request_failed("write", count, offset, rc);
}

int request_zero(struct ashlar_volume *volume, uint32_t count, uint64_t offset, unsigned flags)
{
    struct wait wait;
    wait_init(&wait);
    int rc = wait_for(&wait, ashlar_aio_zero(volume, count, offset, flags, request_done, &wait));
    return rc == 0 ? 0 : request_failed(flags & ASHLAR_TRIM ? "trim" : "zero", count, offset, rc);
}

int request_flush(struct ashlar_volume *volume)
{
    struct wait wait;
    wait_init(&wait);
    int rc = wait_for(&wait, ashlar_aio_flush(volume, request_done, &wait));
    if (rc == 0)
        return 0;
    nbdkit_error("flush: %s", reason_of(rc));
    nbdkit_set_error(nbd_error_of(rc));
    return -1;
}

static uint32_t nbd_state_of(unsigned state)
{
    uint32_t type = 0;
    if (state & ASHLAR_EXTENT_HOLE)
        type |= NBDKIT_EXTENT_HOLE;
    if (state & ASHLAR_EXTENT_ZERO)
        type |= NBDKIT_EXTENT_ZERO;
    return type;
}

int request_extents(struct ashlar_volume *volume, uint32_t count, uint64_t offset, int one,
                    struct nbdkit_extents *extents)
{
    struct ashlar_extent batch[EXTENT_BATCH];
    const uint64_t end = offset + count;
    uint64_t at = offset;
    unsigned added = 0;
    while (at < end && added < EXTENTS_MAX) {
        size_t got = 0;
        int rc = ashlar_extents(volume, end - at, at, batch, EXTENT_BATCH, &got);
        if (rc < 0)
            return request_failed("extents", end - at, at, rc);
        assert(got >= 1 && got <= EXTENT_BATCH);
        for (size_t i = 0; i < got; i++) {
            assert(batch[i].offset == at && batch[i].length > 0);
            if (nbdkit_add_extent(extents, at, batch[i].length, nbd_state_of(batch[i].state)) < 0)
                return -1;
            at += batch[i].length;
            added++;
        }
        if (one)
            break;
    }
    return 0;
}
