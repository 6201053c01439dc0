# SPDX-License-Identifier: Apache-2.0
"""Frames of Ashlar from Python, for tests: well-formed ones, broken ones, and the admin protocol (docs/internals/wire.md)."""
import json
import socket
import struct

MAGIC = 0x4C485341
HEADER_BYTES = 192
HELLO, PING, ATTACH, CTL_ADMIN = 2, 4, 16, 140
ROLE_PEER, ROLE_CLIENT, ROLE_CONTROL, ROLE_ADMIN = 1, 2, 3, 4
_HEADER = struct.Struct("<IHHIi Q II II QQ QQ II QQQQ QQQ QQ i4I I 12x")
_FIELDS = ("magic", "version", "opcode", "flags", "status", "request_id", "body_len", "payload_len", "src_node", "dst_node",
           "src_incarnation", "dst_incarnation", "map_version", "volume", "shard", "generation", "epoch", "session",
           "lsn_n", "commit_n", "offset", "length", "loss_number", "aux", "aux2", "credits", "stage0", "stage1",
           "stage2", "stage3", "body_crc")
_HELLO = struct.Struct("<HHI II Q Q Q Q II 8x 128s")


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def header(opcode, body=b"", payload_len=0, **fields):
    """A header with right checksums, whatever else is wrong with it."""
    values = dict.fromkeys(_FIELDS, 0)
    values.update(magic=MAGIC, version=1, opcode=opcode, body_len=len(body), payload_len=payload_len,
                  body_crc=crc32c(body) if body else 0)
    values.update(fields)
    start = _HEADER.pack(*(values[name] for name in _FIELDS))
    assert len(start) == HEADER_BYTES - 4
    return start + struct.pack("<I", crc32c(start))


def frame(opcode, body=b"", payload=b"", **fields):
    return header(opcode, body, len(payload), **fields) + body + payload


class Closed(Exception):
    """The other side ended the link."""


class Link:
    """A blocking link; every wait is bounded."""

    def __init__(self, address, timeout_s=10.0):
        kind, rest = address.split(":", 1)
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout_s)
            self.socket.connect(rest)
        else:
            host, port = rest.rsplit(":", 1)
            self.socket = socket.create_connection((host, int(port)), timeout_s)
        self.next_request = 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed("end of file")
            data += piece
        return data

    def receive(self):
        """(fields, body, payload)"""
        head = self._exactly(HEADER_BYTES)
        fields = dict(zip(_FIELDS, _HEADER.unpack(head[:-4])))
        return fields, self._exactly(fields["body_len"]), self._exactly(fields["payload_len"])

    def call(self, opcode, body=b"", payload=b"", **fields):
        """One request, its answer; answers to other requests are not expected."""
        request = self.next_request
        self.next_request += 1
        self.send(frame(opcode, body, payload, request_id=request, **fields))
        answer = self.receive()
        assert answer[0]["opcode"] == opcode | 1 and answer[0]["request_id"] == request, answer[0]
        return answer

    def hello(self, role=ROLE_ADMIN, version_min=1, version_max=1, cluster_id=0, node=0, incarnation=0,
              feature_level=1):
        """(status, fields of the answer's hello)"""
        body = _HELLO.pack(version_min, version_max, role, node, feature_level, incarnation, cluster_id, 1, 0, 0, 0, b"")
        fields, answer, _ = self.call(HELLO, body, src_node=node, src_incarnation=incarnation)
        told = {}
        if len(answer) == _HELLO.size:
            values = _HELLO.unpack(answer)
            told = {"node": values[3], "incarnation": values[5], "cluster_id": values[6],
                    "text": values[11].split(b"\0", 1)[0].decode()}
        return fields["status"], told

    def wait_closed(self):
        """Reads until the other side ends the link; the bytes it still sent. socket.timeout: it does not."""
        data = b""
        while True:
            try:
                piece = self.socket.recv(65536)
            except ConnectionError:
                return data
            if not piece:
                return data
            data += piece


def admin(address, op, timeout_s=15.0, **arguments):
    """One admin request; the answer as a dict."""
    with Link(address, timeout_s) as link:
        status, told = link.hello(ROLE_ADMIN)
        assert status == 0, told
        fields, body, _ = link.call(CTL_ADMIN, json.dumps({"op": op, **arguments}).encode())
        assert fields["status"] == 0 or body, fields
        return json.loads(body)
