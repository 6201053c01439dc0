/* SPDX-License-Identifier: Apache-2.0 */
/* bad_blocks: the store's memory of damaged blocks; tells a drive that lost a block from one that loses blocks.
 *
 * Threading: the data thread's. Errors: store_fail. Ownership: an array inside struct store.
 */
#ifndef ASHLAR_SERVER_STORE_BAD_BLOCKS_H
#define ASHLAR_SERVER_STORE_BAD_BLOCKS_H

#include "server/store/store_core.h"

/* Pieces exclude each other by block, so what was read after a write is what the drive made of it. */
void bad_blocks_found(const struct piece *piece, uint32_t index, bool unreadable); /* by a read, at its index */
void bad_blocks_read(const struct piece *piece, uint32_t index);                   /* and its checksum is right */
void bad_blocks_written(const struct piece *piece);                                /* all of its blocks, or zeroed */

#endif
