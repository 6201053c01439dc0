# SPDX-License-Identifier: Apache-2.0
"""A skipped test says why, may say until when, and there are few."""
import datetime
import re

SITES_MAX = 12
_SITE = {
    "c": re.compile(r"(?<![\w.>])skip\s*\(\s*\)|\b(?:return|exit\s*\()\s*77\b"),
    "py": re.compile(r"pytest\.skip\b|mark\.skip(?:if)?\b|mark\.xfail\b|importorskip|sys\.exit\(77\)"),
    "sh": re.compile(r"\bexit 77\b"),
}
_REASON = re.compile(r"[A-Za-z]{3,}.*\s.*[A-Za-z]{2,}")
_UNTIL = re.compile(r"until (\d{4}-\d\d-\d\d)")


def _sites(tree):
    for path in tree.of_kind("c", "py", "sh"):
        if not path.startswith("tests/") or path.startswith("tests/tidy") or path == "tests/run":
            continue
        lines = tree.text(path).split("\n")
        for number, line in enumerate(lines, 1):
            if _SITE[tree.kind(path)].search(line) and not line.lstrip().startswith(("#", "*", "/*")):
                around = lines[max(number - 3, 0):number + 2]
                yield path, number, [text for text in around if "SPDX-" not in text]


def check(tree):
    today = datetime.date.today().isoformat()
    sites = list(_sites(tree))
    for path, number, around in sites:
        words = " ".join(re.findall(r"\"[^\"]*\"|'[^']*'|/\*.*|#.*|//.*", "\n".join(around)))
        if not _REASON.search(words):
            yield path, number, "a skip without a reason beside it (string or comment)"
        for until in _UNTIL.findall(words):
            if until < today:
                yield path, number, f"this skip expired on {until}"
    if len(sites) > SITES_MAX:
        yield "tests", 1, f"{len(sites)} places skip tests, {SITES_MAX} are the budget"


RULES = {
    "skip": (f"a skip has a reason, its 'until YYYY-MM-DD' has not passed, at most {SITES_MAX} "
             "places skip", check),
}
