/* SPDX-License-Identifier: Apache-2.0 */
/* data_internal: what the files of the data thread share.
 *
 * Threading: the data thread's, but for what is marked. Errors and ownership: as in data_thread.h.
 */
#ifndef ASHLAR_SERVER_DAEMON_DATA_INTERNAL_H
#define ASHLAR_SERVER_DAEMON_DATA_INTERNAL_H

#include <pthread.h>

#include "common/buf.h"
#include "common/list.h"
#include "common/log.h"
#include "common/transport.h"
#include "server/daemon/data_thread.h"
#include "server/gateway/gateway.h"
#include "server/replica/peers.h"
#include "server/replica/replica.h"

#define DATA_ALIVE_NS ENV_MS(200)
#define DATA_HELLO_TIMEOUT_NS ENV_MS(5000)
#define DATA_REFUSED_LINGER_NS ENV_MS(1000)
#define DATA_ACCEPTING_MAX 1024u
#define DATA_VOLUMES_TOLD_MAX 4096u
#define DATA_SYNCS_TOLD_MAX 4096u
#define DATA_READERS_TOLD_MAX 256u

/*   OPENING --opened--> OPEN --registered--> SERVING --stop--> STOPPING --> ENDED
 *      \________________ stop or failure ____________________/^          */
enum data_state { DATA_OPENING, DATA_OPEN, DATA_SERVING, DATA_STOPPING, DATA_ENDED };

struct data_thread {
    struct bridge_to_data receiver;
    struct data_thread_config config;
    struct bridge_to_control *control; /* the bridge's proxy */
    pthread_t pthread;
    bool started; /* control thread */
    enum data_state state;
    struct ring_loop *loop;
    struct env *env;
    struct buf_pool *pool;
    struct transport *transport;
    struct transport *rdma; /* data_rdma.c; NULL: none */
    int rdma_error;         /* why there is none, or nobody can connect by it; -errno */
    struct drive *drive;    /* until the store has it */
    struct kv *kv;          /* likewise */
    struct store *store;
    struct data_opened opened;
    bool store_failed;
    struct log_limiter damage_limiter, repaired_limiter; /* rot comes by the thousand */
    bool store_opening;                                  /* store_open was called, its callback has not come */
    bool stop_wanted;                                    /* asked for meanwhile */
    struct map *map;
    uint64_t cluster_id;
    uint32_t node;
    uint64_t incarnation; /* 0: not registered yet */
    struct peers *peers;
    struct replicas *replicas;
    struct gateway *gateway;
    /* data_map.c */
    bool map_changed; /* entries applied since the last settling */
    bool swept;       /* what the map does not name was dropped from the store */
    struct env_task settle_task;
    struct list_node proposals;
    uint8_t *entry_buffer; /* MAP_ENTRY_BYTES_MAX */
    /* data_accept.c */
    struct listener *tcp_listener, *unix_listener, *rdma_listener;
    struct list_node accepting;
    uint32_t accepting_count;
    struct log_limiter refused_limiter;
    /* data_tell.c */
    struct env_timer alive_timer;
    uint64_t late_ns_max; /* of that timer since the last statistics: how long a turn of the loop kept it waiting */
    /* data_stop.c */
    struct env_timer stop_timer;
    int stop_rc;
    /* to the control thread */
    struct mailbox_mail opened_mail, anew_mail, ended_mail;
    int opened_rc;
    struct ring_mail exit_mail; /* the last one from it */
};

/* data_open.c */
void data_open(struct data_thread *d);

/* data_map.c */
extern const struct bridge_to_data_ops data_receiver_ops;
void data_map_observe(struct data_thread *d);
void data_settle_now(struct data_thread *d);
void data_propose(void *arg, const struct map_entry *entry, struct replica_proposal *proposal);
void data_proposals_forget(struct data_thread *d);

/* data_accept.c */
int data_listen(struct data_thread *d);
void data_unlisten(struct data_thread *d); /* and closes links that have not said who they are */

/* data_rdma.c */
int data_rdma_open(struct data_thread *d);
int data_rdma_listen(struct data_thread *d, transport_accept_cb accepted);
int data_rdma_give_up(struct data_thread *d, int rc); /* closes its listener; 0 if TCP will do */
void data_rdma_tell(const struct data_thread *d, struct bridge_stats *ret);

/* data_tell.c */
void data_alive_start(struct data_thread *d);
void data_tell_stats(struct data_thread *d);

/* data_stop.c */
void data_stop(struct data_thread *d);

/* data_thread.c */
int data_registered(struct data_thread *d, uint64_t cluster_id, uint32_t node, uint64_t incarnation);
void data_tell_opened(struct data_thread *d, int rc);
void data_tell_anew(struct data_thread *d);
void data_tell_ended(struct data_thread *d, int rc);

#endif
