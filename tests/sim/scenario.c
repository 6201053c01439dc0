/* SPDX-License-Identifier: Apache-2.0 */
/* scenario: the parser of scenario files.
 *
 * - every key has a default; a file names what it changes. '#' begins a comment.
 * Failure: an unknown key or a value that is no number is an error: a misspelt fault would be no fault.
 */
#include "tests/sim/scenario.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct key {
    const char *name;
    size_t at;
    uint64_t value;
};

#define KEY(field, value)                               \
    {                                                   \
#field, offsetof(struct scenario, field), value \
    }
static const struct key keys[] = {
    KEY(nodes, 3),
    KEY(volumes, 1),
    KEY(replicas, 3),
    KEY(min_replicas, 2),
    KEY(shards, 2),
    KEY(shard_mib, 16),
    KEY(volume_kib, 0),
    KEY(drive_mib, 256),
    KEY(flush_ahead_kib, 0),
    KEY(sync_chunks, 4),
    KEY(out_after_ms, 0),
    KEY(drift_ppm, 0),
    KEY(control, 0),
    KEY(wire, 0),
    KEY(clients_qd, 8),
    KEY(hot_blocks, 256),
    KEY(hot_percent, 85),
    KEY(read_percent, 40),
    KEY(flush_percent, 3),
    KEY(zero_percent, 3),
    KEY(fua_percent, 2),
    KEY(piece_percent, 15),
    KEY(write_max_kib, 128),
    KEY(big_permille, 10),
    KEY(op_gap_us, 1500),
    KEY(failover_per_min, 0),
    KEY(serial_overlaps, 1),
    KEY(guest_crash_per_min, 10),
    KEY(operators, 0),
    KEY(operator_gap_ms, 150),
    KEY(volumes_max, 6),
    KEY(snaps_max, 12),
    KEY(size_max_kib, 24576),
    KEY(snapshot_weight, 30),
    KEY(group_weight, 8),
    KEY(snapdelete_weight, 22),
    KEY(clone_weight, 12),
    KEY(rollback_weight, 6),
    KEY(flatten_weight, 6),
    KEY(create_weight, 4),
    KEY(delete_weight, 8),
    KEY(grow_weight, 4),
    KEY(shrink_weight, 2),
    KEY(migrate_weight, 5),
    KEY(detach_weight, 3),
    KEY(safety_ms, 20000),
    KEY(linger_ms, 1500),
    KEY(liveness_ms, 60000),
    KEY(crash_per_min, 0),
    KEY(power_per_min, 0),
    KEY(power_all_per_min, 0),
    KEY(crash_pair_per_min, 0),
    KEY(crash_loop_per_min, 0),
    KEY(pause_per_min, 0),
    KEY(cut_per_min, 0),
    KEY(isolate_per_min, 0),
    KEY(reset_per_min, 0),
    KEY(slow_drive_per_min, 0),
    KEY(drive_eio_per_min, 0),
    KEY(rot_per_min, 0),
    KEY(clean_stop_per_min, 0),
    KEY(slow_link_per_min, 0),
    KEY(clock_jump_per_min, 0),
    KEY(dropped_write_per_min, 0),
    KEY(power_trash, 0),
    KEY(restart_min_ms, 50),
    KEY(restart_max_ms, 3000),
    KEY(fault_max_ms, 4000),
    KEY(net_tail_permille, 5),
};

static int set(struct scenario *s, const char *name, uint64_t value)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strcmp(keys[i].name, name) != 0)
            continue;
        memcpy((char *)s + keys[i].at, &value, sizeof(value));
        return 0;
    }
    return -EINVAL;
}

/* The rest of an `on` line after its quoted text; the text is kept. */
static char *quoted(struct scenario_step *step, char *line)
{
    char *end = line[0] == '"' ? strchr(line + 1, '"') : NULL;
    if (!end || (size_t)(end - line) > sizeof(step->text))
        return NULL;
    memcpy(step->text, line + 1, (size_t)(end - line - 1));
    return end + 1;
}

static int add_step(struct scenario *s, const char *name, char *rest)
{
    struct scenario_step step = {.count = 1};
    char *word, *save = NULL;
    uint32_t args = 0;
    if (s->step_count == SCENARIO_STEPS_MAX)
        return -E2BIG;
    step.follows = strcmp(name, "then") == 0 || strcmp(name, "next") == 0;
    if (step.follows && s->step_count == 0)
        return -EINVAL;
    if ((strcmp(name, "on") == 0 || strcmp(name, "next") == 0) && !(rest = quoted(&step, rest)))
        return -EINVAL;
    for (word = strtok_r(rest, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        bool number = word[strspn(word, "0123456789")] == '\0';
        if (!step.action[0] && number && step.text[0])
            step.count = (uint32_t)strtoul(word, NULL, 10);
        else if (!step.action[0] && number)
            step.at_ms = strtoull(word, NULL, 10);
        else if (!step.action[0] && strlen(word) < sizeof(step.action))
            strcpy(step.action, word);
        else if (args < 4 && strlen(word) < sizeof(step.args[0]))
            strcpy(step.args[args++], word);
        else
            return -EINVAL;
    }
    if (!step.action[0] || step.count == 0)
        return -EINVAL;
    s->steps[s->step_count++] = step;
    return 0;
}

static int take_line(struct scenario *s, char *line)
{
    char name[64], rest[2];
    uint64_t value;
    int at = 0;
    if (sscanf(line, " %63[a-z_] = %n", name, &at) == 1 && at > 0 &&
        (!strcmp(name, "at") || !strcmp(name, "on") || !strcmp(name, "then") || !strcmp(name, "next")))
        return add_step(s, name, line + at);
    if (sscanf(line, " %63[a-z_] = %" SCNu64 " %1s", name, &value, rest) != 2)
        return -EINVAL;
    return set(s, name, value);
}

int scenario_load(const char *path, struct scenario *ret_scenario)
{
    struct scenario s;
    char line[256];
    int rc = 0, number = 0;
    static_assert(sizeof(keys) / sizeof(keys[0]) * sizeof(uint64_t) == offsetof(struct scenario, steps),
                  "every number has a key");
    memset(&s, 0, sizeof(s));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        (void)set(&s, keys[i].name, keys[i].value);
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    while (rc == 0 && fgets(line, sizeof(line), file)) {
        char copy[sizeof(line)];
        number++;
        line[strcspn(line, "#\n")] = '\0';
        if (strspn(line, " \t") == strlen(line))
            continue;
        memcpy(copy, line, sizeof(copy));
        rc = take_line(&s, copy);
        if (rc != 0)
            fprintf(stderr, "%s:%d: not understood: %s\n", path, number, line);
    }
    (void)fclose(file);
    if (rc == 0)
        *ret_scenario = s;
    return rc;
}
