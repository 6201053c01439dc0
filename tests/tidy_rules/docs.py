# SPDX-License-Identifier: Apache-2.0
"""What a document names exists."""
import glob
import os
import re

TOPS = ("common", "server", "client", "plugins", "tests", "bench", "docs", "deploy", "cmake", ".ci")
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
_PATH = re.compile(r"(?<![\w./$<>~-])((?:" + "|".join(re.escape(top) for top in TOPS) +
                   r")/[\w./{},*-]*[\w/}*])")


def _braces(path):
    match = re.search(r"\{([^{}]*)\}", path)
    if match is None:
        return [path]
    return [one for choice in match.group(1).split(",")
            for one in _braces(path[:match.start()] + choice + path[match.end():])]


def _exists(tree, path):
    full = os.path.join(glob.escape(tree.root), path.rstrip("/"))
    return bool(glob.glob(full))


def check(tree):
    for doc in tree.of_kind("md"):
        fenced = False
        for number, line in enumerate(tree.text(doc).split("\n"), 1):
            if line.lstrip().startswith("```"):
                fenced = not fenced
            spans = [line] if fenced else _CODE.findall(line)
            for span in spans:
                for path in _PATH.findall(span):
                    for one in _braces(path):
                        if not _exists(tree, one):
                            yield doc, number, f"{one} does not exist"
            for link in [] if fenced else _LINK.findall(line):
                if re.match(r"[a-z]+:", link):
                    continue
                near = os.path.normpath(os.path.join(os.path.dirname(doc), link))
                if not tree.exists(near):
                    yield doc, number, f"the link to {link} leads nowhere"


RULES = {
    "doc-path": ("paths and links in *.md lead to something", check),
}
