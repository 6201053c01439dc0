/* SPDX-License-Identifier: Apache-2.0 */
/* nbdkit_process: fork, exec, wait until it serves; SIGTERM, wait until it is gone.
 *
 *   - nbdkit_process_start: the pid file is written before the wait, so that an interrupted attach leaves a known process
 *   - the wait ends when the probe sees the export, the process ends, or the time is up
 * Failure modes: the last error in nbdkit's log is the reason that is told; a process that does not serve is ended again.
 */
#include "client/cli/nbdkit_process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/admin_socket.h"
#include "client/cli/nbd_probe.h"

#define KILL_WAIT_MS 5000u
#define FORCE_WAIT_MS 1000u /* nbdkit does not end while a client is connected, idle or not */
enum { ARGUMENTS_MAX = 24, POLL_MS = 10 };

int nbdkit_process_find(const char *in_build, const char *installed, char path[PATH_MAX])
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0)
        return -errno;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    const char *const candidates[] = {in_build, installed};
    for (size_t i = 0; i < 2; i++) {
        if (snprintf(path, PATH_MAX, "%s/../%s", self, candidates[i]) < PATH_MAX && access(path, R_OK) == 0)
            return 0;
    }
    return -ENOENT;
}

/* A parameter "key=value" of its own memory; the process is short-lived or becomes another one. */
static char *parameter(const char *key, const char *value)
{
    char *text = NULL;
    return asprintf(&text, "%s=%s", key, value) < 0 ? NULL : text;
}

static size_t fill_arguments(char **argv, const struct attachment *a, const struct nbdkit_start *start, char *plugin)
{
    static char threads[16];
    size_t n = 0;
    (void)snprintf(threads, sizeof(threads), "%u", start->threads);
    argv[n++] = (char *)"nbdkit";
    argv[n++] = (char *)"--foreground";
    argv[n++] = (char *)"--threads";
    argv[n++] = threads;
    argv[n++] = (char *)"--unix";
    argv[n++] = (char *)a->socket;
    if (start->read_only)
        argv[n++] = (char *)"--readonly";
    argv[n++] = plugin;
    argv[n++] = parameter("volume", a->name);
    if (start->cluster_path)
        argv[n++] = parameter("cluster", start->cluster_path);
    else
        argv[n++] = parameter("addresses", start->addresses);
    if (start->io_timeout)
        argv[n++] = parameter("io_timeout", start->io_timeout);
    if (start->force)
        argv[n++] = (char *)"force=true";
    argv[n] = NULL;
    assert(n < ARGUMENTS_MAX);
    return n;
}

/* The grandchild: waits until it is nobody's child but init's, then becomes nbdkit. */
__attribute__((noreturn)) static void become(char **argv, const char *log_path, int go_fd)
{
    char nothing;
    int null = open("/dev/null", O_RDWR), log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    while (read(go_fd, &nothing, 1) < 0 && errno == EINTR)
        ;
    (void)close(go_fd);
    if (null < 0 || log < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(127);
    if (null > 2)
        (void)close(null);
    if (log > 2)
        (void)close(log);
    if (chdir("/") == 0)
        (void)execvp(argv[0], argv);
    fprintf(stderr, "nbdkit: error: cannot run nbdkit: %s; install the Debian package nbdkit\n", strerror(errno));
    _exit(127);
}

/* Two forks: in the foreground nbdkit ends with its parent (prctl(2), PR_SET_PDEATHSIG), so that must not be us. */
static pid_t launch(char **argv, const char *log_path)
{
    int tell[2], go[2];
    pid_t pid = 0;
    if (pipe2(tell, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(go, O_CLOEXEC) < 0)
        return -errno;
    pid_t between = fork();
    if (between == 0) {
        (void)setsid();
        (void)close(go[1]);
        pid = fork();
        if (pid == 0)
            become(argv, log_path, go[0]);
        _exit(write(tell[1], &pid, sizeof(pid)) == (ssize_t)sizeof(pid) ? 0 : 1);
    }
    (void)close(tell[1]);
    (void)close(go[0]);
    if (between > 0) {
        if (read(tell[0], &pid, sizeof(pid)) != (ssize_t)sizeof(pid))
            pid = -ECHILD;
        (void)waitpid(between, NULL, 0);
    } else {
        pid = -errno;
    }
    (void)close(tell[0]);
    (void)close(go[1]); /* go */
    return pid;
}

/* The last line of the log with "error: ", without what is before it; else the last line. */
static void last_error(const char *log_path, char why[NBDKIT_WHY_MAX])
{
    char line[NBDKIT_WHY_MAX];
    bool found = false;
    FILE *file = fopen(log_path, "re");
    why[0] = '\0';
    while (file && fgets(line, sizeof(line), file)) {
        const char *at = strstr(line, "error: ");
        line[strcspn(line, "\n")] = '\0';
        if (at || !found)
            strcpy(why, at ? at + strlen("error: ") : line);
        found = found || at;
    }
    if (file)
        (void)fclose(file);
}

static int wait_for_end(int pidfd, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now = admin_now_ms();
        struct pollfd poller = {.fd = pidfd, .events = POLLIN};
        int n = poll(&poller, 1, now >= deadline_ms ? 0 : (int)(deadline_ms - now));
        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

static bool has_ended(int pidfd)
{
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    return pidfd < 0 || poll(&poller, 1, 0) > 0;
}

static int wait_until_served(const struct attachment *a, int pidfd, uint64_t deadline_ms, uint64_t *ret_size,
                             char why[NBDKIT_WHY_MAX])
{
    for (;;) {
        bool ended = has_ended(pidfd); /* before the probe: what was served once is not taken for a failure */
        int rc = nbd_probe(a->socket, deadline_ms, ret_size);
        if (rc == 0)
            return 0;
        last_error(a->log, why);
        if (ended) {
            if (!why[0])
                (void)snprintf(why, NBDKIT_WHY_MAX, "nbdkit ended without a word");
            return -ECHILD;
        }
        if (rc != -ENOENT && rc != -ECONNREFUSED) {
            if (!why[0])
                (void)snprintf(why, NBDKIT_WHY_MAX, "%s",
                               rc == -ETIMEDOUT ? "the cluster does not answer; see: ashlar status" : strerror(-rc));
            return rc;
        }
        if (admin_now_ms() >= deadline_ms) {
            (void)snprintf(why, NBDKIT_WHY_MAX, "nbdkit does not listen");
            return -ETIMEDOUT;
        }
        (void)poll(NULL, 0, POLL_MS);
    }
}

int nbdkit_process_start(struct attachment *a, const struct nbdkit_start *start, uint64_t *ret_size,
                         char why[NBDKIT_WHY_MAX])
{
    char *argv[ARGUMENTS_MAX], plugin[PATH_MAX];
    const char *given = getenv("ASHLAR_PLUGIN");
    why[0] = '\0';
    if (given && *given)
        (void)snprintf(plugin, sizeof(plugin), "%s", given);
    else if (nbdkit_process_find("lib/nbdkit-ashlar-plugin.so", ASHLAR_PLUGIN_INSTALLED, plugin) < 0)
        strcpy(plugin, "ashlar"); /* nbdkit knows a folder of plugins, too */
    (void)fill_arguments(argv, a, start, plugin);
    pid_t pid = launch(argv, a->log);
    if (pid < 0)
        return pid;
    a->pid = pid;
    a->start_ticks = attachment_start_ticks(pid);
    a->read_only = start->read_only;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), rc = attachment_save(a);
    if (rc == 0)
        rc = wait_until_served(a, pidfd, start->deadline_ms, ret_size, why);
    else
        (void)snprintf(why, NBDKIT_WHY_MAX, "%.400s: %.80s", a->directory, strerror(-rc));
    if (rc < 0) {
        if (pidfd >= 0 && syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0)
            (void)wait_for_end(pidfd, admin_now_ms() + KILL_WAIT_MS);
        a->pid = 0;
    }
    if (pidfd >= 0)
        (void)close(pidfd);
    return rc;
}

int nbdkit_process_stop(const struct attachment *a, bool force, uint64_t deadline_ms)
{
    if (a->pid <= 1)
        return 0;
    int pidfd = (int)syscall(SYS_pidfd_open, a->pid, 0);
    if (pidfd < 0)
        return errno == ESRCH ? 0 : -errno;
    /* Only now: what the pidfd holds can't be swapped for another process any more. */
    int rc = 0;
    if (attachment_alive(a)) {
        rc = (int)syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0) < 0 ? -errno : 0;
        if (rc == 0)
            rc = wait_for_end(pidfd, force ? admin_now_ms() + FORCE_WAIT_MS : deadline_ms);
        if (rc == -ETIMEDOUT && force && syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0)
            rc = wait_for_end(pidfd, admin_now_ms() + KILL_WAIT_MS);
    }
    (void)close(pidfd);
    return rc == -ESRCH ? 0 : rc;
}
