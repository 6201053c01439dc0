/* SPDX-License-Identifier: Apache-2.0 */
/* admin: requests to the cluster, answered by its leader, whichever node is asked (docs/internals/control.md).
 *
 * Concept: addresses are tried in the order of the cluster file; a node that says "try again" (no leader at the moment) is asked
 *   again, and others are, until --timeout. A change whose outcome got lost is repeated, too: the caller says which refusal of the
 *   repetition means that it had been done.
 * Threading: blocking. Errors: enum cli_exit, told on stderr. Ownership: requests are given, answers are given (json_decref).
 */
#ifndef ASHLAR_CLIENT_CLI_ADMIN_H
#define ASHLAR_CLIENT_CLI_ADMIN_H

#include "client/cli/cli.h"

int admin_read(const struct cli *cli, json_t *request, json_t **ret_answer);
/* CLI_OK and *ret_answer NULL: there is no such thing. */
int admin_find(const struct cli *cli, json_t *request, json_t **ret_answer);
/* done: -errno that says so when an earlier attempt got lost (-EEXIST, -ENOENT), or 0. *ret_answer may be NULL then. */
int admin_change(const struct cli *cli, json_t *request, int done, json_t **ret_answer);
/* Every item of an op that answers in parts ("more", "next"), in one array. */
int admin_list(const struct cli *cli, const char *op, const char *items, json_t **ret_items);

/* One node, once, without a word on stderr: what only that node knows (`stats`, `ping`). -errno. */
int admin_ask_node(const char *address, const char *op, uint64_t timeout_ms, json_t **ret_answer);
/* The node behind the first address, if that is a unix socket: the one of this host. 0: unknown. */
uint32_t admin_local_node(const struct cli *cli);

/* Members of an object; 0, "" when they are not there. */
long long admin_integer(const json_t *object, const char *key);
const char *admin_string(const json_t *object, const char *key);
bool admin_true(const json_t *object, const char *key);

#endif
