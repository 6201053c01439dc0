/* SPDX-License-Identifier: Apache-2.0 */
/* node: `ashlar node ls|info|out|remove`.
 *
 *   - the leader's list of nodes; info adds what the node itself tells
 * Failure modes: a node that does not answer is shown by what the leader knows of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/node_stats.h"
#include "client/cli/text.h"

static int parse_node(const struct cli *cli, long long *ret_node)
{
    char *end;
    *ret_node = strtoll(cli->arguments[0], &end, 10);
    if (*end || end == cli->arguments[0] || *ret_node <= 0 || *ret_node > 65535)
        return cli_fail(cli, CLI_USAGE, "'%s' is no number of a node; see: ashlar node ls", cli->arguments[0]);
    return CLI_OK;
}

int command_node_list(struct cli *cli)
{
    json_t *answer = NULL;
    int code = admin_read(cli, json_pack("{s:s}", "op", "node-list"), &answer);
    if (code != CLI_OK)
        return code;
    node_stats_mark(json_object_get(answer, "nodes"));
    if (cli->json)
        return cli_print_json(answer);
    node_stats_table(cli, json_object_get(answer, "nodes"), /* leader= */ 0);
    json_decref(answer);
    return CLI_OK;
}

static void print_pairs(const json_t *object, const char *prefix)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        char name[64];
        (void)snprintf(name, sizeof(name), "%s%s", prefix, key);
        if (json_is_object(value))
            continue;
        if (json_is_string(value))
            printf("%-24s %s\n", name, json_string_value(value));
        else if (json_is_integer(value))
            printf("%-24s %lld\n", name, (long long)json_integer_value(value));
        else if (json_is_boolean(value))
            printf("%-24s %s\n", name, json_is_true(value) ? "yes" : "no");
    }
}

int command_node_info(struct cli *cli)
{
    long long id;
    size_t i;
    json_t *answer = NULL, *stats = NULL, *node, *found = NULL;
    int code = parse_node(cli, &id);
    if (code == CLI_OK)
        code = admin_read(cli, json_pack("{s:s}", "op", "node-list"), &answer);
    if (code != CLI_OK)
        return code;
    node_stats_mark(json_object_get(answer, "nodes"));
    json_array_foreach(json_object_get(answer, "nodes"), i, node)
    {
        if (admin_integer(node, "id") == id)
            found = json_incref(node);
    }
    json_decref(answer);
    if (!found)
        return cli_fail(cli, CLI_FAILED, "there is no node %lld; see: ashlar node ls", id);
    if (node_stats_get(found, &stats) == 0)
        (void)json_object_set_new(found, "stats", stats);
    if (cli->json)
        return cli_print_json(found);
    print_pairs(found, "");
    if (stats)
        print_pairs(json_object_get(stats, "counters"), "stats ");
    json_decref(found);
    return CLI_OK;
}

static int change_node(struct cli *cli, const char *op, int done, const char *question, const char *told)
{
    long long id;
    json_t *answer = NULL;
    int code = parse_node(cli, &id);
    if (code != CLI_OK)
        return code;
    if (!cli_confirm(cli, "Node %lld: %s?", id, question))
        return cli_fail(cli, CLI_FAILED, "nothing was changed");
    code = admin_change(cli, json_pack("{s:s, s:I}", "op", op, "node", (json_int_t)id), done, &answer);
    if (code == CLI_OK && cli->json)
        return cli_print_json(answer ? answer : json_pack("{s:b}", "ok", 1));
    if (code == CLI_OK)
        printf("node %lld %s\n", id, told);
    json_decref(answer);
    return code;
}

int command_node_out(struct cli *cli)
{
    return change_node(cli, "node-out", 0, "make its replicas anew on other nodes",
                       "is out; see the replacement with: ashlar status");
}

int command_node_remove(struct cli *cli)
{
    return change_node(cli, "node-remove", -ENOENT, "forget it", "is forgotten");
}
