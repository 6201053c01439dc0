/* SPDX-License-Identifier: Apache-2.0 */
/* raw_rdma: a peer made of bare verbs, that greets, sends and reads whatever a case wants: right or wrong.
 *
 * Threading: the test's; raw_step takes what happened since. Errors: a verbs call that must work fails the test.
 * Ownership: raw_close frees everything.
 */
#ifndef ASHLAR_TESTS_UNIT_TRANSPORT_RAW_RDMA_H
#define ASHLAR_TESTS_UNIT_TRANSPORT_RAW_RDMA_H

#include "common/transport/rdma_wire.h"
#include "tests/unit/transport/rig.h"

struct raw;

enum raw_op { RAW_SEND, RAW_READ, RAW_WRITE };

/* Connects to the rig's listener with these bytes as private data. */
struct raw *raw_connect_start(struct rig *rig, const void *greeting, uint8_t bytes);
void raw_step(struct raw *raw);
bool raw_is_up(const struct raw *raw);
bool raw_is_rejected(const struct raw *raw);
bool raw_is_gone(const struct raw *raw); /* disconnected */
/* A SEND of bytes, or a READ or WRITE of so many bytes at a remote place. */
void raw_post(struct raw *raw, enum raw_op op, const void *data, uint32_t bytes, uint64_t address, uint32_t key);
unsigned raw_done(const struct raw *raw); /* completions of what was posted */
int raw_status(const struct raw *raw);    /* of the last; 0: success; else enum ibv_wc_status */
bool raw_refused(const struct raw *raw);  /* it was "remote access error" */
const uint8_t *raw_received(const struct raw *raw, uint32_t *ret_bytes); /* the last SEND that came; NULL: none */
bool raw_has_windows(const struct raw *raw);      /* its device has them; without, payloads are never offered */
const uint8_t *raw_memory(const struct raw *raw); /* where READs go */
void raw_close(struct raw *raw);

#endif
