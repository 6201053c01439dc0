/* SPDX-License-Identifier: Apache-2.0 */
/* daemon_stats: what one daemon tells about its process, as JSON.
 *
 *   - pid, version, resident memory, CPU time; everything about data comes from the bridge's statistics
 * Failure modes: out of memory: nothing is told.
 */
#include "server/daemon/daemon_stats.h"

#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void put(json_t *object, const char *key, uint64_t value)
{
    int rc = json_object_set_new(object, key, json_integer((json_int_t)value));
    assert(object && key);
    (void)rc; /* out of memory: the key is missing */
}

static uint64_t resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    int n = fscanf(file, "%llu %llu", &total, &resident);
    (void)fclose(file);
    assert(resident <= total);
    return n == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static json_t *process_json(void)
{
    struct rusage usage;
    json_t *object = json_object();
    int rc = getrusage(RUSAGE_SELF, &usage);
    assert(rc == 0);
    put(object, "pid", (uint64_t)getpid());
    put(object, "resident_bytes", resident_bytes());
    put(object, "cpu_user_us", (uint64_t)usage.ru_utime.tv_sec * 1000000u + (uint64_t)usage.ru_utime.tv_usec);
    put(object, "cpu_system_us", (uint64_t)usage.ru_stime.tv_sec * 1000000u + (uint64_t)usage.ru_stime.tv_usec);
    (void)json_object_set_new(object, "version", json_string(ASHLAR_VERSION));
    return object;
}

char *daemon_stats_json(void)
{
    json_t *object = json_object();
    (void)json_object_set_new(object, "process", process_json());
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    assert(!text || text[0] == '{');
    return text;
}
