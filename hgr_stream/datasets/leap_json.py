"""Leap Motion JSON frames to canonical hands: the one place that knows their fields.

A frame as leapd and UltraleapTrackingWebSocket send it (protocol 6), and as LeapJS recordings keep
it, is an object ``{id, timestamp, hands[], pointables[], ...}``: time in microseconds, positions in
millimetres. Its fingers are the pointables whose ``handId`` is the hand's, named by ``type`` 0-4
(thumb to pinky); their order in the array is arbitrary. Desktop axes are already the canonical
ones (x right, y up, z towards the user), so only the unit changes.

What a hand may lack, seen in real recordings:

- ``btipPosition`` (SDK 2 betas): ``tipPosition``, 4-5 mm nearer, stands in.
- ``type`` of a finger (packed recordings): ids are then ``10 * hand id + type``.
- ``wrist`` (SDK 2 betas): it is placed from the palm's axes, see ``_WRIST_OFFSET``, and counted.
- all bones (SDK 1 knew only palm and tips): such a hand cannot give 22 joints and is refused.

A hand that cannot be read is refused with a reason; the frame and the hand beside it stay.

Sources: leapjs ``Leap_JSON.rst``; UltraleapTrackingWebSocket ``main.c``; the recordings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from ..messages import MAX_HANDS
from ..skeleton import INDEX_BASE, MIDDLE_BASE, PINKY_BASE, THUMB_BASE, HandSample, Side, with_palm

#: Why a hand was refused (the keys of what drivers and importers count).
NO_BONES: Final = "no_bones"  #: SDK 1: palm and tips only
INCOMPLETE: Final = "incomplete"  #: a finger or a joint is missing, or a finger is there twice
MALFORMED: Final = "malformed"  #: a field of the wrong type or length
NOT_FINITE: Final = "not_finite"  #: NaN, infinite, or beyond 1000 km
TOO_MANY: Final = "too_many"
#: The same for a person.
REASONS: Final = {
    NO_BONES: "SDK 1: palm and tips but no bones, which cannot give 22 joints",
    INCOMPLETE: "a finger or a joint is missing",
    MALFORMED: "a field of the wrong type or length",
    NOT_FINITE: "NaN, infinite or absurd joints",
    TOO_MANY: f"more than {MAX_HANDS} hands in one frame",
}

#: Wrist seen from the middle finger's base along (towards the thumb, palm direction, palm normal),
#: in units of the distance thumb base - middle base: the mean of both hands of a Gemini frame,
#: which differ by 1.5 mm. In a packed SDK 2 recording it falls 31 mm from the thumb's base, as in
#: the Gemini frame.
_WRIST_OFFSET: Final = (-0.0801, -1.1691, -0.0346)

_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Time_us = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]  # in ns it must still fit int64
_Vec = tuple[float, float, float]


class _Hand(msgspec.Struct):
    id: _Int
    type: str = ""
    confidence: float = 1.0
    wrist: _Vec | None = None
    direction: _Vec | None = None
    palmNormal: _Vec | None = None  # noqa: N815 - the protocol's name


class _Pointable(msgspec.Struct):
    id: _Int = -1
    handId: _Int = -1  # noqa: N815
    type: _Int = -1
    tool: bool = False
    mcpPosition: _Vec | None = None  # noqa: N815
    pipPosition: _Vec | None = None  # noqa: N815
    dipPosition: _Vec | None = None  # noqa: N815
    btipPosition: _Vec | None = None  # noqa: N815
    tipPosition: _Vec | None = None  # noqa: N815


class DeviceState(msgspec.Struct):
    """A sensor as a ``deviceEvent`` tells it; ``id`` is its serial number."""

    attached: bool = False
    streaming: bool = False
    id: str = ""
    type: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    state: DeviceState | None = None


class _Message(msgspec.Struct):
    id: _Int = 0
    timestamp: _Time_us | None = None
    hands: list[_Hand] = []
    pointables: list[_Pointable] = []
    version: int | None = None
    serviceVersion: str = ""  # noqa: N815
    event: _Event | None = None


@dataclass(frozen=True, slots=True)
class ServiceVersion:
    """A server's first message. ``service`` is empty for UltraleapTrackingWebSocket."""

    protocol: int
    service: str = ""


@dataclass(slots=True)
class LeapFrame:
    """One frame. ``device_ns``: the service's own clock. ``index``: its frame id.

    refused: one reason for each hand that could not be read. estimated_wrists: how many of
    ``hands`` came without a wrist.
    """

    device_ns: int
    index: int
    hands: list[HandSample]
    refused: list[str] = field(default_factory=list)
    estimated_wrists: int = 0


class LeapJsonError(ValueError):
    """A message that is no frame and nothing else that is known; one line."""


# Not strict: SDK 1 recordings exist with every number written as a string.
_decoder: Final = msgspec.json.Decoder(_Message, strict=False)


def decode_message(text: str | bytes) -> LeapFrame | ServiceVersion | DeviceState | None:
    """One JSON message of a Leap service -> what it says; None for an event of another kind.

    Raises LeapJsonError for anything else. A typed decoder takes only the fields needed; what it
    refuses is read once more item by item, so that one bad hand does not cost the other.
    """
    broken = 0
    refused: list[str] = []
    try:
        message = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        message, refused, broken = _decode_leniently(text)
    if message.timestamp is not None:
        return _frame(message, refused, broken)
    if message.version is not None:
        return ServiceVersion(message.version, message.serviceVersion)
    if message.event is not None:
        return message.event.state if message.event.type == "deviceEvent" else None
    raise LeapJsonError("neither a frame (no timestamp) nor a version nor an event")


def unpack(structure: Sequence[Any], data: Sequence[Any]) -> Any:
    """LeapJS's packed format (formatVersion 2): names once, values in arrays -> plain objects.

    ``structure`` is a list of names and of ``{name: structure}``; ``[[...]]`` means a list of
    such. Raises LeapJsonError if the two do not match.
    """
    if not isinstance(structure, list) or not isinstance(data, list):
        raise LeapJsonError("packed data does not follow its structure")
    if len(structure) == 1 and isinstance(structure[0], list):
        return [unpack(structure[0], item) for item in data]
    out: dict[str, Any] = {}
    # A shorter row lacks its last fields; whether they are needed is decided where they are used.
    for key, value in zip(structure, data, strict=False):
        if isinstance(key, str):
            out[key] = value
        elif isinstance(key, dict) and len(key) == 1:
            [(name, inner)] = key.items()
            out[name] = unpack(inner, value)
        else:
            raise LeapJsonError("packed structure is neither names nor {name: structure}")
    return out


def _decode_leniently(text: str | bytes) -> tuple[_Message, list[str], int]:
    """Message, reasons of refused hands, number of unreadable pointables."""
    try:
        data = json.loads(text)  # unlike msgspec it knows the NaN that C programs print
    except (ValueError, RecursionError) as error:
        raise LeapJsonError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise LeapJsonError(f"a JSON {type(data).__name__} where an object belongs")
    hands, pointables = data.pop("hands", None) or [], data.pop("pointables", None) or []
    if not isinstance(hands, list) or not isinstance(pointables, list):
        raise LeapJsonError("hands or pointables is no list")
    try:
        message = msgspec.convert(data, _Message, strict=False)
    except (msgspec.MsgspecError, OverflowError) as error:
        raise LeapJsonError(f"malformed: {error}") from None
    refused: list[str] = []
    for hand in hands:
        try:
            message.hands.append(msgspec.convert(hand, _Hand, strict=False))
        except (msgspec.MsgspecError, OverflowError):
            refused.append(MALFORMED)
    broken = 0
    for pointable in pointables:
        try:
            message.pointables.append(msgspec.convert(pointable, _Pointable, strict=False))
        except (msgspec.MsgspecError, OverflowError):
            broken += 1
    return message, refused, broken


def _frame(message: _Message, refused: list[str], broken: int) -> LeapFrame:
    fingers: dict[int, list[_Pointable]] = {}
    for pointable in message.pointables:
        if not pointable.tool:
            fingers.setdefault(pointable.handId, []).append(pointable)
    assert message.timestamp is not None
    frame = LeapFrame(message.timestamp * 1000, message.id, [], refused)
    refused.extend([TOO_MANY] * (len(message.hands) - MAX_HANDS))
    for hand in message.hands[:MAX_HANDS]:
        points = _points(hand, fingers.get(hand.id, []))
        if isinstance(points, str):
            refused.append(MALFORMED if broken and points == INCOMPLETE else points)
            continue
        points_mm = np.array(points)
        # False for NaN too. What is within it but no hand is the segmenter's affair.
        if not (abs(points_mm).max() < 1e9 and math.isfinite(hand.confidence)):
            refused.append(NOT_FINITE)
            continue
        joints = (points_mm * 1e-3).astype(np.float32)
        side: Side = "unknown"
        if hand.type == "left":
            side = "left"
        elif hand.type == "right":
            side = "right"
        frame.hands.append(
            HandSample(hand.id, side, with_palm(joints), min(max(hand.confidence, 0.0), 1.0))
        )
        frame.estimated_wrists += hand.wrist is None
    return frame


def _points(hand: _Hand, pointables: list[_Pointable]) -> list[_Vec] | str:
    """The 22 points in mm (palm still to be computed), or why there are none."""
    if pointables and not any(p.mcpPosition or p.pipPosition or p.dipPosition for p in pointables):
        return NO_BONES
    fingers: list[_Pointable | None] = [None] * 5
    for p in pointables:
        kind = p.type if p.type >= 0 else p.id - 10 * hand.id
        if not 0 <= kind < 5 or fingers[kind] is not None:
            return INCOMPLETE
        fingers[kind] = p
    points: list[_Vec] = [(0.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    for finger in fingers:
        if finger is None:
            # No finger in sight and no arm either: SDK 1 again, with its palm alone.
            return INCOMPLETE if pointables or hand.wrist else NO_BONES
        tip = finger.btipPosition or finger.tipPosition
        if not (finger.mcpPosition and finger.pipPosition and finger.dipPosition and tip):
            return INCOMPLETE
        points += (finger.mcpPosition, finger.pipPosition, finger.dipPosition, tip)
    wrist = hand.wrist or _estimated_wrist(hand, points)
    if wrist is None:
        return INCOMPLETE
    points[0] = wrist
    return points


def _estimated_wrist(hand: _Hand, points: list[_Vec]) -> _Vec | None:
    """Where the wrist must be, in mm, for a hand that was sent without one."""
    if hand.direction is None or hand.palmNormal is None:
        return None
    middle = np.array(points[MIDDLE_BASE])
    with np.errstate(all="ignore"):  # absurd values are refused together with the joints
        across = np.cross(hand.direction, hand.palmNormal)
        if across @ (np.array(points[INDEX_BASE]) - np.array(points[PINKY_BASE])) < 0:
            across = -across
        size_mm = np.linalg.norm(np.array(points[THUMB_BASE]) - middle)
        axes = np.array([across, hand.direction, hand.palmNormal])
        x, y, z = middle + size_mm * (np.array(_WRIST_OFFSET) @ axes)
    return (float(x), float(y), float(z))
