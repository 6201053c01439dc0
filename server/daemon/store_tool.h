/* SPDX-License-Identifier: Apache-2.0 */
/* store_tool: what is done to a store while no daemon runs on it: `ashlard store format` and `store check`; and how a
 * store's directory is laid out, for the daemon, too.
 *
 *   DIR/device      symbolic link to the block device or file that is the drive, or
 *   DIR/store.img   the preallocated file that is the drive
 *   DIR/kv/         RocksDB
 *
 * Threading: blocking calls; they run a ring loop of their own. Errors: -errno and one line in the log. Ownership: none kept.
 */
#ifndef ASHLAR_SERVER_DAEMON_STORE_TOOL_H
#define ASHLAR_SERVER_DAEMON_STORE_TOOL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/buf.h"
#include "common/ring/ring.h"
#include "server/store/drive.h"
#include "server/store/kv.h"
#include "server/store/store.h"

#define STORE_TOOL_PATH_MAX 4096u

/* Path of the drive: DIR/device where that exists, else DIR/store.img. */
int store_tool_drive_path(const char *directory, char ret_path[STORE_TOOL_PATH_MAX]);
int store_tool_kv_path(const char *directory, char ret_path[STORE_TOOL_PATH_MAX]);

struct store_tool_format {
    const char *directory; /* made if it does not exist; its parent must */
    const char *drive;     /* block device, or file to be made; NULL: DIR/store.img */
    uint64_t bytes;        /* of a file, rounded down to 4 KiB; a device is used whole: 0 */
    struct store_identity identity;
    bool force; /* overwrite a store, or a device that holds something else */
};
/* Directory, RocksDB, and last of all the superblock: an interrupted format leaves no store. -EEXIST without force. */
int store_tool_format(const struct store_tool_format *format);

enum store_tool_status { STORE_TOOL_CLEAN = 0, STORE_TOOL_DAMAGED = 1, STORE_TOOL_CANNOT = 2 }; /* exit statuses */
struct store_tool_check {
    const char *directory;
    bool json; /* one document instead of lines */
    bool
        digest; /* one line "VOLUME SHARD CHUNK CRC64 CRC32C" a chunk that is not all zeros, and no summary: two members of
                  * a shard hold the same when their lines are the same */
};
/* Reads everything, changes nothing; the drive is locked meanwhile. Findings go to out. */
enum store_tool_status store_tool_check(const struct store_tool_check *check, FILE *out);

#endif
