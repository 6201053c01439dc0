/* SPDX-License-Identifier: Apache-2.0 */
/* status: `ashlar status`: the health of the cluster on one screen.
 *
 *   - one question to the leader, one to each node that is up; what is wrong becomes sentences that say what to do
 *   - healthy: every replica in sync, every shard served, every node up or taken out
 * Failure modes: a node that does not answer costs its own lines; resync's end is told only once its speed was seen.
 */
#include <poll.h>
#include <stdarg.h>
#include <string.h>

#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/node_stats.h"
#include "client/cli/text.h"

#define PACE_MS 1100 /* nodes renew their counters each second */
#define VOLUMES_SHOWN 20u

struct pace {                        /* of resync, over all nodes */
    long long replicas, total, done; /* chunks: compared, and copied where they differ */
    long long waiting;               /* replicas of which it is not known yet what differs */
    long long compared, copied;      /* chunks and bytes, since these nodes started */
    double taken_s;
};

struct screen {
    json_t *status, *stats, *problems, *volumes;
    bool healthy;
    struct pace before, now;
};

__attribute__((format(printf, 2, 3))) static void problem(struct screen *screen, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    (void)json_array_append_new(screen->problems, json_string(line));
}

static void node_problems(struct screen *screen, const json_t *node)
{
    const char *state = admin_string(node, "state");
    long long id = admin_integer(node, "id"), damaged = admin_integer(node, "damaged_blocks");
    if (strcmp(state, "down") == 0)
        problem(screen,
                "node %lld is down: start ashlard there; else its replicas are made anew after out_after (10 min)", id);
    else if (strcmp(state, "failed") == 0)
        problem(screen, "node %lld: its drive failed: replace it, then format a new store there", id);
    else if (strcmp(state, "out") == 0 && admin_integer(node, "members") > 0)
        problem(screen, "node %lld is out: %lld replicas of it are being made anew", id,
                admin_integer(node, "members"));
    else if (strcmp(state, "out") == 0)
        problem(screen, "node %lld is out and empty: stop ashlard there, then: ashlar node remove %lld", id, id);
    if (strcmp(state, "down") == 0 || strcmp(state, "failed") == 0)
        screen->healthy = false;
    if (admin_true(node, "full"))
        problem(screen, "node %lld is full: writes that need space fail; delete or trim, or add nodes", id);
    else if (admin_true(node, "near_full"))
        problem(screen, "node %lld is nearly full: delete or trim, or add nodes", id);
    if (damaged > 0)
        problem(screen, "node %lld: %lld blocks do not match their checksums: watch the drive; good copies repair them",
                id, damaged);
    if (admin_true(node, "diverged"))
        problem(screen, "node %lld has another cluster map than the leader: restart ashlard there", id);
}

static void find_problems(struct screen *screen)
{
    size_t i;
    json_t *node;
    const json_t *shards = json_object_get(screen->status, "shards");
    long long degraded = admin_integer(shards, "degraded"), unavailable = admin_integer(shards, "unavailable"),
              headless = admin_integer(shards, "without_primary");
    screen->problems = json_array();
    screen->healthy = degraded == 0 && unavailable == 0;
    json_array_foreach(json_object_get(screen->status, "nodes"), i, node) node_problems(screen, node);
    if (headless > 0)
        problem(screen,
                "%lld shards have no live complete copy: start the nodes that have one (ashlar volume info NAME)",
                headless);
    else if (unavailable > 0)
        problem(screen,
                "%lld shards do not serve at the moment: fewer than min_replicas are in sync, or a takeover runs",
                unavailable);
    else if (degraded > 0)
        problem(screen, "%lld shards have fewer copies in sync than wanted", degraded);
}

static void measure(const json_t *stats, struct pace *pace)
{
    const char *id;
    json_t *node, *sync;
    size_t i;
    *pace = (struct pace){0};
    json_object_foreach((json_t *)stats, id, node)
    {
        pace->compared += admin_integer(json_object_get(node, "counters"), "resync_chunks");
        pace->copied += admin_integer(json_object_get(node, "counters"), "resync_bytes");
        json_array_foreach(json_object_get(node, "syncs"), i, sync)
        {
            pace->replicas++;
            pace->waiting += admin_integer(sync, "chunks_total") == 0;
            pace->total += admin_integer(sync, "chunks_total");
            pace->done += admin_integer(sync, "chunks_done");
            double taken_s = (double)admin_integer(json_object_get(node, "counters"), "taken_ns") / 1e9;
            pace->taken_s = taken_s > pace->taken_s ? taken_s : pace->taken_s;
        }
    }
}

static int gather(const struct cli *cli, struct screen *screen)
{
    json_t *answer = NULL;
    int code = admin_read(cli, json_pack("{s:s}", "op", "status"), &screen->status);
    if (code != CLI_OK)
        return code;
    (void)json_object_del(screen->status, "ok");
    node_stats_mark(json_object_get(screen->status, "nodes"));
    screen->stats = node_stats_collect(json_object_get(screen->status, "nodes"));
    find_problems(screen);
    measure(screen->stats, &screen->now);
    if (cli->json)
        return CLI_OK;
    code = admin_read(cli, json_pack("{s:s}", "op", "volume-list"), &answer);
    if (code == CLI_OK)
        screen->volumes = json_incref(json_object_get(answer, "volumes"));
    json_decref(answer);
    return code;
}

static void discard(struct screen *screen)
{
    json_decref(screen->status);
    json_decref(screen->stats);
    json_decref(screen->problems);
    json_decref(screen->volumes);
}

static int print_json(struct screen *screen)
{
    json_t *syncs = json_array(), *node, *answer = json_object();
    const char *id;
    json_object_foreach(screen->stats, id, node)(void) json_array_extend(syncs, json_object_get(node, "syncs"));
    (void)json_object_set_new(answer, "healthy", json_boolean(screen->healthy));
    (void)json_object_set(answer, "problems", screen->problems);
    (void)json_object_update(answer, screen->status);
    (void)json_object_set_new(answer, "resync",
                              json_pack("{s:I, s:I, s:I, s:I, s:o}", "replicas", (json_int_t)screen->now.replicas,
                                        "chunks_total", (json_int_t)screen->now.total, "chunks_done",
                                        (json_int_t)screen->now.done, "bytes_copied", (json_int_t)screen->now.copied,
                                        "syncs", syncs));
    return cli_print_json(answer);
}

static void print_head(const struct cli *cli, const struct screen *screen)
{
    const json_t *status = screen->status;
    bool serves = admin_integer(json_object_get(status, "shards"), "unavailable") == 0;
    const char *word = screen->healthy ? "healthy" : serves ? "degraded" : "unavailable";
    enum text_tone tone = screen->healthy ? TEXT_GOOD : serves ? TEXT_WARN : TEXT_BAD;
    printf("cluster %s: %s%s%s\n", admin_string(status, "cluster_id"), text_on(cli->colour, tone), word,
           text_off(cli->colour));
    printf("leader node %lld, term %lld, map version %lld, voters", admin_integer(status, "leader"),
           admin_integer(status, "term"), admin_integer(status, "map_version"));
    size_t i;
    json_t *voter;
    json_array_foreach(json_object_get(status, "voters"), i, voter)
        printf(" %lld", (long long)json_integer_value(voter));
    printf("\n\n");
}

static void print_volumes(const struct cli *cli, const struct screen *screen)
{
    const json_t *counts = json_object_get(screen->status, "volumes"),
                 *shards = json_object_get(screen->status, "shards");
    long long total = admin_integer(counts, "total"), shown = 0;
    printf(
        "\n%lld volumes (%lld degraded, %lld unavailable), %lld shards (%lld degraded, %lld unavailable), %lld attached\n",
        total, admin_integer(counts, "degraded"), admin_integer(counts, "unavailable"), admin_integer(shards, "total"),
        admin_integer(shards, "degraded"), admin_integer(shards, "unavailable"),
        admin_integer(screen->status, "sessions"));
    if (total == 0)
        return;
    size_t i;
    json_t *volume;
    char size[TEXT_SIZE_MAX];
    struct text_table *table = text_table_create(cli->colour, "VOLUME\tSIZE\tREPLICAS\tSTATE\tATTACHED");
    for (int troubled = 1; troubled >= 0; troubled--) {
        json_array_foreach(screen->volumes, i, volume)
        {
            const char *state = admin_string(volume, "state");
            const json_t *session = json_object_get(volume, "session");
            if ((strcmp(state, "healthy") != 0) != troubled || shown >= VOLUMES_SHOWN)
                continue;
            shown++;
            text_table_row(table,
                           !troubled                        ? TEXT_PLAIN
                           : strcmp(state, "degraded") == 0 ? TEXT_WARN
                                                            : TEXT_BAD,
                           "%s\t%s\t%lld\t%s\t%s%.0lld", admin_string(volume, "name"),
                           text_size((uint64_t)admin_integer(volume, "size"), size), admin_integer(volume, "replicas"),
                           state, admin_true(session, "open") ? "through node " : "-",
                           admin_true(session, "open") ? admin_integer(session, "gateway") : 0);
        }
    }
    text_table_print(table, stdout);
    if (total > shown)
        printf("... and %lld more: ashlar volume ls\n", total - shown);
}

static void print_resync(const struct screen *screen)
{
    char speed[TEXT_SIZE_MAX], left[TEXT_SIZE_MAX];
    const struct pace *now = &screen->now, *before = &screen->before;
    if (now->replicas == 0)
        return;
    printf("\nresync: %lld replicas, %lld of %lld chunks compared (%.0f %%)", now->replicas, now->done, now->total,
           now->total > 0 ? 100.0 * (double)now->done / (double)now->total : 0.0);
    double seconds = now->taken_s - before->taken_s;
    double chunks = (double)(now->compared - before->compared); /* a node that restarts meanwhile counts anew */
    long long copied = now->copied > before->copied ? now->copied - before->copied : 0;
    if (before->replicas > 0 && seconds > 0.1 && chunks > 0)
        printf(", %.0f chunks/s, %s/s copied, %s%s left", chunks / seconds,
               text_size((uint64_t)((double)copied / seconds), speed), now->waiting > 0 ? "at least " : "",
               text_span((uint64_t)((double)(now->total - now->done) / (chunks / seconds)), left));
    printf("\n");
}

/* Deleted snapshots: their space comes back in the background. */
static void print_reaping(const struct screen *screen)
{
    size_t i;
    json_t *node;
    long long shards = 0, removed = 0;
    json_array_foreach(json_object_get(screen->status, "nodes"), i, node)
    {
        shards += admin_integer(node, "shards_to_reap");
        removed += admin_integer(node, "records_removed");
    }
    if (shards > 0)
        printf("\ndeleted snapshots: space comes back, %lld replicas of shards to go (%lld records removed)\n", shards,
               removed);
}

static void print_checksums(const struct screen *screen)
{
    size_t i;
    json_t *node;
    long long damaged = 0, repaired = 0, adopted = 0;
    json_array_foreach(json_object_get(screen->status, "nodes"), i, node)
    {
        damaged += admin_integer(node, "damaged_blocks");
        repaired += admin_integer(node, "blocks_repaired");
        adopted += admin_integer(node, "blocks_adopted");
    }
    if (damaged + repaired + adopted > 0)
        printf("\nchecksums: %lld blocks damaged, %lld repaired from another copy, %lld adopted after a crash\n",
               damaged, repaired, adopted);
}

static void print_screen(const struct cli *cli, const struct screen *screen)
{
    size_t i;
    json_t *line;
    print_head(cli, screen);
    node_stats_table(cli, json_object_get(screen->status, "nodes"), admin_integer(screen->status, "leader"));
    node_stats_fallbacks(json_object_get(screen->status, "nodes"));
    print_volumes(cli, screen);
    print_resync(screen);
    print_reaping(screen);
    print_checksums(screen);
    if (json_array_size(screen->problems) > 0)
        printf("\n");
    json_array_foreach(screen->problems, i, line)
        printf("%s!%s %s\n", text_on(cli->colour, TEXT_BAD), text_off(cli->colour), json_string_value(line));
}

int command_status(struct cli *cli)
{
    struct screen screen = {0};
    struct pace before = {0};
    bool watch = cli_flag(cli, "watch"), paced = false;
    int code;
    for (;;) {
        screen = (struct screen){.before = before};
        code = gather(cli, &screen);
        if (code != CLI_OK)
            break;
        if (cli->json && !watch) {
            code = print_json(&screen);
            break;
        }
        if (!watch && screen.now.replicas > 0 && !paced) { /* a second look tells the speed */
            paced = true;
        } else {
            if (watch && cli->colour)
                printf("\x1b[H\x1b[2J");
            if (cli->json)
                (void)print_json(&screen);
            else
                print_screen(cli, &screen);
            (void)fflush(stdout);
            if (!watch)
                break;
        }
        before = screen.now;
        discard(&screen);
        screen = (struct screen){0};
        (void)poll(NULL, 0, PACE_MS);
    }
    if (code == CLI_OK && cli_flag(cli, "check") && !screen.healthy)
        code = CLI_DEGRADED;
    discard(&screen);
    return code;
}
