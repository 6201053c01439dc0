/* SPDX-License-Identifier: Apache-2.0 */
/* image: disk images of other formats into a volume, through qemu-img.
 *
 * Concept: qemu-img tells format and size, the volume is made and attached (as `ashlar attach` does), qemu-img convert writes.
 * Threading: one thread, child processes. Errors: enum cli_exit, told on stderr. Ownership: none taken.
 */
#ifndef ASHLAR_CLIENT_CLI_IMAGE_H
#define ASHLAR_CLIENT_CLI_IMAGE_H

#include "client/cli/cli.h"

/* format NULL: what qemu-img finds. */
int import_image(struct cli *cli, const char *path, const char *target, const char *format);
/* The volume of an import, with the command's --replicas, --min-replicas and --home. exists_ok: it may be there with that size. */
int import_make_volume(const struct cli *cli, const char *name, uint64_t size, bool exists_ok, json_t **ret_answer);

#endif
