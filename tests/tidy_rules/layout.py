# SPDX-License-Identifier: Apache-2.0
"""C code is laid out as .clang-format says (tests/format does it)."""
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

TOOL = "clang-format-14"


def check(tree):
    if shutil.which(TOOL) is None:
        yield ".clang-format", 1, f"{TOOL} not found: install the Debian package {TOOL}"
        return
    sources = tree.of_kind("c", "h")

    def lay_out(path):
        done = subprocess.run([TOOL, "--style=file", path], cwd=tree.root, capture_output=True,
                              text=True)
        return done.stdout if done.returncode == 0 else None

    with ThreadPoolExecutor(max_workers=2) as pool:
        for path, wanted in zip(sources, pool.map(lay_out, sources)):
            if wanted == tree.text(path):
                continue
            pairs = zip((wanted or "").split("\n"), tree.text(path).split("\n"))
            line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), 1)
            yield path, line, f"laid out differently: run tests/format {path}"


RULES = {
    "format": ("C code is laid out by .clang-format", check),
}
