"""Rokoko Smartgloves and Smartsuits: Rokoko Studio's custom JSON stream, UDP port 14043.

One packet is one frame of the whole scene, JSON as it is or inside an LZ4 frame (Studio's own
choice for Unity, Blender and Unreal). The formats, as Rokoko's own Unity and Blender plugins read
them (github.com/Rokoko, ``JsonLiveSerializerV3.cs`` and ``live_data_manager.py``):

- v3: ``{"version": 3, "fps": 60, "scene": {"timestamp": s, "actors": [{"name", "meta":
  {"hasLeftGlove", "hasRightGlove", ...}, "body": {joint: {"position", "rotation"}}}]}}``.
- v2: ``{"version": 2, "timestamp", "actors": [{"name", joint: {"position", "rotation"}, ...}],
  "trackers", ...}``; "v2.5" is the same and calls itself 3. The shape tells them apart here.

Positions are metres in Unity's axes (left-handed, y up, z forward), in the world. A hand is
``leftHand`` and five fingers of ``Proximal, Medial, Distal, Tip``: 21 joints, and nothing is
missing but the palm. A played clip's ``timestamp`` jumps back when it loops: ours runs on.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hgr_stream.skeleton import MEDIAPIPE_21, Lack, Side, from_layout

from ..base import HandSample, Options, Sample
from .clock import LoopingClock
from .geometry import collapsed, plausible, to_canonical
from .packets import Decoder, HandIds, PacketError
from .udp import Port, UdpDriver, UdpOptions

DEFAULT_PORT: Final = 14_043
#: A scene of five actors is 150 KB of JSON; what unpacks to more is not one.
MAX_JSON_BYTES: Final = 1 << 21
MAX_ACTORS: Final = 16
_LZ4_MAGIC: Final = b"\x04\x22\x4d\x18"
_SIDES: Final[tuple[Side, ...]] = ("left", "right")
#: Joint names of each side, in MediaPipe's order (wrist, then four a finger).
JOINT_NAMES: Final[dict[Side, tuple[str, ...]]] = {
    side: (
        f"{side}Hand",
        *(
            f"{side}{finger}{part}"
            for finger in ("Thumb", "Index", "Middle", "Ring", "Little")
            for part in ("Proximal", "Medial", "Distal", "Tip")
        ),
    )
    for side in _SIDES
}


class _Vector(msgspec.Struct):
    x: float
    y: float
    z: float


class _Joint(msgspec.Struct):
    position: _Vector


# Only the hands' joints are decoded; msgspec skips the rest of the body at no cost.
_JOINT_FIELDS: Final[list[Any]] = [
    (name, _Joint | None, None) for side in _SIDES for name in JOINT_NAMES[side]
]
_Body = msgspec.defstruct("_Body", _JOINT_FIELDS)


class _Meta(msgspec.Struct):
    hasLeftGlove: bool = True  # noqa: N815 - the wire's names
    hasRightGlove: bool = True  # noqa: N815


_ActorV3 = msgspec.defstruct(
    "_ActorV3", [("name", str, ""), ("meta", _Meta | None, None), ("body", _Body | None, None)]
)
_ActorV2 = msgspec.defstruct("_ActorV2", [("name", str, ""), *_JOINT_FIELDS])
_Scene = msgspec.defstruct(
    "_Scene",
    [
        ("timestamp", float | None, None),
        ("actors", Annotated[list[_ActorV3], Meta(max_length=MAX_ACTORS)], []),  # type: ignore[valid-type]
    ],
)
_Packet = msgspec.defstruct(
    "_Packet",
    [
        ("version", float | str | None, None),
        ("fps", float | None, None),
        ("timestamp", float | None, None),
        ("scene", _Scene | None, None),
        ("actors", Annotated[list[_ActorV2], Meta(max_length=MAX_ACTORS)] | None, None),  # type: ignore[valid-type]
    ],
)
_DECODER: Final = msgspec.json.Decoder(_Packet)

_CURE: Final = (
    "in Rokoko Studio open Livestream, add Custom Streaming with this machine's address and port, "
    "data format JSON v3, and activate it"
)


class RokokoDecoder:
    """Packets of Rokoko Studio to samples.

    counts: ``frames_lost`` (by the timestamps), ``clock_loops``, ``hand_incomplete``,
    ``hand_implausible``, ``hand_empty`` (zeros), ``other_actor``."""

    def __init__(
        self,
        *,
        actor: str = "",
        timestamp_unit: Literal["s", "ms", "none"] = "s",
        heading_deg: float = 0.0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._actor = actor
        self._unit_s = {"s": 1.0, "ms": 1e-3, "none": 0.0}[timestamp_unit]
        self._heading_deg = heading_deg
        self._clock = LoopingClock()
        self._ids = HandIds()
        self._index = 0

    def push(self, data: bytes, sender: str = "") -> Sample | None:
        """One packet to the scene's hands (also none); raises PacketError."""
        packet = _decoded(_unpacked(data))
        if packet.scene is not None:
            time_s, actors = packet.scene.timestamp, packet.scene.actors
        elif packet.actors is not None:
            time_s, actors = packet.timestamp, packet.actors
        else:
            raise PacketError("no_scene", "JSON without a scene or actors", _CURE)
        hands: list[HandSample] = []
        for actor in actors:
            if self._actor and actor.name != self._actor:
                self.counts["other_actor"] += 1
                continue
            for side in _SIDES:
                hand = self._hand(actor, side, sender)
                if hand is not None:
                    hands.append(hand)
        device_ns = None
        if self._unit_s:
            scaled_s = None if time_s is None else time_s * self._unit_s
            device_ns = self._clock.push(scaled_s, packet.fps)
            if self._clock.lost:
                self.counts["frames_lost"] += self._clock.lost
                self._clock.lost = 0
            if self._clock.loops:
                self.counts["clock_loops"] += self._clock.loops
                self._clock.loops = 0
        self._index += 1
        return Sample(device_ns, hands, self._index)

    def _hand(self, actor: Any, side: Side, sender: str) -> HandSample | None:
        body = actor.body if hasattr(actor, "body") else actor
        if body is None:
            return None
        found = [getattr(body, name) for name in JOINT_NAMES[side]]
        if None in found:
            if found[0] is not None:  # a body without gloves has its wrists and no fingers
                self.counts["hand_incomplete"] += 1
            return None
        points = np.array([(j.position.x, j.position.y, j.position.z) for j in found])
        if not plausible(points):
            self.counts["hand_implausible"] += 1
            return None
        joints = from_layout(
            to_canonical(points, "unity", heading_deg=self._heading_deg), MEDIAPIPE_21
        )
        if collapsed(joints):
            self.counts["hand_empty"] += 1
            return None
        meta = getattr(actor, "meta", None)
        gloved = meta is None or (meta.hasLeftGlove if side == "left" else meta.hasRightGlove)
        lacks: tuple[Lack, ...] = () if gloved else ("fingers",)
        return HandSample(self._ids.of((sender, actor.name, side)), side, joints, lacks=lacks)


def _unpacked(data: bytes) -> bytes:
    """The JSON of a packet, of at most MAX_JSON_BYTES."""
    if not data.startswith(_LZ4_MAGIC):
        return data
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError:
        raise PacketError(
            "lz4_missing",
            "the packets are LZ4-compressed and the package lz4 is not installed",
            'pip install "hgr-stream[rokoko]", or stream in Studio without compression',
        ) from None
    unpacker = LZ4FrameDecompressor()
    try:
        out = bytes(unpacker.decompress(data, max_length=MAX_JSON_BYTES))
    except (RuntimeError, ValueError, MemoryError, EOFError) as error:
        raise PacketError("bad_lz4", f"broken LZ4 frame: {error}") from None
    if not unpacker.eof:
        big = len(out) >= MAX_JSON_BYTES
        raise PacketError("bad_lz4", "an absurdly large packet" if big else "LZ4 frame cut short")
    return out


def _decoded(text: bytes) -> Any:
    try:
        packet: Any = _DECODER.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if not text.lstrip()[:1] == b"{":
            raise PacketError("not_json", "a packet that is not JSON", _CURE) from None
        raise PacketError("bad_json", f"JSON that is no Rokoko scene: {error}", _CURE) from None
    version = str(packet.version or "").replace(",", ".").partition(".")[0]
    if version.isdecimal() and len(version) < 5 and int(version) < 2:
        raise PacketError("old_version", f"JSON version {version} is too old", _CURE)
    return packet


class RokokoOptions(UdpOptions):
    """Keys of a device's table in the config."""

    port: Port = DEFAULT_PORT
    actor: str = ""  #: only this actor (the profile's name in Studio); empty: all
    timestamp_unit: Literal["s", "ms", "none"] = "s"  #: "none": take the time of arrival


class RokokoDriver(UdpDriver[RokokoOptions]):
    """Hands of all actors that a Rokoko Studio streams."""

    name: ClassVar[str] = "rokoko"
    about: ClassVar[str] = "Rokoko gloves and suits"
    Options: ClassVar[type[Options]] = RokokoOptions
    holder: ClassVar[str] = "the other receiver (a Rokoko plugin in Blender, Unity or Unreal)"
    switch_on: ClassVar[str] = _CURE

    def _port(self) -> int:
        return self.options.port

    def _decoder(self) -> Decoder:
        options = self.options
        return RokokoDecoder(
            actor=options.actor,
            timestamp_unit=options.timestamp_unit,
            heading_deg=options.heading_deg,
        )
