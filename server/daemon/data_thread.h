/* SPDX-License-Identifier: Apache-2.0 */
/* data_thread: the thread through which all data goes: ring loop, store, links of peers and clients, replicas, gateway.
 *
 * Concept: it opens the store and tells `opened`; once control says `registered` it makes peers, replicas and gateway and
 *   listens; it follows the map that the bridge brings; at `stop` it takes everything down in order and tells `ended`.
 * Threading: create, start, join, destroy on the control thread; receiver's ops on the data thread (through the bridge);
 *   the callbacks come on the control thread, through its mailbox.
 * Errors: create and start return -errno; what fails later is told by opened, or is a store failure.
 * Ownership: settings, mailbox and control proxy are borrowed.
 */
#ifndef ASHLAR_SERVER_DAEMON_DATA_THREAD_H
#define ASHLAR_SERVER_DAEMON_DATA_THREAD_H

#include "common/ring/ring.h"
#include "server/control/bridge.h"
#include "server/daemon/mailbox_uv.h"
#include "server/daemon/settings.h"
#include "server/store/store.h"

struct data_thread;

struct data_thread_config {
    const struct settings *settings;
    struct mailbox *control_box;
    /* How long a store that another process holds is waited for: the one that this process was before it started anew. */
    uint64_t busy_wait_ms;
    void (*opened)(void *arg, int rc); /* once; 0: the store is open, listening can be expected to work */
    void (*start_anew)(void *arg);     /* registered a second time: the process must stop and start anew (R1) */
    void (*ended)(void *arg, int rc);  /* everything is closed; rc < 0: the store was not closed clean */
    void *arg;
};

struct data_opened {
    struct store_identity identity;
    enum store_stop stop;
    bool empty; /* holds no shard at all */
    uint64_t capacity_bytes;
};

int data_thread_create(const struct data_thread_config *config, struct data_thread **ret_thread);
struct ring_loop *data_thread_loop(struct data_thread *thread);
struct bridge_to_data *data_thread_receiver(struct data_thread *thread);
void data_thread_before_result(void *thread); /* daemon_bridge_config.before_result */
int data_thread_start(struct data_thread *thread, struct bridge_to_control *control);
const struct data_opened *data_thread_opened(const struct data_thread *thread); /* after opened with 0 */
void data_thread_join(struct data_thread *thread);    /* after ended (or a failed opened); delivers all mail first */
void data_thread_destroy(struct data_thread *thread); /* accepts NULL */

#endif
