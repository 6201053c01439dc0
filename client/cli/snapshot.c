/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot: `ashlar snapshot create|ls|rm|rollback`, `ashlar clone`, `ashlar volume flatten`.
 *
 *   - VOLUME@SNAPSHOT is cut at the @, then each command is one admin request
 * Failure modes: what the cluster refuses is told in its own words.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/node_stats.h"
#include "client/cli/snapshot.h"
#include "client/cli/text.h"

int snapshot_title(const struct cli *cli, const char *title, struct snapshot_title *ret)
{
    const char *at = strchr(title, '@');
    size_t length = at ? (size_t)(at - title) : strlen(title);
    if (length >= sizeof(ret->volume) || (at && strlen(at + 1) >= sizeof(ret->snapshot)))
        return cli_fail(cli, CLI_USAGE, "'%s': a name is too long: at most %zu characters", title,
                        sizeof(ret->volume) - 1);
    if (!at || length == 0 || at[1] == '\0')
        return cli_fail(cli, CLI_USAGE, "'%s': write VOLUME@SNAPSHOT", title);
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->volume, title, length);
    memcpy(ret->snapshot, at + 1, strlen(at + 1));
    return CLI_OK;
}

/* Every snapshot of the volume; *ret_head: generation of the volume itself. */
int snapshot_list(const struct cli *cli, const char *volume, json_t **ret_list, long long *ret_head)
{
    json_t *list = json_array();
    json_int_t after = 0;
    bool more = true;
    while (more) {
        json_t *answer = NULL;
        int code = admin_read(cli, json_pack("{s:s, s:s, s:I}", "op", "snapshot-list", "name", volume, "after", after),
                              &answer);
        if (code != CLI_OK) {
            json_decref(list);
            return code;
        }
        more = admin_true(answer, "more") && admin_integer(answer, "next") > after;
        after = admin_integer(answer, "next");
        *ret_head = admin_integer(answer, "head");
        (void)json_array_extend(list, json_object_get(answer, "snapshots"));
        json_decref(answer);
    }
    *ret_list = list;
    return CLI_OK;
}

int snapshot_find(const struct cli *cli, const struct snapshot_title *title, long long *ret_generation,
                  uint64_t *ret_size, uint64_t *ret_created_ms)
{
    json_t *list, *snap;
    long long head = 0, generation = 0;
    size_t i;
    int code = snapshot_list(cli, title->volume, &list, &head);
    if (code != CLI_OK)
        return code;
    json_array_foreach(list, i, snap)
    {
        if (strcmp(admin_string(snap, "name"), title->snapshot) != 0 || title->snapshot[0] == '\0')
            continue;
        generation = admin_integer(snap, "generation");
        *ret_size = (uint64_t)admin_integer(snap, "size");
        *ret_created_ms = (uint64_t)admin_integer(snap, "created_ms");
    }
    json_decref(list);
    if (generation == 0)
        return cli_fail(cli, CLI_FAILED, "volume %s has no snapshot named %s; see: ashlar snapshot ls %s",
                        title->volume, title->snapshot, title->volume);
    *ret_generation = generation;
    return CLI_OK;
}

/* Prints a change's answer (given, may be NULL: its words were lost). */
static int changed(const struct cli *cli, json_t *answer, const char *title, const char *what)
{
    int code = CLI_OK;
    if (cli->json)
        code = cli_print_json(answer ? json_incref(answer) : json_pack("{s:b}", "ok", 1));
    else
        printf("%s %s\n", title, what);
    json_decref(answer);
    return code;
}

/* ---- create ---- */

static uint64_t now_ms(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return 0;
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* VOLUME@NAME, or volumes and --name: to a list of volumes and a name. */
static int create_arguments(const struct cli *cli, json_t *volumes, char name[64])
{
    const char *given = cli_option(cli, "name");
    if (given && strlen(given) >= 64)
        return cli_fail(cli, CLI_USAGE, "--name=%s: at most 63 characters", given);
    if (given)
        (void)snprintf(name, 64, "%s", given);
    for (int i = 0; i < cli->argument_count; i++) {
        struct snapshot_title title = {.volume = ""};
        if (!strchr(cli->arguments[i], '@')) {
            (void)json_array_append_new(volumes, json_string(cli->arguments[i]));
            continue;
        }
        int code = snapshot_title(cli, cli->arguments[i], &title);
        if (code != CLI_OK)
            return code;
        if (name[0] && strcmp(name, title.snapshot) != 0)
            return cli_fail(cli, CLI_USAGE, "the snapshots of a group have one name: '%s' or '%s'?", name,
                            title.snapshot);
        (void)snprintf(name, 64, "%s", title.snapshot);
        (void)json_array_append_new(volumes, json_string(title.volume));
    }
    if (!name[0])
        return cli_fail(cli, CLI_USAGE, "what is the snapshot's name? Write VOLUME@NAME, or --name=NAME");
    return CLI_OK;
}

int command_snapshot_create(struct cli *cli)
{
    char name[64] = "", said[96];
    json_t *volumes = json_array(), *answer = NULL;
    int code = create_arguments(cli, volumes, name);
    if (code == CLI_OK)
        code = admin_change(cli,
                            json_pack("{s:s, s:O, s:s, s:I}", "op", "snapshot-create", "volumes", volumes, "snapshot",
                                      name, "created_ms", (json_int_t)now_ms()),
                            0, &answer); /* not -EEXIST: it may still be opening, and be given up */
    json_decref(volumes);
    if (code != CLI_OK)
        return code;
    (void)snprintf(said, sizeof(said), "is made (%.1f ms)", (double)admin_integer(answer, "took_us") / 1000.0);
    return changed(cli, answer, name, said);
}

/* ---- ls ---- */

static void show_time(long long ms, char *ret, size_t size)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (ms <= 0 || !localtime_r(&seconds, &tm) || strftime(ret, size, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        (void)snprintf(ret, size, "-");
}

int command_snapshot_list(struct cli *cli)
{
    json_t *list, *snap;
    long long head = 0;
    size_t i;
    int code = snapshot_list(cli, cli->arguments[0], &list, &head);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        return cli_print_json(
            json_pack("{s:s, s:I, s:o}", "volume", cli->arguments[0], "head", (json_int_t)head, "snapshots", list));
    struct text_table *table = text_table_create(cli->colour, "SNAPSHOT\tCREATED\tSIZE\tSTATE\tCLONES\tGENERATION");
    json_array_foreach(list, i, snap)
    {
        char size[TEXT_SIZE_MAX], created[32];
        const char *state = admin_string(snap, "state");
        show_time(admin_integer(snap, "created_ms"), created, sizeof(created));
        text_table_row(table, strcmp(state, "complete") == 0 ? TEXT_PLAIN : TEXT_WARN, "%s\t%s\t%s\t%s\t%lld\t%lld",
                       admin_string(snap, "name")[0] ? admin_string(snap, "name") : "(deleted)", created,
                       text_size((uint64_t)admin_integer(snap, "size"), size), state, admin_integer(snap, "clones"),
                       admin_integer(snap, "generation"));
    }
    json_decref(list);
    text_table_print(table, stdout);
    return CLI_OK;
}

/* ---- the rest: one request each ---- */

static int change_snapshot(struct cli *cli, const char *op, int done, const char *what)
{
    struct snapshot_title title;
    json_t *answer = NULL;
    int code = snapshot_title(cli, cli->arguments[0], &title);
    if (code == CLI_OK)
        code =
            admin_change(cli, json_pack("{s:s, s:s, s:s}", "op", op, "name", title.volume, "snapshot", title.snapshot),
                         done, &answer);
    return code == CLI_OK ? changed(cli, answer, cli->arguments[0], what) : code;
}

/* Clients anywhere that have it attached: what the nodes say that answer, not older than a second. */
static int count_readers(const struct cli *cli, const struct snapshot_title *title, long long *ret_clients)
{
    long long generation = 0;
    uint64_t size, created_ms;
    json_t *answer = NULL, *info = NULL, *node, *stats, *reader;
    size_t i, k;
    int code = snapshot_find(cli, title, &generation, &size, &created_ms);
    if (code == CLI_OK)
        code = admin_read(cli, json_pack("{s:s, s:s}", "op", "volume-info", "name", title->volume), &info);
    if (code == CLI_OK)
        code = admin_read(cli, json_pack("{s:s}", "op", "node-list"), &answer);
    node_stats_mark(json_object_get(answer, "nodes"));
    json_array_foreach(json_object_get(answer, "nodes"), i, node)
    {
        if (code != CLI_OK || node_stats_get(node, &stats) < 0)
            continue;
        json_array_foreach(json_object_get(stats, "readers"), k, reader)
        {
            if (admin_integer(reader, "generation") == generation &&
                admin_integer(reader, "volume") == admin_integer(json_object_get(info, "volume"), "id"))
                *ret_clients += admin_integer(reader, "clients");
        }
        json_decref(stats);
    }
    json_decref(info);
    json_decref(answer);
    return code;
}

/* Reads under way end with the snapshot's content all the same; those that come later fail. */
static int refuse_readers(struct cli *cli)
{
    struct snapshot_title title;
    long long clients = 0;
    int code = snapshot_title(cli, cli->arguments[0], &title);
    if (code == CLI_OK)
        code = count_readers(cli, &title, &clients);
    if (code == CLI_OK && clients > 0)
        code = cli_fail(cli, CLI_FAILED, "%s is attached (%lld clients): detach it first, or say --force",
                        cli->arguments[0], clients);
    return code;
}

int command_snapshot_remove(struct cli *cli)
{
    int code = cli_flag(cli, "force") ? CLI_OK : refuse_readers(cli);
    if (code != CLI_OK)
        return code;
    if (!cli_confirm(cli, "Delete snapshot %s?", cli->arguments[0]))
        return cli_fail(cli, CLI_FAILED, "nothing was deleted");
    return change_snapshot(cli, "snapshot-delete", -ENOENT, "is deleted; its space comes back in the background");
}

int command_snapshot_rollback(struct cli *cli)
{
    if (!cli_confirm(cli, "Set the volume back to %s? What was written since is lost, unless a later snapshot has it.",
                     cli->arguments[0]))
        return cli_fail(cli, CLI_FAILED, "nothing was changed");
    return change_snapshot(cli, "volume-rollback", 0, "is the volume's content now");
}

int command_clone(struct cli *cli)
{
    struct snapshot_title title;
    uint32_t home = 0;
    json_t *answer = NULL;
    int code = snapshot_title(cli, cli->arguments[0], &title);
    if (code == CLI_OK)
        code = cli_option_u32(cli, "home", &home);
    if (code == CLI_OK && !cli_option(cli, "home"))
        home = admin_local_node(cli);
    if (code == CLI_OK)
        code = admin_change(cli,
                            json_pack("{s:s, s:s, s:s, s:s, s:I}", "op", "volume-clone", "name", title.volume,
                                      "snapshot", title.snapshot, "to", cli->arguments[1], "home", (json_int_t)home),
                            0, &answer);
    return code == CLI_OK ? changed(cli, answer, cli->arguments[1], "is made") : code;
}

int command_volume_flatten(struct cli *cli)
{
    json_t *answer = NULL;
    int code =
        admin_change(cli, json_pack("{s:s, s:s}", "op", "volume-flatten", "name", cli->arguments[0]), -EINVAL, &answer);
    return code == CLI_OK ? changed(cli, answer, cli->arguments[0], "becomes independent of its parent") : code;
}
