/* SPDX-License-Identifier: Apache-2.0 */
/* node_stats: asks nodes one by one, and shows them in a table.
 *
 *   - node_stats_collect: `stats` of every node that is up, or out, and was heard of lately
 * Failure modes: a node that does not answer in time is left out.
 */
#include "client/cli/node_stats.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "client/cli/admin.h"
#include "client/cli/text.h"

#define ASK_MS 400u
#define HEARD_MS_MAX 1500 /* older: it would only cost the deadline */

void node_stats_mark(json_t *nodes)
{
    size_t i;
    json_t *node;
    json_array_foreach(nodes, i, node)(void)
        json_object_set_new(node, "up", json_boolean(strcmp(admin_string(node, "state"), "up") == 0));
}

int node_stats_get(const json_t *node, json_t **ret_stats)
{
    const char *address = admin_string(node, "control_address");
    /* A node that is out may be gateway to its clients all the same. */
    bool asked = admin_true(node, "up") || strcmp(admin_string(node, "state"), "out") == 0;
    if (!asked || admin_integer(node, "heard_ms_ago") > HEARD_MS_MAX || !*address)
        return -EHOSTDOWN;
    return admin_ask_node(address, "stats", ASK_MS, ret_stats);
}

json_t *node_stats_collect(json_t *nodes)
{
    static const char *const copied[] = {"blocks_adopted", "blocks_repaired",     "blocks_verified",    "scrub_passes",
                                         "scrub_errors",   "bytes_written_guest", "bytes_written_drive"};
    json_t *all = json_object(), *node, *stats;
    size_t i;
    json_array_foreach(nodes, i, node)
    {
        char id[24];
        if (node_stats_get(node, &stats) < 0)
            continue;
        for (size_t k = 0; k < sizeof(copied) / sizeof(copied[0]); k++)
            (void)json_object_set(node, copied[k], json_object_get(json_object_get(stats, "counters"), copied[k]));
        (void)json_object_set(node, "links", json_object_get(stats, "links"));
        (void)json_object_set(node, "rdma", json_object_get(stats, "rdma"));
        (void)snprintf(id, sizeof(id), "%lld", admin_integer(node, "id"));
        (void)json_object_set_new(all, id, stats);
    }
    return all;
}

static const char *used_of(const json_t *node, char out[64])
{
    char used[TEXT_SIZE_MAX], total[TEXT_SIZE_MAX];
    long long bytes = admin_integer(node, "total_bytes");
    if (bytes <= 0) {
        (void)snprintf(out, 64, "?");
        return out;
    }
    (void)snprintf(out, 64, "%s of %s (%.0f %%)", text_size((uint64_t)admin_integer(node, "allocated_bytes"), used),
                   text_size((uint64_t)bytes, total),
                   100.0 * (double)admin_integer(node, "allocated_bytes") / (double)bytes);
    return out;
}

/* By which transports it reaches the others. */
static const char *links_of(const json_t *node)
{
    size_t i, rdma = 0, tcp = 0;
    json_t *link;
    json_array_foreach(json_object_get(node, "links"), i, link)
    {
        bool by_rdma = strcmp(admin_string(link, "transport"), "rdma") == 0;
        rdma += admin_true(link, "up") && by_rdma;
        tcp += admin_true(link, "up") && !by_rdma;
    }
    return rdma && tcp ? "rdma+tcp" : rdma ? "rdma" : tcp ? "tcp" : "-";
}

static bool is_plain_tcp(const char *reason)
{
    return !*reason || strcmp(reason, strerror(ENODEV)) == 0 || strcmp(reason, "built without RDMA") == 0;
}

void node_stats_fallbacks(const json_t *nodes)
{
    size_t i, k;
    json_t *node, *link;
    json_array_foreach((json_t *)nodes, i, node)
    {
        json_array_foreach(json_object_get(node, "links"), k, link)
        {
            const char *reason = admin_string(link, "reason");
            if (admin_true(link, "up") && !is_plain_tcp(reason))
                printf("links: node %lld reaches node %lld by TCP, not by RDMA: %s\n", admin_integer(node, "id"),
                       admin_integer(link, "node"), reason);
        }
    }
}

static const char *note_of(const json_t *node, bool leads)
{
    if (admin_true(node, "full"))
        return "FULL";
    if (admin_integer(node, "damaged_blocks") > 0)
        return "damage";
    if (admin_true(node, "near_full"))
        return "nearly full";
    if (admin_true(node, "diverged"))
        return "map diverged";
    return leads ? "leader" : "";
}

void node_stats_table(const struct cli *cli, const json_t *nodes, long long leader)
{
    size_t i;
    json_t *node;
    struct text_table *table =
        text_table_create(cli->colour, "NODE\tSTATE\tHOST\tREPLICAS\tIN SYNC\tPRIMARIES\tCLIENTS\tLINKS\tUSED\tNOTE");
    json_array_foreach((json_t *)nodes, i, node)
    {
        char used[64];
        bool up = admin_true(node, "up"), bad = admin_true(node, "full") || admin_integer(node, "damaged_blocks") > 0;
        text_table_row(table,
                       !up || bad                      ? TEXT_BAD
                       : admin_true(node, "near_full") ? TEXT_WARN
                                                       : TEXT_PLAIN,
                       "%lld\t%s\t%s\t%lld\t%lld\t%lld\t%lld\t%s\t%s\t%s", admin_integer(node, "id"),
                       admin_string(node, "state"), admin_string(node, "host"), admin_integer(node, "members"),
                       admin_integer(node, "in_sync"), admin_integer(node, "primaries"), admin_integer(node, "clients"),
                       links_of(node), used_of(node, used), note_of(node, admin_integer(node, "id") == leader));
    }
    text_table_print(table, stdout);
}
