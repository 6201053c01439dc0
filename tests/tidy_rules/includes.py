# SPDX-License-Identifier: Apache-2.0
"""Includes point only rightwards or into common/; a foreign library is included in one folder."""
import os
import re

from .tree import PRODUCT, room_of

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"\n]+)[>\"]", re.M)

_SERVER = r"server/(store|replica|gateway|control|daemon)/"
_MAP = r"server/control/(map[^/]*|bridge)\.h$"
# What a room may include besides itself and common/.
MAY_INCLUDE = {
    "common": (),
    "server/store": (),
    "server/replica": (r"server/store/", _MAP),
    "server/gateway": (r"server/replica/", r"server/store/", _MAP),
    "server/control": (r"server/store/kv[^/]*\.h$",),
    "server/daemon": (_SERVER,),
    "client": (),
    "client/cli": (r"client/",),
    "plugins/nbdkit": (r"client/",),
}

# Headers of a foreign library, and the files that may include them.
FOREIGN = (
    ("RocksDB", r"rocksdb/", r"server/store/kv_rocksdb[^/]*\.[ch]$"),
    ("C-raft", r"raft(\.h$|/)", r"server/control/"),
    ("verbs", r"(infiniband|rdma)/", r"common/transport/"),
    ("nbdkit", r"nbdkit-", r"plugins/"),
    ("libuv", r"uv(\.h$|/)", r"(.*_uv\.[ch]$|server/control/|server/daemon/)"),
    ("liburing", r"liburing", r"common/ring/"),
    ("ISA-L", r"isa-l", r"common/crc32c\.c$"),
    ("jansson", r"jansson", r"(client/cli|server/control|server/daemon)/"),
    ("inih", r"ini\.h$", r"common/config\.c$"),
    ("OpenSSL", r"openssl/", r"common/"),
    ("libnbd", r"libnbd", r"(?!)"),
    ("cmocka", r"cmocka", r"(?!)"),
)


def included(text):
    """(line, '<' or '\"', name) of every include."""
    for match in _INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)


def _product_includes(tree):
    for path in tree.of_kind("c", "h"):
        room = room_of(path)
        if room in PRODUCT:
            for line, bracket, name in included(tree.text(path)):
                yield path, room, line, bracket, name


def check_direction(tree):
    for path, room, line, _, name in _product_includes(tree):
        target = room_of(name)
        if not target or target in (room, "common"):
            continue
        if not any(re.match(pattern, name) for pattern in MAY_INCLUDE[room]):
            yield path, line, f"{room} may not include {name}"


def check_foreign(tree):
    for path, _, line, _, name in _product_includes(tree):
        for library, header, where in FOREIGN:
            if re.match(header, name) and not re.match(where, path):
                yield path, line, f"{library} ({name}) is not included here"


def check_paths(tree):
    for path in tree.of_kind("c", "h"):
        for line, bracket, name in included(tree.text(path)):
            if name.endswith(".c"):
                yield path, line, f"a source file is included: {name}"
            if bracket != '"' or tree.exists(name) or tree.exists(f"client/include/{name}"):
                continue
            near = os.path.normpath(os.path.join(os.path.dirname(path), name))
            if tree.exists(near):
                yield path, line, f'"{name}" must be written from the root: "{near}"'
            else:
                yield path, line, f'"{name}" does not exist'


RULES = {
    "include-room": ("includes point only rightwards (plugin, client, common, gateway, replica, "
                     "store) or into common/", check_direction),
    "include-foreign": ("a foreign library is included in one folder only", check_foreign),
    "include-path": ("own headers are included by their path from the root", check_paths),
}
