/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/histogram. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "common/histogram.h"

static struct histogram a, b, sum;

static uint64_t next_value(uint64_t *x)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return *x >> 20 >> (*x >> 58); /* log-uniform */
}

static void empty_gives_zero(void **state)
{
    (void)state;
    histogram_reset(&a);
    assert_int_equal(histogram_percentile(&a, 99.9), 0);
    assert_int_equal(histogram_mean(&a), 0);
}

/* Each value alone: the percentile is it, rounded up by at most 6.25 %; capped by the maximum it is exact. */
static void error_is_within_a_sixteenth(void **state)
{
    (void)state;
    uint64_t x = 7;
    for (int i = 0; i < 20000; i++) {
        uint64_t value = next_value(&x);
        histogram_reset(&a);
        histogram_record(&a, value);
        assert_int_equal(histogram_percentile(&a, 50), value);
        histogram_record(&a, UINT64_MAX / 2);
        uint64_t edge = histogram_percentile(&a, 50);
        assert_in_range(edge, value, value + value / 16);
    }
}

static void percentiles_split_the_ranks(void **state)
{
    (void)state;
    histogram_reset(&a);
    for (uint64_t value = 1; value <= 10; value++)
        histogram_record(&a, value);
    assert_int_equal(histogram_percentile(&a, 0), 1);
    assert_int_equal(histogram_percentile(&a, 10), 1);
    assert_int_equal(histogram_percentile(&a, 10.1), 2);
    assert_int_equal(histogram_percentile(&a, 50), 5);
    assert_int_equal(histogram_percentile(&a, 99.99), 10);
    assert_int_equal(histogram_percentile(&a, 100), 10);
    assert_int_equal(histogram_mean(&a), 5);
    assert_int_equal(a.max_ns, 10);
}

static void extremes_are_counted(void **state)
{
    (void)state;
    histogram_reset(&a);
    histogram_record(&a, 0);
    assert_int_equal(histogram_percentile(&a, 100), 0);
    histogram_record(&a, UINT64_MAX);
    histogram_record(&a, (uint64_t)1 << 47);
    assert_int_equal(a.count, 3);
    assert_int_equal(histogram_percentile(&a, 100), UINT64_MAX);
}

/* Merging two is recording both; subtracting what was there before leaves the interval. */
static void merge_and_subtract_are_inverse(void **state)
{
    (void)state;
    uint64_t x = 99;
    histogram_reset(&a);
    histogram_reset(&b);
    histogram_reset(&sum);
    for (int i = 0; i < 5000; i++) {
        uint64_t value = next_value(&x);
        histogram_record(i % 3 ? &a : &b, value);
        histogram_record(&sum, value);
    }
    struct histogram merged = a;
    histogram_merge(&merged, &b);
    assert_memory_equal(&merged, &sum, sizeof(sum));
    histogram_subtract(&merged, &a);
    assert_int_equal(merged.count, b.count);
    assert_int_equal(merged.sum_ns, b.sum_ns);
    assert_memory_equal(merged.bucket, b.bucket, sizeof(b.bucket));
    assert_in_range(merged.max_ns, b.max_ns, b.max_ns + b.max_ns / 16);
    histogram_subtract(&merged, &b);
    assert_int_equal(merged.count, 0);
    assert_int_equal(merged.max_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_gives_zero),
        cmocka_unit_test(error_is_within_a_sixteenth),
        cmocka_unit_test(percentiles_split_the_ranks),
        cmocka_unit_test(extremes_are_counted),
        cmocka_unit_test(merge_and_subtract_are_inverse),
    };
    return cmocka_run_group_tests_name("histogram", tests, NULL, NULL);
}
