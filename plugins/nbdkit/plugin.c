/* SPDX-License-Identifier: Apache-2.0 */
/* plugin: the face towards nbdkit (nbdkit-plugin(3), API version 2).
 *
 *   load ── config (each key=value) ── config_complete ── [fork] ── after_fork: exports_start
 *                                                                      │
 *            a connection: list_exports? open: exports_get, get_size, block_size, can_* ── requests ── close: exports_put
 *                                                                      │
 *                                                     cleanup: exports_stop ── unload
 *
 * The volume of volume=NAME is attached by the first connection (only then nbdkit says whether it is read-only) and stays
 * attached until the process ends; volumes chosen by export name come and go with their connections.
 * Failure modes: wrong parameters end nbdkit before it forks; a volume that cannot be attached fails the connection.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ashlar.h>

#include "common/config.h"
#include "plugins/nbdkit/exports.h"
#include "plugins/nbdkit/requests.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define BLOCK_BYTES_MAX (32u << 20)

static struct {
    char *volume; /* NULL: the export name says it */
    char *where;  /* addresses, or the path of a cluster file; NULL: the library's default */
    uint64_t io_timeout_ms, open_timeout_ms;
    bool force;
} settings;

static void plugin_unload(void)
{
    free(settings.volume);
    free(settings.where);
}

static int check_volume_name(const char *name)
{
    const char *at = strchr(name, '@');
    size_t length = at ? (size_t)(at - name) : strlen(name);
    if (length > 0 && length < ASHLAR_NAME_MAX && (!at || (at[1] && strlen(at + 1) < ASHLAR_NAME_MAX)))
        return 0;
    nbdkit_error("volume '%s': a name has 1 to %u bytes, as has a snapshot's behind an @", name, ASHLAR_NAME_MAX - 1);
    return -1;
}

/* given: malloc'ed, or NULL if that failed. */
static int take_string(char **target, const char *key, char *given)
{
    if (*target) {
        nbdkit_error("%s is given twice, or both cluster and addresses are", key);
        free(given);
        return -1;
    }
    *target = given;
    return given ? 0 : -1;
}

static int take_duration(const char *key, const char *value, uint64_t *target)
{
    if (config_parse_ms(value, target) == 0)
        return 0;
    nbdkit_error("%s=%s: write a duration like 500ms, 30s or 2min", key, value);
    return -1;
}

static int take_bool(const char *value, bool *target)
{
    int parsed = nbdkit_parse_bool(value);
    if (parsed < 0)
        return -1;
    *target = parsed;
    return 0;
}

static char *copy_of(const char *value)
{
    char *copy = strdup(value);
    if (!copy)
        nbdkit_error("strdup: %m");
    return copy;
}

static int plugin_config(const char *key, const char *value)
{
    if (strcmp(key, "volume") == 0)
        return check_volume_name(value) < 0 ? -1 : take_string(&settings.volume, key, copy_of(value));
    if (strcmp(key, "cluster") == 0) /* nbdkit changes to / when it forks */
        return take_string(&settings.where, key, nbdkit_realpath(value));
    if (strcmp(key, "addresses") == 0)
        return take_string(&settings.where, key, copy_of(value));
    if (strcmp(key, "io_timeout") == 0)
        return take_duration(key, value, &settings.io_timeout_ms);
    if (strcmp(key, "open_timeout") == 0)
        return take_duration(key, value, &settings.open_timeout_ms);
    if (strcmp(key, "force") == 0)
        return take_bool(value, &settings.force);
    nbdkit_error("unknown parameter '%s'; see: nbdkit ashlar --help", key);
    return -1;
}

#define CONFIG_HELP                                                                                                                \
    "volume=NAME          Volume to export, or NAME@SNAPSHOT, read-only; without it the export name of a connection says which.\n" \
    "cluster=FILE         Cluster file with [client] addresses (default: $ASHLAR_CLUSTER, " ASHLAR_CONFIG_PATH ").\n"              \
    "addresses=A,B,...    Gateways instead of a file: unix:PATH or tcp:HOST:PORT, the local one first.\n"                          \
    "io_timeout=TIME      Fail a request that is not answered for so long (default: wait for ever).\n"                             \
    "open_timeout=TIME    How long attaching may take (default: 30s).\n"                                                           \
    "force=true           Take the volume from the client that has it attached; that one is fenced."

static void plugin_dump(void)
{
    printf("ashlar_version=%s\n", ashlar_version());
    printf("ashlar_block_bytes=%u\n", ASHLAR_BLOCK_BYTES);
    printf("ashlar_config_path=%s\n", ASHLAR_CONFIG_PATH);
}

static int plugin_after_fork(void)
{
    struct ashlar_options options = {
        .where = settings.where,
        .io_timeout_ms = settings.io_timeout_ms,
        .open_timeout_ms = settings.open_timeout_ms,
    };
    return exports_start(&options) < 0 ? -1 : 0;
}

/* ---- connections ---- */

static int plugin_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
    struct ashlar_volume_info *infos = NULL;
    size_t count = 0;
    int rc = 0;
    (void)readonly;
    (void)is_tls;
    if (settings.volume)
        return nbdkit_add_export(exports, settings.volume, NULL);
    if (exports_list(&infos, &count) < 0)
        return -1;
    for (size_t i = 0; i < count && rc == 0; i++) {
        char description[64];
        (void)snprintf(description, sizeof(description), "%llu MiB", (unsigned long long)(infos[i].size >> 20));
        rc = nbdkit_add_export(exports, infos[i].name, description);
    }
    free(infos);
    return rc;
}

static const char *plugin_default_export(int readonly, int is_tls)
{
    (void)readonly;
    (void)is_tls;
    return settings.volume ? settings.volume : "";
}

static void *plugin_open(int readonly)
{
    struct exported *exported;
    const char *name = settings.volume ? settings.volume : nbdkit_export_name();
    if (!name)
        return NULL;
    if (!*name) {
        nbdkit_error("no volume: ask for an export by the name of a volume, or start nbdkit with volume=NAME");
        nbdkit_set_error(EINVAL);
        return NULL;
    }
    if (check_volume_name(name) < 0)
        return NULL;
    readonly = readonly || strchr(name, '@'); /* a snapshot */
    unsigned flags = (readonly ? ASHLAR_OPEN_READ_ONLY : 0) | (settings.force ? ASHLAR_OPEN_FORCE : 0);
    int rc = exports_get(name, flags, /* keep= */ settings.volume != NULL, &exported);
    if (rc < 0) {
        nbdkit_set_error(-rc);
        return NULL;
    }
    return exported;
}

static void plugin_close(void *handle)
{
    exports_put(handle);
}

/* Once a connection: each new one sees what the volume has grown to; those that are open keep their size. */
static int64_t plugin_get_size(void *handle)
{
    struct exported *exported = handle;
    uint64_t size = 0;
    if (request_size(exported->volume, &size) < 0)
        return -1;
    assert(size > 0 && size <= INT64_MAX);
    return (int64_t)size;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = ASHLAR_BLOCK_BYTES;
    *maximum = BLOCK_BYTES_MAX;
    return 0;
}

static int plugin_can_write(void *handle)
{
    struct exported *exported = handle;
    return !exported->read_only;
}

static int yes(void *handle)
{
    (void)handle;
    return 1;
}

static int no(void *handle)
{
    (void)handle;
    return 0;
}

static int plugin_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

/* ---- requests ---- */

static unsigned fua_of(uint32_t flags)
{
    return flags & NBDKIT_FLAG_FUA ? ASHLAR_FUA : 0;
}

static int plugin_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct exported *exported = handle;
    (void)flags;
    return request_read(exported->volume, buffer, count, offset);
}

static int plugin_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct exported *exported = handle;
    return request_write(exported->volume, buffer, count, offset, fua_of(flags));
}

static int plugin_flush(void *handle, uint32_t flags)
{
    struct exported *exported = handle;
    (void)flags;
    return request_flush(exported->volume);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct exported *exported = handle;
    return request_zero(exported->volume, count, offset, ASHLAR_TRIM | fua_of(flags));
}

/* Zeros are a record's bits, written without data: always fast, so NBDKIT_FLAG_FAST_ZERO changes nothing. */
static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct exported *exported = handle;
    unsigned hole = flags & NBDKIT_FLAG_MAY_TRIM ? 0 : ASHLAR_NO_HOLE;
    return request_zero(exported->volume, count, offset, hole | fua_of(flags));
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
    struct exported *exported = handle;
    return request_extents(exported->volume, count, offset, (flags & NBDKIT_FLAG_REQ_ONE) != 0, extents);
}

static struct nbdkit_plugin plugin = {
    .name = "ashlar",
    .longname = "Ashlar volumes",
    .version = ASHLAR_VERSION,
    .description = "replicated volumes of an Ashlar cluster",
    .unload = plugin_unload,
    .config = plugin_config,
    .config_help = CONFIG_HELP,
    .magic_config_key = "volume",
    .dump_plugin = plugin_dump,
    .after_fork = plugin_after_fork,
    .cleanup = exports_stop,
    .list_exports = plugin_list_exports,
    .default_export = plugin_default_export,
    .open = plugin_open,
    .close = plugin_close,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = plugin_can_write,
    .can_flush = yes,
    .is_rotational = no,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_fua = plugin_can_fua,
    .can_multi_conn = yes,
    .can_extents = yes,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
    .errno_is_preserved = 0,
};

NBDKIT_REGISTER_PLUGIN(plugin)
