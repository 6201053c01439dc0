/* SPDX-License-Identifier: Apache-2.0 */
/* top: `ashlar top`: what every gateway did between two looks at its counters.
 *
 *   - look: `stats` of every node; per node the last two different snapshots are kept
 *   - add_node: differences by volume, summed over the nodes (gateways) that served it
 * Failure modes: a node that is new, or started anew (counters went back), counts from its next snapshot on.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/admin.h"
#include "client/cli/commands.h"
#include "client/cli/node_stats.h"
#include "client/cli/text.h"

#define INTERVAL_MS 1000u
#define FIRST_WAIT_MS 200 /* until the nodes have a second snapshot, made each second */
#define FIRST_WAITS_MAX 15u
enum { OPS = 4, STAGES = 5, ROWS_MAX = 1024 };

static const char *const op_names[OPS] = {"read", "write", "zero", "flush"};
static const char *const stage_names[STAGES] = {"total", "gateway", "primary", "network", "drive"};

struct row { /* one volume, between the looks */
    char name[64];
    double rate[OPS], bytes_rate[OPS], sum_ns[OPS], count[OPS];
    uint64_t p99_ns[OPS]; /* since start, of the gateway that did most */
    double p99_count[OPS];
    double stage_sum_ns[STAGES], stage_count[STAGES];
    long long errors, parked;
};

struct node_pair {
    long long node;
    json_t *before, *now;
};

struct top {
    struct node_pair pairs[256];
    size_t pair_count;
    struct row *rows;
    size_t row_count;
    double seconds; /* between the snapshots that rows came from */
};

static struct node_pair *pair_of(struct top *top, long long node)
{
    for (size_t i = 0; i < top->pair_count; i++) {
        if (top->pairs[i].node == node)
            return &top->pairs[i];
    }
    if (top->pair_count == sizeof(top->pairs) / sizeof(top->pairs[0]))
        return NULL;
    top->pairs[top->pair_count] = (struct node_pair){.node = node};
    return &top->pairs[top->pair_count++];
}

static long long counter(const json_t *stats, const char *name)
{
    return admin_integer(json_object_get(stats, "counters"), name);
}

static int look(const struct cli *cli, struct top *top)
{
    json_t *answer = NULL, *stats;
    const char *id;
    int code = admin_read(cli, json_pack("{s:s}", "op", "node-list"), &answer);
    if (code != CLI_OK)
        return code;
    node_stats_mark(json_object_get(answer, "nodes"));
    json_t *all = node_stats_collect(json_object_get(answer, "nodes"));
    json_object_foreach(all, id, stats)
    {
        struct node_pair *pair = pair_of(top, atoll(id));
        if (!pair || (pair->now && counter(pair->now, "taken_ns") == counter(stats, "taken_ns")))
            continue;
        json_decref(pair->before);
        pair->before = pair->now;
        pair->now = json_incref(stats);
    }
    json_decref(all);
    json_decref(answer);
    return CLI_OK;
}

static struct row *row_of(struct top *top, const char *name)
{
    for (size_t i = 0; i < top->row_count; i++) {
        if (strcmp(top->rows[i].name, name) == 0)
            return &top->rows[i];
    }
    if (top->row_count == ROWS_MAX)
        return NULL;
    struct row *row = &top->rows[top->row_count++];
    *row = (struct row){0};
    (void)snprintf(row->name, sizeof(row->name), "%s", name);
    return row;
}

static const json_t *volume_of(const json_t *stats, long long id)
{
    size_t i;
    json_t *volume;
    json_array_foreach(json_object_get(stats, "volumes"), i, volume)
    {
        if (admin_integer(volume, "id") == id)
            return volume;
    }
    return NULL;
}

/* Counts and sums of a histogram since before (NULL: from its start). False: it went back, the node started anew. */
static bool grown(const json_t *before, const json_t *now, double *count, double *sum_ns)
{
    double old_count = (double)admin_integer(before, "count"), new_count = (double)admin_integer(now, "count");
    *count = new_count - old_count;
    *sum_ns = new_count * (double)admin_integer(now, "mean_ns") - old_count * (double)admin_integer(before, "mean_ns");
    return *count >= 0;
}

static void add_op(struct row *row, size_t op, const json_t *before, const json_t *now, double seconds)
{
    double count, sum_ns;
    const json_t *latency = json_object_get(now, "latency");
    if (!grown(json_object_get(before, "latency"), latency, &count, &sum_ns))
        return;
    row->rate[op] += (double)(admin_integer(now, "count") - admin_integer(before, "count")) / seconds;
    row->bytes_rate[op] += (double)(admin_integer(now, "bytes") - admin_integer(before, "bytes")) / seconds;
    row->count[op] += count;
    row->sum_ns[op] += sum_ns > 0 ? sum_ns : 0;
    if (count > row->p99_count[op]) {
        row->p99_count[op] = count;
        row->p99_ns[op] = (uint64_t)admin_integer(latency, "p99_ns");
    }
}

static void add_volume(struct top *top, const json_t *before, const json_t *now, double seconds)
{
    struct row *row = row_of(top, admin_string(now, "name"));
    double count, sum_ns;
    if (!row)
        return;
    for (size_t op = 0; op < OPS; op++)
        add_op(row, op, json_object_get(json_object_get(before, "operations"), op_names[op]),
               json_object_get(json_object_get(now, "operations"), op_names[op]), seconds);
    for (size_t stage = 0; stage < STAGES; stage++) {
        if (!grown(json_object_get(json_object_get(before, "write_stages"), stage_names[stage]),
                   json_object_get(json_object_get(now, "write_stages"), stage_names[stage]), &count, &sum_ns))
            continue;
        row->stage_count[stage] += count;
        row->stage_sum_ns[stage] += sum_ns > 0 ? sum_ns : 0;
    }
    row->errors += admin_integer(now, "errors") - admin_integer(before, "errors");
    row->parked += admin_integer(now, "parked");
}

static void compute(struct top *top, const char *only)
{
    size_t i;
    json_t *volume;
    top->row_count = 0;
    top->seconds = 0;
    for (size_t n = 0; n < top->pair_count; n++) {
        const struct node_pair *pair = &top->pairs[n];
        if (!pair->before)
            continue;
        double seconds = (double)(counter(pair->now, "taken_ns") - counter(pair->before, "taken_ns")) / 1e9;
        if (seconds <= 0)
            continue;
        top->seconds = seconds > top->seconds ? seconds : top->seconds;
        json_array_foreach(json_object_get(pair->now, "volumes"), i, volume)
        {
            const json_t *before = volume_of(pair->before, admin_integer(volume, "id"));
            if (*admin_string(volume, "name") && (!only || strcmp(admin_string(volume, "name"), only) == 0))
                add_volume(top, before, volume, seconds);
        }
    }
}

static uint64_t mean(double sum, double count)
{
    return count > 0 ? (uint64_t)(sum / count) : 0;
}

static json_t *row_json(const struct row *row)
{
    json_t *object = json_pack("{s:s, s:I, s:I}", "name", row->name, "errors", (json_int_t)row->errors, "parked",
                               (json_int_t)row->parked);
    json_t *stages = json_object();
    for (size_t op = 0; op < OPS; op++)
        (void)json_object_set_new(object, op_names[op],
                                  json_pack("{s:f, s:f, s:I, s:I}", "iops", row->rate[op], "bytes_per_s",
                                            row->bytes_rate[op], "mean_ns",
                                            (json_int_t)mean(row->sum_ns[op], row->count[op]), "p99_ns_since_start",
                                            (json_int_t)row->p99_ns[op]));
    for (size_t stage = 0; stage < STAGES; stage++)
        (void)json_object_set_new(stages, stage_names[stage],
                                  json_integer((json_int_t)mean(row->stage_sum_ns[stage], row->stage_count[stage])));
    (void)json_object_set_new(object, "write_stages_mean_ns", stages);
    return object;
}

static int print_json(const struct top *top)
{
    json_t *list = json_array();
    for (size_t i = 0; i < top->row_count; i++)
        (void)json_array_append_new(list, row_json(&top->rows[i]));
    json_t *answer = json_pack("{s:f, s:o}", "seconds", top->seconds, "volumes", list);
    int rc = json_dumpf(answer, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(answer);
    (void)putchar('\n');
    return rc == 0 && fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
}

static int busier(const void *a, const void *b)
{
    const struct row *left = a, *right = b;
    double sum = right->rate[0] + right->rate[1] - left->rate[0] - left->rate[1];
    return sum > 0 ? 1 : sum < 0 ? -1 : strcmp(left->name, right->name);
}

static void print_rates(const struct cli *cli, const struct top *top)
{
    char t[10][TEXT_SIZE_MAX];
    struct text_table *table = text_table_create(
        cli->colour,
        "VOLUME\tREAD/s\tBYTES/s\tMEAN\tP99*\tWRITE/s\tBYTES/s\tMEAN\tP99*\tZERO/s\tFLUSH/s\tERRORS\tPARKED");
    for (size_t i = 0; i < top->row_count; i++) {
        const struct row *r = &top->rows[i];
        text_table_row(table, r->parked > 0 ? TEXT_WARN : TEXT_PLAIN,
                       "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%lld\t%lld", r->name, text_count(r->rate[0], t[0]),
                       text_size((uint64_t)r->bytes_rate[0], t[1]), text_time(mean(r->sum_ns[0], r->count[0]), t[2]),
                       text_time(r->p99_ns[0], t[3]), text_count(r->rate[1], t[4]),
                       text_size((uint64_t)r->bytes_rate[1], t[5]), text_time(mean(r->sum_ns[1], r->count[1]), t[6]),
                       text_time(r->p99_ns[1], t[7]), text_count(r->rate[2], t[8]), text_count(r->rate[3], t[9]),
                       r->errors, r->parked);
    }
    text_table_print(table, stdout);
}

static void print_stages(const struct cli *cli, const struct top *top)
{
    char t[STAGES][TEXT_SIZE_MAX];
    struct text_table *table = NULL;
    for (size_t i = 0; i < top->row_count; i++) {
        const struct row *r = &top->rows[i];
        if (r->stage_count[0] <= 0)
            continue;
        if (!table)
            table = text_table_create(cli->colour, "A WRITE'S TIME\tTOTAL\tGATEWAY\tPRIMARY\tNETWORK\tDRIVE");
        for (size_t stage = 0; stage < STAGES; stage++)
            (void)text_time(mean(r->stage_sum_ns[stage], r->stage_count[stage]), t[stage]);
        text_table_row(table, TEXT_PLAIN, "%s\t%s\t%s\t%s\t%s\t%s", r->name, t[0], t[1], t[2], t[3], t[4]);
    }
    if (!table)
        return;
    printf("\n");
    text_table_print(table, stdout);
}

static void print_screen(const struct cli *cli, struct top *top)
{
    if (top->row_count > 1)
        qsort(top->rows, top->row_count, sizeof(*top->rows), busier);
    printf("over %.1f s; * percentiles since the gateway started\n\n", top->seconds);
    print_rates(cli, top);
    print_stages(cli, top);
    (void)fflush(stdout);
}

/* Every node that answered has two snapshots: what is shown first is whole. */
static bool has_pairs(const struct top *top)
{
    for (size_t i = 0; i < top->pair_count; i++) {
        if (!top->pairs[i].before)
            return false;
    }
    return top->pair_count > 0;
}

static int read_options(const struct cli *cli, uint64_t *interval_ms, uint32_t *count)
{
    const char *interval = cli_option(cli, "interval");
    int code = cli_option_u32(cli, "count", count);
    if (code == CLI_OK && interval && (config_parse_ms(interval, interval_ms) < 0 || *interval_ms == 0))
        code = cli_fail(cli, CLI_USAGE, "--interval=%s: write a duration like 500ms or 5s", interval);
    if (cli_flag(cli, "once"))
        *count = 1;
    return code;
}

static int run(struct cli *cli, struct top *top)
{
    uint64_t interval_ms = INTERVAL_MS;
    uint32_t count = UINT32_MAX, shown = 0, waits = 0;
    int code = read_options(cli, &interval_ms, &count);
    while (code == CLI_OK && shown < count) {
        code = look(cli, top);
        if (code != CLI_OK)
            break;
        if (shown == 0 && !has_pairs(top) && waits++ < FIRST_WAITS_MAX) {
            (void)poll(NULL, 0, FIRST_WAIT_MS);
            continue;
        }
        compute(top, cli->argument_count > 0 ? cli->arguments[0] : NULL);
        if (cli->json) {
            code = print_json(top);
        } else {
            if (cli->colour && count > 1)
                printf("\x1b[H\x1b[2J");
            print_screen(cli, top);
        }
        if (++shown < count)
            (void)poll(NULL, 0, interval_ms > 3600000 ? 3600000 : (int)interval_ms);
    }
    return code;
}

int command_top(struct cli *cli)
{
    static struct top top;
    top = (struct top){0};
    top.rows = calloc(ROWS_MAX, sizeof(*top.rows));
    if (!top.rows)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    int code = run(cli, &top);
    for (size_t i = 0; i < top.pair_count; i++) {
        json_decref(top.pairs[i].before);
        json_decref(top.pairs[i].now);
    }
    free(top.rows);
    return code;
}
