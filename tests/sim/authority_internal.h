/* SPDX-License-Identifier: Apache-2.0 */
/* authority_internal: what authority.c and its files share. Threading, errors, ownership: authority.h. */
#ifndef ASHLAR_TESTS_SIM_AUTHORITY_INTERNAL_H
#define ASHLAR_TESTS_SIM_AUTHORITY_INTERNAL_H

#include "tests/sim/authority.h"

enum channel_kind {
    UP_REGISTER,
    UP_PROPOSE,
    UP_ATTACH,
    UP_DETACH,
    UP_APPLIED,
    UP_SUSPECT,
    UP_STORE_FAILED,
    UP_HEARTBEAT,
    DOWN_SNAPSHOT,
    DOWN_REGISTERED,
    DOWN_ENTRY,
    DOWN_LEASE,
    DOWN_RESULT,
    DOWN_ATTACHED,
    DOWN_DEPOSED,
};

struct port;

struct channel_msg {
    struct list_node link;
    enum channel_kind kind;
    uint64_t due_ns;
    uint8_t *bytes;
    size_t len;
    uint64_t a, b;
    void *req;
    struct map_result result;
    struct map_node info;
};

struct channel {
    struct port *port;
    struct list_node msgs;
    struct world_event event;
    uint64_t last_due_ns;
    bool up;
};

struct port { /* one per life of a node */
    struct bridge_to_control bridge;
    struct authority *authority;
    struct list_node link;
    int node;
    struct env *env;
    struct bridge_to_data *data;
    void (*deposed)(void *arg);
    void *arg;
    struct channel up, down;
    struct env_timer heartbeat;
    uint64_t incarnation; /* 0: not registered */
    uint64_t applied;
    uint64_t heard_ns;
    bool dead, exited; /* exited: the process is gone, its kernel answers */
};

/* An entry on its way through the log. */
struct commit {
    struct list_node link;
    uint64_t due_ns;
    uint8_t *bytes;
    size_t len;
    struct port *port; /* who asked; NULL: the authority itself */
    enum channel_kind kind;
    void *req;
    struct map_node info;
    struct authority_attach *attach;
};

/* A session entry that waits for R19. */
struct grant {
    struct list_node link;
    struct port *port;
    struct bridge_attach *req;
    struct authority_attach *attach;
    uint64_t volume, session, version;
};

struct authority {
    struct authority_config config;
    struct world *world;
    struct map *map;
    struct list_node ports, commits, grants;
    struct world_event commit_event, tick;
    struct world_watcher watcher;
    uint64_t last_due_ns;
    uint64_t lease_until_ns[WORLD_NODES_MAX]; /* latest end of any lease of that node */
    uint64_t down_since_ns[WORLD_NODES_MAX];
    bool down_proposed[WORLD_NODES_MAX];
    uint64_t registered_ns;
    bool elect_proposed;
};

/* authority_channel.c */
void port_init(struct authority *a, struct port *port, int node);
struct channel_msg *channel_msg_create(enum channel_kind kind, const void *bytes, size_t len);
void channel_push(struct channel *channel, struct channel_msg *msg);
void channel_drop(struct channel *channel);
/* authority.c */
void authority_receive(struct port *port, struct channel_msg *msg);
void commit_push(struct authority *a, struct commit *commit);
void commit_entry(struct authority *a, const struct map_entry *entry);
struct port *port_of(struct authority *a, int node);
/* authority_duties.c */
void duties_tick(struct world_event *event);
void duties_suspect(struct authority *a, uint32_t node);

#endif
