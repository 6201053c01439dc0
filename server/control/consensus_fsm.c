/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine libraft sees: numbers the entries, frames entries and
 * snapshots, passes them on.
 *
 * libraft 0.15 tells apply() no index and replays everything since its last
 * snapshot at start (R23). The map version is therefore derived: it counts
 * applied entries, and a snapshot carries the count it was taken at.
 *
 * An entry in the log (all integers little endian):
 *    0  u32 magic 'AEN1'
 *    4  u32 payload bytes, 1..CONSENSUS_ENTRY_BYTES_MAX
 *    8  payload, then zeros up to a multiple of 8 (libraft's log format needs
 *       entries of whole 64-bit words)
 * A snapshot:
 *    0  u64 magic 'ASHSNAP1'
 *    8  u64 version
 *   16  u64 payload bytes
 *   24  u64 zero
 *   32  payload
 *
 * Failure modes: a frame that does not fit its own header, or a state machine
 * that cannot take a snapshot back, fails the instance (C3): the log was acked.
 */
#include "server/control/consensus_ops.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_MAGIC 0x314e4541u
#define ENTRY_HEADER_BYTES 8u
#define SNAPSHOT_MAGIC UINT64_C(0x3150414e53485341)
#define SNAPSHOT_HEADER_BYTES 32u

static void put_le(unsigned char *at, uint64_t value, unsigned bytes)
{
    assert(bytes == 4 || bytes == 8);
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_le(const unsigned char *at, unsigned bytes)
{
    uint64_t value = 0;
    assert(bytes == 4 || bytes == 8);
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static size_t entry_bytes(size_t payload)
{
    assert(payload <= CONSENSUS_ENTRY_BYTES_MAX);
    return (ENTRY_HEADER_BYTES + payload + 7) & ~(size_t)7;
}

int consensus_fsm_frame(const void *bytes, size_t len, struct raft_buffer *ret)
{
    assert(len >= 1 && len <= CONSENSUS_ENTRY_BYTES_MAX);
    size_t total = entry_bytes(len);
    unsigned char *base = raft_calloc(1, total);
    if (base == NULL)
        return -ENOMEM;
    put_le(base, ENTRY_MAGIC, 4);
    put_le(base + 4, len, 4);
    memcpy(base + ENTRY_HEADER_BYTES, bytes, len);
    ret->base = base;
    ret->len = total;
    return 0;
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct consensus *c = fsm->data;
    const unsigned char *base = buf->base;
    uint64_t payload = buf->len < ENTRY_HEADER_BYTES ? 0 : get_le(base + 4, 4);
    *result = NULL;
    if (payload == 0 || payload > CONSENSUS_ENTRY_BYTES_MAX || get_le(base, 4) != ENTRY_MAGIC ||
        buf->len != entry_bytes(payload)) {
        consensus_fail(c, -EBADMSG, "a committed entry is malformed");
        return RAFT_MALFORMED;
    }
    assert(c->version < UINT64_MAX);
    c->version++; /* (C5) */
    c->callbacks.apply(c->callbacks.arg, c->version, base + ENTRY_HEADER_BYTES, payload);
    *result = &c->version;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct consensus *c = fsm->data;
    void *bytes = NULL;
    size_t len = 0;
    assert(c->snapshot_bufs[0].base == NULL); /* one at a time */
    int rc = c->callbacks.snapshot(c->callbacks.arg, &bytes, &len);
    if (rc < 0 || len > CONSENSUS_SNAPSHOT_BYTES_MAX) {
        if (rc != -EAGAIN)
            consensus_log(c, CONSENSUS_LOG_WARN, "no snapshot: %s", strerror(rc < 0 ? -rc : EMSGSIZE));
        if (rc >= 0)
            free(bytes);
        return RAFT_BUSY; /* the log grows on; asked again after the next entry */
    }
    assert(len == 0 || bytes != NULL);
    unsigned char *header = calloc(1, SNAPSHOT_HEADER_BYTES);
    if (header == NULL) {
        free(bytes);
        return RAFT_BUSY;
    }
    put_le(header, SNAPSHOT_MAGIC, 8);
    put_le(header + 8, c->version, 8);
    put_le(header + 16, len, 8);
    c->snapshot_bufs[0] = (struct raft_buffer){.base = header, .len = SNAPSHOT_HEADER_BYTES};
    c->snapshot_bufs[1] = (struct raft_buffer){.base = bytes, .len = len};
    *bufs = c->snapshot_bufs;
    *n_bufs = len == 0 ? 1 : 2;
    return 0;
}

/* The library is done with the bytes of fsm_snapshot(), written or not. */
static int fsm_snapshot_finalize(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct consensus *c = fsm->data;
    assert(*bufs == c->snapshot_bufs);
    assert(*n_bufs >= 1 && *n_bufs <= 2);
    for (unsigned i = 0; i < 2; i++) {
        free(c->snapshot_bufs[i].base);
        c->snapshot_bufs[i] = (struct raft_buffer){.base = NULL, .len = 0};
    }
    *bufs = NULL;
    *n_bufs = 0;
    return 0;
}

/* On success the bytes become ours, on failure the library frees them. */
static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct consensus *c = fsm->data;
    const unsigned char *base = buf->base;
    if (buf->len < SNAPSHOT_HEADER_BYTES || get_le(base, 8) != SNAPSHOT_MAGIC ||
        get_le(base + 16, 8) != buf->len - SNAPSHOT_HEADER_BYTES) {
        consensus_fail(c, -EBADMSG, "a snapshot is malformed");
        return RAFT_MALFORMED;
    }
    uint64_t version = get_le(base + 8, 8);
    if (version < c->version) { /* committed entries are never taken back */
        consensus_fail(c, -EBADMSG, "a snapshot is older than our state");
        return RAFT_MALFORMED;
    }
    int rc =
        c->callbacks.restore(c->callbacks.arg, base + SNAPSHOT_HEADER_BYTES, buf->len - SNAPSHOT_HEADER_BYTES, version);
    if (rc < 0) {
        consensus_fail(c, rc, "a snapshot was not accepted");
        return RAFT_MALFORMED;
    }
    assert(c->failed_rc == 0);
    c->version = version;
    c->stats.snapshots_restored++;
    raft_free(buf->base);
    return 0;
}

void consensus_fsm_wire(struct consensus *c)
{
    assert(c != NULL);
    c->fsm = (struct raft_fsm){
        .version = 2, /* 2: with snapshot_finalize, we keep the buffers */
        .data = c,
        .apply = fsm_apply,
        .snapshot = fsm_snapshot,
        .restore = fsm_restore,
        .snapshot_finalize = fsm_snapshot_finalize,
    };
    assert(c->fsm.snapshot_async == NULL);
}
