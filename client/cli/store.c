/* SPDX-License-Identifier: Apache-2.0 */
/* store: `ashlar store check`: becomes `ashlard store check`.
 *
 *   - ashlard is looked for beside this program, then in PATH
 * Failure modes: one line when there is none.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/commands.h"
#include "client/cli/nbdkit_process.h"

int command_store_check(struct cli *cli)
{
    char path[PATH_MAX];
    char *argv[] = {(char *)"ashlard", (char *)"store", (char *)"check", cli->arguments[0], NULL, NULL};
    if (cli->json || cli_flag(cli, "digest"))
        argv[4] = (char *)(cli->json ? "--json" : "--digest");
    if (nbdkit_process_find("bin/ashlard", "sbin/ashlard", path) == 0)
        (void)execv(path, argv);
    else
        (void)execvp(argv[0], argv);
    return cli_fail(cli, CLI_FAILED, "cannot run ashlard: %s; is it installed on this host?", strerror(errno));
}
