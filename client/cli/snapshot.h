/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot: names of snapshots, and what the cluster knows of them.
 *
 * Concept: VOLUME@SNAPSHOT on the command line, a volume's name and a snapshot's in requests.
 * Threading: one thread. Errors: enum cli_exit, told on stderr. Ownership: lists are given (json_decref).
 */
#ifndef ASHLAR_CLIENT_CLI_SNAPSHOT_H
#define ASHLAR_CLIENT_CLI_SNAPSHOT_H

#include "client/cli/cli.h"

struct snapshot_title {
    char volume[64], snapshot[64];
};

int snapshot_title(const struct cli *cli, const char *title, struct snapshot_title *ret);
int snapshot_list(const struct cli *cli, const char *volume, json_t **ret_list, long long *ret_head);
int snapshot_find(const struct cli *cli, const struct snapshot_title *title, long long *ret_generation,
                  uint64_t *ret_size, uint64_t *ret_created_ms);

#endif
