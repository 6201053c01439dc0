/* SPDX-License-Identifier: Apache-2.0 */
/* control_admin: the parts of the admin interface (docs/internals/control.md), shared by the control_admin*.c files only.
 *
 * Concept: a request is a JSON object with "op"; an op either reads (an answer is made at once) or changes (an entry is proposed and
 *   the answer follows its result). Both run at the leader; other nodes relay.
 * Threading: the control thread's. Errors: an answer with "ok": false and one sentence that says what to do.
 * Ownership: json_t made by a report function is given to the caller.
 */
#ifndef ASHLAR_SERVER_CONTROL_CONTROL_ADMIN_H
#define ASHLAR_SERVER_CONTROL_CONTROL_ADMIN_H

#include <jansson.h>

#include "server/control/control_state.h"

#define ADMIN_SENTENCE_MAX 256u
#define ADMIN_LIST_MAX 256u /* volumes or shards in one answer; more: asked for with "after" */

/* Reads: the answer without "ok"; NULL and a sentence when there is none. */
json_t *control_report_status(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
json_t *control_report_nodes(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
json_t *control_report_volumes(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
json_t *control_report_volume(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
json_t *control_report_sessions(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
json_t *control_report_snapshots(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);
json_t *control_report_stats(struct control *c, json_t *request, char sentence[ADMIN_SENTENCE_MAX]);

/* Changes: fill the entry, or -errno and a sentence. weights: room for MAP_NODES_MAX. */
typedef int control_change_fn(struct control *c, json_t *request, struct map_entry *entry, struct map_weight *weights,
                              char sentence[ADMIN_SENTENCE_MAX]);
control_change_fn control_change_volume_create, control_change_volume_delete, control_change_volume_resize,
    control_change_volume_set, control_change_session_close, control_change_force_promote, control_change_node_out,
    control_change_node_remove, control_change_snapshot_create, control_change_snapshot_delete,
    control_change_volume_rollback, control_change_volume_clone, control_change_volume_flatten;
/* snapshot-create was proposed with success: answers when it is complete. */
void control_snap_wait(struct control *c, const char *name, const struct map_result *result, control_admin_cb cb,
                       void *arg);
/* answer is given; NULL: an error with that sentence. */
void control_admin_answer(control_admin_cb cb, void *arg, json_t *answer, int rc, const char *sentence);
/* One sentence for the result of such an entry. */
void control_change_explain(const struct map_entry *entry, int rc, char sentence[ADMIN_SENTENCE_MAX]);

/* Health of a volume, as reports count it. */
struct control_health {
    uint32_t degraded;    /* shards with fewer in_sync members than replicas */
    uint32_t unavailable; /* no primary, or fewer than min_replicas, or not active */
    uint32_t headless;    /* no primary */
};
struct control_health control_health_of(const struct map_volume *volume);

#endif
