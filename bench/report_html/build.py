# SPDX-License-Identifier: Apache-2.0
"""Puts the report together: build(results) is the page and its figures; write() keeps them as files.

Failure modes: a section that has nothing is left out; files are written beside their place and moved there, so that a
full drive leaves no half page.
"""
import os
import tempfile

from . import drawing, page, questions, section_guest, section_operations, sections, sections_more
from .context import Context
from .figures import compare, geometric_mean
from .markup import element, join, short


ORDER = [sections.summary, sections.trouble, sections.slowdown, sections.latency, sections.rate, sections.cpu, sections.layers,
         section_guest.guest, sections_more.scenarios, section_operations.operations, sections_more.curves, sections_more.scale, sections_more.model, sections_more.stacks,
         sections_more.machine]


def _tiles(context):
    """The slowdown of each stack at one glance."""
    results, tiles = context.results, []
    for stack in results.stack_names():
        if stack == context.floor or not context.floor:
            continue
        row = [compare(results, w, stack, context.floor) for w in questions.storage_workloads(results)]
        mean = geometric_mean([c.ratio["median"] for c in row if c.ratio])
        shown = drawing.times_text(mean) if mean else "✕"
        tiles.append(element("div", {"class": "tile"}, element("b", {}, shown),
                             element("span", {}, element("i", {"class": f"key-{context.colours[stack]}"}), short(stack, 40))))
    return element("div", {"class": "tiles"}, tiles) if tiles else None


def _header(context):
    results, run = context.results, context.results.run
    machine = run.get("machine") or {}
    facts = [short(machine[k], 90) for k in ("cpu", "memory", "kernel", "drive") if machine.get(k)]
    quick = " (quick: a look, not a result)" if run.get("quick") else ""
    count = sum(len(rounds) for rounds in results.samples.values())
    lead = (f"Run {short(run.get('id') or 'without a head', 60)}{quick}: {len(results.stack_names())} stacks, "
            f"{len(results.workloads())} workloads, {count} measurements, same hardware for all.")
    means = (f"Times slower than {short(context.floor)}, geometric mean over the storage workloads that were compared; "
             "✕: nothing to compare.") if context.floor else None
    return join(
        element("p", {"class": "kicker"}, "Ashlar head-to-head"), element("h1", {}, "Hyper-converged storage against the array"),
        element("p", {"class": "lead"}, lead),
        element("p", {"class": "how"}, " · ".join(facts) or "No facts about the machine were recorded."),
        element("p", {"class": "how"}, "Run by ", element("code", {}, short(run.get("command") or "unknown", 300))),
        _tiles(context), element("p", {"class": "how"}, means) if means else None)


def build(results):
    """(page, {name: drawing})"""
    context = Context(results, os.path.basename(results.path))
    made = [section for section in (make(context) for make in ORDER) if section]
    shown = [element("section", {"id": s.anchor}, s.content) for s in made]
    footer = element("p", {}, f"Made from {short(context.file_name, 100)} ({results.records} records). "
                              "This page loads nothing from anywhere.")
    title = f"Ashlar head-to-head {short(results.run.get('id') or '', 60)}"
    links = [(s.anchor, s.name) for s in made]
    return page.page(title, _header(context), links, shown, footer), context.figures


def write(path, text):
    path = os.path.abspath(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".report-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_figures(directory, figures):
    """One SVG a figure; their paths."""
    os.makedirs(directory, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(os.path.join(directory, f"{name}.svg"))
        write(paths[-1], drawing.standalone(figure))
    return paths
