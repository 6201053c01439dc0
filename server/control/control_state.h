/* SPDX-License-Identifier: Apache-2.0 */
/* control_state: the inside of a control core, shared by the control_*.c files only.
 *
 * Concept: events (frames, log entries, bridge messages, timers) change state and wake the core; the next turn
 *   (control_turn) does what follows from it: feeds the data thread and subscribers, completes proposals, grants sessions.
 *   A tick each few tens of milliseconds does what follows from time alone.
 * Threading, errors, ownership: as in control.h.
 */
#ifndef ASHLAR_SERVER_CONTROL_CONTROL_STATE_H
#define ASHLAR_SERVER_CONTROL_CONTROL_STATE_H

#include "common/hello.h"
#include "common/list.h"
#include "server/control/control.h"

#define CONTROL_KEPT_ENTRIES 4096u /* entries kept for those who are behind; older: a snapshot */
#define CONTROL_KEPT_BYTES (8u << 20)
#define CONTROL_HASH_EVERY 64u /* map versions at which all replicas compute the hash (R23) */
#define CONTROL_HASHES_KEPT 16u
#define CONTROL_SNAPSHOT_BYTES_MAX (64u << 20) /* of a map, from the wire */
#define CONTROL_PIECE_BYTES (128u * 1024u)     /* of a snapshot, a frame */
#define CONTROL_SLEPT_BEATS \
    3u /* a tick that is late by more heartbeats than this: the process or the host stood still */
#define CONTROL_RESEND_NS ENV_MS(300)
#define CONTROL_RECONNECT_NS ENV_MS(100)
#define CONTROL_HELLO_NS ENV_MS(5000)   /* to say hello in */
#define CONTROL_REFUSED_NS ENV_MS(1000) /* to read a refusal in */
#define CONTROL_ACCUSED_MAX 8u
#define CONTROL_PROBE_NS ENV_MS(1000)
#define CONTROL_STATS_NS ENV_MS(1000)
#define CONTROL_PEERS_MAX (MAP_NODES_MAX + CONTROL_VOTERS_MAX)

/* What a heartbeat tells besides its header: a list of u64, which may grow at its end. */
enum control_report {
    REPORT_FREE_BYTES,
    REPORT_TOTAL_BYTES,
    REPORT_ALLOCATED_BYTES,
    REPORT_HASH_VERSION,
    REPORT_HASH,
    REPORT_SPACE, /* 1 near full, 2 full, 4 failed */
    REPORT_MARKS,
    REPORT_SUSPECT_REGIONS,
    REPORT_DAMAGED,
    REPORT_SERVING,
    REPORT_PARKED,
    REPORT_CLIENTS,
    REPORT_SYNCS,
    REPORT_RESYNC_BYTES,
    REPORT_REAPING, /* shards where records of deleted snapshots may be left */
    REPORT_REAPED,  /* such records removed since the node's start */
    REPORT_COUNT,
};

/* A link this core opened to another one, for its own requests. */
struct control_peer {
    struct control *control;
    uint32_t node;
    char address[MAP_ADDRESS_MAX];
    struct link *link;    /* NULL: none */
    bool ready;           /* hello answered */
    uint64_t retry_ns;    /* not before */
    uint64_t incarnation; /* as its hello said */
};

/* A link that somebody opened to this core. */
struct control_conn {
    struct control *control;
    struct list_node node_link;
    struct link *link;
    uint64_t id;
    uint32_t role;           /* enum hello_role, 0: no hello yet, or a refused one */
    uint64_t hello_until_ns; /* closed then if it still has no role */
    uint32_t node;
    uint64_t incarnation, connection;
    bool doomed;
    /* a subscriber */
    bool subscribed;
    uint64_t next_version; /* next entry to send */
    uint8_t *snapshot;     /* being sent */
    size_t snapshot_len, snapshot_sent;
    uint64_t snapshot_version;
};

struct control_probe { /* R10 */
    struct control *control;
    struct link *link;
    uint32_t node;
    uint64_t incarnation; /* that the probe is about */
    uint64_t started_ns;
    bool connected;
};

/* What the leader knows of a node. Its times are of control_lived, but down_since_ns; they start anew with each election (R10). */
struct control_watch {
    uint32_t node;
    uint64_t incarnation;    /* of the last heartbeat */
    uint64_t heard_ns;       /* when it arrived, or the election */
    uint64_t lease_until_ns; /* no lease of this node, of any incarnation, lasts longer */
    uint64_t applied;        /* map version in force at its data thread */
    uint64_t applied_incarnation;
    uint64_t io_age_ns;
    uint64_t report[REPORT_COUNT];
    bool reported;
    bool diverged;            /* R23 */
    uint64_t blocks_since_ns; /* a session waits for this node's data thread since then; 0: none */
    struct {
        uint32_t node;
        uint64_t at_ns;
    } accused[CONTROL_ACCUSED_MAX]; /* members that it reported as unreachable (R8) */
    bool cut_off;                   /* judged to be the one that is cut off: no more lease, then down */
    /* a heartbeat that waits for a quorum contact (R9) */
    bool waiting;
    uint64_t waiting_conn, waiting_request, waiting_echo, waiting_incarnation, arrived_ns;
    uint64_t down_proposed; /* incarnation for which NODE_DOWN is on its way */
    uint64_t down_since_ns; /* 0: up */
    uint64_t out_proposed;
    struct control_probe probe;
};

/* An entry this core wants committed. */
struct control_proposal {
    struct list_node node_link;
    uint64_t serial;
    uint8_t request[16];
    uint8_t *bytes;
    size_t len;
    bool awaited; /* SESSION_OPEN: done only when granted (R19); VOLUME_RESIZE: when the gateway knows */
    bool answered;
    struct map_result result;
    uint64_t resend_ns;
    void (*cb)(void *arg, const struct map_result *result);
    void *arg;
};

/* At the leader: an entry on its way through the log, or a session on its way to its grant. */
struct control_submission {
    struct list_node node_link;
    struct control *control;
    uint8_t request[16];
    uint64_t conn, request_id; /* who waits for the answer; conn 0: this core's proposal request_id */
    bool in_log, session, resize, dead;
    uint32_t drop_reporter, drop_node; /* MEMBER_DROP; 0: another kind */
    struct control_log_req req;
    struct map_result result; /* of a session to be granted */
    uint64_t volume;
    bool continued;           /* same attachment as before */
    uint64_t members_version; /* the node set below is of this map version */
    uint32_t member_count;
    uint32_t members[MAP_NODES_MAX];
};

#define CONTROL_DUTIES_MAX 64u /* own proposals of the leader in the log at once */
struct control_duty {
    struct control *control;
    struct control_log_req req;
    bool busy;
    uint32_t down_node; /* NODE_DOWN: so that it may be proposed again */
    uint64_t down_incarnation;
};

struct control_kept { /* one applied entry */
    uint8_t *bytes;
    size_t len;
};

enum control_registration { REG_IDLE, REG_PROPOSED, REG_DONE, REG_DEPOSED };

struct control_admin_request {
    struct list_node node_link;
    struct control *control;
    uint64_t id;
    uint64_t deadline_ns;
    control_admin_cb cb;
    void *arg;
};

struct control {
    struct control_config config;
    struct env *env;
    struct map *map;
    struct bridge_to_control bridge;
    struct env_task turn_task;
    struct env_timer tick_timer;
    uint64_t ticked_ns; /* last tick */
    uint64_t lived_ns;  /* then: control_lived */
    bool started, stopping, stopped, dead;
    void (*stop_cb)(void *arg);
    void *stop_arg;
    struct env_task stop_task;

    /* links */
    struct listener *listeners[CONTROL_LISTEN_MAX];
    struct control_peer *peers[CONTROL_PEERS_MAX];
    uint32_t peer_count;
    struct list_node conns;
    uint32_t conn_count, link_count; /* links whose closed callback has not come */
    uint64_t next_id;                /* of conns, proposals, requests; never 0 */

    /* map and who follows it */
    struct control_kept kept[CONTROL_KEPT_ENTRIES]; /* index: version % CONTROL_KEPT_ENTRIES */
    uint64_t kept_first;                            /* version of the oldest kept; kept_first > map version: none */
    size_t kept_bytes;
    bool data_started;
    uint64_t data_version; /* sent to the data thread */
    struct {
        uint64_t version, hash;
    } hashes[CONTROL_HASHES_KEPT];
    uint64_t persisted_version, persist_after_ns;
    /* following (not a voter) */
    uint32_t leader_hint, follow_node;
    uint64_t follow_heard_ns;
    uint8_t *piece_bytes;
    size_t piece_total, piece_have;
    uint64_t piece_version;

    /* this node */
    enum control_registration registration;
    uint64_t incarnation; /* 0 until registered */
    uint64_t registered_version;
    uint64_t lease_until_ns;
    uint64_t heartbeat_after_ns, leader_answered_ns;
    bool heartbeat_now;
    uint64_t applied, applied_told; /* by the data thread; as the last heartbeat said */
    bool store_failed_proposed;
    uint64_t awaited_version; /* newest SESSION_OPEN (R19) or VOLUME_RESIZE seen: its application is reported at once */
    uint64_t alive_ns, io_age_ns;
    int store_rc;
    struct bridge_stats *stats;
    uint64_t stats_after_ns;

    /* proposals of this node */
    struct list_node proposals;
    uint32_t proposal_count;

    /* leading */
    bool leading;
    uint64_t term, elected_ns;
    struct control_watch watches[MAP_NODES_MAX];
    uint32_t watch_count;
    struct list_node submissions;
    struct { /* a quorum contact (R9): asks every voter for its term */
        uint64_t number, started_ns, resend_ns;
        uint32_t answers; /* bit i: voters[i] */
        bool running;
    } round;
    uint64_t duties_after_ns, duties_version, headless_since_ns, node_change_ns;
    uint64_t liveness_version; /* watches are of this map version */
    struct control_duty duties[CONTROL_DUTIES_MAX];
    uint32_t duties_pending; /* of them busy */
    bool transferred;
    uint32_t lost_node; /* whose link to us ended by itself while we followed, and has not come back; 0: none */
    uint64_t transferred_ns;

    struct list_node admins;                  /* waiting for the leader's answer */
    struct list_node snap_waits;              /* snapshot-create: until it is complete */
    uint64_t opening_group, opening_since_ns; /* leader: the oldest snapshot that is not complete */
};

/* ---- control.c ---- */
void control_wake(struct control *c);
void control_fail(struct control *c, int rc, const char *sentence);
uint64_t control_now(struct control *c);
/* The time that the leader judges others by (R10): this core's clock, of which a stretch without a tick counts as one step at most. What a
 * machine slept through (its clock is set anew afterwards, to a second or so) or its host stepped over did not pass for the others' leases. */
uint64_t control_lived(const struct control *c);
uint64_t control_lived_step(const struct control *c);
uint64_t control_id(struct control *c);
void control_link_opened(struct control *c);
void control_link_gone(struct control *c);

/* ---- control_map.c: the map replica and who follows it ---- */
void control_map_entry(struct control *c, uint64_t version, const void *bytes, size_t len);
int control_map_replace(struct control *c, const void *bytes, size_t len); /* a snapshot */
void control_map_feed(struct control *c); /* data thread and subscribers get what they lack */
void control_map_pump(struct control_conn *conn);
void control_map_persist(struct control *c);
void control_map_close(struct control *c);
bool control_map_hash_at(const struct control *c, uint64_t version, uint64_t *ret_hash);

/* ---- control_follow.c: a non-voter's subscription ---- */
void control_follow_tick(struct control *c);
void control_follow_ready(struct control *c, struct control_peer *peer);
void control_follow_message(struct control *c, struct control_peer *peer, struct msg *msg);
void control_follow_lost(struct control *c, struct control_peer *peer);
uint32_t control_leader_node(struct control *c); /* to ask; may be wrong; 0: unknown */
void control_leader_hint(struct control *c, uint32_t from, uint32_t leader);

/* ---- control_link.c ---- */
struct control_peer *control_peer_get(struct control *c, uint32_t node); /* NULL: no address known */
void control_peer_connect(struct control *c, struct control_peer *peer);
/* -ENOTCONN without a ready link (one is then being made). header: opcode, request_id and own fields set. */
int control_peer_send(struct control *c, uint32_t node, struct wire_header *header, const void *body);
struct control_conn *control_conn_find(struct control *c, uint64_t id);
int control_conn_send(struct control_conn *conn, struct wire_header *header, const void *body);
/* Fills the reply's opcode and request id. */
void control_conn_reply(struct control_conn *conn, const struct wire_header *request, struct wire_header *reply,
                        const void *body);
void control_conn_drop(struct control_conn *conn);
int control_links_listen(struct control *c);
void control_links_close(struct control *c);
void control_links_tick(struct control *c); /* closes links that never said who they are */
void control_hello_fill(const struct control *c, struct hello *hello);
void control_accept(struct listener *listener, void *arg, struct link *link);

/* ---- control_dispatch.c: a frame to its handler ---- */
void control_conn_message(struct control_conn *conn, struct msg *msg); /* msg stays the caller's */
void control_peer_message(struct control_peer *peer, struct msg *msg);

/* ---- control_node.c: this node's registration, heartbeats, lease ---- */
void control_node_turn(struct control *c);
void control_node_tick(struct control *c);
void control_node_heartbeat(struct control *c);
void control_node_answered(struct control *c, uint32_t from, const struct wire_header *reply);
void control_node_close(struct control *c);

/* ---- control_lease.c: the leader answers heartbeats (R9) ---- */
void control_lease_heartbeat(struct control *c, uint64_t conn, const struct wire_header *header, const uint64_t *report,
                             uint32_t report_count);
void control_lease_tick(struct control *c);
void control_lease_pong(struct control *c, uint32_t node, const struct wire_header *reply);
void control_lease_ping(struct control_conn *conn, const struct wire_header *request);

/* ---- control_liveness.c: leading starts and ends; silence and probes ---- */
void control_liveness_role(struct control *c);
void control_liveness_tick(struct control *c);
void control_liveness_slept(
    struct control *c); /* this thread stood still for long: what others said meanwhile is unread */
void control_liveness_suspect(struct control *c, uint32_t node);
/* A primary reported a member; refused: it would have left too few (R8). */
void control_liveness_accused(struct control *c, uint32_t reporter, uint32_t node, bool refused);
bool control_liveness_withheld(const struct control *c, const struct control_watch *w); /* no lease for that node */
struct control_watch *control_watch_get(struct control *c, uint32_t node); /* made on demand; NULL: too many */
void control_liveness_map(struct control *c);                              /* after entries: watches follow the map */
void control_liveness_close(struct control *c);
uint64_t control_lease_bound(const struct control *c,
                             uint64_t from_ns); /* when a lease counted from then has ended everywhere */

/* ---- control_duties.c, control_heal.c: what the leader proposes by itself. Such an entry is proposed once: another leader
 * decides anew (a retried NODE_DOWN could hit a node that holds a lease of the new leader). ---- */
int control_duty_propose(struct control *c, const struct map_entry *entry);
void control_duties_tick(struct control *c);
void control_heal(struct control *c);

/* ---- control_propose.c ---- */
/* request zero: a random one. -EAGAIN: too many. bytes are copied. */
int control_propose(struct control *c, const void *bytes, size_t len,
                    void (*cb)(void *arg, const struct map_result *result), void *arg);
int control_propose_entry(struct control *c, const struct map_entry *entry,
                          void (*cb)(void *arg, const struct map_result *result), void *arg);
void control_propose_turn(struct control *c);
void control_propose_tick(struct control *c);
void control_propose_resend(struct control *c); /* leader changed or its link is ready */
void control_propose_answer(struct control *c, uint32_t from, const struct wire_header *reply, const void *body);
void control_propose_close(struct control *c);

/* ---- control_submit.c: proposals at the leader, and session grants (R19) ---- */
void control_submit(struct control *c, uint64_t conn, uint64_t request_id, const void *bytes, size_t len);
void control_submit_turn(struct control *c);
void control_submit_close(struct control *c);
void control_submit_result_encode(const struct map_result *result, uint8_t out[24]);
void control_submit_result_decode(const uint8_t in[24], struct map_result *ret_result);
void control_propose_done(struct control *c, uint64_t serial, int status, uint32_t leader,
                          const struct map_result *result);

/* ---- control_bridge.c ---- */
extern const struct bridge_to_control_ops control_bridge_ops;

/* ---- control_admin*.c ---- */
void control_admin_frame(struct control_conn *conn, struct msg *msg);
void control_admin_relayed(struct control *c, const struct wire_header *reply, const void *body);
void control_admin_tick(struct control *c);
void control_admin_close(struct control *c);

/* ---- control_admin_snap.c ---- */
void control_snap_turn(struct control *c); /* answers those whose snapshot is complete */
void control_snap_duty(struct control *c); /* leader: gives up what takes too long */
void control_snap_abort(struct control *c, const struct map_volume *volume);
void control_snap_close(struct control *c);
void control_snap_forget(struct control *c); /* of a core that is freed: nobody is answered */

#endif
