/* SPDX-License-Identifier: Apache-2.0 */
/* ashlar: the client library of the Ashlar block store.
 *
 * Concept: ashlar_connect names a cluster by the addresses of its gateways and starts one loop thread; ashlar_open attaches
 *   a volume by name; requests on it are byte ranges of any alignment. When a gateway fails the library goes on through another
 *   one by itself: a request fails only for good reasons (see Errors), never because a node died.
 * Threading: every function may be called by any thread, requests of one volume by many at once. Callbacks run one at
 *   a time, on the library's loop thread or on one that is inside a blocking function: they may submit, and must not block; the
 *   blocking functions and ashlar_close, ashlar_disconnect refuse to run there (-EDEADLK). The loop thread does not survive
 *   fork(): connect after forking.
 * Errors: 0 or -errno; ashlar_error tells the calling thread's last failure in words. A submit either returns an error, or its
 *   callback comes exactly once; never inside the call. What a request may end with:
 *     -EINVAL  outside the volume, or flags it does not take      -EROFS  written although opened read-only
 *     -ENOSPC  the drives are full                                 -EILSEQ no replica has undamaged data
 *     -ETIMEDOUT  io_timeout passed (never by default)             -ESTALE  fenced: another client attached the volume
 *     -ENOENT  the volume was deleted                              -EIO    acknowledged data that was never flushed may be
 *     -ESHUTDOWN  ashlar_close                                             lost (power failed everywhere): for good
 * Ownership: a buffer is the library's until the callback; whoever changes the bytes of a write before that writes anything.
 *   A volume handle lives until ashlar_close returned, a cluster until ashlar_disconnect; disconnect wants all volumes closed.
 */
#ifndef ASHLAR_H
#define ASHLAR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ASHLAR_API __attribute__((visibility("default")))
#define ASHLAR_CONFIG_PATH "/etc/ashlar/cluster.conf"
#define ASHLAR_NAME_MAX 64   /* bytes of a volume name with its NUL */
#define ASHLAR_TITLE_MAX 128 /* bytes of "volume" or "volume@snapshot" with the NUL */
#define ASHLAR_BLOCK_BYTES 4096u
#define ASHLAR_LENGTH_MAX (1u << 30) /* bytes of one read or write */

struct ashlar_cluster;
struct ashlar_volume;

/* ---- cluster ---- */

/* Zero-initialise; zero means the default. Strings are copied. */
struct ashlar_options {
    /* Gateway addresses "unix:/run/ashlar/1/data.sock,tcp:127.0.0.1:7100", tried in this order (put the local one first),
     * or the path of a cluster file. NULL: $ASHLAR_CLUSTER (either of the two), else ASHLAR_CONFIG_PATH.
     * Cluster file (INI): [client] addresses = ...; io_timeout = 30s */
    const char *where;
    uint64_t io_timeout_ms;   /* a request not answered for so long fails with -ETIMEDOUT; default: wait for ever */
    uint64_t open_timeout_ms; /* of ashlar_open and ashlar_list; default 30 s */
};

/* Starts the loop thread; touches no network yet. options may be NULL. */
ASHLAR_API int ashlar_connect(const struct ashlar_options *options, struct ashlar_cluster **ret_cluster);
ASHLAR_API void ashlar_disconnect(struct ashlar_cluster *cluster); /* blocks; accepts NULL */

struct ashlar_volume_info {
    char name[ASHLAR_NAME_MAX];
    uint64_t size; /* bytes */
};
/* malloc'ed, given: free(*ret_infos). Blocks. */
ASHLAR_API int ashlar_list(struct ashlar_cluster *cluster, struct ashlar_volume_info **ret_infos, size_t *ret_count);

/* ---- volume ---- */

enum ashlar_open_flags {
    ASHLAR_OPEN_READ_ONLY = 1 << 0,
    ASHLAR_OPEN_FORCE = 1 << 1, /* take it from the client that has it attached; that one is fenced */
};
/* Attaches the volume, or with "volume@snapshot" one of its snapshots, which can only be read, by any number of clients; blocks. -ENOENT, -EBUSY (attached elsewhere), -ETIMEDOUT (no gateway answers). */
ASHLAR_API int ashlar_open(struct ashlar_cluster *cluster, const char *name, unsigned flags,
                           struct ashlar_volume **ret_volume);
/* Detaches; requests in flight end with -ESHUTDOWN first. Does not flush. Blocks; accepts NULL. */
ASHLAR_API void ashlar_close(struct ashlar_volume *volume);
ASHLAR_API uint64_t ashlar_size(struct ashlar_volume *volume); /* bytes, as last heard of; multiple of 4096; may grow */
/* Asks the gateway: what the volume grew by before the call is seen, and can be read and written from then on. Blocks, for
 * open_timeout at most: -ETIMEDOUT; or what requests end with. */
ASHLAR_API int ashlar_size_now(struct ashlar_volume *volume, uint64_t *ret_size);
ASHLAR_API const char *ashlar_name(const struct ashlar_volume *volume);

/* ---- requests ---- */

enum ashlar_flags {
    ASHLAR_FUA = 1 << 0,     /* write, zero: durable on every replica when it completes */
    ASHLAR_TRIM = 1 << 1,    /* zero: advisory, only whole 4 KiB blocks are zeroed and their space given back */
    ASHLAR_NO_HOLE = 1 << 2, /* zero: keep the space allocated */
};
typedef void (*ashlar_cb)(void *arg, int rc);

ASHLAR_API int ashlar_aio_read(struct ashlar_volume *volume, void *buffer, size_t length, uint64_t offset, ashlar_cb cb,
                               void *arg);
ASHLAR_API int ashlar_aio_write(struct ashlar_volume *volume, const void *buffer, size_t length, uint64_t offset,
                                unsigned flags, ashlar_cb cb, void *arg);
ASHLAR_API int ashlar_aio_zero(struct ashlar_volume *volume, uint64_t length, uint64_t offset, unsigned flags,
                               ashlar_cb cb, void *arg);
/* Makes every write durable whose callback came before this call. Safe for several NBD connections on one volume handle
 * ("multi-conn"). */
ASHLAR_API int ashlar_aio_flush(struct ashlar_volume *volume, ashlar_cb cb, void *arg);

enum ashlar_extent_state {
    ASHLAR_EXTENT_DATA = 0,
    ASHLAR_EXTENT_HOLE = 1 << 0, /* no space allocated */
    ASHLAR_EXTENT_ZERO = 1 << 1, /* reads as zeros */
    ASHLAR_EXTENT_SAME = 1 << 2, /* ashlar_changes: nothing was written here since */
};
struct ashlar_extent {
    uint64_t offset, length; /* bytes */
    unsigned state;
};
/* extents: ascending, gapless from the request's offset, valid in the callback only; they may cover less than was asked for
 * (at least one), or a little more. */
typedef void (*ashlar_extents_cb)(void *arg, int rc, const struct ashlar_extent *extents, size_t count);
ASHLAR_API int ashlar_aio_extents(struct ashlar_volume *volume, uint64_t length, uint64_t offset, ashlar_extents_cb cb,
                                  void *arg);

/* As extents, but of a volume or snapshot compared with an older snapshot of it, which is named by its generation ("ashlar snapshot
 * ls"): told from records alone, no data is read. What was written with the bytes it held may be told as changed. */
ASHLAR_API int ashlar_aio_changes(struct ashlar_volume *volume, uint32_t since, uint64_t length, uint64_t offset,
                                  ashlar_extents_cb cb, void *arg);

/* The same, blocking. */
ASHLAR_API int ashlar_read(struct ashlar_volume *volume, void *buffer, size_t length, uint64_t offset);
ASHLAR_API int ashlar_write(struct ashlar_volume *volume, const void *buffer, size_t length, uint64_t offset,
                            unsigned flags);
ASHLAR_API int ashlar_zero(struct ashlar_volume *volume, uint64_t length, uint64_t offset, unsigned flags);
ASHLAR_API int ashlar_flush(struct ashlar_volume *volume);
/* Fills up to max extents; *ret_count >= 1 on success. */
ASHLAR_API int ashlar_extents(struct ashlar_volume *volume, uint64_t length, uint64_t offset,
                              struct ashlar_extent *ret_extents, size_t max, size_t *ret_count);
ASHLAR_API int ashlar_changes(struct ashlar_volume *volume, uint32_t since, uint64_t length, uint64_t offset,
                              struct ashlar_extent *ret_extents, size_t max, size_t *ret_count);

/* ---- telling what happened ---- */

/* Sentence about the calling thread's last failed call; "" if none. Valid until its next ashlar call. */
ASHLAR_API const char *ashlar_error(void);
ASHLAR_API const char *ashlar_version(void);

enum ashlar_op { ASHLAR_OP_READ, ASHLAR_OP_WRITE, ASHLAR_OP_ZERO, ASHLAR_OP_FLUSH, ASHLAR_OP_COUNT };

/* Latency from submit to callback, nanoseconds. */
struct ashlar_latency {
    uint64_t count, bytes, errors;
    uint64_t mean_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns;
};
struct ashlar_stats {
    struct ashlar_latency op[ASHLAR_OP_COUNT];
    /* Where the time of the answered wire requests went, as the answers told, means in nanoseconds. */
    uint64_t write_gateway_ns, write_primary_ns, write_network_ns, write_drive_ns, write_wire_ns;
    uint64_t read_gateway_ns, read_primary_ns, read_drive_ns, read_wire_ns;
    uint64_t failovers; /* sessions taken anew through another gateway */
    uint64_t resent;    /* wire requests sent again */
    uint64_t checksum_errors;
    uint32_t in_flight; /* requests now */
    uint32_t attached;  /* 1: a gateway serves us now; 0: looking for one */
    char gateway[128];  /* its address */
};
/* Counters since ashlar_open. Blocks for a turn of the loop. */
ASHLAR_API int ashlar_volume_stats(struct ashlar_volume *volume, struct ashlar_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
