/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes map_restore.
 *
 * - the input as it is: the CRC refuses nearly all of them
 * - the input with its CRC made good, as a hostile peer would: the checks behind it
 *
 * A refused snapshot leaves the map as it was; an accepted one gives, snapshot again, a map of the same hash.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "server/control/map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, size_t size)
{
    struct map *map = map_create();
    uint64_t before = map_hash(map);
    int rc = map_restore(map, data, size);
    if (rc < 0) {
        assert(rc == -EBADMSG || rc == -EPROTONOSUPPORT);
        assert(map_hash(map) == before);
    } else {
        void *bytes;
        size_t len;
        struct map *other = map_create();
        assert(map_snapshot(map, &bytes, &len) == 0);
        assert(map_restore(other, bytes, len) == 0);
        assert(map_hash(other) == map_hash(map));
        map_destroy(other);
        free(bytes);
        /* It obeys entries, too. */
        struct map_entry e = {.kind = MAP_ENTRY_ELECT, .shard = UINT32_MAX};
        uint8_t entry[256];
        struct map_result result;
        int entry_len = map_entry_encode(&e, entry, sizeof(entry));
        assert(entry_len > 0);
        map_apply(map, map_version(map) + 1, entry, (size_t)entry_len, &result);
        assert(result.rc == 0);
    }
    map_destroy(map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    if (size < 12 || size > (1u << 20))
        return 0;
    uint8_t *copy = malloc(size);
    assert(copy != NULL);
    memcpy(copy, data, size);
    memcpy(copy, data[4] == 1 ? "ASHM\1\0\0\0" : "ASHM\2\0\0\0", 8); /* both formats */
    uint32_t crc = crc32c(copy, size - 4);
    for (int i = 0; i < 4; i++)
        copy[size - 4 + (size_t)i] = (uint8_t)(crc >> (8 * i));
    check(copy, size);
    free(copy);
    return 0;
}
