/* SPDX-License-Identifier: Apache-2.0 */
/* exports: the volumes that this nbdkit process has attached.
 *
 * Concept: nbdkit opens a handle a connection, the cluster knows one session an attachment: all connections to a volume share
 *   one library handle, so that a flush on one of them covers the writes of all ("multi-conn"), and nobody fences himself.
 * Threading: one mutex guards the list of exports; it is held while a volume is attached, which delays other opens only,
 *   never requests (they go straight to the library handle).
 * Errors: 0 / -errno; the sentence of a failure was given to nbdkit_error already.
 * Ownership: an export lives from the first get to the last put, a kept one until exports_stop.
 */
#ifndef ASHLAR_PLUGINS_NBDKIT_EXPORTS_H
#define ASHLAR_PLUGINS_NBDKIT_EXPORTS_H

#include <stdbool.h>

#include <ashlar.h>

/* Connects to the cluster (no traffic yet): starts a thread, so call it after fork. */
int exports_start(const struct ashlar_options *options);
/* Detaches every volume, ends the thread. No request is in flight; exports need not have been put, since nbdkit calls no
 * .close any more once it was told to end. */
void exports_stop(void);

struct exported {
    struct ashlar_volume *volume; /* read-only */
    bool read_only;               /* read-only */
    /* private */
    char name[ASHLAR_TITLE_MAX];
    unsigned refs;
    bool kept;
    struct exported *next;
};

/* flags: enum ashlar_open_flags. keep: stay attached after the last put. */
int exports_get(const char *name, unsigned flags, bool keep, struct exported **ret_export);
void exports_put(struct exported *exported);

/* Volumes of the cluster: as ashlar_list. */
int exports_list(struct ashlar_volume_info **ret_infos, size_t *ret_count);

#endif
