/* SPDX-License-Identifier: Apache-2.0 */
/* admin_sim: asks again until it knows.
 *
 * - every 100 ms: is the core that was asked still the same, and patient? Else the next one is asked.
 * - an answer that says "not now" or "perhaps" (-EAGAIN, -EINPROGRESS, -ESHUTDOWN) is none.
 * Failure: none; an operator does not give up.
 */
#include "tests/sim/admin_sim.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS ENV_MS(100)
#define PATIENCE_NS ENV_MS(12000)

struct admin_try {
    struct admin_call *call; /* NULL: its answer is not wanted any more */
    int node;
    struct control *core;
    uint64_t incarnation, asked_ns;
    bool over;
};

static void look(struct world_event *event);

static int64_t number_in(const char *text, size_t len, const char *key)
{
    char copy[512], pattern[32];
    size_t kept = len < sizeof(copy) - 1 ? len : sizeof(copy) - 1;
    memcpy(copy, text, kept);
    copy[kept] = '\0';
    (void)snprintf(pattern, sizeof(pattern), "\"%s\":", key);
    const char *at = strstr(copy, pattern);
    return at ? strtoll(at + strlen(pattern), NULL, 10) : 0;
}

static bool is_ok(const char *text, size_t len)
{
    return memmem(text, len, "\"ok\":true", 9) != NULL;
}

static void answered(void *arg, const char *json, size_t len)
{
    struct admin_try *try = arg;
    struct admin_call *call = try->call;
    assert(!try->over);
    try->over = true;
    if (!call)
        return; /* freed with the run: its core may be dead as well, and never answer */
    call->try = NULL;
    int rc = is_ok(json, len) ? 0 : (int)number_in(json, len, "code");
    if (rc == -EAGAIN || rc == -EINPROGRESS || rc == -ESHUTDOWN) {
        world_schedule(call->sim->world, &call->event, WORLD_NOBODY, LOOK_NS, look);
        return;
    }
    if (rc != 0)
        sim_note(call->sim, "operator: %s %s: %.*s", call->op, call->fields, (int)(len < 120 ? len : 120), json);
    world_cancel(call->sim->world, &call->event);
    call->busy = false;
    call->cb(call, rc, rc == 0 ? (uint64_t)number_in(json, len, "value") : 0);
}

/* Reachable until the process ends: whether a dead core frees its answers is not ours to know. */
static struct admin_try **tries;
static size_t try_count;

static struct admin_try *new_try(void)
{
    struct admin_try *try = calloc(1, sizeof(*try));
    tries = realloc(tries, (try_count + 1) * sizeof(struct admin_try *));
    assert(try && tries);
    tries[try_count++] = try;
    return try;
}

static void ask_now(struct admin_call *call)
{
    struct sim *sim = call->sim;
    char json[512];
    int start = (int)world_random_below(sim->world, (uint64_t)sim->node_count);
    world_schedule(sim->world, &call->event, WORLD_NOBODY, LOOK_NS, look);
    for (int i = 0; i < sim->node_count; i++) {
        int node = 1 + (start + i) % sim->node_count;
        struct control *core = plane_core(sim->plane, node);
        if (!core || control_incarnation(core) == 0 || world_node_paused(sim->world, node))
            continue;
        struct admin_try *try = new_try();
        *try = (struct admin_try){.call = call,
                                  .node = node,
                                  .core = core,
                                  .incarnation = control_incarnation(core),
                                  .asked_ns = world_now_ns(sim->world)};
        call->try = try;
        call->tries++;
        int len = snprintf(json, sizeof(json), "{\"op\":\"%s\",\"request\":\"%016" PRIx64 "%016" PRIx64 "\",%s}",
                           call->op, call->id[0], call->id[1], call->fields);
        assert(len > 0 && (size_t)len < sizeof(json));
        control_admin(core, json, (size_t)len, answered, try);
        return;
    }
}

static void look(struct world_event *event)
{
    struct admin_call *call = list_entry(event, struct admin_call, event);
    struct admin_try *try = call->try;
    assert(call->busy);
    if (try) {
        struct control *core = plane_core(call->sim->plane, try->node);
        uint64_t now = world_now_ns(call->sim->world);
        if (core == try->core && control_incarnation(core) == try->incarnation && now < try->asked_ns + PATIENCE_NS) {
            world_schedule(call->sim->world, &call->event, WORLD_NOBODY, LOOK_NS, look);
            return;
        }
        try->call = NULL;
        call->try = NULL;
    }
    ask_now(call);
}

void admin_ask(struct admin_call *call)
{
    struct world *world = call->sim->world;
    assert(!call->busy && call->cb);
    call->busy = true;
    call->tries = 0;
    call->id[0] = world_random(world) | 1;
    call->id[1] = world_random(world);
    call->asked_ns = world_now_ns(world);
    call->try = NULL;
    sim_note(call->sim, "operator: %s %s", call->op, call->fields);
    world_schedule(world, &call->event, WORLD_NOBODY, 0, look);
}

void admin_give_up(struct admin_call *call)
{
    world_cancel(call->sim->world, &call->event);
    if (call->try)
        call->try->call = NULL;
    call->try = NULL;
    call->busy = false;
}
