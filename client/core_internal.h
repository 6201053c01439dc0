/* SPDX-License-Identifier: Apache-2.0 */
/* core_internal: what the files of the client core share.
 *
 * Life of the session (arrows: the function that makes them):
 *
 *   DIALLING --connected--> GREETING --hello answered--> ATTACHING --session granted--> READY
 *      ^  ^                     |                            |                            |
 *      |  |                     +------- session_lost: next address, at once -------------+   silence, link ended
 *      |  +--backoff timer-- BACKOFF <--session_lost: all addresses failed
 *   any --client_fail--> FAILED (fenced, deleted, data lost)      any --client_close--> CLOSING --> freed
 *
 * Threading, errors, ownership: client.h.
 */
#ifndef ASHLAR_CLIENT_CORE_INTERNAL_H
#define ASHLAR_CLIENT_CORE_INTERNAL_H

#include "client/client.h"

#define SESSION_TICK_NS ENV_MS(250)
#define SESSION_PING_NS ENV_MS(500)     /* nothing heard for so long: ask */
#define SESSION_SILENCE_NS ENV_MS(1500) /* something asked and nothing heard for so long: the gateway is dead */
#define SESSION_DIAL_NS ENV_MS(1000)    /* connect and hello */
#define SESSION_ATTACH_NS ENV_MS(5000)  /* longer than node timeout and lease: a grant may wait for both (R19) */
#define SESSION_DETACH_NS ENV_MS(1000)
#define SESSION_BACKOFF_MIN_NS ENV_MS(50)
#define SESSION_BACKOFF_MAX_NS ENV_MS(1000)
#define SESSION_STEADY_NS ENV_MS(1000) /* a session that lasted so long was a good one */
#define SESSION_FAIL_BACK_NS ENV_MS(5000)
#define PIECE_TRIES_MAX 3u /* of a piece whose checksum did not match */
#define LOSS_SHARDS_MAX (1u << 20)
#define CLIENT_CHUNK_BYTES (1u << 20)
#define PIECE_PLACE_BYTES (16u << 10) /* reads from here on are received in place; below, staging copies them anyway */
#define CLIENT_REGION_BYTES (16u << 20)

enum session_state {
    SESSION_DIALLING,
    SESSION_GREETING,
    SESSION_ATTACHING,
    SESSION_READY,
    SESSION_BACKOFF,
    SESSION_FAILED,
    SESSION_DETACHING,
    SESSION_CLOSED,
};

/* A link to a gateway; given up ones live on until their closed callback. */
struct client_conn {
    struct list_node node; /* client->conns */
    struct client *client;
    struct link *link;
    uint32_t address;
    bool given_up;
    bool probe; /* fail-back: only says hello */
};

enum piece_state {
    PIECE_FREE,
    PIECE_TO_SEND,
    PIECE_SENT,
    PIECE_ENDING /* answered, the transport still holds its bytes */
};

struct placed { /* a payload on its way into the memory of a reader (piece_place) */
    struct buf wrap;
    struct piece *piece; /* NULL: it goes to the sink by now */
};

struct piece {
    struct placed *placed; /* an answer is being received in place; NULL: none */
    struct list_node link; /* client->to_send, ->sent, ->released or ->free_pieces */
    struct client *client;
    struct client_request *request;
    enum piece_state state;
    uint16_t opcode;
    uint32_t flags;
    uint64_t offset;
    uint32_t length;
    uint8_t *data;       /* WRITE: source; READ: where the wanted part goes */
    uint32_t skip, take; /* READ: the wanted part of the answer */
    uint64_t aux;        /* LIST: ids above this one */
    uint64_t id;
    uint64_t sent_ns;
    uint32_t tries;
    bool sent_before;
    bool wrapped; /* wrap holds a reference of ours */
    bool unref_here;
    struct buf wrap;
    uint32_t crcs[WIRE_BLOCKS_MAX]; /* WRITE: the body, little-endian */
};

struct loss_shard {
    uint64_t loss; /* number under which its oldest unflushed write was acknowledged */
    uint64_t seq;  /* of its latest acknowledgement */
    bool dirty;
};

struct client {
    struct client_config cfg;
    struct env *env;
    uint8_t *sink; /* never read: what is still received for readers that were told of a failure */
    /* session */
    enum session_state state;
    char addresses[CLIENT_GATEWAYS_MAX][CLIENT_ADDRESS_MAX];
    uint32_t address_count;
    uint32_t address_at; /* being tried, or serving */
    uint32_t failures;   /* in a row */
    uint64_t backoff_ns;
    struct client_conn *conn; /* current */
    struct client_conn *probe;
    struct list_node conns;
    uint64_t deadline_ns; /* of the current step; 0: none */
    struct env_timer tick, backoff;
    struct env_task dial_task, close_task;
    uint64_t last_tick_ns, heard_ns, asked_ns, waiting_ns, ready_ns, probe_ns;
    uint8_t attachment[16];
    bool opened, ever_attached;
    int fail_rc; /* FAILED: what every request ends with */
    uint64_t cluster_id, connection;
    uint64_t session, volume, size, shard_bytes;
    uint64_t gateway_incarnation, map_version;
    uint32_t gateway_node;
    char trouble[160];
    /* requests */
    struct list_node requests, pending, done;
    struct list_node to_send, sent, released, free_pieces;
    struct piece *pieces;
    uint32_t requests_count, sent_count;
    uint64_t sent_bytes;
    uint32_t window_count;
    uint64_t window_bytes;
    uint64_t next_id;
    struct env_task done_task;
    struct list_node asks, asks_done; /* for the size (core_size.c) */
    /* acknowledged, unflushed writes (R13) */
    struct loss_shard *shards;
    uint32_t shard_count;
    uint32_t *dirty;
    uint32_t dirty_count;
    uint64_t ack_seq;
    struct client_stats stats;
    bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
};

/* client.c */
void client_fail(struct client *client, int rc, const char *why);                 /* for good */
void client_request_check(struct client *client, struct client_request *request); /* ends it if nothing is left to do */
void client_request_fail(struct client *client, struct client_request *request, int rc);
void client_check_closed(struct client *client);

/* core_session.c */
void session_start(struct client *client);
void session_lost(struct client *client, const char *why); /* to the next gateway */
void session_stop(struct client *client);                  /* gives every link up */
void session_detach(struct client *client);
void session_note_trouble(struct client *client, const char *what, int rc);
uint64_t session_ping(struct client *client); /* its request id; 0: the link takes nothing now */

/* core_attach.c */
void session_greet(struct client_conn *conn);
void session_greeted(struct client_conn *conn, struct msg *msg);
void session_attached(struct client *client, struct msg *msg);
void session_ready(struct client *client);

/* core_size.c */
int size_learn(struct client *client, uint64_t size);             /* never smaller; -EINVAL, -ENOMEM: unchanged */
void size_ask(struct client *client);                             /* sends the PING that open questions wait for */
void size_answered(struct client *client, const struct msg *msg); /* an answer to PING */
void size_tick(struct client *client, uint64_t now_ns);
void size_fail(struct client *client, int rc); /* ends all questions */
void size_done(struct client *client);         /* calls ended ones back */

/* core_piece.c */
void piece_pump(struct client *client); /* cuts and sends while the window allows */
struct buf *piece_place(struct client *client, const struct wire_header *header);
void piece_answered(struct client *client, struct msg *msg); /* msg is borrowed */
void piece_link_lost(struct client *client);                 /* what was sent is to be sent again */
void piece_abandon(struct piece *piece);                     /* its request has failed; ends when its bytes are free */
void piece_drop_request(struct client *client,
                        const struct client_request *request); /* all of its pieces, sent or not */
void piece_init(struct client *client);
void piece_released(struct client *client); /* ends pieces whose bytes the transport let go (done_task) */

/* core_cut.c */
bool piece_cut(struct client_request *request, struct piece *piece); /* false: nothing left, request->cursor == end */

/* core_loss.c */
int loss_resize(struct client *client, uint64_t size); /* -EINVAL: no such size; -ENOMEM */
bool loss_acked(struct client *client, uint64_t offset, uint64_t loss, bool durable); /* false: data was lost */
bool loss_seen(struct client *client, uint64_t offset, uint64_t loss);
bool loss_listed(struct client *client, const struct client_loss_run *runs, uint32_t count, uint64_t rest);
void loss_flushed(struct client *client, uint64_t seq);

#endif
