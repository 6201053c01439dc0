/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/config: INI file and flags. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"

struct target {
    char name[8];
    uint32_t threads;
    uint64_t id;
    uint64_t cache;
    bool fast;
    uint64_t timeout_ms;
    char listen[32];
};

#define AT(field) offsetof(struct target, field), sizeof(((struct target *)0)->field)
static const struct config_item items[] = {
    {"node", "name", CONFIG_STRING, AT(name), NULL, 0, 0, "what the node is called"},
    {"node", "threads", CONFIG_U32, AT(threads), "2", 1, 16, "worker threads"},
    {"node", "id", CONFIG_U64, AT(id), "0", 0, 0, "number of the node"},
    {"store", "cache", CONFIG_BYTES, AT(cache), "64M", 1048576, 1ull << 40, "bytes of cache"},
    {"store", "fast", CONFIG_BOOL, AT(fast), "no", 0, 0, "go faster"},
    {"store", "timeout", CONFIG_MS, AT(timeout_ms), "2s", 100, 0, "give up after"},
    {"net", "listen", CONFIG_STRING, AT(listen), "tcp:127.0.0.1:0", 0, 0, "address"},
};
enum { COUNT = sizeof(items) / sizeof(items[0]) };

static struct target target;
static char error[CONFIG_ERROR_MAX];
static char listed[256];

static int setup(void **state)
{
    (void)state;
    memset(&target, 0xee, sizeof(target));
    assert_int_equal(config_defaults(items, COUNT, &target), 0);
    memset(error, 'e', sizeof(error));
    listed[0] = '\0';
    return 0;
}

static int take_list(void *arg, const char *section, const char *key, const char *value)
{
    assert_ptr_equal(arg, listed);
    if (strcmp(key, "voter[]") != 0)
        return -ENOENT;
    if (strcmp(value, "bad") == 0)
        return -EINVAL;
    size_t length = strlen(listed);
    (void)snprintf(listed + length, sizeof(listed) - length, "%s:%s;", section, value);
    return 0;
}

static int read_bytes(const char *text, size_t bytes)
{
    static const char *const ignored[] = {"other", NULL};
    FILE *stream = fmemopen((void *)(uintptr_t)text, bytes, "r");
    assert_non_null(stream);
    int rc = config_read_stream(stream, "x.conf", items, COUNT, &target, ignored, take_list, listed, error);
    assert_int_equal(fclose(stream), 0);
    assert_non_null(memchr(error, '\0', sizeof(error)));
    assert_null(strchr(error, '\n'));
    assert_true((rc == 0) == (error[0] == '\0'));
    return rc;
}

static int read_text(const char *text)
{
    return read_bytes(text, strlen(text));
}

static void assert_text_error(const char *text, int rc, const char *message)
{
    assert_int_equal(setup(NULL), 0);
    assert_int_equal(read_text(text), rc);
    assert_string_equal(error, message);
}

static void defaults_are_written(void **state)
{
    (void)state;
    assert_string_equal(target.name, "");
    assert_int_equal(target.threads, 2);
    assert_int_equal(target.id, 0);
    assert_int_equal(target.cache, 64 << 20);
    assert_false(target.fast);
    assert_int_equal(target.timeout_ms, 2000);
    assert_string_equal(target.listen, "tcp:127.0.0.1:0");
    static const struct config_item bad[] = {{"a", "b", CONFIG_U32, AT(threads), "many", 0, 0, NULL}};
    assert_int_equal(config_defaults(bad, 1, &target), -EINVAL);
}

/* Comments, blank lines, indentation, CRLF, a BOM, ignored sections, lists, and no newline at the end. */
static void file_is_read(void **state)
{
    (void)state;
    assert_int_equal(read_text("\xef\xbb\xbf# comment\n"
                               "[node]\r\n"
                               "name = n7  ; inline comment\n"
                               "   threads=4\n"
                               "\tid : 18446744073709551615\n"
                               "\n"
                               "[other]\n"
                               "whatever = 1\n"
                               "[raft]\n"
                               "voter[] = a\n"
                               "voter[] = b\n"
                               "[store]\n"
                               "cache = 1.5G\n"
                               "fast = TRUE\n"
                               "timeout = 10min"),
                     0);
    assert_string_equal(target.name, "n7");
    assert_int_equal(target.threads, 4);
    assert_int_equal(target.id, UINT64_MAX);
    assert_int_equal(target.cache, 3ull << 29);
    assert_true(target.fast);
    assert_int_equal(target.timeout_ms, 600000);
    assert_string_equal(target.listen, "tcp:127.0.0.1:0");
    assert_string_equal(listed, "raft:a;raft:b;");
}

static void errors_say_where_what_and_what_instead(void **state)
{
    (void)state;
    assert_text_error("[node]\nfoo = 1\n", -EINVAL,
                      "x.conf:2: unknown key \"foo\" in [node]; known keys: name, threads, id");
    assert_text_error("[nod]\n\nname = 1\n", -EINVAL,
                      "x.conf:3: unknown section [nod]; known sections: node, store, net");
    assert_text_error("name = 1\n", -EINVAL, "x.conf:1: unknown section []; known sections: node, store, net");
    assert_text_error("[node]\nthreads = 17", -ERANGE,
                      "x.conf:2: \"17\" for \"threads\" in [node] is out of bounds; give 1 to 16");
    assert_text_error("[node]\nthreads = 0", -ERANGE,
                      "x.conf:2: \"0\" for \"threads\" in [node] is out of bounds; give 1 to 16");
    assert_text_error("[node]\nthreads = 4294967297", -ERANGE,
                      "x.conf:2: \"4294967297\" for \"threads\" in [node] is out of bounds; give 1 to 16");
    assert_text_error("[store]\ntimeout = 99", -ERANGE,
                      "x.conf:2: \"99\" for \"timeout\" in [store] is out of bounds; give at least 100");
    assert_text_error("[node]\nthreads = four", -EINVAL,
                      "x.conf:2: \"four\" for \"threads\" in [node] is not understood; give a whole number");
    assert_text_error("[store]\ncache = 5x", -EINVAL,
                      "x.conf:2: \"5x\" for \"cache\" in [store] is not understood; give bytes, such as 4k, 512M, 10G");
    assert_text_error("[store]\nfast = maybe", -EINVAL,
                      "x.conf:2: \"maybe\" for \"fast\" in [store] is not understood; give true or false");
    assert_text_error("[node]\nname = 12345678", -ENAMETOOLONG,
                      "x.conf:2: \"12345678\" for \"name\" in [node] is too long; at most 7 characters");
    assert_text_error("[node]\nid = 1\nname = a\nid = 2\n", -EINVAL,
                      "x.conf:4: \"id\" in [node] was given before; keep one");
    assert_text_error("[node]\n\nname\n", -EINVAL, "x.conf:3: neither \"key = value\" nor \"[section]\"");
    assert_text_error("[node\nname = a\n", -EINVAL, "x.conf:1: neither \"key = value\" nor \"[section]\"");
    assert_text_error("[raft]\nvoter[] = bad\n", -EINVAL,
                      "x.conf:2: bad value \"bad\" for \"voter[]\" in [raft]: Invalid argument");
    assert_text_error("[node]\nrotor[] = 1\n", -ENOENT,
                      "x.conf:2: unknown key \"rotor[]\" in [node]; known keys: name, threads, id");
}

/* The first problem is the one reported, even when a syntax error came before it in inih's own books. */
static void first_problem_wins(void **state)
{
    (void)state;
    assert_text_error("[node]\nfoo = 1\nbar = 2\n", -EINVAL,
                      "x.conf:2: unknown key \"foo\" in [node]; known keys: name, threads, id");
}

static void hostile_files_are_refused(void **state)
{
    (void)state;
    char text[4096];
    memset(text, 'x', sizeof(text));
    memcpy(text, "[node]\nname = ", 14);
    assert_int_equal(read_bytes(text, sizeof(text)), -EINVAL);
    assert_string_equal(error, "x.conf:2: the line or the file is too long; shorten it");
    static const char with_nul[] = "[node]\nname = a\0b\n";
    assert_int_equal(setup(NULL), 0);
    assert_int_equal(read_bytes(with_nul, sizeof(with_nul) - 1), -EINVAL);
    assert_string_equal(error, "x.conf:2: a NUL byte; this is not a text file");
    memset(text, '\n', sizeof(text));
    assert_int_equal(setup(NULL), 0);
    assert_int_equal(read_bytes(text, sizeof(text)), 0);
}

/* A long line that fits is whole; the limit is where the header says. */
static void longest_line_is_whole(void **state)
{
    (void)state;
    char text[CONFIG_LINE_MAX + 64];
    size_t head = (size_t)snprintf(text, sizeof(text), "[other]\nkey = ");
    memset(text + head, 'v', CONFIG_LINE_MAX - 6);
    size_t length = head + CONFIG_LINE_MAX - 6;
    memcpy(text + length, "\n[node]\nid=5\n", 14);
    assert_int_equal(read_text(text), 0);
    assert_int_equal(target.id, 5);
    memmove(text + head + 1, text + head, strlen(text + head) + 1);
    assert_int_equal(setup(NULL), 0);
    assert_int_equal(read_text(text), -EINVAL);
}

static void file_on_disk_is_read(void **state)
{
    (void)state;
    char path[] = "/tmp/ashlar-test-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "[node]\nname = disk\n", 19), 19);
    assert_int_equal(close(fd), 0);
    assert_int_equal(config_read_file(path, items, COUNT, &target, NULL, NULL, NULL, error), 0);
    assert_string_equal(target.name, "disk");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(config_read_file("/nonexistent/x", items, COUNT, &target, NULL, NULL, NULL, error), -ENOENT);
    assert_string_equal(error, "/nonexistent/x:0: can not be opened: No such file or directory");
    assert_int_equal(config_read_file("/", items, COUNT, &target, NULL, NULL, NULL, error), -EIO);
    assert_string_equal(error, "/:1: read error; check the file system");
}

static void flags_override(void **state)
{
    (void)state;
    assert_int_equal(config_set(items, COUNT, &target, "node.name=a=b", error), 0);
    assert_string_equal(target.name, "a=b");
    assert_int_equal(config_set(items, COUNT, &target, "net.listen=tcp:1.2.3.4:5", error), 0);
    assert_string_equal(target.listen, "tcp:1.2.3.4:5");
    assert_int_equal(config_set(items, COUNT, &target, "node.name=", error), 0);
    assert_string_equal(target.name, "");
    assert_int_equal(config_set(items, COUNT, &target, "node.nam=x", error), -EINVAL);
    assert_string_equal(error, "flag \"node.nam=x\": unknown key \"nam\" in [node]; known keys: name, threads, id");
    assert_int_equal(config_set(items, COUNT, &target, "node.threads=99", error), -ERANGE);
    static const char *const malformed[] = {"", "=", ".", "name=1", "name=a.b", "node.name", ".=.", "nodename="};
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++)
        assert_int_equal(config_set(items, COUNT, &target, malformed[i], error), -EINVAL);
    char text[1000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    text[100] = '.';
    text[700] = '=';
    assert_int_equal(config_set(items, COUNT, &target, text, error), -EINVAL);
    text[10] = '.';
    assert_int_equal(config_set(items, COUNT, &target, text, error), -EINVAL);
}

static void required_items_are_missed(void **state)
{
    (void)state;
    assert_int_equal(config_check_required(items, COUNT, &target, error), -EINVAL);
    assert_string_equal(error, "\"name\" in [node] is required: what the node is called");
    assert_int_equal(config_set(items, COUNT, &target, "node.name=x", error), 0);
    assert_int_equal(config_check_required(items, COUNT, &target, error), 0);
}

static void sizes_and_times_parse(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
        uint64_t value;
    } bytes[] = {
        {"64", 0, 64},
        {"4k", 0, 4096},
        {"4K", 0, 4096},
        {"10G", 0, 10ull << 30},
        {"1.5T", 0, 3ull << 39},
        {"0", 0, 0},
        {"0.5k", 0, 512},
        {"1P", 0, 1ull << 50},
        {"16384P", -ERANGE, 0},
        {"16383P", 0, 16383ull << 50},
        {"", -EINVAL, 0},
        {"k", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"1 k", -EINVAL, 0},
        {"1kk", -EINVAL, 0},
        {"1.", -EINVAL, 0},
        {"1.5", -EINVAL, 0},
        {".5k", -EINVAL, 0},
        {"1.1234567890k", -EINVAL, 0},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"99999999999999999999999999999999999999999999", -ERANGE, 0},
        {"0x10", -EINVAL, 0},
        {"+1", -EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        uint64_t value = 0;
        assert_int_equal(config_parse_bytes(bytes[i].text, &value), bytes[i].rc);
        assert_int_equal(value, bytes[i].value);
    }
    static const struct {
        const char *text;
        int rc;
        uint64_t value;
    } times[] = {
        {"250ms", 0, 250}, {"2s", 0, 2000},    {"10min", 0, 600000}, {"1h", 0, 3600000},    {"1.5s", 0, 1500},
        {"7", 0, 7},       {"2m", -EINVAL, 0}, {"s", -EINVAL, 0},    {"1.5ms", -EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        uint64_t value = 0;
        assert_int_equal(config_parse_ms(times[i].text, &value), times[i].rc);
        assert_int_equal(value, times[i].value);
    }
}

static void help_lists_every_item(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    assert_non_null(stream);
    config_print_help(items, COUNT, stream);
    assert_int_equal(fclose(stream), 0);
    for (size_t i = 0; i < COUNT; i++) {
        char flag[64];
        (void)snprintf(flag, sizeof(flag), "--%s.%s=", items[i].section, items[i].key);
        assert_non_null(strstr(text, flag));
        assert_non_null(strstr(text, items[i].help));
    }
    assert_non_null(strstr(text, "(required)"));
    assert_non_null(strstr(text, "(default: 64M)"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults_are_written, setup),
        cmocka_unit_test_setup(file_is_read, setup),
        cmocka_unit_test_setup(errors_say_where_what_and_what_instead, setup),
        cmocka_unit_test_setup(first_problem_wins, setup),
        cmocka_unit_test_setup(hostile_files_are_refused, setup),
        cmocka_unit_test_setup(longest_line_is_whole, setup),
        cmocka_unit_test_setup(file_on_disk_is_read, setup),
        cmocka_unit_test_setup(flags_override, setup),
        cmocka_unit_test_setup(required_items_are_missed, setup),
        cmocka_unit_test(sizes_and_times_parse),
        cmocka_unit_test(help_lists_every_item),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
