/* SPDX-License-Identifier: Apache-2.0 */
/* sim_log: takes the log lines of the shipped code, with virtual time and node.
 *
 * - each node has a ring of its last lines; with tracing on every line is printed at once.
 * Failure: none.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "tests/sim/sim.h"

#define RING_LINES 60u
#define LINE_CHARS 240u

struct ring {
    char lines[RING_LINES][LINE_CHARS];
    uint64_t count;
};

static struct ring rings[SIM_NODES_MAX + 2];
static struct sim *logged;

static void keep(int node, const char *line)
{
    uint32_t at = node < 0 || node > SIM_NODES_MAX ? SIM_NODES_MAX + 1 : (uint32_t)node;
    struct ring *ring = &rings[at];
    char stamped[LINE_CHARS];
    (void)snprintf(stamped, sizeof(stamped), "%11.6f node %d: %.200s", (double)world_now_ns(logged->world) / 1e9, node,
                   line);
    memcpy(ring->lines[ring->count++ % RING_LINES], stamped, sizeof(stamped));
    if (logged->trace)
        fprintf(stderr, "%s\n", stamped);
    faults_script_line(line, node);
}

static void hook(void *arg, enum log_level level, const char *module, const char *line)
{
    char text[220];
    (void)arg;
    (void)level;
    (void)snprintf(text, sizeof(text), "%s: %s", module, line);
    keep(world_running_node(logged->world), text);
}

void sim_log_start(struct sim *sim)
{
    logged = sim;
    memset(rings, 0, sizeof(rings));
    log_init(sim->trace || sim->scenario.step_count > 0 ? LOG_DEBUG : LOG_INFO, NULL);
    log_set_hook(hook, NULL);
}

void sim_note(struct sim *sim, const char *format, ...)
{
    char text[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    assert(sim == logged);
    keep(0, text);
}

void sim_fail(struct sim *sim, const char *format, ...)
{
    char text[240];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (sim->failures++ == 0)
        (void)snprintf(sim->first_failure, sizeof(sim->first_failure), "%s", text);
    if (sim->failures < 20)
        fprintf(stderr, "FAILURE at %.6f: %s\n", (double)world_now_ns(sim->world) / 1e9, text);
    keep(0, text);
}

void sim_log_print(void)
{
    for (int i = 0; i <= SIM_NODES_MAX + 1; i++) {
        const struct ring *ring = &rings[i];
        uint64_t first = ring->count > RING_LINES ? ring->count - RING_LINES : 0;
        if (ring->count > 0)
            fprintf(stderr, "--- last events %s %d\n", i == 0 ? "of the run," : "of node", i);
        for (uint64_t k = first; k < ring->count; k++)
            fprintf(stderr, "%s\n", ring->lines[k % RING_LINES]);
    }
}
