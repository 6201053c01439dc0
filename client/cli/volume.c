/* SPDX-License-Identifier: Apache-2.0 */
/* volume: `ashlar volume create|ls|info|rm|resize|set`, `ashlar force-promote`.
 *
 *   - arguments become one admin request; its answer becomes a table, or is printed as it is (--json)
 * Failure modes: what the cluster refuses is told in its own words.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/text.h"

int cli_parse_size(const char *what, const char *text, uint64_t *ret_bytes)
{
    if (config_parse_bytes(text, ret_bytes) == 0 && *ret_bytes > 0 && *ret_bytes % 4096 == 0)
        return CLI_OK;
    fprintf(stderr, "ashlar: %s '%s': write a multiple of 4096 bytes, or a size like 512M, 10G, 1T\n", what, text);
    return CLI_USAGE;
}

/* Adds the option's number under key, if it was given. */
static int add_number(const struct cli *cli, const char *option, const char *key, json_t *request)
{
    uint32_t value = UINT32_MAX;
    int code = cli_option_u32(cli, option, &value);
    if (code == CLI_OK && value != UINT32_MAX)
        (void)json_object_set_new(request, key, json_integer(value));
    return code;
}

/* Prints a change's answer (given, may be NULL: its words were lost). */
static int changed(const struct cli *cli, json_t *answer, const char *format, const char *name)
{
    int code = CLI_OK;
    if (cli->json)
        code = cli_print_json(answer ? json_incref(answer) : json_pack("{s:b}", "ok", 1));
    else if (format)
        printf("%s %s\n", name, format);
    json_decref(answer);
    return code;
}

static bool is_as_wanted(const struct cli *cli, const json_t *request)
{
    json_t *answer = NULL;
    if (admin_read(cli, json_pack("{s:s, s:s}", "op", "volume-info", "name", admin_string(request, "name")), &answer) !=
        CLI_OK)
        return false;
    const json_t *volume = json_object_get(answer, "volume");
    bool same = admin_integer(volume, "size") == admin_integer(request, "size");
    json_decref(answer);
    return same;
}

int command_volume_create(struct cli *cli)
{
    uint64_t size = 0, shard_bytes = 0;
    const char *shard_size = cli_option(cli, "shard-size");
    int code = cli_parse_size("SIZE", cli->arguments[1], &size);
    if (code == CLI_OK && shard_size)
        code = cli_parse_size("--shard-size", shard_size, &shard_bytes);
    if (code != CLI_OK)
        return code;
    json_t *answer = NULL, *request = json_pack("{s:s, s:s, s:I}", "op", "volume-create", "name", cli->arguments[0],
                                                "size", (json_int_t)size);
    if (!request)
        return cli_fail(cli, CLI_USAGE, "'%s' is no name of a volume", cli->arguments[0]);
    code = add_number(cli, "replicas", "replicas", request);
    if (code == CLI_OK)
        code = add_number(cli, "min-replicas", "min_replicas", request);
    if (code == CLI_OK)
        code = add_number(cli, "home", "home", request);
    if (code == CLI_OK && !json_object_get(request, "home"))
        (void)json_object_set_new(request, "home", json_integer(admin_local_node(cli)));
    if (shard_bytes > 0)
        (void)json_object_set_new(request, "shard_bytes", json_integer((json_int_t)shard_bytes));
    if (code == CLI_OK)
        code = admin_change(cli, json_incref(request), -EEXIST, &answer);
    if (code == CLI_OK && !answer && !is_as_wanted(cli, request))
        code = cli_fail(cli, CLI_FAILED, "a volume of that name exists");
    json_decref(request);
    return code == CLI_OK ? changed(cli, answer, "is made", cli->arguments[0]) : code;
}

int command_volume_list(struct cli *cli)
{
    json_t *list, *volume;
    size_t i;
    char size[TEXT_SIZE_MAX];
    int code = admin_list(cli, "volume-list", "volumes", &list);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        return cli_print_json(json_pack("{s:o}", "volumes", list));
    struct text_table *table = text_table_create(cli->colour, "VOLUME\tSIZE\tREPLICAS\tHOME\tSTATE\tATTACHED");
    json_array_foreach(list, i, volume)
    {
        const json_t *session = json_object_get(volume, "session");
        const char *state = admin_string(volume, "state");
        char gateway[48] = "-", home[24] = "-";
        if (admin_true(session, "open"))
            (void)snprintf(gateway, sizeof(gateway), "through node %lld%s", admin_integer(session, "gateway"),
                           admin_true(session, "read_only") ? ", read-only" : "");
        if (admin_integer(volume, "home") > 0)
            (void)snprintf(home, sizeof(home), "node %lld", admin_integer(volume, "home"));
        text_table_row(table,
                       strcmp(state, "healthy") == 0    ? TEXT_PLAIN
                       : strcmp(state, "degraded") == 0 ? TEXT_WARN
                                                        : TEXT_BAD,
                       "%s\t%s\t%lld\t%s\t%s\t%s", admin_string(volume, "name"),
                       text_size((uint64_t)admin_integer(volume, "size"), size), admin_integer(volume, "replicas"),
                       home, state, gateway);
    }
    json_decref(list);
    text_table_print(table, stdout);
    return CLI_OK;
}

static void print_shard(struct text_table *table, const json_t *shard)
{
    char members[256] = "";
    size_t i;
    json_t *member;
    bool all = true;
    json_array_foreach(json_object_get(shard, "members"), i, member)
    {
        size_t length = strlen(members);
        bool in_sync = admin_true(member, "in_sync");
        const char *mark = in_sync && admin_true(member, "live") ? ""
                           : in_sync                             ? " (down)"
                           : admin_true(member, "leaving")       ? " (leaving)"
                           : admin_true(member, "live")          ? " (syncing)"
                                                                 : " (down, behind)";
        all = all && mark[0] == '\0';
        (void)snprintf(members + length, sizeof(members) - length, "%s%lld%s", length ? ", " : "",
                       admin_integer(member, "node"), mark);
    }
    long long primary = admin_integer(shard, "primary");
    bool active = admin_integer(shard, "epoch") == admin_integer(shard, "active_epoch");
    char shown[48] = "none";
    if (primary > 0)
        (void)snprintf(shown, sizeof(shown), "%lld%s", primary, active ? "" : " (not active)");
    text_table_row(table,
                   primary == 0 || !active ? TEXT_BAD
                   : all                   ? TEXT_PLAIN
                                           : TEXT_WARN,
                   "%lld\t%s\t%s\t%lld\t%lld", admin_integer(shard, "index"), shown, members,
                   admin_integer(shard, "epoch"), admin_integer(shard, "loss_number"));
}

static void print_volume(const struct cli *cli, const json_t *volume, const json_t *shards)
{
    const json_t *session = json_object_get(volume, "session");
    char size[TEXT_SIZE_MAX], shard[TEXT_SIZE_MAX];
    printf("name          %s\n", admin_string(volume, "name"));
    printf("state         %s\n", admin_string(volume, "state"));
    printf("size          %s (%lld bytes), %lld shards of %s\n",
           text_size((uint64_t)admin_integer(volume, "size"), size), admin_integer(volume, "size"),
           admin_integer(volume, "shard_count"), text_size((uint64_t)admin_integer(volume, "shard_bytes"), shard));
    printf("replicas      %lld, serves with %lld in sync\n", admin_integer(volume, "replicas"),
           admin_integer(volume, "min_replicas"));
    const json_t *parent = json_object_get(volume, "parent");
    if (parent && admin_string(parent, "volume")[0])
        printf("parent        %s@%s\n", admin_string(parent, "volume"), admin_string(parent, "snapshot"));
    else if (parent)
        printf("parent        a deleted volume's snapshot\n");
    if (admin_integer(volume, "snapshots") > 0)
        printf("snapshots     %lld\n", admin_integer(volume, "snapshots"));
    if (admin_integer(volume, "home") > 0)
        printf("home          node %lld\n", admin_integer(volume, "home"));
    if (admin_true(session, "open"))
        printf("attached      session %lld through node %lld%s\n", admin_integer(session, "number"),
               admin_integer(session, "gateway"), admin_true(session, "read_only") ? ", read-only" : "");
    else
        printf("attached      no\n");
    printf("\n");
    size_t i;
    json_t *one;
    struct text_table *table = text_table_create(cli->colour, "SHARD\tPRIMARY\tMEMBERS\tEPOCH\tLOSSES");
    json_array_foreach(shards, i, one) print_shard(table, one);
    text_table_print(table, stdout);
}

int command_volume_info(struct cli *cli)
{
    json_t *shards = json_array(), *answer = NULL, *volume = NULL;
    json_int_t from = 0;
    bool more = true;
    while (more) {
        json_t *request = json_pack("{s:s, s:s, s:I}", "op", "volume-info", "name", cli->arguments[0], "from", from);
        int code = admin_read(cli, request, &answer);
        if (code != CLI_OK) {
            json_decref(shards);
            json_decref(volume);
            return code;
        }
        more = admin_true(answer, "more") && admin_integer(answer, "next") > from;
        from = admin_integer(answer, "next");
        (void)json_array_extend(shards, json_object_get(answer, "shards"));
        json_decref(volume);
        volume = json_incref(json_object_get(answer, "volume"));
        json_decref(answer);
    }
    if (cli->json)
        return cli_print_json(json_pack("{s:o, s:o}", "volume", volume, "shards", shards));
    print_volume(cli, volume, shards);
    json_decref(volume);
    json_decref(shards);
    return CLI_OK;
}

int command_volume_remove(struct cli *cli)
{
    json_t *answer = NULL;
    if (!cli_confirm(cli, "Delete volume %s and all its data?", cli->arguments[0]))
        return cli_fail(cli, CLI_FAILED, "nothing was deleted");
    int code = admin_change(
        cli,
        json_pack("{s:s, s:s, s:b}", "op", "volume-delete", "name", cli->arguments[0], "force", cli_flag(cli, "force")),
        -ENOENT, &answer);
    return code == CLI_OK ? changed(cli, answer, "is deleted", cli->arguments[0]) : code;
}

int command_volume_resize(struct cli *cli)
{
    uint64_t size = 0;
    json_t *answer = NULL;
    bool shrink = cli_flag(cli, "shrink") || cli_flag(cli, "force");
    int code = cli_parse_size("SIZE", cli->arguments[1], &size);
    if (code != CLI_OK)
        return code;
    if (shrink && !cli_confirm(cli, "Make volume %s %s bytes large and lose what lies behind?", cli->arguments[0],
                               cli->arguments[1]))
        return cli_fail(cli, CLI_FAILED, "nothing was changed");
    code = admin_change(cli,
                        json_pack("{s:s, s:s, s:I, s:b}", "op", "volume-resize", "name", cli->arguments[0], "size",
                                  (json_int_t)size, "force", shrink),
                        0, &answer);
    return code == CLI_OK ? changed(cli, answer, "is resized", cli->arguments[0]) : code;
}

int command_volume_set(struct cli *cli)
{
    const char *home = cli_option(cli, "home");
    json_t *answer = NULL, *request = json_pack("{s:s, s:s}", "op", "volume-set", "name", cli->arguments[0]);
    int code = add_number(cli, "replicas", "replicas", request);
    if (code == CLI_OK)
        code = add_number(cli, "min-replicas", "min_replicas", request);
    if (code == CLI_OK && home && strcmp(home, "none") == 0)
        (void)json_object_set_new(request, "home", json_integer(0));
    else if (code == CLI_OK && home)
        code = add_number(cli, "home", "home", request);
    if (code == CLI_OK && json_object_size(request) == 2)
        code = cli_fail(cli, CLI_USAGE, "nothing to set; see: ashlar volume set --help");
    if (code == CLI_OK)
        code = admin_change(cli, json_incref(request), 0, &answer);
    json_decref(request);
    return code == CLI_OK ? changed(cli, answer, "is changed", cli->arguments[0]) : code;
}

int command_force_promote(struct cli *cli)
{
    char *end;
    json_t *answer = NULL;
    unsigned long node = strtoul(cli->arguments[1], &end, 10);
    if (*end || end == cli->arguments[1] || node == 0 || node > 65535)
        return cli_fail(cli, CLI_USAGE, "'%s' is no number of a node", cli->arguments[1]);
    if (!cli_confirm(cli, "Serve %s from node %lu's copy? Writes that only other copies have are lost for good.",
                     cli->arguments[0], node))
        return cli_fail(cli, CLI_FAILED, "nothing was changed");
    json_t *request = json_pack("{s:s, s:s, s:I, s:b, s:b}", "op", "force-promote", "name", cli->arguments[0], "node",
                                (json_int_t)node, "confirm", 1, "force", cli_flag(cli, "force"));
    int code = add_number(cli, "shard", "shard", request);
    if (code == CLI_OK)
        code = admin_change(cli, json_incref(request), 0, &answer);
    json_decref(request);
    return code == CLI_OK ? changed(cli, answer, "is served by that copy now", cli->arguments[0]) : code;
}
