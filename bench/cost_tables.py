# SPDX-License-Identifier: Apache-2.0
"""What bench/model and bench/scaleout print: inputs with their sources, predictions, the check against what was measured."""
import cost_model
import report
from cost_model import INPUTS

TOLERANCE_PERCENT = 25


def show_inputs(inputs):
    lines = []
    for name, one in INPUTS.items():
        value, source = inputs.values.get(name, (None, "missing"))
        lines.append([name, "-" if value is None else f"{value:g}", one.unit, source, one.meaning])
    report.table(["input", "value", "unit", "source", "meaning"], lines)


def duration(seconds):
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_prediction(rows, inputs):
    print("inputs")
    show_inputs(inputs)
    print("\nassumptions")
    for line in cost_model.ASSUMPTIONS:
        print(f"- {line}")
    print()
    heads = ["nodes", "write IOPS", "a node", "limit", "read IOPS", "a node", "limit", "rebuild", "limit", "killed ms",
             "silent ms", "leader cores"]
    report.table(heads, [
        [str(r["nodes"]), f"{r['write_iops']:.0f}", f"{r['write_iops_node']:.0f}", r["write_limit"], f"{r['read_iops']:.0f}",
         f"{r['read_iops_node']:.0f}", r["read_limit"], duration(r["rebuild_s"]), r["rebuild_limit"],
         f"{r['stall_killed_ms']:.0f}", f"{r['stall_silent_ms']:.0f}", f"{r['leader_cores']:.2f}"] for r in rows])
    print(f"\nrebuild: of {inputs.used_gib:g} GiB, from the moment that the node is given up "
          f"({inputs.out_after_s:g} s after it went down)")
    print("killed, silent: longest stall of a writer whose primary was on a node that was killed, or that fell silent")


def show_stalls(rows):
    """What the run measured of the same, in a small cluster on one machine: a look, not a fit."""
    for row in rows:
        print(f"measured   {row['scenario']}: longest stall {row['measured_ms']:.0f} ms where the model says "
              f"{row['predicted_ms']:.0f} ms and the machine adds its own")


def is_off(row, tolerance=TOLERANCE_PERCENT):
    return not row["fitted"] and abs(row["error_percent"]) > tolerance + row["spread_percent"]


def show_check(rows, tolerance=TOLERANCE_PERCENT):
    heads = ["workload", "daemons", "measured IOPS", "spread", "model", "error", "CPU us measured", "model", "rounds", "verdict"]
    report.table(heads, [
        [r["workload"], str(r["nodes"]), f"{r['measured_iops']:.0f}", f"+-{r['spread_percent']:.0f}%",
         f"{r['predicted_iops']:.0f}", f"{r['error_percent']:+.0f}%", f"{r['measured_cpu_us']:.0f}",
         f"{r['predicted_cpu_us']:.0f}", str(r["rounds"]),
         "fitted here" if r["fitted"] else "off" if is_off(r, tolerance) else "holds"] for r in rows])
