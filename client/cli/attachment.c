/* SPDX-License-Identifier: Apache-2.0 */
/* attachment: what is known of a running nbdkit, and whether it is still that one.
 *
 *   - attachment_load: paths from the name, then the files; attachment_save: pid last, so that half an attachment is none
 *   - attachment_alive: the pid runs, started when attach said, and its command line names our socket
 * Failure modes: files that were damaged or belong to a dead process count as no attachment.
 */
#include "client/cli/attachment.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_absolute(char path[PATH_MAX])
{
    char joined[PATH_MAX], here[PATH_MAX];
    if (path[0] == '/')
        return 0;
    if (!getcwd(here, sizeof(here)) || snprintf(joined, sizeof(joined), "%s/%s", here, path) >= PATH_MAX)
        return -ENAMETOOLONG;
    strcpy(path, joined);
    return 0;
}

/* A cluster of deploy/local keeps everything in its own directory. */
static bool is_local_cluster(const char *cluster_path, char run[PATH_MAX])
{
    char state[PATH_MAX];
    const char *slash = strrchr(cluster_path, '/');
    int length = slash ? (int)(slash - cluster_path) : 0;
    if (length == 0 || snprintf(state, sizeof(state), "%.*s/local.json", length, cluster_path) >= PATH_MAX)
        return false;
    return access(state, F_OK) == 0 && snprintf(run, PATH_MAX, "%.*s/run", length, cluster_path) < PATH_MAX;
}

static int run_directory(const char *cluster_path, char path[PATH_MAX])
{
    const char *own = getenv("ASHLAR_DIR"), *user = getenv("XDG_RUNTIME_DIR");
    int n = 0;
    if (is_local_cluster(cluster_path, path))
        return 0;
    if (own && *own)
        n = snprintf(path, PATH_MAX, "%s/run", own);
    else if (geteuid() == 0 || !user || !*user)
        n = snprintf(path, PATH_MAX, "/run/ashlar");
    else
        n = snprintf(path, PATH_MAX, "%s/ashlar", user);
    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : make_absolute(path);
}

bool attachment_name_valid(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length >= ATTACHMENT_NAME_MAX || name[0] == '.' || name[0] == '-' || name[0] == '_')
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@") == length;
}

static int join(char *path, const char *directory, const char *name)
{
    int n = snprintf(path, PATH_MAX, "%s/%s", directory, name);
    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* The file's text without its last newline; empty when there is none. */
static void read_text(const char *directory, const char *name, char *text, size_t size)
{
    char path[PATH_MAX];
    text[0] = '\0';
    FILE *file = join(path, directory, name) == 0 ? fopen(path, "re") : NULL;
    if (!file)
        return;
    if (!fgets(text, (int)size, file))
        text[0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    (void)fclose(file);
}

static int write_text(const char *directory, const char *name, const char *text)
{
    char path[PATH_MAX];
    int rc = join(path, directory, name);
    FILE *file = rc == 0 ? fopen(path, "we") : NULL;
    if (!file)
        return rc < 0 ? rc : -errno;
    if (fprintf(file, "%s\n", text) < 0)
        rc = -EIO;
    if (fclose(file) != 0)
        rc = -EIO;
    return rc;
}

int attachment_load(struct attachment *a, const char *cluster_path, const char *name)
{
    char run[PATH_MAX], text[PATH_MAX];
    *a = (struct attachment){.lock_fd = -1};
    if (!attachment_name_valid(name))
        return -EINVAL;
    strcpy(a->name, name);
    int rc = run_directory(cluster_path, run);
    if (rc == 0 && snprintf(a->directory, PATH_MAX, "%s/attach/%s", run, name) >= PATH_MAX)
        rc = -ENAMETOOLONG;
    if (rc == 0)
        rc = join(a->socket, a->directory, "nbd.sock");
    if (rc == 0)
        rc = join(a->log, a->directory, "log");
    if (rc < 0)
        return rc;
    read_text(a->directory, "socket", text, sizeof(text));
    if (text[0] == '/')
        strcpy(a->socket, text);
    read_text(a->directory, "options", text, sizeof(text));
    a->read_only = strcmp(text, "read-only") == 0;
    read_text(a->directory, "pid", text, sizeof(text));
    int pid = 0;
    unsigned long long start = 0;
    if (sscanf(text, "%d %llu", &pid, &start) == 2 && pid > 1) {
        a->pid = pid;
        a->start_ticks = start;
    }
    return 0;
}

static int make_directories(const char *path)
{
    char part[PATH_MAX];
    strcpy(part, path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    return mkdir(part, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int lock_path(const struct attachment *a, char path[PATH_MAX])
{
    return snprintf(path, PATH_MAX, "%s.lock", a->directory) >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* Whoever ends an attachment removes its lock, too: what was locked may be no file of that name any more. */
static bool lock_is_current(const struct attachment *a, const char *path)
{
    struct stat held, there;
    return fstat(a->lock_fd, &held) == 0 && stat(path, &there) == 0 && held.st_ino == there.st_ino;
}

int attachment_lock(struct attachment *a)
{
    char path[PATH_MAX];
    int rc = lock_path(a, path);
    while (rc == 0) {
        rc = make_directories(a->directory);
        if (rc < 0)
            break;
        a->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (a->lock_fd < 0)
            return errno == ENOENT ? -EBUSY : -errno; /* its directory has just gone */
        if (flock(a->lock_fd, LOCK_EX | LOCK_NB) < 0)
            rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
        else if (lock_is_current(a, path))
            return 0;
        (void)close(a->lock_fd);
        a->lock_fd = -1;
    }
    return rc;
}

void attachment_unlock(struct attachment *a)
{
    char path[PATH_MAX];
    if (a->lock_fd < 0)
        return;
    if (a->pid == 0 && rmdir(a->directory) == 0 && lock_path(a, path) == 0) { /* nothing is left to be locked */
        (void)unlink(path);
        for (int up = 0; up < 2; up++) {
            *strrchr(path, '/') = '\0';
            if (rmdir(path) < 0)
                break;
        }
    }
    (void)close(a->lock_fd);
    a->lock_fd = -1;
}

int attachment_save(const struct attachment *a)
{
    char text[64];
    assert(a->pid > 1);
    int rc = write_text(a->directory, "socket", a->socket);
    if (rc == 0)
        rc = write_text(a->directory, "options", a->read_only ? "read-only" : "read-write");
    (void)snprintf(text, sizeof(text), "%d %llu", (int)a->pid, (unsigned long long)a->start_ticks);
    return rc < 0 ? rc : write_text(a->directory, "pid", text);
}

void attachment_remove(struct attachment *a)
{
    static const char *const names[] = {"pid", "options", "socket", "log", "nbd.sock"};
    char path[PATH_MAX];
    (void)unlink(a->socket);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (join(path, a->directory, names[i]) == 0)
            (void)unlink(path);
    }
    a->pid = 0; /* the directory goes with the lock */
}

uint64_t attachment_start_ticks(pid_t pid)
{
    char path[64], line[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    read_text(path, "stat", line, sizeof(line));
    const char *at = strrchr(line, ')'); /* the name before it may hold anything */
    unsigned long long start = 0;
    for (int field = 3; at && field <= 22; field++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at && sscanf(at, "%llu", &start) == 1 ? start : 0;
}

static bool command_line_names(pid_t pid, const char *word)
{
    char path[64], line[8192];
    (void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    if (fd >= 0)
        (void)close(fd);
    if (n <= 0)
        return false;
    line[n] = '\0';
    bool program = strstr(line, "nbdkit") != NULL;
    for (const char *at = line; at < line + n; at += strlen(at) + 1) {
        if (program && strcmp(at, word) == 0)
            return true;
    }
    return false;
}

bool attachment_alive(const struct attachment *a)
{
    return a->pid > 1 && attachment_start_ticks(a->pid) == a->start_ticks && command_line_names(a->pid, a->socket);
}

uint32_t attachment_clients(const struct attachment *a)
{
    char line[PATH_MAX + 128];
    uint32_t count = 0;
    FILE *file = fopen("/proc/net/unix", "re");
    while (file && fgets(line, sizeof(line), file)) {
        char state[8], path[PATH_MAX];
        /* Num: RefCount Protocol Flags Type St Inode Path; state 03: connected */
        if (sscanf(line, "%*s %*s %*s %*s %*s %7s %*s %4095s", state, path) == 2 && strcmp(path, a->socket) == 0)
            count += strcmp(state, "03") == 0;
    }
    if (file)
        (void)fclose(file);
    return count;
}

int attachment_each(const char *cluster_path, int (*fn)(const struct attachment *a, void *arg), void *arg)
{
    char run[PATH_MAX], path[PATH_MAX];
    struct attachment a;
    int rc = run_directory(cluster_path, run);
    if (rc == 0)
        rc = join(path, run, "attach");
    if (rc < 0)
        return rc;
    struct dirent **names = NULL;
    int count = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (rc == 0 && attachment_name_valid(names[i]->d_name) && names[i]->d_type != DT_REG &&
            attachment_load(&a, cluster_path, names[i]->d_name) == 0 && a.pid > 0)
            rc = fn(&a, arg);
        free(names[i]);
    }
    free(names);
    return rc;
}
