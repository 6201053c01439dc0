/* SPDX-License-Identifier: Apache-2.0 */
/* drive_file: makes the preallocated regular file that stands in for a device (`store format`).
 *
 *   - the file must not exist; all its space is taken at once, so that the host can not fill up under the store;
 *   - file and directory are synced before the call returns: a formatted store survives power loss.
 * Failure modes: -EEXIST; -ENOSPC and -EOPNOTSUPP (no fallocate here) with one line that says what to do; whatever
 * fails, the half-made file is removed.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/log.h"
#include "server/store/drive.h"

#define LOG_MODULE "drive"

static int sync_parent(const char *path)
{
    char copy[PATH_MAX];
    assert(strlen(path) < sizeof(copy));
    strcpy(copy, path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 ? -errno : 0;
    (void)close(fd);
    return rc;
}

static void explain(const char *path, int fd, uint64_t bytes, int rc)
{
    struct statvfs fs;
    assert(rc < 0);
    if (rc == -ENOSPC && fstatvfs(fd, &fs) == 0)
        log_error("no room for %s: needs %llu bytes, the file system has %llu free", path, (unsigned long long)bytes,
                  (unsigned long long)fs.f_bavail * fs.f_frsize);
    else if (rc == -EOPNOTSUPP)
        log_error("the file system of %s cannot preallocate: use ext4, xfs or a device", path);
    else
        log_error("cannot create %s error=\"%s\"", path, strerror(-rc));
}

/* Asked first: fallocate would fill the host to the brim before it gives up. */
static int check_room(int fd, uint64_t bytes)
{
    struct statvfs fs;
    assert(fd >= 0);
    if (fstatvfs(fd, &fs) < 0)
        return -errno;
    assert(fs.f_frsize > 0);
    return bytes / fs.f_frsize >= fs.f_bavail ? -ENOSPC : 0;
}

int drive_file_create(const char *path, uint64_t bytes)
{
    assert(path);
    assert(bytes > 0 && bytes % BUF_ALIGN == 0);
    if (strlen(path) >= PATH_MAX || bytes > INT64_MAX)
        return -EINVAL;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        int rc = -errno;
        assert(rc < 0);
        if (rc != -EEXIST)
            explain(path, -1, bytes, rc);
        return rc;
    }
    int rc = check_room(fd, bytes);
    if (rc == 0) {
        do
            rc = fallocate(fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
        while (rc == -EINTR);
    }
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (rc == 0)
        rc = sync_parent(path);
    if (rc < 0) {
        explain(path, fd, bytes, rc);
        (void)unlink(path);
    }
    (void)close(fd);
    return rc;
}
