/* SPDX-License-Identifier: Apache-2.0 */
/* fake_gateway: a scripted cluster of gateways in front of one byte array, over the simulated network.
 *
 * Concept: it checks that each frame is one a gateway may be sent (lengths, spans, checksums), keeps what is written, refuses
 *   older sessions, and can be told to misbehave: drop links, fall silent, answer with errors, damage data, hold answers.
 * Threading: one thread. Errors: cmocka assertions. Ownership: fake_create to fake_destroy.
 */
#ifndef ASHLAR_TESTS_UNIT_CLIENT_FAKE_GATEWAY_H
#define ASHLAR_TESTS_UNIT_CLIENT_FAKE_GATEWAY_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "client/client.h"
#include "tests/sim/transport_sim.h"

#define FAKE_GATEWAYS 3
#define FAKE_SIZE (96u << 20)
#define FAKE_SHARD_BYTES (32u << 20)
#define FAKE_SHARDS (FAKE_SIZE / FAKE_SHARD_BYTES)
#define FAKE_VOLUME 7u
#define FAKE_HELD_MAX 1024

struct fake;

struct fake_side { /* a process */
    int node;
    struct env *env;
    struct buf_pool *bufs;
    struct transport *transport;
};

struct fake_link {
    struct list_node node;
    struct fake_gateway *gateway;
    struct link *link;
    uint64_t session;
};

struct fake_gateway {
    struct fake *fake;
    struct fake_side side;
    struct listener *listener; /* NULL: down */
    struct list_node links;
    bool muted;           /* reads and answers nothing */
    bool knows_no_volume; /* as a node that has just started */
    uint64_t map_version;
    bool refuses_attach; /* -EAGAIN */
    char address[64];
    uint64_t frames;
};

struct fake {
    struct world *world;
    struct sim_net *net;
    struct fake_side client_side;
    struct fake_gateway gateways[FAKE_GATEWAYS];
    uint8_t *disk;
    /* the cluster's state */
    uint64_t volume, session, sessions_opened;
    uint64_t size; /* as ATTACH and PING are told: FAKE_SIZE */
    bool deleted;
    uint8_t attachment[16];
    bool attached;
    uint64_t loss[FAKE_SHARDS];
    uint64_t writes_applied, flushes, detaches;
    /* script */
    uint64_t frame_count; /* requests seen, hello and attach too; pings do not count */
    uint64_t drop_before; /* link is closed instead of handling the n-th frame; 0: never */
    uint64_t drop_after;  /* handled, but the link is closed instead of the answer */
    int32_t status;       /* of the next status_count I/O answers */
    uint32_t status_count;
    uint32_t damage_reads;  /* answers whose data does not match its checksums */
    uint32_t damage_writes; /* writes answered -EBADMSG */
    bool hold;              /* I/O frames wait for fake_release */
    uint32_t inflight_bytes_max, inflight_count_max;
    /* held */
    struct {
        struct fake_link *link;
        struct msg *msg;
    } held[FAKE_HELD_MAX];
    uint32_t held_count;
    uint64_t held_bytes, held_bytes_max;
    uint32_t held_count_max;
};

struct fake *fake_create(uint64_t seed);
void fake_destroy(struct fake *fake);
/* The cluster alone, without world and network: the caller fills in a gateway's side and address, then fake_up. */
struct fake *fake_create_bare(void);
void fake_destroy_bare(struct fake *fake); /* its links have closed */
void fake_up(struct fake_gateway *gateway);
void fake_down(struct fake_gateway *gateway);         /* closes its listener and links */
void fake_release(struct fake *fake, uint32_t count); /* handles the oldest held frames */
uint32_t fake_link_count(const struct fake_gateway *gateway);

/* A client of it: opened and its rc are noted. */
struct fake_client {
    struct fake *fake;
    struct client *client;
    bool opened, closed;
    int opened_rc;
};
void fake_client_start(struct fake_client *c, struct fake *fake, const struct client_config *overrides);
void fake_client_open(struct fake_client *c, struct fake *fake, const struct client_config *overrides); /* and waits */
void fake_client_close(struct fake_client *c);

struct fake_io {
    struct client_request request;
    struct fake *fake;
    uint32_t done;
    int rc;
    struct client_extent extents[64];
    uint32_t extent_count;
    struct client_list_entry entries[8];
    uint32_t entry_count;
};
void fake_submit(struct fake_client *c, struct fake_io *io, enum client_op op, uint64_t offset, uint64_t length,
                 uint8_t *data, uint32_t flags);
int fake_wait(struct fake_io *io); /* its rc; fails after a virtual minute */
int fake_do(struct fake_client *c, enum client_op op, uint64_t offset, uint64_t length, uint8_t *data, uint32_t flags);
void fake_run_ms(struct fake *fake, uint64_t ms);

#endif
