/* SPDX-License-Identifier: Apache-2.0 */
/* requests: one NBD request is one blocking call of libashlar, which lets a lone caller run the library's loop itself.
 *
 *   - request_*: the call, and its error in NBD's words
 *   - request_size: while no gateway is there, the size that was known last
 *   - request_extents: asks piece by piece, since an answer may cover less than was asked for
 * Failure modes: the library retries over fail-overs itself; what it gives up on becomes an NBD error by request_failed. Errors
 * that NBD has no number for become EIO, never EINVAL, which a guest would take for its own mistake.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "plugins/nbdkit/requests.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* Extents asked for in one go, and the most that one NBD request is answered with. */
#define EXTENT_BATCH 512u
#define EXTENTS_MAX 8192u

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

int request_size(struct ashlar_volume *volume, uint64_t *ret_size)
{
    int rc = ashlar_size_now(volume, ret_size);
    if (rc == 0)
        return 0;
    if (rc == -ETIMEDOUT) { /* no gateway is there: the connection waits with its first request */
        nbdkit_debug("%s", ashlar_error());
        *ret_size = ashlar_size(volume);
        return 0;
    }
    nbdkit_error("volume '%s' serves no more: %s; start nbdkit again", ashlar_name(volume), reason_of(rc));
    nbdkit_set_error(nbd_error_of(rc));
    return -1;
}

int request_read(struct ashlar_volume *volume, void *buffer, uint32_t count, uint64_t offset)
{
    int rc = ashlar_read(volume, buffer, count, offset);
    return rc == 0 ? 0 : request_failed("read", count, offset, rc);
}

int request_write(struct ashlar_volume *volume, const void *buffer, uint32_t count, uint64_t offset, unsigned flags)
{
    int rc = ashlar_write(volume, buffer, count, offset, flags);
    return rc == 0 ? 0 : request_failed("write", count, offset, rc);
}

int request_zero(struct ashlar_volume *volume, uint32_t count, uint64_t offset, unsigned flags)
{
    int rc = ashlar_zero(volume, count, offset, flags);
    return rc == 0 ? 0 : request_failed(flags & ASHLAR_TRIM ? "trim" : "zero", count, offset, rc);
}

int request_flush(struct ashlar_volume *volume)
{
    int rc = ashlar_flush(volume);
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
