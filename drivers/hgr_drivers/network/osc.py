"""Just enough of Open Sound Control 1.0 to read a stream: messages in (nested) bundles.

python-osc has all of OSC, but a bundle element of negative size holds it in a loop for ever
(1.10.2), which a driver that listens on a network cannot afford. This reader is bounded: it visits
each byte once, to a depth of four bundles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_BUNDLE: Final = b"#bundle\x00"
_BUNDLE_HEAD: Final = 16  # the mark and a time tag
_SIZE: Final = struct.Struct(">i")
MAX_DEPTH: Final = 4


class OscError(ValueError):
    """Bytes that are no OSC packet, in one line."""


class Message(NamedTuple):
    """``tags`` without their comma; ``arguments`` the bytes behind them."""

    address: bytes
    tags: bytes
    arguments: bytes


def messages(data: bytes, depth: int = 0) -> Iterator[Message]:
    """The messages of a packet in order; raises OscError at a fault, after what came before it."""
    if data.startswith(b"/"):
        address, rest = string(data)
        if not rest:  # old senders leave out empty tags
            yield Message(address, b"", b"")
            return
        tags, arguments = string(rest)
        if not tags.startswith(b","):
            raise OscError("an OSC message without type tags")
        yield Message(address, tags[1:], arguments)
        return
    if not data.startswith(_BUNDLE):
        raise OscError(f"{len(data)} bytes that are no OSC")
    if depth >= MAX_DEPTH:
        raise OscError(f"OSC bundles nested more than {MAX_DEPTH} deep")
    at = _BUNDLE_HEAD
    while at < len(data):
        if at + 4 > len(data):
            raise OscError("an OSC bundle cut short")
        (size,) = _SIZE.unpack_from(data, at)
        at += 4
        if size <= 0 or size > len(data) - at:
            raise OscError(f"an OSC bundle element of {size} bytes")
        yield from messages(data[at : at + size], depth + 1)
        at += size


def string(data: bytes) -> tuple[bytes, bytes]:
    """An OSC string at the start of ``data``, and what follows its padding."""
    end = data.find(b"\x00")
    if end < 0:
        raise OscError("an OSC string without an end")
    return data[:end], data[(end + 4) & ~3 :]
