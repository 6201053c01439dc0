/* SPDX-License-Identifier: Apache-2.0 */
/* ring_sqe: the one door through which liburing enters the tree: io_uring_prep_* for the prepare callbacks of
 * ring_submit, and nothing else. Threading, errors, ownership: as in ring.h. */
#ifndef ASHLAR_COMMON_RING_RING_SQE_H
#define ASHLAR_COMMON_RING_RING_SQE_H

#include <liburing.h>

#endif
