/* SPDX-License-Identifier: Apache-2.0 */
/* lock: block-range locks: who is held when, in arrival order, whatever comes and goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/prng.h"
#include "server/replica/replica_internal.h"

#define LOCKS 64u
#define BLOCKS 16u

static uint32_t grants;

static void granted(struct range_lock *lock)
{
    assert_true(lock->held);
    grants++;
}

static struct replica *rep_create(void)
{
    struct replica *rep = calloc(1, sizeof(*rep));
    assert_non_null(rep);
    rep->set = calloc(1, sizeof(*rep->set));
    assert_non_null(rep->set);
    list_head_init(&rep->locks);
    list_head_init(&rep->window);
    return rep;
}

static void rep_destroy(struct replica *rep)
{
    free(rep->set);
    free(rep);
}

static void want(struct range_lock *lock, uint64_t start, uint64_t end, bool exclusive)
{
    memset(lock, 0, sizeof(*lock));
    *lock = (struct range_lock){.start = start, .end = end, .exclusive = exclusive, .granted = granted};
}

/* Readers share; a writer waits for them; a reader behind the waiting writer waits, too: nobody starves. */
static void test_no_overtaking(void **state)
{
    struct replica *rep = rep_create();
    struct range_lock a, b, writer, late, apart;
    (void)state;
    grants = 0;
    want(&a, 0, 8192, false);
    want(&b, 4096, 12288, false);
    want(&writer, 4096, 8192, true);
    want(&late, 0, 8192, false);
    want(&apart, 65536, 69632, true);
    assert_true(range_lock_acquire(rep, &a));
    assert_true(range_lock_acquire(rep, &b));
    assert_false(range_lock_acquire(rep, &writer));
    assert_false(range_lock_acquire(rep, &late));
    assert_true(range_lock_acquire(rep, &apart));
    range_lock_release(rep, &a);
    assert_false(writer.held);
    range_lock_release(rep, &b);
    assert_true(writer.held);
    assert_false(late.held);
    range_lock_release(rep, &writer);
    assert_true(late.held);
    assert_int_equal(grants, 2);
    range_lock_release(rep, &late);
    range_lock_release(rep, &apart);
    assert_true(list_empty(&rep->locks));
    rep_destroy(rep);
}

static bool conflict(const struct range_lock *a, const struct range_lock *b)
{
    return (a->exclusive || b->exclusive) && a->start < b->end && b->start < a->end;
}

/* Random locks: no two held ones conflict; every waiting one has a conflicting one before it. */
static void test_random(void **state)
{
    struct replica *rep = rep_create();
    struct range_lock *locks = calloc(LOCKS, sizeof(*locks));
    struct prng prng;
    (void)state;
    grants = 0;
    prng_seed(&prng, 7);
    for (uint32_t step = 0; step < 20000; step++) {
        struct range_lock *lock = &locks[prng_below(&prng, LOCKS)];
        if (list_linked(&lock->link) && lock->held) {
            range_lock_release(rep, lock);
        } else if (!list_linked(&lock->link)) {
            uint64_t start = prng_below(&prng, BLOCKS);
            want(lock, start * 4096, (start + 1 + prng_below(&prng, 4)) * 4096, prng_below(&prng, 2));
            (void)range_lock_acquire(rep, lock);
        }
        list_for_each(pos, &rep->locks)
        {
            const struct range_lock *later = list_entry(pos, struct range_lock, link);
            bool blocked = false;
            for (struct list_node *at = rep->locks.next; at != pos; at = at->next)
                blocked = blocked || conflict(list_entry(at, struct range_lock, link), later);
            assert_int_equal(later->held, !blocked);
        }
    }
    free(locks);
    rep_destroy(rep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_overtaking), cmocka_unit_test(test_random)};
    return cmocka_run_group_tests_name("lock", tests, NULL, NULL);
}
