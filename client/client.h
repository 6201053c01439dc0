/* SPDX-License-Identifier: Apache-2.0 */
/* client: the client's side of the protocol, without threads, sockets or clocks of its own.
 *
 * Concept: a client attaches one volume through one of several gateways and keeps it attached: when the link ends or falls
 *   silent it takes a new session through the next gateway and sends everything unanswered again (R19: members refuse the older
 *   session before the new one is granted, so nothing lands twice). Requests of any alignment become pieces that the
 *   wire allows; a window given by the gateway bounds what is in flight.
 * Threading: one event loop's. It runs over env and transport, so the simulator runs it, too.
 * Errors: client_submit returns 0 and the request ends through its cb, exactly once, never inside the call; or -EINVAL, -EROFS.
 *   Which errors requests end with: ashlar.h.
 * Ownership: a client_request and its memory are borrowed until cb, as is a client_ask.
 */
#ifndef ASHLAR_CLIENT_CLIENT_H
#define ASHLAR_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/client_body.h"
#include "common/env.h"
#include "common/histogram.h"
#include "common/list.h"
#include "common/transport.h"

#define CLIENT_PIECES_MAX 256u /* in flight at once, whatever the gateway allows */
#define CLIENT_GATEWAYS_MAX 64u

struct client;

enum client_op { CLIENT_READ, CLIENT_WRITE, CLIENT_ZERO, CLIENT_FLUSH, CLIENT_EXTENTS, CLIENT_LIST, CLIENT_OP_COUNT };
enum client_flags { CLIENT_FUA = 1, CLIENT_TRIM = 2, CLIENT_NO_HOLE = 4 };
enum client_open_flags { CLIENT_OPEN_READ_ONLY = 1, CLIENT_OPEN_FORCE = 2 };

struct client_extent {
    uint64_t offset, length; /* bytes */
    uint32_t state;          /* 0 hole, 1 data, 2 zero but allocated, 3 as it was in the generation asked about */
};

struct client_request {
    /* public */
    enum client_op op;
    uint32_t flags;
    uint64_t offset, length; /* bytes */
    uint8_t *data;           /* READ, WRITE */
    uint32_t since;          /* EXTENTS: 0, or a generation: what changed since */
    void (*cb)(struct client_request *request, int rc);
    void *owner;
    /* out, valid in cb only */
    struct client_extent *extents; /* EXTENTS: from offset on, gapless */
    uint32_t extent_count;
    struct client_list_entry *entries; /* LIST */
    uint32_t entry_count;
    /* private */
    struct list_node link;         /* client->requests, in order of arrival; then client->done */
    struct list_node pending_link; /* client->pending: not cut up to the end yet */
    uint64_t cursor, end;          /* what is not cut yet */
    uint32_t pieces;               /* cut and not ended */
    int rc;
    bool failed;
    uint64_t submitted_ns;
    uint64_t flush_seq; /* FLUSH: acknowledgements before it (core_loss.c) */
};

/* A question for the volume's present size. */
struct client_ask {
    /* public */
    uint64_t timeout_ns;
    void (*cb)(struct client_ask *ask, int rc); /* 0: client_size is as of now; -ETIMEDOUT: as it was known */
    void *owner;
    /* private */
    struct list_node link; /* client->asks, then ->asks_done */
    uint64_t ping;         /* the PING whose answer is the answer; 0: none sent in this session */
    uint64_t until_ns;
    int rc;
};

struct client_stats {
    uint64_t count[CLIENT_OP_COUNT], bytes[CLIENT_OP_COUNT], errors[CLIENT_OP_COUNT];
    struct histogram latency[CLIENT_OP_COUNT];
    /* Sums over answered pieces, nanoseconds; stages as the answers tell them. */
    uint64_t write_pieces, write_stage_ns[4], write_wire_ns;
    uint64_t read_pieces, read_stage_ns[4], read_wire_ns;
    uint64_t failovers, resent, checksum_errors;
};

struct client_config {
    struct env *env;
    struct transport *transport;
    const char *const *addresses; /* copied */
    uint32_t address_count;
    char volume[CLIENT_NAME_MAX];   /* "": no volume, only CLIENT_LIST */
    char snapshot[CLIENT_NAME_MAX]; /* "": the volume itself; else one of its snapshots, which is read only */
    uint32_t open_flags;
    uint64_t io_timeout_ns; /* 0: wait for ever */
    bool fail_back;         /* return to the first address when it serves again */
    /* Once: the first attach succeeded (0), or failed for good. */
    void (*opened)(void *arg, int rc);
    void *arg;
};

struct client *client_create(const struct client_config *config); /* opened follows; NULL: no memory */
int client_submit(struct client *client, struct client_request *request);
/* What the volume grew by before this call is seen in its callback, which comes exactly once, never inside the call. */
void client_ask_size(struct client *client, struct client_ask *ask);
/* Requests end with -ESHUTDOWN; the session is closed; cb, then the client is freed. */
void client_close(struct client *client, void (*cb)(void *arg), void *arg);

uint64_t client_size(const struct client *client);
uint32_t client_in_flight(const struct client *client);
const struct client_stats *client_stats(const struct client *client);
/* Address of the gateway that serves us now, "" if none. */
const char *client_gateway(const struct client *client);
/* Why no gateway serves us: a sentence about the last attempt. */
const char *client_trouble(const struct client *client);

#endif
