/* SPDX-License-Identifier: Apache-2.0 */
/* session: `ashlar session ls|close`: which client has which volume.
 *
 *   - one admin request each
 * Failure modes: what the cluster refuses is told in its own words.
 */
#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/text.h"

int command_session_list(struct cli *cli)
{
    json_t *list, *session;
    size_t i;
    int code = admin_list(cli, "session-list", "sessions", &list);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        return cli_print_json(json_pack("{s:o}", "sessions", list));
    struct text_table *table = text_table_create(cli->colour, "VOLUME\tSESSION\tGATEWAY\tMODE\tATTACHMENT");
    json_array_foreach(list, i, session) text_table_row(
        table, TEXT_PLAIN, "%s\t%lld\tnode %lld\t%s\t%s", admin_string(session, "name"),
        admin_integer(session, "number"), admin_integer(session, "gateway"),
        admin_true(session, "read_only") ? "read-only" : "read-write", admin_string(session, "attachment"));
    json_decref(list);
    text_table_print(table, stdout);
    return CLI_OK;
}

int command_session_close(struct cli *cli)
{
    json_t *answer = NULL;
    if (!cli_confirm(cli, "Fence the client that has %s attached? Its I/O fails from then on.", cli->arguments[0]))
        return cli_fail(cli, CLI_FAILED, "nothing was changed");
    int code = admin_change(cli, json_pack("{s:s, s:s}", "op", "session-close", "name", cli->arguments[0]), 0, &answer);
    if (code == CLI_OK && cli->json)
        return cli_print_json(answer);
    if (code == CLI_OK)
        printf("the session of %s is closed\n", cli->arguments[0]);
    json_decref(answer);
    return code;
}
