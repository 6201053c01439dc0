/* SPDX-License-Identifier: Apache-2.0 */
/* requests: NBD requests as nbdkit calls them, answered by the client library.
 *
 * Concept: the calling thread submits, sleeps on a semaphore of its own stack, and is woken once, by the callback.
 * Threading: any number of threads on one volume.
 * Errors: as nbdkit wants them: 0 or -1, with nbdkit_error called and nbdkit_set_error told an NBD error number.
 * Ownership: buffers are nbdkit's; the library is done with them before the call returns.
 */
#ifndef ASHLAR_PLUGINS_NBDKIT_REQUESTS_H
#define ASHLAR_PLUGINS_NBDKIT_REQUESTS_H

#include <stdint.h>

#include <ashlar.h>

struct nbdkit_extents;

int request_size(struct ashlar_volume *volume, uint64_t *ret_size); /* the present one */
int request_read(struct ashlar_volume *volume, void *buffer, uint32_t count, uint64_t offset);
/* flags here: enum ashlar_flags */
int request_write(struct ashlar_volume *volume, const void *buffer, uint32_t count, uint64_t offset, unsigned flags);
int request_zero(struct ashlar_volume *volume, uint32_t count, uint64_t offset, unsigned flags);
int request_flush(struct ashlar_volume *volume);
/* one: the first extent is enough */
int request_extents(struct ashlar_volume *volume, uint32_t count, uint64_t offset, int one,
                    struct nbdkit_extents *extents);

#endif
