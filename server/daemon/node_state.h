/* SPDX-License-Identifier: Apache-2.0 */
/* node_state: the few files by which a daemon remembers itself, in the directory DIR/control beside its store.
 *
 *   DIR/control/           consensus: its log, if this node is a voter
 *   DIR/control/map        the newest cluster map that was saved (to know addresses, and for `ashlar` to look at)
 *   DIR/registered         store uuid and boot id of the last life that registered
 *   DIR/voter              this node's log was started: an empty one means that it was lost
 *
 * Threading: blocking; the control thread's. Errors: -errno. Ownership: what node_state_load_map returns is given.
 */
#ifndef ASHLAR_SERVER_DAEMON_NODE_STATE_H
#define ASHLAR_SERVER_DAEMON_NODE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/control/map.h"
#include "server/store/store.h"

#define NODE_STATE_PATH_MAX 640u
#define NODE_STATE_MAP_BYTES_MAX (64u << 20)

int node_state_make(const char *directory, char ret_control[NODE_STATE_PATH_MAX]); /* DIR/control */

/* How the last life that the cluster knows of ended (R1): the store's word, unless a life that never registered came
 * between: then a reboot before it would be forgotten. EMPTY: this store never registered. */
int node_state_last_stop(const char *directory, const struct store_identity *identity, enum store_stop stop,
                         enum map_stop *ret_stop);
int node_state_registered(const char *directory, const struct store_identity *identity); /* durable */

bool node_state_is_voter(const char *directory);
int node_state_set_voter(const char *directory); /* durable */

int node_state_save_map(const char *directory, const void *bytes, size_t len);     /* atomic, not synced */
int node_state_load_map(const char *directory, void **ret_bytes, size_t *ret_len); /* -ENOENT: none */

#endif
