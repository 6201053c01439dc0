# SPDX-License-Identifier: Apache-2.0
"""The section on the path through a guest's virtio disk (bench/headtohead --guest): slowdown, CPU, table (see sections)."""
from . import bars, figures
from .context import Section, by_stack, heading
from .drawing import colours_of_names, times_text
from .markup import element, join
from .tables import number, table

EMULATED = ("There was no KVM: QEMU emulated the guest's processor (TCG), and each of the guest's instructions cost many of the "
            "host's. The guest's own work dwarfs the rest here: these ratios say that the path works, and hide what the storage "
            "costs. ")


def accelerators(results, workloads):
    found = {(record.get("aux") or {}).get("accelerator") for w in workloads for s in results.stack_names()
             for record in results.rounds(w, s).values()}
    return sorted(name for name in found if isinstance(name, str))


def _cpu_rows(results, workloads):
    rows = []
    for workload in workloads:
        for stack in results.stack_names():
            shares = figures.cpu(results, workload, stack)
            if shares:
                guest = shares.get("QEMU and guest", 0.0)
                rows.append((workload, stack, guest, sum(shares.values()) - guest))
    return rows


def guest(context):
    """The same jobs, run by fio inside a guest; None if there was none."""
    results, floor = context.results, context.floor
    workloads = context.groups.get("guest")
    if not workloads:
        return None
    parts = []
    chosen = figures.slowdowns(results, workloads, context.drawn, floor) if floor else []
    if chosen:
        drawing = bars.slowdown(chosen, context.colours, floor, f"Slowdown in a guest against {floor} in a guest")
        parts.append(context.draw("slowdown-guest", drawing, context.how([w.name for w in workloads])))
    groups = [(w.title, [(s, list(shares.items()), None, why) for s, shares, why in
                         by_stack(context, lambda s, w=w: figures.cpu(results, w, s))]) for w in workloads]
    if any(shares for _, rows in groups for _, shares, *_ in rows):
        colours = colours_of_names(name for _, rows in groups for _, shares, *_ in rows for name, _ in shares)
        drawing = bars.stacked(groups, colours, "CPU per request in a guest", "Processor time of each process for one request.",
                               columns=2)
        parts.append(context.draw("cpu-guest", drawing, context.how([w.name for w in workloads])))
    cells = []
    shares = {(w.name, s): (own, rest) for w, s, own, rest in _cpu_rows(results, workloads)}
    for workload in workloads:
        for stack in context.drawn:
            found = figures.summary(list(results.values(workload, stack).values()))
            if found:
                ratio = figures.compare(results, workload, stack, floor).ratio if floor and stack != floor else None
                own, rest = shares.get((workload.name, stack), (None, None))
                cells.append([workload.title, stack, number(found["median"]), workload.unit, number(own), number(rest),
                              number(ratio and ratio["median"], texts=times_text)])
    heads = ["workload", "stack", "median#", "unit", "CPU µs a request: QEMU and guest#", "the stack#", "slowdown#"]
    emulated = EMULATED if "tcg" in accelerators(results, workloads) else ""
    return Section("guest", "In a guest", join(
        heading("Through a guest's virtio disk", element("strong", {}, emulated) if emulated else None,
                "fio in a small Linux guest on /dev/vda (virtio-blk), QEMU's own NBD client to the stack; for the floor QEMU's "
                "driver on the file itself. These figures are in no other section."),
        parts, table("In a guest, every workload and stack", heads, cells)))
