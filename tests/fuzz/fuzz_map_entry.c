/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the decoder of map entries, and what it gives against a small map.
 *
 * - the input as it is
 * - the input with its first four bytes made a good header of each kind
 *
 * What decodes encodes to the very bytes it came from; whatever the bytes are, applying them twice to equal maps keeps
 * them equal, and advances the version.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/control/map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void apply_entry(struct map *map, const struct map_entry *entry)
{
    uint8_t bytes[1024];
    struct map_result result;
    int len = map_entry_encode(entry, bytes, sizeof(bytes));
    assert(len > 0);
    map_apply(map, map_version(map) + 1, bytes, (size_t)len, &result);
    assert(result.rc == 0);
}

static struct map *small_map(void)
{
    struct map *map = map_create();
    for (uint32_t n = 1; n <= 3; n++) {
        struct map_entry e = {.kind = MAP_ENTRY_NODE_REGISTER, .node = n};
        e.node_info.store_uuid[0] = (uint8_t)n;
        apply_entry(map, &e);
    }
    struct map_entry v = {
        .kind = MAP_ENTRY_VOLUME_CREATE, .name = "v", .size = 1u << 30, .replicas = 3, .min_replicas = 2};
    apply_entry(map, &v);
    return map;
}

static void check(const uint8_t *data, size_t size)
{
    struct map_entry entry;
    uint8_t *again = malloc(size + 1);
    assert(again != NULL);
    int rc = map_entry_decode(data, size, &entry);
    assert(rc == 0 || rc == -EBADMSG);
    if (rc == 0) {
        assert(map_entry_encode(&entry, again, size) == (int)size);
        assert(memcmp(again, data, size) == 0);
        /* A volume of terabytes takes its time; its size is not what is fuzzed. */
        bool large = entry.size > (1ull << 40);
        map_entry_free(&entry);
        if (!large) {
            struct map *a = small_map(), *b = small_map();
            struct map_result ra, rb;
            map_apply(a, map_version(a) + 1, data, size, &ra);
            map_apply(b, map_version(b) + 1, data, size, &rb);
            assert(ra.rc == rb.rc && ra.value == rb.value);
            assert(map_hash(a) == map_hash(b));
            map_destroy(a);
            map_destroy(b);
        }
    }
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    if (size < MAP_ENTRY_HEADER_BYTES || size > MAP_ENTRY_BYTES_MAX)
        return 0;
    uint8_t *copy = malloc(size);
    assert(copy != NULL);
    memcpy(copy, data, size);
    copy[0] = 1;
    copy[1] = (uint8_t)(data[1] % 56);
    copy[2] = copy[3] = 0;
    check(copy, size);
    free(copy);
    return 0;
}
