# SPDX-License-Identifier: Apache-2.0
"""Each header compiles alone. What was fine and has not changed since is not compiled again."""
import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

COMMAND = ["gcc", "-std=gnu11", "-fsyntax-only", "-w", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64",
           "-DASHLAR_HAVE_RDMA=1", "-DASHLAR_HAVE_CRYPTO=1", '-DASHLAR_VERSION="0"',
           "-I.", "-Iclient/include", "-x", "c"]


def _stamp(root, path):
    try:
        info = os.stat(os.path.join(root, path))
    except OSError:
        return None
    return [info.st_mtime_ns, info.st_size]


def _cache_path(root):
    return os.path.join(os.environ.get("ASHLAR_BUILD") or os.path.join(root, "build"),
                        "tidy-headers.json")


def _load(root):
    try:
        with open(_cache_path(root), encoding="utf-8") as file:
            kept = json.load(file)
            return kept["headers"] if kept.get("command") == COMMAND else {}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _save(root, headers):
    path = _cache_path(root)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
            json.dump({"command": COMMAND, "headers": headers}, file)
        os.replace(file.name, path)
    except OSError:
        pass


def _compile(root, path):
    """(error line or None, stamps of what it includes)"""
    with tempfile.NamedTemporaryFile("r", suffix=".d") as deps:
        done = subprocess.run(COMMAND + ["-MMD", "-MF", deps.name, path], cwd=root,
                              capture_output=True, text=True)
        names = re.sub(r"\\\n", " ", deps.read()).split(":", 1)[-1].split()
    if done.returncode == 0:
        return None, {name: _stamp(root, name) for name in set(names) | {path}}
    errors = [line for line in done.stderr.split("\n") if "error:" in line]
    return (errors or ["gcc failed"])[0], {}


def check(tree):
    headers = tree.of_kind("h")
    cache = _load(tree.root)
    todo = [path for path in headers
            if path not in cache
            or any(_stamp(tree.root, name) != stamp for name, stamp in cache[path].items())]
    cache = {path: cache[path] for path in headers if path in cache and path not in todo}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for path, (error, stamps) in zip(todo, pool.map(lambda p: _compile(tree.root, p), todo)):
            if error:
                yield path, 1, f"does not compile alone: {error}"
            else:
                cache[path] = stamps
    _save(tree.root, cache)


RULES = {
    "header-alone": ("each header compiles alone", check),
}
