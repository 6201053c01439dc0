/* SPDX-License-Identifier: Apache-2.0 */
/* store_command: the command lines `ashlard store format` and `ashlard store check`.
 *
 * Threading: blocking. Errors: an exit status: 0, 1 after one line, 2 after the usage; check: 1 if it found damage,
 * 2 if it could not run.
 * Ownership: none kept.
 */
#ifndef ASHLAR_SERVER_DAEMON_STORE_COMMAND_H
#define ASHLAR_SERVER_DAEMON_STORE_COMMAND_H

#define STORE_COMMAND_USAGE                                                                                   \
    "       ashlard store format DIR --node N --cluster NAME (--size BYTES | --device PATH [--size BYTES])\n" \
    "               [--force]\n"                                                                              \
    "       ashlard store check DIR [--json | --digest]\n"

int store_command(int argc, char **argv); /* the words after `store` */

#endif
