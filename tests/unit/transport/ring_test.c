/* SPDX-License-Identifier: Apache-2.0 */
/* ring: timers, tasks, operations, mailbox, registered files. Goal: the promises of ring.h, each by one case.
 * Method: a loop turned by hand with a deadline; no sleeps. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/list.h"
#include "common/ring/ring.h"
#include "common/ring/ring_sqe.h"

#define DEADLINE_NS ((uint64_t)20 * 1000000000)

static struct ring_loop *make_loop(unsigned entries)
{
    struct ring_config config = {.entries = entries, .fixed_files = 4, .seed = 7};
    struct ring_loop *loop = NULL;
    assert_int_equal(ring_loop_create(&config, &loop), 0);
    return loop;
}

#define turn_until(loop, condition)                                      \
    do {                                                                 \
        uint64_t end_ns = env_now_ns(ring_loop_env(loop)) + DEADLINE_NS; \
        while (!(condition)) {                                           \
            assert_int_equal(ring_loop_turn((loop), 10000000), 0);       \
            assert_true(env_now_ns(ring_loop_env(loop)) < end_ns);       \
        }                                                                \
    } while (0)

static int fired[8], fired_count;
struct numbered_timer {
    struct env_timer timer;
    int number;
};

static void note_timer(struct env_timer *timer)
{
    fired[fired_count++] = list_entry(timer, struct numbered_timer, timer)->number;
}

/* Goal: deadline order, not arming order; a stopped timer stays quiet; a re-armed one moves. */
static void timers_fire_in_deadline_order(void **state)
{
    (void)state;
    struct ring_loop *loop = make_loop(8);
    struct env *env = ring_loop_env(loop);
    struct numbered_timer timers[4];
    memset(timers, 0, sizeof(timers));
    fired_count = 0;
    for (int i = 0; i < 4; i++)
        timers[i].number = i;
    /* The deadlines stand far apart, so that arming them may be interrupted. */
    env_timer_start(env, &timers[0].timer, ENV_MS(400), note_timer);
    env_timer_start(env, &timers[1].timer, ENV_MS(100), note_timer);
    env_timer_start(env, &timers[2].timer, ENV_MS(1), note_timer);
    env_timer_start(env, &timers[3].timer, ENV_MS(2), note_timer);
    env_timer_stop(env, &timers[3].timer);
    env_timer_stop(env, &timers[3].timer);
    env_timer_start(env, &timers[2].timer, ENV_MS(700), note_timer);
    assert_int_equal(fired_count, 0);
    turn_until(loop, fired_count == 3);
    assert_int_equal(fired[0], 1);
    assert_int_equal(fired[1], 0);
    assert_int_equal(fired[2], 2);
    ring_loop_destroy(loop);
}

struct chain {
    struct env_task task;
    struct env *env;
    int runs, left;
};

static void chain_run(struct env_task *task)
{
    struct chain *chain = list_entry(task, struct chain, task);
    chain->runs++;
    if (--chain->left > 0)
        env_defer(chain->env, task, chain_run);
}

/* Goal: tasks run in order, never inside the call, and those made by tasks still in the same turn. */
static void tasks_run_until_quiet(void **state)
{
    (void)state;
    struct ring_loop *loop = make_loop(8);
    struct chain chain = {.env = ring_loop_env(loop), .left = 5};
    env_defer(chain.env, &chain.task, chain_run);
    env_defer(chain.env, &chain.task, chain_run); /* queued already: no-op */
    assert_int_equal(chain.runs, 0);
    assert_int_equal(ring_loop_turn(loop, (int64_t)DEADLINE_NS), 0);
    assert_int_equal(chain.runs, 5);
    ring_loop_destroy(loop);
}

struct nop {
    struct ring_op op;
    int order, done;
};
static int prepared;

static void nop_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    list_entry(op, struct nop, op)->order = ++prepared;
    io_uring_prep_nop(sqe);
}

static void nop_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    (void)cqe_flags;
    assert_int_equal(res, 0);
    list_entry(op, struct nop, op)->done++;
}

/* Goal: nothing is prepared inside ring_submit; sends go before drive work; more operations than entries complete. */
static void sends_go_first_and_the_queue_may_overflow(void **state)
{
    (void)state;
    enum { COUNT = 64 };
    struct ring_loop *loop = make_loop(4);
    struct nop nops[COUNT];
    memset(nops, 0, sizeof(nops));
    prepared = 0;
    for (int i = 0; i < COUNT; i++)
        ring_submit(loop, i % 2 ? RING_SEND : RING_DRIVE, &nops[i].op, nop_prepare, nop_done);
    assert_int_equal(prepared, 0);
    turn_until(loop, prepared == COUNT);
    for (int i = 0; i < COUNT; i++) {
        turn_until(loop, nops[i].done == 1);
        assert_int_equal(nops[i].order, i % 2 ? i / 2 + 1 : COUNT / 2 + i / 2 + 1);
    }
    ring_loop_destroy(loop);
}

struct pipe_read {
    struct ring_op op;
    int fd, result, calls;
    char byte;
};

static void pipe_prepare(struct ring_op *op, struct io_uring_sqe *sqe)
{
    struct pipe_read *self = list_entry(op, struct pipe_read, op);
    io_uring_prep_read(sqe, self->fd, &self->byte, 1, 0);
}

static void pipe_done(struct ring_op *op, int32_t res, uint32_t cqe_flags)
{
    struct pipe_read *self = list_entry(op, struct pipe_read, op);
    (void)cqe_flags;
    self->result = res;
    self->calls++;
}

/* Goal: a cancelled operation completes once, with -ECANCELED, whether the kernel has it or not, never in the call. */
static void cancelled_operations_complete_once(void **state)
{
    (void)state;
    struct ring_loop *loop = make_loop(8);
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct pipe_read queued = {.fd = fds[0]}, submitted = {.fd = fds[0]};
    ring_submit(loop, RING_SEND, &submitted.op, pipe_prepare, pipe_done);
    assert_int_equal(ring_loop_turn(loop, 0), 0);
    ring_submit(loop, RING_SEND, &queued.op, pipe_prepare, pipe_done);
    ring_cancel(loop, &queued.op);
    ring_cancel(loop, &submitted.op);
    assert_int_equal(queued.calls + submitted.calls, 0);
    turn_until(loop, queued.calls && submitted.calls);
    assert_int_equal(queued.result, -ECANCELED);
    assert_int_equal(submitted.result, -ECANCELED);
    ring_cancel(loop, &queued.op); /* idle: no-op */
    assert_int_equal(ring_loop_turn(loop, 0), 0);
    assert_int_equal(queued.calls + submitted.calls, 2);
    (void)close(fds[0]);
    (void)close(fds[1]);
    ring_loop_destroy(loop);
}

#define POSTERS 3
#define POSTS 20000
struct post {
    struct ring_mail mail;
    struct poster *poster;
    int number;
};
struct poster {
    pthread_t thread;
    struct ring_loop *loop;
    struct post *posts;
    int received;
};

static void post_arrived(struct ring_mail *mail)
{
    struct post *post = list_entry(mail, struct post, mail);
    assert_int_equal(post->number, post->poster->received);
    post->poster->received++;
}

static void *poster_run(void *arg)
{
    struct poster *poster = arg;
    for (int i = 0; i < POSTS; i++) {
        poster->posts[i].poster = poster;
        poster->posts[i].number = i;
        ring_post(poster->loop, &poster->posts[i].mail, post_arrived);
    }
    return NULL;
}

/* Goal: every mail of every thread arrives, in its poster's order, and a sleeping loop wakes for it. */
static void mail_of_several_threads_arrives_in_order(void **state)
{
    (void)state;
    struct ring_loop *loop = make_loop(8);
    struct poster posters[POSTERS];
    memset(posters, 0, sizeof(posters));
    for (int i = 0; i < POSTERS; i++) {
        posters[i].loop = loop;
        posters[i].posts = calloc(POSTS, sizeof(struct post));
        assert_non_null(posters[i].posts);
        assert_int_equal(pthread_create(&posters[i].thread, NULL, poster_run, &posters[i]), 0);
    }
    for (int i = 0; i < POSTERS; i++)
        while (posters[i].received < POSTS) /* a lost wake-up would hang here until the hang guard */
            assert_int_equal(ring_loop_turn(loop, -1), 0);
    for (int i = 0; i < POSTERS; i++) {
        assert_int_equal(pthread_join(posters[i].thread, NULL), 0);
        free(posters[i].posts);
    }
    struct ring_stats stats;
    ring_loop_stats(loop, &stats);
    assert_int_equal(stats.mails, POSTERS * POSTS);
    ring_loop_destroy(loop);
}

struct runner {
    struct ring_loop *loop;
    struct ring_mail stop;
    int rc;
};

static void stop_arrived(struct ring_mail *mail)
{
    ring_loop_stop(list_entry(mail, struct runner, stop)->loop);
}

static void *runner_run(void *arg)
{
    struct runner *runner = arg;
    runner->rc = ring_loop_run(runner->loop);
    return NULL;
}

/* Goal: a loop made here, run by another thread, stopped by mail, is destroyed here. */
static void a_loop_runs_on_another_thread(void **state)
{
    (void)state;
    struct runner runner = {.loop = make_loop(8), .rc = 1};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, runner_run, &runner), 0);
    ring_post(runner.loop, &runner.stop, stop_arrived);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(runner.rc, 0);
    ring_loop_destroy(runner.loop);
}

/* Goal: file table entries are given, refused when full, and reused; regions are numbered. */
static void files_and_regions_are_registered(void **state)
{
    (void)state;
    struct ring_loop *loop = make_loop(8);
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ring_register_file(loop, fds[0]), i);
    assert_int_equal(ring_register_file(loop, fds[0]), -ENOSPC);
    ring_unregister_file(loop, 2);
    assert_int_equal(ring_register_file(loop, fds[1]), 2);
    for (int i = 0; i < 4; i++)
        ring_unregister_file(loop, i);
    void *memory = aligned_alloc(4096, 65536);
    assert_non_null(memory);
    int first = ring_register_region(loop, memory, 32768);
    assert_true(first == 0 || first == -ENOMEM);
    if (first == 0)
        assert_int_equal(ring_register_region(loop, (char *)memory + 32768, 32768), 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
    ring_loop_destroy(loop);
    free(memory);
}

/* Goal: the seed alone decides env_random. */
static void random_numbers_follow_the_seed(void **state)
{
    (void)state;
    struct ring_loop *a = make_loop(8), *b = make_loop(8);
    uint64_t first = env_random(ring_loop_env(a));
    assert_int_equal(first, env_random(ring_loop_env(b)));
    assert_int_not_equal(first, env_random(ring_loop_env(a)));
    ring_loop_destroy(a);
    ring_loop_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_deadline_order),
        cmocka_unit_test(tasks_run_until_quiet),
        cmocka_unit_test(sends_go_first_and_the_queue_may_overflow),
        cmocka_unit_test(cancelled_operations_complete_once),
        cmocka_unit_test(mail_of_several_threads_arrives_in_order),
        cmocka_unit_test(a_loop_runs_on_another_thread),
        cmocka_unit_test(files_and_regions_are_registered),
        cmocka_unit_test(random_numbers_follow_the_seed),
    };
    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
