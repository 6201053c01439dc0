/* SPDX-License-Identifier: Apache-2.0 */
/* A fault at every operation in turn: fail the n-th, crash, open, check; until a run sees no fault. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/store/store_model.h"

#define MIB (1024u * 1024u)

static void small_work(struct model *model)
{
    model_overwrite(model, 0, 16);
    model_overwrite(model, 300, 5);
    model_reap(model, 0);
    model_flush(model);
    model_overwrite(model, 3, 1);
    model_overwrite(model, 290, 40);
    model_trim(model, 16, 240, 0);
    model_reap(model, 0);
    model_snapshot(model);
    model_overwrite(model, 8, 4);
    model_reap(model, 0);
    model_flush(model);
    if (!model->failed)
        model_snapshot(model);
    model_overwrite(model, 9, 1); /* a third source: merges */
    model_overwrite(model, 4200, 16);
    model_reap(model, 0);
    fixture_commit_all(model->f);
    fixture_run(model->f, ENV_MS(4000)); /* cleans */
    model_overwrite(model, 0, 1);
    model_reap(model, 0);
}

/* Returns whether the fault was hit. */
static bool sweep_one(uint64_t n, bool kv, bool power)
{
    struct fixture f;
    struct model model;
    fixture_create(&f, 32u * MIB, 1000 + n);
    f.shard_bytes = 17u * MIB;
    f.config.clean_idle_ns = ENV_MS(1000);
    fixture_open_shard(&f);
    model_create(&model, &f, n);
    uint64_t *fail_nth = kv ? &kv_sim_faults(f.base)->fail_nth : &drive_sim_faults(f.disk)->fail_nth;
    *fail_nth = n;
    small_work(&model);
    bool hit = *fail_nth == 0;
    *fail_nth = 0;
    fixture_run(&f, ENV_MS(1));
    assert_int_equal(f.failed_count, fixture_stats(&f).failed); /* sticky, told once (R13) */
    f.damaged_count = 0;                                        /* an injected read error may be reported */
    model_crash(&model, power);
    model_check_all(&model);
    model_check_allocator(&model);
    model_check_all(&model);
    model_destroy(&model);
    fixture_destroy(&f);
    return hit;
}

static void sweep(bool kv, bool power)
{
    uint64_t n = 1;
    while (sweep_one(n, kv, power))
        n++;
    assert_true(n > 10);
}

static void every_failing_drive_operation_leaves_a_store_that_opens(void **state)
{
    (void)state;
    sweep(/* kv= */ false, /* power= */ false);
    sweep(/* kv= */ false, /* power= */ true);
}

static void every_failing_kv_operation_leaves_a_store_that_opens(void **state)
{
    (void)state;
    sweep(/* kv= */ true, /* power= */ false);
    sweep(/* kv= */ true, /* power= */ true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failing_drive_operation_leaves_a_store_that_opens),
        cmocka_unit_test(every_failing_kv_operation_leaves_a_store_that_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
