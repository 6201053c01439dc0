/* SPDX-License-Identifier: Apache-2.0 */
/* nbd_probe: does an NBD server on a unix socket serve its default export?
 *
 * Concept: the fixed newstyle handshake up to NBD_OPT_GO and its answer, then a disconnect: nothing is read or
 *   written (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
 * Threading: blocking until the deadline. Errors: -ENOENT, -ECONNREFUSED: nobody listens yet; -ETIMEDOUT; -EACCES: the server
 * refuses the export, its log says why; -EBADMSG: no NBD. Ownership: none taken.
 */
#ifndef ASHLAR_CLIENT_CLI_NBD_PROBE_H
#define ASHLAR_CLIENT_CLI_NBD_PROBE_H

#include <stdint.h>

int nbd_probe(const char *socket_path, uint64_t deadline_ms, uint64_t *ret_size);

#endif
