/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/log. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "test"
#include "common/log.h"

struct capture {
    int count;
    enum log_level level;
    char module[32];
    char line[2 * LOG_LINE_MAX];
};

static void capture_line(void *arg, enum log_level level, const char *module, const char *line)
{
    struct capture *capture = arg;
    capture->count++;
    capture->level = level;
    (void)snprintf(capture->module, sizeof(capture->module), "%s", module);
    (void)snprintf(capture->line, sizeof(capture->line), "%s", line);
}

static struct capture captured;

static int hook_setup(void **state)
{
    (void)state;
    memset(&captured, 0, sizeof(captured));
    log_init(LOG_INFO, "7");
    log_set_hook(capture_line, &captured);
    return 0;
}

static int hook_teardown(void **state)
{
    (void)state;
    log_set_hook(NULL, NULL);
    return 0;
}

static void levels_filter(void **state)
{
    (void)state;
    log_debug("not seen %d", 1);
    assert_int_equal(captured.count, 0);
    log_warn("seen %d", 2);
    assert_int_equal(captured.count, 1);
    assert_int_equal(captured.level, LOG_WARN);
    assert_string_equal(captured.module, "test");
    assert_string_equal(captured.line, "seen 2");
    log_init(LOG_TRACE, NULL);
    log_trace("now it is");
    assert_int_equal(captured.count, 2);
}

/* A peer's text must not forge a second line. */
static void control_characters_are_replaced(void **state)
{
    (void)state;
    log_info("peer said %s", "a\nERROR b\r\x1b[0m\x7f");
    assert_string_equal(captured.line, "peer said a?ERROR b??[0m?");
}

static void long_lines_are_cut(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    log_info("%s", text);
    size_t length = strlen(captured.line);
    assert_in_range(length, LOG_LINE_MAX / 2, LOG_LINE_MAX - 1);
    assert_string_equal(captured.line + length - 4, "x...");
}

static void errno_survives(void **state)
{
    (void)state;
    errno = ENOSPC;
    log_info("x");
    assert_int_equal(errno, ENOSPC);
}

static void level_names_parse(void **state)
{
    (void)state;
    enum log_level level = LOG_ERROR;
    assert_int_equal(log_level_parse("debug", &level), 0);
    assert_int_equal(level, LOG_DEBUG);
    assert_int_equal(log_level_parse("WARN", &level), 0);
    assert_int_equal(level, LOG_WARN);
    assert_int_equal(log_level_parse("loud", &level), -EINVAL);
    assert_int_equal(log_level_parse("", &level), -EINVAL);
    assert_int_equal(level, LOG_WARN);
}

static void limiter_lets_a_burst_through_a_window(void **state)
{
    (void)state;
    struct log_limiter limiter = {0};
    uint32_t suppressed = 99;
    for (unsigned i = 0; i < LOG_BURST_MAX; i++) {
        assert_true(log_allow(&limiter, 5 + i, &suppressed));
        assert_int_equal(suppressed, 0);
    }
    for (int i = 0; i < 1000; i++)
        assert_false(log_allow(&limiter, 1000, &suppressed));
    assert_false(log_allow(&limiter, 4 + LOG_WINDOW_NS, NULL));
    assert_true(log_allow(&limiter, 5 + LOG_WINDOW_NS, &suppressed));
    assert_int_equal(suppressed, 1001);
    assert_true(log_allow(&limiter, 6 + LOG_WINDOW_NS, &suppressed));
    assert_int_equal(suppressed, 0);
}

enum { THREADS = 4, LINES = 500 };

static void *write_lines(void *arg)
{
    const char *letter = arg;
    char text[401];
    memset(text, *letter, sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < LINES; i++)
        log_info("%s", text);
    return NULL;
}

static size_t count_whole_lines(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char line[2 * LOG_LINE_MAX];
    size_t count = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        char *text = strstr(line, " INFO node=7 test: ");
        assert_non_null(text);
        assert_int_equal(line[10], 'T');
        assert_int_equal(*(text - 1), 'Z');
        text += strlen(" INFO node=7 test: ");
        for (int i = 0; i < 400; i++)
            assert_int_equal(text[i], text[0]);
        assert_string_equal(text + 400, "\n");
        count++;
    }
    (void)fclose(file);
    return count;
}

/* Threads write while the file is moved away and reopened: every line is in one of the two, whole. */
static void lines_stay_whole_across_threads_and_reopening(void **state)
{
    (void)state;
    char folder[] = "/tmp/ashlar-test-log-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64];
    char moved[64];
    (void)snprintf(path, sizeof(path), "%s/log", folder);
    (void)snprintf(moved, sizeof(moved), "%s/log.1", folder);
    log_set_hook(NULL, NULL);
    log_init(LOG_INFO, "7");
    assert_int_equal(log_to_file(path), 0);
    static const char letters[THREADS] = {'a', 'b', 'c', 'd'};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, (void *)(uintptr_t)&letters[i]), 0);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(log_to_file(path), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(count_whole_lines(path) + count_whole_lines(moved), THREADS * LINES);
    assert_int_equal(log_to_file("/nonexistent/folder/log"), -ENOENT);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(moved), 0);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels_filter, hook_setup, hook_teardown),
        cmocka_unit_test_setup_teardown(control_characters_are_replaced, hook_setup, hook_teardown),
        cmocka_unit_test_setup_teardown(long_lines_are_cut, hook_setup, hook_teardown),
        cmocka_unit_test_setup_teardown(errno_survives, hook_setup, hook_teardown),
        cmocka_unit_test(level_names_parse),
        cmocka_unit_test(limiter_lets_a_burst_through_a_window),
        cmocka_unit_test(lines_stay_whole_across_threads_and_reopening),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
