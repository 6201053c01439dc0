/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the configuration: the input once as an INI file, once as a flag.
 *
 * Reading ends with 0 and no error text, or with -errno and one line of it; what was stored is within
 * its bounds and its array.
 */
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/config.h"

enum { FLAG_BYTES_MAX = 512 };

struct target {
    char name[8];
    char guard_after_name[8];
    uint32_t threads;
    uint64_t cache;
    bool fast;
    uint64_t timeout_ms;
};

static const struct config_item items[] = {
    {"node", "name", CONFIG_STRING, offsetof(struct target, name), 8, NULL, 0, 0, "name"},
    {"node", "threads", CONFIG_U32, offsetof(struct target, threads), 4, "2", 1, 16, "threads"},
    {"store", "cache", CONFIG_BYTES, offsetof(struct target, cache), 8, "64M", 4096, 1ull << 40, "cache"},
    {"store", "fast", CONFIG_BOOL, offsetof(struct target, fast), 1, "no", 0, 0, "fast"},
    {"store", "timeout", CONFIG_MS, offsetof(struct target, timeout_ms), 8, "2s", 100, 0, "timeout"},
};
enum { COUNT = sizeof(items) / sizeof(items[0]) };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int count_list(void *arg, const char *section, const char *key, const char *value)
{
    size_t *count = arg;
    assert(strlen(section) < CONFIG_LINE_MAX);
    assert(strlen(key) < CONFIG_LINE_MAX);
    assert(strlen(value) < CONFIG_LINE_MAX);
    ++*count;
    return 0;
}

static void check_target(const struct target *target)
{
    assert(strnlen(target->name, sizeof(target->name)) < sizeof(target->name));
    assert(memcmp(target->guard_after_name, "guarded", 8) == 0);
    assert(target->threads >= 1 && target->threads <= 16);
    assert(target->cache >= 4096 && target->cache <= 1ull << 40);
    assert(target->timeout_ms >= 100);
}

static void check_error(int rc, const char error[CONFIG_ERROR_MAX])
{
    assert(rc <= 0);
    size_t length = strnlen(error, CONFIG_ERROR_MAX);
    assert(length < CONFIG_ERROR_MAX);
    assert((rc == 0) == (length == 0));
    /* A carriage return or the like may be quoted from the input, but not a line break. */
    assert(memchr(error, '\n', length) == NULL);
}

static void init_target(struct target *target)
{
    memset(target, 0, sizeof(*target));
    memcpy(target->guard_after_name, "guarded", 8);
    int rc = config_defaults(items, COUNT, target);
    assert(rc == 0);
}

static void run_file(const uint8_t *data, size_t size)
{
    char error[CONFIG_ERROR_MAX];
    struct target target;
    size_t count = 0;
    init_target(&target);
    FILE *stream = fmemopen((void *)(uintptr_t)data, size, "r");
    assert(stream != NULL);
    int rc = config_read_stream(stream, "fuzz", items, COUNT, &target, NULL, count_list, &count, error);
    check_error(rc, error);
    check_target(&target);
    assert(count <= size);
    (void)fclose(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    run_file(data, size);
    char flag[FLAG_BYTES_MAX];
    char error[CONFIG_ERROR_MAX];
    struct target target;
    size_t length = size < sizeof(flag) ? size : sizeof(flag) - 1;
    memcpy(flag, data, length);
    flag[length] = '\0';
    if (strchr(flag, '\n') != NULL)
        *strchr(flag, '\n') = '\0';
    init_target(&target);
    int rc = config_set(items, COUNT, &target, flag, error);
    check_error(rc, error);
    check_target(&target);
    return 0;
}
