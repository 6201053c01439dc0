/* SPDX-License-Identifier: Apache-2.0 */
/* sim_log: see the header.
 *
 * - propose keeps a copy; half a millisecond later it is committed, if the proposer still leads and reaches a majority
 * - each voter applies what is committed a fraction of a millisecond later, in order
 */
#include "tests/unit/control/sim_log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VOTERS_MAX 6
#define ENTRIES_MAX 65536
#define PENDING_MAX 4096
#define COMMIT_NS 500000u
#define APPLY_NS 200000u

struct voter {
    struct control_log base;
    struct sim_log *log;
    uint32_t node;
    uint64_t term, applied;
    bool cut, believes; /* that it leads */
    uint32_t leader;    /* that it knows of */
    struct control *control;
    uint32_t life; /* counts joins: requests of an earlier life are not answered */
    struct world_event apply;
};

struct pending {
    struct world_event event;
    struct sim_log *log;
    struct voter *voter;
    uint64_t term;
    uint32_t life;
    struct control_log_req *req;
    control_log_cb cb;
    uint8_t *bytes;
    size_t len;
    int rc;
    bool used;
};

struct entry {
    uint8_t *bytes;
    size_t len;
};

struct sim_log {
    struct world *world;
    uint32_t voters, leader, transfers, forget;
    uint64_t term, length, commit_ns;
    struct voter voter[VOTERS_MAX];
    struct entry entries[ENTRIES_MAX + 1];
    struct pending pending[PENDING_MAX];
};

static struct voter *voter_of(struct control_log *base)
{
    return (struct voter *)(void *)base;
}

static void apply_run(struct world_event *event)
{
    struct voter *v = (struct voter *)(void *)((char *)event - offsetof(struct voter, apply));
    while (v->control && !v->cut && v->applied < v->log->length) {
        v->applied++;
        control_log_applied(v->control, v->applied, v->log->entries[v->applied].bytes, v->log->entries[v->applied].len);
    }
}

static void spread(struct sim_log *log)
{
    for (uint32_t i = 1; i <= log->voters; i++) {
        struct voter *v = &log->voter[i];
        if (v->control && !v->cut && !world_scheduled(&v->apply))
            world_schedule(log->world, &v->apply, (int)i - 1, APPLY_NS + world_random_below(log->world, APPLY_NS),
                           apply_run);
    }
}

static void commit(struct sim_log *log, const struct pending *p)
{
    assert(log->length < ENTRIES_MAX);
    log->length++;
    struct entry *e = &log->entries[log->length];
    e->bytes = malloc(p->len);
    assert(e->bytes != NULL);
    memcpy(e->bytes, p->bytes, p->len);
    e->len = p->len;
}

static void end_pending(struct pending *p)
{
    struct control_log_req *req = p->req;
    control_log_cb cb = p->cb;
    bool alive = p->voter->life == p->life;
    int rc = p->rc;
    free(p->bytes);
    p->used = false;
    if (alive)
        cb(req, rc);
}

static void told(struct world_event *event)
{
    struct pending *p = (struct pending *)(void *)event;
    if (p->rc == 0) { /* applied here before its proposer hears of it */
        if (p->voter->life == p->life && p->voter->applied < p->log->length)
            apply_run(&p->voter->apply);
    }
    end_pending(p);
}

static uint32_t reachable(const struct sim_log *log)
{
    uint32_t count = 0;
    for (uint32_t i = 1; i <= log->voters; i++)
        count += !log->voter[i].cut && log->voter[i].control;
    return count;
}

static void commit_run(struct world_event *event)
{
    struct pending *p = (struct pending *)(void *)event;
    struct sim_log *log = p->log;
    struct voter *v = p->voter;
    if (v->life != p->life || log->leader != v->node || p->term != log->term) {
        p->rc = -EINPROGRESS;
        if (v->believes && v->life == p->life && v->term == p->term) /* it does not know yet */
            world_schedule(log->world, event, (int)v->node - 1, 20 * COMMIT_NS, commit_run);
        else
            end_pending(p);
        return;
    }
    if (v->cut || reachable(log) * 2 <= log->voters) {
        world_schedule(log->world, event, (int)v->node - 1, 20 * COMMIT_NS, commit_run);
        return;
    }
    commit(log, p);
    spread(log);
    p->rc = 0;
    if (log->forget > 0) {
        log->forget--;
        p->rc = -EINPROGRESS;
    }
    world_schedule(log->world, event, (int)v->node - 1, APPLY_NS, told);
}

static int propose(struct control_log *base, const void *bytes, size_t len, struct control_log_req *req,
                   control_log_cb cb)
{
    struct voter *v = voter_of(base);
    struct sim_log *log = v->log;
    if (!v->believes)
        return -EAGAIN;
    for (int i = 0; i < PENDING_MAX; i++) {
        struct pending *p = &log->pending[i];
        if (p->used)
            continue;
        memset(p, 0, sizeof *p);
        *p = (struct pending){.log = log, .voter = v, .term = v->term, .req = req, .cb = cb, .len = len, .used = true};
        p->life = v->life;
        p->bytes = malloc(len);
        assert(p->bytes != NULL);
        memcpy(p->bytes, bytes, len);
        world_schedule(log->world, &p->event, (int)v->node - 1, log->commit_ns, commit_run);
        return 0;
    }
    return -EBUSY;
}

/* sim_log_lead applied everything earlier, as consensus.h promises. */
static bool is_leader(struct control_log *base)
{
    return voter_of(base)->believes;
}

static uint32_t leader(struct control_log *base)
{
    return voter_of(base)->leader;
}

static uint64_t term(struct control_log *base)
{
    return voter_of(base)->term;
}

static int transfer(struct control_log *base)
{
    struct voter *v = voter_of(base);
    v->log->transfers++;
    return 0;
}

static const struct control_log_ops log_ops = {
    .propose = propose, .is_leader = is_leader, .leader = leader, .term = term, .transfer = transfer};

struct sim_log *sim_log_create(struct world *world, uint32_t voters)
{
    struct sim_log *log = calloc(1, sizeof *log);
    assert(log != NULL);
    assert(voters < VOTERS_MAX);
    log->world = world;
    log->voters = voters;
    log->commit_ns = COMMIT_NS;
    for (uint32_t i = 1; i <= voters; i++)
        log->voter[i] = (struct voter){.base = {&log_ops}, .log = log, .node = i};
    return log;
}

void sim_log_destroy(struct sim_log *log)
{
    if (!log)
        return;
    for (uint32_t i = 1; i <= log->voters; i++)
        world_cancel(log->world, &log->voter[i].apply);
    for (int i = 0; i < PENDING_MAX; i++) {
        if (log->pending[i].used) {
            world_cancel(log->world, &log->pending[i].event);
            free(log->pending[i].bytes);
        }
    }
    for (uint64_t i = 1; i <= log->length; i++)
        free(log->entries[i].bytes);
    free(log);
}

struct control_log *sim_log_of(struct sim_log *log, uint32_t voter)
{
    assert(voter >= 1 && voter <= log->voters);
    return &log->voter[voter].base;
}

void sim_log_join(struct sim_log *log, uint32_t voter, struct control *control, uint64_t from)
{
    struct voter *v = &log->voter[voter];
    v->control = control;
    v->life++;
    v->applied = from;
    v->believes = false;
    v->leader = control ? log->leader : 0;
    if (control)
        v->term = log->term;
    world_cancel(log->world, &v->apply);
    spread(log);
}

static void learn(struct sim_log *log, struct voter *v)
{
    v->term = log->term;
    v->leader = log->leader;
    v->believes = log->leader == v->node;
    if (v->control)
        control_log_role_changed(v->control);
}

void sim_log_lead(struct sim_log *log, uint32_t voter, bool keep)
{
    for (int i = 0; i < PENDING_MAX; i++) {
        struct pending *p = &log->pending[i];
        if (p->used && p->term == log->term && p->event.cb == commit_run && keep)
            commit(log, p); /* its proposer hears "unknown" */
    }
    log->leader = voter;
    log->term++;
    struct voter *v = &log->voter[voter];
    assert(!v->cut && v->control);
    apply_run(&v->apply); /* everything before its term */
    for (uint32_t i = 1; i <= log->voters; i++) {
        if (!log->voter[i].cut)
            learn(log, &log->voter[i]);
    }
    spread(log);
}

void sim_log_cut(struct sim_log *log, uint32_t voter, bool cut)
{
    struct voter *v = &log->voter[voter];
    v->cut = cut;
    if (!cut) {
        learn(log, v);
        spread(log);
    }
}

uint32_t sim_log_leader(const struct sim_log *log)
{
    return log->leader;
}

uint64_t sim_log_length(const struct sim_log *log)
{
    return log->length;
}

uint32_t sim_log_transfers(const struct sim_log *log)
{
    return log->transfers;
}

void sim_log_delay(struct sim_log *log, uint64_t commit_ns)
{
    log->commit_ns = commit_ns;
}

void sim_log_forget(struct sim_log *log, uint32_t count)
{
    log->forget = count;
}

const void *sim_log_entry(const struct sim_log *log, uint64_t version, size_t *ret_len)
{
    assert(version >= 1 && version <= log->length);
    *ret_len = log->entries[version].len;
    return log->entries[version].bytes;
}
