/* SPDX-License-Identifier: Apache-2.0 */
/* commands: the table of commands, and the functions behind it.
 *
 * Concept: each command reads cli->arguments and its options, and returns enum cli_exit.
 * Threading: one thread. Errors: told on stderr already. Ownership: none taken.
 */
#ifndef ASHLAR_CLIENT_CLI_COMMANDS_H
#define ASHLAR_CLIENT_CLI_COMMANDS_H

#include "client/cli/cli.h"

extern const struct cli_command cli_commands[]; /* ends with a NULL name */

int command_status(struct cli *cli);
int command_top(struct cli *cli);
int command_node_list(struct cli *cli);
int command_node_info(struct cli *cli);
int command_node_out(struct cli *cli);
int command_node_remove(struct cli *cli);
int command_volume_create(struct cli *cli);
int command_volume_list(struct cli *cli);
int command_volume_info(struct cli *cli);
int command_volume_remove(struct cli *cli);
int command_volume_resize(struct cli *cli);
int command_volume_set(struct cli *cli);
int command_volume_flatten(struct cli *cli);
int command_snapshot_create(struct cli *cli);
int command_snapshot_list(struct cli *cli);
int command_snapshot_remove(struct cli *cli);
int command_snapshot_rollback(struct cli *cli);
int command_snapshot_diff(struct cli *cli);
int command_clone(struct cli *cli);
int command_export(struct cli *cli);
int command_import(struct cli *cli);
int command_session_list(struct cli *cli);
int command_session_close(struct cli *cli);
int command_force_promote(struct cli *cli);
int command_attach(struct cli *cli);
int command_detach(struct cli *cli);
int command_attachments(struct cli *cli);
int command_store_check(struct cli *cli);

#endif
