/* SPDX-License-Identifier: Apache-2.0 */
/* workload_hand: single operations of a guest, placed by hand (faults_script.c), judged as all others.
 *
 * Concept: a guest that was told to be quiet begins nothing by itself; these take one of its idle slots. peek is another one's read:
 *   straight at the replicas of one node, whoever the map says is primary, as a reader would whose map is old.
 * Threading: one thread. Errors: -ENOENT: there is no such operation; -EBUSY: no slot or process for it, -EINVAL: outside the volume. Ownership: the guest's.
 */
#ifndef ASHLAR_TESTS_SIM_WORKLOAD_HAND_H
#define ASHLAR_TESTS_SIM_WORKLOAD_HAND_H

#include "tests/sim/workload.h"

/* kind: write, fua, read, trim, flush; blocks of 4 KiB. */
int guest_by_hand(struct guest *guest, const char *kind, uint64_t block, uint64_t blocks);
int guest_peek(struct guest *guest, int node, uint64_t block);

#endif
