"""Xsens MVN suits with finger tracking (Manus or StretchSense gloves): UDP port 9763.

After "MVN real-time network streaming protocol specification" (Xsens, revision N, 2018). All is
big-endian. A datagram is a header of 24 bytes and its items:

====== ==== ====================================================================
offset size header
====== ==== ====================================================================
0      6    ``MXTP`` and the message type, two digits
6      4    sample counter, which may skip
10     1    datagram counter: 0, 1, ..., and the highest bit marks the last
11     1    number of items in this datagram
12     4    time code, ms since the recording began
16     1    character id
17     3    numbers of body segments (23), props, finger segments (0 or 40)
20     4    reserved; size of the payload
====== ==== ====================================================================

Type 02 carries what is needed: items of a segment id (index + 1), a position in cm and a
quaternion (w, x, y, z), 32 bytes each, global, z up by MVN's default. The whole body with fingers
is 63 segments, 2,040 bytes, so it comes in two datagrams or in one that IP splits: samples are put
together by their counter. The left hand's 20 segments follow body and props, the right hand's
follow those: carpus, thumb (metacarpal, proximal, distal), and metacarpal, proximal, middle and
distal of each finger. A segment's position is its near end, so the fingertips are not told.

Type 05 (Unity3D) and types 01 and 03 have no fingers, or no positions of use here: they are
refused with the setting that cures it.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.skeleton import N_JOINTS, Side

from ..base import HandSample, Options, Sample
from .clock import FrameNumbers, LoopingClock
from .geometry import Axes, collapsed, plausible, to_canonical, without_tips
from .packets import Decoder, HandIds, PacketError
from .udp import Port, UdpDriver, UdpOptions

DEFAULT_PORT: Final = 9763
HEADER: Final = struct.Struct(">6sIBBIBBBBHH")
ITEM: Final = np.dtype([("id", ">i4"), ("position", ">f4", 3), ("rotation", ">f4", 4)])
LAST: Final = 0x80
SEGMENTS_A_HAND: Final = 20
#: Canonical joints that a hand's segments give, and those segments (0 is the carpus).
JOINTS: Final = (0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20)
SEGMENTS: Final = (0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19)
_CM: Final = 0.01
MAX_CHARACTERS: Final = 16
#: A sample is at most this many datagrams: 23 + 4 + 40 items need two of 1,500 bytes.
MAX_PARTS: Final = 16

_STREAMER: Final = "in MVN open Options > Network Streamer, add this machine's address and port"
_TICK: Final = 'tick "Position + Orientation (Quaternion)" (type 02) in MVN\'s Network Streamer'
_FINGERS: Final = "give the character finger tracking data in MVN (gloves), and stream it"
#: Poses that cannot do, and why. Others than these are extras beside a pose, passed over.
_USELESS: Final = {
    b"01": "Euler angles",
    b"03": "marker positions",
    b"05": "the Unity3D protocol, which has no fingers",
}


@dataclass
class _Pending:
    """Datagrams of one sample of one character."""

    counter: int
    parts: dict[int, NDArray[np.void]] = field(default_factory=dict)
    last: int | None = None


@dataclass
class _Character:
    number: int  #: small, from 1
    key: tuple[str, int]  #: its sender's address, its id there
    pending: _Pending | None = None
    done: int | None = None  #: counter of the last whole sample
    numbers: FrameNumbers = field(default_factory=FrameNumbers)
    name: str = ""
    clock: LoopingClock = field(default_factory=LoopingClock)


class XsensDecoder:
    """MVN datagrams to samples, one a character and sample counter.

    counts: ``frames_lost`` (by the counter), ``sample_incomplete`` (a datagram was missing),
    ``datagram_late``, ``hand_implausible``, ``hand_empty`` (zeros), ``other_actor``, ``extras``
    (other message types)."""

    def __init__(self, *, actor: str = "", up: Literal["z", "y"] = "z", heading_deg: float = 0.0):
        self.counts: Counter[str] = Counter()
        self._actor = actor
        self._axes: Axes = "z-up" if up == "z" else "y-up"
        self._heading_deg = heading_deg
        self._numbers = HandIds(MAX_CHARACTERS, "characters")
        self._characters: dict[int, _Character] = {}  # by number

    def push(self, data: bytes, sender: str = "") -> Sample | None:
        """One datagram; a sample when it completes one. Raises PacketError."""
        if len(data) < HEADER.size or not data.startswith(b"MXTP"):
            raise PacketError("not_mvn", f"{len(data)} bytes that are no MVN datagram", _STREAMER)
        tag, counter, part, n_items, time_ms, who, body, props, fingers, _, _ = HEADER.unpack_from(
            data
        )
        kind = tag[4:]
        if kind in _USELESS:
            name = kind.decode()
            raise PacketError(f"type_{name}", f"MVN sends {_USELESS[kind]} (type {name})", _TICK)
        character = self._character(sender, who)
        if kind == b"12":
            self._named(character, data[HEADER.size :])
            return None
        if kind != b"02":
            self.counts["extras"] += 1
            return None
        if self._actor and self._actor not in (str(who), character.name):
            self.counts["other_actor"] += 1
            return None
        if not fingers:
            raise PacketError("no_fingers", "MVN streams this character without fingers", _FINGERS)
        if fingers != 2 * SEGMENTS_A_HAND or not 0 < body <= 64 or props > 16:
            text = f"{body} body, {props} prop and {fingers} finger segments"
            raise PacketError("bad_header", f"an MVN datagram of {text}")
        if len(data) != HEADER.size + n_items * ITEM.itemsize:
            raise PacketError("bad_size", f"{len(data)} bytes for {n_items} segments")
        items = np.frombuffer(data, ITEM, n_items, HEADER.size)
        whole = self._assembled(character, counter, part, items)
        if whole is None:
            return None
        character.done = counter
        self.counts["frames_lost"] += character.numbers.push(counter)
        first = body + props + 1
        hands = [
            hand
            for nth, side in enumerate(("left", "right"))
            if (hand := self._hand(whole, first + nth * SEGMENTS_A_HAND, side, character.number))
        ]
        # The time code only runs while MVN records or plays, and starts again when that does.
        return Sample(character.clock.push(1e-3 * time_ms, None), hands, counter)

    def _character(self, sender: str, who: int) -> _Character:
        key = (sender, who)
        number = self._numbers.of(key)
        character = self._characters.get(number)
        if character is None or character.key != key:
            character = self._characters[number] = _Character(number, key)
        return character

    def _named(self, character: _Character, payload: bytes) -> None:
        for line in payload[:4096].decode("utf-8", "replace").splitlines():
            tag, _, value = line.partition(":")
            if tag.strip().lower().endswith("name"):
                character.name = value.strip()

    def _assembled(
        self, character: _Character, counter: int, part: int, items: NDArray[np.void]
    ) -> NDArray[np.void] | None:
        """The items of a whole sample once its last datagram is here; out of order is fine."""
        pending = character.pending
        if pending is None or pending.counter != counter:
            if counter == character.done:
                self.counts["datagram_late"] += 1  # a copy
                return None
            if pending is not None:
                behind = (pending.counter - counter) % (1 << 32)
                if 0 < behind < 8:  # of a sample that is given up already
                    self.counts["datagram_late"] += 1
                    return None
                self.counts["sample_incomplete"] += 1
            pending = character.pending = _Pending(counter)
        number = part & ~LAST
        if number >= MAX_PARTS:
            character.pending = None
            raise PacketError("bad_header", f"datagram number {number} of one sample")
        pending.parts[number] = items
        if part & LAST:
            pending.last = number
        if pending.last is None or len(pending.parts) <= pending.last:
            return None
        character.pending = None
        parts = [pending.parts[i] for i in sorted(pending.parts)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _hand(
        self, items: NDArray[np.void], first: int, side: str, number: int
    ) -> HandSample | None:
        # In order, as MVN sends them (whatever props do to the ids); anything else is looked up.
        mine = items[first - 1 : first - 1 + SEGMENTS_A_HAND]
        if len(mine) != SEGMENTS_A_HAND or (np.diff(mine["id"].astype(np.int64)) != 1).any():
            order = {int(i): n for n, i in enumerate(items["id"])}
            try:
                mine = items[[order[i] for i in range(first, first + SEGMENTS_A_HAND)]]
            except KeyError:
                self.counts["hand_incomplete"] += 1
                return None
        points = mine["position"][list(SEGMENTS)].astype(np.float64)
        if not plausible(points * _CM):
            self.counts["hand_implausible"] += 1
            return None
        joints = np.zeros((N_JOINTS, 3), dtype=np.float32)
        joints[list(JOINTS)] = to_canonical(
            points, self._axes, scale=_CM, heading_deg=self._heading_deg
        )
        without_tips(joints)
        if collapsed(joints):
            self.counts["hand_empty"] += 1
            return None
        of: Side = "left" if side == "left" else "right"
        return HandSample(2 * number - 1 + (of == "right"), of, joints, lacks=("tips",))


class XsensOptions(UdpOptions):
    """Keys of a device's table in the config."""

    port: Port = DEFAULT_PORT
    actor: Annotated[str, Meta(max_length=200)] = ""  #: a character's number or name; empty: all
    up: Literal["z", "y"] = "z"  #: the axis that MVN's Network Streamer has up


class XsensDriver(UdpDriver[XsensOptions]):
    """Hands of all characters that an MVN Analyze or Animate streams."""

    name: ClassVar[str] = "xsens"
    about: ClassVar[str] = "Xsens MVN suits with gloves"
    Options: ClassVar[type[Options]] = XsensOptions
    holder: ClassVar[str] = "the other receiver (MVN's own Network Monitor, or a plugin)"
    switch_on: ClassVar[str] = f"{_STREAMER}; {_TICK}"

    def _port(self) -> int:
        return self.options.port

    def _decoder(self) -> Decoder:
        options = self.options
        return XsensDecoder(actor=options.actor, up=options.up, heading_deg=options.heading_deg)
