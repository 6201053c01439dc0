/* SPDX-License-Identifier: Apache-2.0 */
/* node_stats: what single nodes tell of themselves, added to what the leader knows of them.
 *
 * Concept: the leader's node objects carry each node's control address; `stats` is asked there, with a short deadline, and only of
 *   nodes that the leader heard of just now, so that a dead one does not hold up a screen.
 * Threading: blocking. Errors: -errno; nothing on stderr. Ownership: answers are given.
 */
#ifndef ASHLAR_CLIENT_CLI_NODE_STATS_H
#define ASHLAR_CLIENT_CLI_NODE_STATS_H

#include "client/cli/cli.h"

/* Adds "up" to each. */
void node_stats_mark(json_t *nodes);
int node_stats_get(const json_t *node, json_t **ret_stats);
/* {"ID": stats} of all nodes that answer; counters of interest are copied into the node objects. */
json_t *node_stats_collect(json_t *nodes);
/* The table of nodes on stdout. */
/* A line for each link that runs on TCP although RDMA was wanted. */
void node_stats_fallbacks(const json_t *nodes);
void node_stats_table(const struct cli *cli, const json_t *nodes, long long leader);

#endif
