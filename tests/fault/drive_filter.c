/* SPDX-License-Identifier: Apache-2.0 */
/* drivefault: an nbdkit filter that makes a drive fail on command, for tests/fault/drives.py.
 *
 *   nbdkit --filter=.../nbdkit-drivefault-filter.so file IMAGE faults=DIRECTORY
 *   - while DIRECTORY/read, write or flush exists, such requests fail with EIO
 *   - while DIRECTORY/hang exists, requests wait
 * nbdkit's own error filter can not fail a flush, nor make a request wait for a condition.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-filter.h>

static char *directory;

static int take_config(nbdkit_next_config *next, nbdkit_backend *backend, const char *key, const char *value)
{
    if (strcmp(key, "faults") != 0)
        return next(backend, key, value);
    directory = nbdkit_absolute_path(value);
    return directory ? 0 : -1;
}

static int config_complete(nbdkit_next_config_complete *next, nbdkit_backend *backend)
{
    if (directory)
        return next(backend);
    nbdkit_error("faults=DIRECTORY is missing");
    return -1;
}

static void unload(void)
{
    free(directory);
}

static int wanted(const char *fault)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s", directory, fault);
    return n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0;
}

static int fails(const char *fault, int *err)
{
    while (wanted("hang")) {
        struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
    }
    if (!wanted(fault))
        return 0;
    *err = EIO;
    return 1;
}

static int fault_pread(nbdkit_next *next, void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags,
                       int *err)
{
    (void)handle;
    return fails("read", err) ? -1 : next->pread(next, data, count, offset, flags, err);
}

static int fault_pwrite(nbdkit_next *next, void *handle, const void *data, uint32_t count, uint64_t offset,
                        uint32_t flags, int *err)
{
    (void)handle;
    return fails("write", err) ? -1 : next->pwrite(next, data, count, offset, flags, err);
}

static int fault_flush(nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
    (void)handle;
    return fails("flush", err) ? -1 : next->flush(next, flags, err);
}

static struct nbdkit_filter filter = {
    .name = "drivefault",
    .longname = "drive that fails on command",
    .unload = unload,
    .config = take_config,
    .config_complete = config_complete,
    .config_help = "faults=DIRECTORY  where files named read, write, flush, hang say what fails",
    .pread = fault_pread,
    .pwrite = fault_pwrite,
    .flush = fault_flush,
};

NBDKIT_REGISTER_FILTER(filter)
