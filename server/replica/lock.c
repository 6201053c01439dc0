/* SPDX-License-Identifier: Apache-2.0 */
/* lock: block-range locks of one shard.
 *
 * - Locks stand in one list in arrival order; a lock is held when no earlier overlapping one is exclusive, or it is shared and so
 *   are they. So nothing overtakes a conflicting predecessor, and no request starves.
 * - Release looks only at later locks that overlap the released range.
 * The list is short (requests in flight on one shard), so scans beat a tree.
 */
#include <assert.h>

#include "common/mutant.h"
#include "server/replica/replica_internal.h"

static bool overlap(const struct range_lock *a, const struct range_lock *b)
{
    return a->start < b->end && b->start < a->end;
}

static bool conflicts_before(struct replica *rep, struct range_lock *lock)
{
    replica_assert(rep);
    list_for_each(pos, &rep->locks)
    {
        struct range_lock *other = list_entry(pos, struct range_lock, link);
        if (other == lock)
            return false;
        if ((other->exclusive || lock->exclusive) && overlap(other, lock) && !MUTANT(no_range_locks))
            return true;
    }
    assert(!"lock is on the list");
    return true;
}

bool range_lock_acquire(struct replica *rep, struct range_lock *lock)
{
    replica_assert(rep);
    assert(lock->start < lock->end);
    assert(lock->granted != NULL);
    list_push_back(&rep->locks, &lock->link);
    lock->held = !conflicts_before(rep, lock);
    return lock->held;
}

void range_lock_release(struct replica *rep, struct range_lock *lock)
{
    replica_assert(rep);
    assert(list_linked(&lock->link));
    struct range_lock gone = *lock;
    list_remove(&lock->link);
    lock->held = false;
    /* A granted lock may end at once and free its neighbours: look at the list afresh after each grant. */
    bool granted = true;
    while (granted) {
        granted = false;
        list_for_each(pos, &rep->locks)
        {
            struct range_lock *other = list_entry(pos, struct range_lock, link);
            if (other->held || !overlap(other, &gone) || conflicts_before(rep, other))
                continue;
            other->held = true;
            other->granted(other);
            granted = true;
            break;
        }
    }
}
