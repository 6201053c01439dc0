/* SPDX-License-Identifier: Apache-2.0 */
/* client_body: what is encoded decodes; hostile bytes are refused or harmless. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/client_body.h"
#include "common/prng.h"

static void attach_round_trip(void **state)
{
    (void)state;
    struct client_attach in = {.name = "volume"}, out;
    uint8_t bytes[CLIENT_ATTACH_SNAPSHOT_BYTES + 1] = {0};
    memset(in.attachment, 0xab, sizeof(in.attachment));
    assert_int_equal(client_attach_encode(&in, bytes), CLIENT_ATTACH_BYTES);
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_BYTES, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_BYTES - 1, &out), -EBADMSG);
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_BYTES + 1, &out), -EBADMSG);
    assert_int_equal(client_attach_decode(NULL, 0, &out), -EBADMSG);
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_SNAPSHOT_BYTES, &out), -EBADMSG); /* no name */
    strcpy(in.snapshot, "monday");
    assert_int_equal(client_attach_encode(&in, bytes), CLIENT_ATTACH_SNAPSHOT_BYTES);
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_SNAPSHOT_BYTES, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    memset(bytes + CLIENT_ATTACH_BYTES, 'x', CLIENT_NAME_MAX); /* no end */
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_SNAPSHOT_BYTES, &out), -EBADMSG);
    memset(bytes + 16, 'x', CLIENT_NAME_MAX); /* no end */
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_BYTES, &out), -EBADMSG);
    bytes[16] = 0;
    assert_int_equal(client_attach_decode(bytes, CLIENT_ATTACH_BYTES, &out), -EBADMSG);
}

static void loss_runs_must_ascend(void **state)
{
    (void)state;
    struct client_loss_run in[2] = {{3, 4, 1}, {7, 1, 2}}, out[2];
    uint8_t bytes[2 * CLIENT_LOSS_RUN_BYTES];
    uint32_t count;
    assert_int_equal(client_loss_encode(in, 2, bytes), sizeof(bytes));
    assert_int_equal(client_loss_decode(bytes, sizeof(bytes), out, 2, &count), 0);
    assert_int_equal(count, 2);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(client_loss_decode(bytes, sizeof(bytes), out, 1, &count), -EBADMSG);
    assert_int_equal(client_loss_decode(bytes, sizeof(bytes) - 1, out, 2, &count), -EBADMSG);
    const struct client_loss_run bad[] = {{6, 1, 2}, {7, 0, 2}, {7, 1, 0}, {UINT32_MAX, 2, 1}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        in[1] = bad[i];
        (void)client_loss_encode(in, 2, bytes);
        assert_int_equal(client_loss_decode(bytes, sizeof(bytes), out, 2, &count), -EBADMSG);
    }
}

static void attached_round_trip(void **state)
{
    (void)state;
    static uint8_t bytes[CLIENT_ATTACHED_BYTES_MAX];
    struct client_loss_run run = {0, 9, 5}, out;
    struct client_attached attached;
    char address[CLIENT_ADDRESS_MAX], longest[CLIENT_ADDRESS_MAX + 1];
    uint32_t count;
    memset(longest, 'a', sizeof(longest));
    longest[CLIENT_ADDRESS_MAX - 1] = '\0';
    size_t len = client_attached_begin(bytes, 1 << 30, &run, 1);
    len = client_attached_address(bytes, len, "tcp:a:1");
    len = client_attached_address(bytes, len, "");
    len = client_attached_address(bytes, len, longest);
    longest[CLIENT_ADDRESS_MAX - 1] = 'a';
    longest[CLIENT_ADDRESS_MAX] = '\0';
    assert_int_equal(client_attached_address(bytes, len, longest), len); /* too long: left out */
    assert_int_equal(client_attached_decode(bytes, len, &attached), 0);
    assert_int_equal(attached.shard_bytes, 1 << 30);
    assert_int_equal(client_loss_decode(attached.runs, attached.runs_bytes, &out, 1, &count), 0);
    assert_int_equal(out.loss, 5);
    assert_int_equal(client_attached_next(&attached, address), 0);
    assert_string_equal(address, "tcp:a:1");
    assert_int_equal(client_attached_next(&attached, address), 0);
    assert_int_equal(strlen(address), CLIENT_ADDRESS_MAX - 1);
    assert_int_equal(client_attached_next(&attached, address), -ENOENT);
    for (size_t cut = 0; cut < len; cut++) { /* every truncation ends in an error, not beyond the buffer */
        uint8_t *copy = malloc(cut + 1);
        memcpy(copy, bytes, cut);
        int rc = client_attached_decode(copy, cut, &attached);
        while (rc == 0)
            rc = client_attached_next(&attached, address);
        assert_int_equal(rc, -EBADMSG);
        free(copy);
    }
}

static void list_entry_round_trip(void **state)
{
    (void)state;
    struct client_list_entry in = {.id = 77, .size = 1ull << 40, .flags = CLIENT_LIST_ATTACHED, .name = "v"}, out;
    uint8_t bytes[CLIENT_LIST_ENTRY_BYTES];
    client_list_entry_encode(&in, bytes);
    assert_int_equal(client_list_entry_decode(bytes, &out), 0);
    assert_int_equal(out.id, 77);
    assert_int_equal(out.size, 1ull << 40);
    assert_string_equal(out.name, "v");
    memset(bytes + 24, 'x', CLIENT_NAME_MAX);
    assert_int_equal(client_list_entry_decode(bytes, &out), -EBADMSG);
}

/* Goal: no bytes make a decoder read or write outside. Method: mutated encodings in exact heap blocks, under the sanitizers. */
static void mutations_are_harmless(void **state)
{
    (void)state;
    static uint8_t seed[4096];
    struct client_loss_run runs[8] = {{1, 1, 1}, {5, 2, 2}}, out[8];
    struct prng prng;
    prng_seed(&prng, 11);
    size_t len = client_attached_begin(seed, 1 << 30, runs, 2);
    len = client_attached_address(seed, len, "tcp:127.0.0.1:7100");
    for (int i = 0; i < 20000; i++) {
        size_t bytes = prng_below(&prng, len + 20);
        uint8_t *copy = calloc(1, bytes + 1);
        struct client_attached attached;
        struct client_attach attach;
        char address[CLIENT_ADDRESS_MAX];
        uint32_t count;
        memcpy(copy, seed, bytes < len ? bytes : len);
        for (uint64_t k = prng_below(&prng, 4); k > 0 && bytes > 0; k--)
            copy[prng_below(&prng, bytes)] = (uint8_t)prng_next(&prng);
        int rc = client_attached_decode(copy, bytes, &attached);
        if (rc == 0)
            (void)client_loss_decode(attached.runs, attached.runs_bytes, out, 8, &count);
        for (int k = 0; rc == 0; k++) {
            assert_true(k <= (int)CLIENT_ADDRESSES_MAX);
            rc = client_attached_next(&attached, address);
        }
        (void)client_attach_decode(copy, bytes, &attach);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach_round_trip),      cmocka_unit_test(loss_runs_must_ascend),
        cmocka_unit_test(attached_round_trip),    cmocka_unit_test(list_entry_round_trip),
        cmocka_unit_test(mutations_are_harmless),
    };
    return cmocka_run_group_tests_name("client/body", tests, NULL, NULL);
}
