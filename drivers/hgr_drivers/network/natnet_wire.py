"""NatNet's packets, protocol 3.0 and later: a safe buffer for the package ``natnet``, and frames.

Frames are read here, after OptiTrack's SDK samples as the package has them: the skeletons and the
time, the rest passed over. The package makes an object of every marker and bone, which takes five
times as long as all the rest of the driver.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_U32: Final = struct.Struct("<I")
_SUFFIX: Final = struct.Struct("<IId3QH")
#: A rigid body or bone: id, position, rotation (x, y, z, w), mean marker error, flags (1: tracked).
BODY: Final = np.dtype(
    [
        ("id", "<u4"),
        ("position", "<f4", 3),
        ("rotation", "<f4", 4),
        ("error", "<f4"),
        ("flags", "<u2"),
    ]
)
_MARKER_BYTES: Final = 12
_LABELLED_BYTES: Final = 26


class FrameError(ValueError):
    """Bytes that are no frame, in one line."""


class NatNetFrame(NamedTuple):
    """``skeletons``: (id, bones as BODY); ``time_s``: the server's clock; ``models_changed``: the
    descriptions that we have are out of date."""

    number: int
    skeletons: list[tuple[int, NDArray[np.void]]]
    time_s: float
    models_changed: bool


class _Walk:
    """A position in the packet that never passes its end."""

    def __init__(self, data: bytes, at: int, *, sized: bool) -> None:
        self.data, self.at, self._sized = data, at, sized

    def skip(self, count: int, size: int = 1) -> None:
        self.at += count * size
        if self.at > len(self.data):
            raise FrameError(f"a frame cut short, or a count of {count}")

    def number(self) -> int:
        at = self.at
        self.skip(4)
        return int(_U32.unpack_from(self.data, at)[0])

    def section(self) -> int:
        """How many there are; from 4.1 on with their size in bytes, which is not needed."""
        count = self.number()
        if self._sized:
            self.skip(4)
        return count

    def text(self) -> None:
        end = self.data.find(b"\x00", self.at)
        if end < 0:
            raise FrameError("a name without an end")
        self.at = end + 1

    def bodies(self) -> NDArray[np.void]:
        count, at = self.number(), self.at
        self.skip(count, BODY.itemsize)
        return np.frombuffer(self.data, BODY, count, at)


def parse_frame(data: bytes, at: int, *, assets: bool) -> NatNetFrame:
    """The frame that begins at ``at``; ``assets``: protocol 4.1 or later. Raises FrameError."""
    walk = _Walk(data, at, sized=assets)
    number = walk.number()
    for _ in range(walk.section()):  # marker sets
        walk.text()
        walk.skip(walk.number(), _MARKER_BYTES)
    walk.skip(walk.section(), _MARKER_BYTES)  # unlabelled markers
    walk.skip(walk.section(), BODY.itemsize)  # rigid bodies
    skeletons = [(walk.number(), walk.bodies()) for _ in range(walk.section())]
    if assets:
        for _ in range(walk.section()):
            walk.skip(4)
            walk.bodies()
            walk.skip(walk.number(), _LABELLED_BYTES)
    walk.skip(walk.section(), _LABELLED_BYTES)
    for _ in range(2):  # force plates, devices
        for _ in range(walk.section()):
            walk.skip(4)
            for _ in range(walk.number()):
                walk.skip(walk.number(), 4)
    start = walk.at
    walk.skip(_SUFFIX.size)
    _, _, time_s, _, _, _, flags = _SUFFIX.unpack_from(data, start)
    return NatNetFrame(number, skeletons, time_s, bool(flags & 2))


@lru_cache(maxsize=256)
def _layout(data_type: str) -> struct.Struct:
    return struct.Struct("<" + data_type)


class Buffer:
    """What the package's components read from, made safe: little-endian with standard sizes (its
    own buffer reads native ones), strings that must end, arrays that must fit.

    Raises ValueError and struct.error."""

    def __init__(self, data: bytes, pointer: int) -> None:
        self.data = data
        self.pointer = pointer

    def read(self, data_type: str) -> tuple[Any, ...]:
        layout = _layout(data_type)
        values = layout.unpack_from(self.data, self.pointer)
        self.pointer += layout.size
        return values

    def read_uint16(self) -> int:
        return int(self.read("H")[0])

    def read_uint32(self) -> int:
        return int(self.read("I")[0])

    def read_uint64(self) -> int:
        return int(self.read("Q")[0])

    def read_float32(self) -> float:
        return float(self.read("f")[0])

    def read_float64(self) -> float:
        return float(self.read("d")[0])

    def read_float32_array(self, count: int) -> tuple[float, ...]:
        if 4 * count > len(self.data) - self.pointer:
            raise ValueError(f"an array of {count} numbers")
        return self.read(f"{count}f")

    def read_string(self, max_length: int | None = None, static_length: bool = False) -> str:
        limit = len(self.data) if max_length is None else self.pointer + max_length
        end = self.data.find(b"\x00", self.pointer, limit)
        if end < 0 or limit > len(self.data):
            raise ValueError("a name without an end")
        text = self.data[self.pointer : end].decode("utf-8", "replace")
        self.pointer = limit if static_length else end + 1
        return text
