# SPDX-License-Identifier: Apache-2.0
"""The files that the rules look at: what git tracks or would track, read once."""
import functools
import os
import subprocess

ROOMS = ("common", "server/store", "server/replica", "server/gateway", "server/control",
         "server/daemon", "client/cli", "client", "plugins/nbdkit", "tests", "bench", "deploy",
         "docs", "cmake")
PRODUCT = ROOMS[:9]
# Input of tests, not text of the project.
DATA = ("/corpus/", "/golden/", "/data/")


def room_of(path):
    for room in ROOMS:
        if path.startswith(room + "/"):
            return room
    return ""


def _walk(root):
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".git" and not name.startswith("build")]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root)


def _git_files(root):
    command = ["git", "-C", root, "ls-files", "-coz", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [name for name in done.stdout.decode("utf-8", "surrogateescape").split("\0") if name]


class Tree:
    def __init__(self, root):
        self.root = root
        own = os.path.exists(os.path.join(root, ".git"))
        listed = (_git_files(root) if own else None) or _walk(root)
        self.paths = sorted({path for path in listed
                             if os.path.isfile(os.path.join(root, path))
                             and not os.path.islink(os.path.join(root, path))})

    @functools.lru_cache(maxsize=None)
    def text(self, path):
        """The file's text, or None if it is not text."""
        with open(os.path.join(self.root, path), "rb") as file:
            data = file.read()
        if b"\0" in data[:4096]:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return None

    def is_data(self, path):
        return any(part in "/" + path for part in DATA)

    @functools.lru_cache(maxsize=None)
    def kind(self, path):
        """'c', 'h', 'py', 'sh', 'cmake', 'md', or '' for anything else."""
        if self.is_data(path):
            return ""
        name = os.path.basename(path)
        ext = os.path.splitext(name)[1]
        if ext in (".c", ".h", ".py", ".sh", ".cmake", ".md"):
            return ext[1:]
        if name == "CMakeLists.txt":
            return "cmake"
        first = (self.text(path) or "").split("\n", 1)[0]
        if first.startswith("#!"):
            if "python" in first:
                return "py"
            if first.rstrip().endswith("sh"):
                return "sh"
        return ""

    def of_kind(self, *kinds):
        return [path for path in self.paths
                if self.kind(path) in kinds and self.text(path) is not None]

    def exists(self, path):
        return os.path.exists(os.path.join(self.root, path))
