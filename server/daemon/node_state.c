/* SPDX-License-Identifier: Apache-2.0 */
/* node_state: the few files by which a daemon remembers itself.
 *
 *   - each is written beside its place and renamed onto it, so that a reader sees the old or the new one
 *   - `registered` is "UUID BOOT_ID\n": written, synced, when the cluster has heard how the life before ended
 * Failure modes: a file that is missing or does not parse counts as absent, which is the careful answer: a store without
 * `registered` is taken for a new one; a reboot is assumed where it cannot be excluded.
 */
#include "server/daemon/node_state.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAX 128u

static int path_join(const char *directory, const char *name, char ret_path[NODE_STATE_PATH_MAX])
{
    assert(directory && name);
    int n = snprintf(ret_path, NODE_STATE_PATH_MAX, "%s/%s", directory, name);
    return n < 0 || (unsigned)n >= NODE_STATE_PATH_MAX ? -ENAMETOOLONG : 0;
}

static int sync_directory(const char *directory)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 ? -errno : 0;
    (void)close(fd);
    assert(rc <= 0);
    return rc;
}

static int write_whole(int fd, const uint8_t *bytes, size_t len)
{
    assert(bytes || len == 0);
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            assert((size_t)n <= len);
            bytes += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int replace_file(const char *directory, const char *name, const void *bytes, size_t len, bool durable)
{
    char path[NODE_STATE_PATH_MAX], beside[NODE_STATE_PATH_MAX + 8];
    assert(bytes || len == 0);
    int rc = path_join(directory, name, path);
    if (rc < 0)
        return rc;
    (void)snprintf(beside, sizeof(beside), "%s.new", path);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    rc = write_whole(fd, bytes, len);
    if (rc == 0 && durable && fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(beside, path) < 0)
        rc = -errno;
    if (rc == 0 && durable)
        rc = sync_directory(directory);
    assert(rc <= 0);
    return rc;
}

int node_state_make(const char *directory, char ret_control[NODE_STATE_PATH_MAX])
{
    assert(directory && directory[0]);
    int rc = path_join(directory, "control", ret_control);
    if (rc == 0 && mkdir(ret_control, 0700) < 0 && errno != EEXIST)
        rc = -errno;
    if (rc == 0)
        rc = sync_directory(directory);
    assert(rc <= 0);
    return rc;
}

/* ---- registered */

static void uuid_text(const struct store_identity *identity, char ret_text[33])
{
    assert(sizeof(identity->uuid) == 16);
    for (unsigned i = 0; i < 16; i++)
        (void)snprintf(ret_text + 2 * i, 3, "%02x", identity->uuid[i]);
}

static int read_small(const char *path, char ret_text[RECORD_MAX])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret_text, RECORD_MAX - 1);
    int rc = n < 0 ? -errno : 0;
    (void)close(fd);
    if (rc < 0)
        return rc;
    assert(n < (ssize_t)RECORD_MAX);
    assert(n >= 0);
    ret_text[n] = '\0';
    ret_text[strcspn(ret_text, "\n")] = '\0';
    return 0;
}

static int record_now(const struct store_identity *identity, char ret_record[RECORD_MAX])
{
    char uuid[33], boot[RECORD_MAX];
    int rc = read_small("/proc/sys/kernel/random/boot_id", boot);
    if (rc < 0)
        return rc;
    uuid_text(identity, uuid);
    assert(strlen(uuid) == 32);
    int n = snprintf(ret_record, RECORD_MAX, "%s %.40s", uuid, boot);
    return n < 0 || (unsigned)n >= RECORD_MAX ? -EMSGSIZE : 0;
}

int node_state_last_stop(const char *directory, const struct store_identity *identity, enum store_stop stop,
                         enum map_stop *ret_stop)
{
    char path[NODE_STATE_PATH_MAX], now[RECORD_MAX], then[RECORD_MAX];
    int rc = path_join(directory, "registered", path);
    if (rc == 0)
        rc = record_now(identity, now);
    if (rc < 0)
        return rc;
    rc = read_small(path, then);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    assert(strlen(now) > 33);
    assert(now[32] == ' ');
    if (rc == -ENOENT || strncmp(now, then, 33) != 0)
        *ret_stop = MAP_STOP_EMPTY;
    else if (stop == STORE_STOP_CLEAN)
        *ret_stop = MAP_STOP_CLEAN;
    else if (stop == STORE_STOP_SAME_BOOT && strcmp(now, then) == 0)
        *ret_stop = MAP_STOP_SAME_BOOT;
    else
        *ret_stop = MAP_STOP_REBOOTED;
    return 0;
}

int node_state_registered(const char *directory, const struct store_identity *identity)
{
    char record[RECORD_MAX];
    int rc = record_now(identity, record);
    assert(rc <= 0);
    return rc < 0 ? rc : replace_file(directory, "registered", record, strlen(record), /* durable= */ true);
}

/* ---- voter */

bool node_state_is_voter(const char *directory)
{
    char path[NODE_STATE_PATH_MAX];
    int rc = path_join(directory, "voter", path);
    assert(rc <= 0);
    return rc == 0 && access(path, F_OK) == 0;
}

int node_state_set_voter(const char *directory)
{
    assert(directory);
    return replace_file(directory, "voter", "", 0, /* durable= */ true);
}

/* ---- map */

int node_state_save_map(const char *directory, const void *bytes, size_t len)
{
    assert(bytes && len > 0);
    return replace_file(directory, "control/map", bytes, len, /* durable= */ false);
}

static int read_whole(int fd, size_t len, void **ret_bytes)
{
    uint8_t *bytes = malloc(len);
    size_t have = 0;
    assert(len > 0 && len <= NODE_STATE_MAP_BYTES_MAX);
    if (!bytes)
        return -ENOMEM;
    while (have < len) {
        ssize_t n = read(fd, bytes + have, len - have);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            int rc = n == 0 ? -ENODATA : -errno;
            free(bytes);
            return rc;
        }
        have += n > 0 ? (size_t)n : 0;
    }
    assert(have == len);
    *ret_bytes = bytes;
    return 0;
}

int node_state_load_map(const char *directory, void **ret_bytes, size_t *ret_len)
{
    char path[NODE_STATE_PATH_MAX];
    struct stat st;
    int rc = path_join(directory, "control/map", path);
    if (rc < 0)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        rc = -errno;
    else if (st.st_size <= 0 || st.st_size > NODE_STATE_MAP_BYTES_MAX)
        rc = -EBADMSG;
    else
        rc = read_whole(fd, (size_t)st.st_size, ret_bytes);
    (void)close(fd);
    if (rc == 0)
        *ret_len = (size_t)st.st_size;
    assert(rc <= 0);
    return rc;
}
