"""Hands from your own program, whatever it tracks them with, as a device on the stream.

    from hgr_stream import Publisher, TrackedHand

    with Publisher() as out:
        for points in my_tracker():                      # (22, 3) metres
            out.send(TrackedHand(points, side="right"))

The daemon needs a device with ``driver = "program"`` in its config (``configs/program.toml``); it
may start later, and it may be started again: sending does not wait, but for the connection at the
first frame (``CONNECT_S`` at most).

**The wire**, for any language with ZeroMQ and MessagePack: connect a PUSH socket to
``tcp://127.0.0.1:6460`` and send one message a frame, without a topic: a MessagePack map of

    source   str   random, new at every start of your program
    seq      int   0, 1, 2, ...: what is lost on the way is counted by its gaps
    time_ns  int   capture time on your own clock, nanoseconds; nil: the time of arrival
    hands    array of maps (empty when no hand is seen: send that too, it shows that you live):
      joints     bin: little-endian float32 x, y, z of each joint; or a flat array of numbers
      side       "right", "left" or "unknown"
      id         int, the same while the hand is followed, and no other hand's (default: 2 for
                 "left", 1 for any other side; hands of one frame that have the same id are told
                 apart by side and place)
      layout     "canonical-22" (default, see ``skeleton.JOINTS``), "mediapipe-21", "openxr-26"
      confidence 0 to 1 (default 1)
      lacks      array of what you cannot see: "depth" (z is 0), "distance" (told from the
                 hand's size), "tips", "thumb_base", "fingers"

Metres, right-handed: x to the user's right, y up, z from the sensor towards the user. The palm is
computed by the stream. Unknown keys are ignored. ``tests/js/publish.mjs`` is a publisher in
JavaScript.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import zmq
from msgspec import Meta
from numpy.typing import ArrayLike

from .messages import MAX_HANDS, MAX_MESSAGE_BYTES, MessageError
from .skeleton import (
    LACKS,
    MEDIAPIPE_21,
    N_JOINTS,
    OPENXR_26,
    SIDES,
    Float32,
    Lack,
    Side,
    from_layout,
    with_palm,
)

DEFAULT_PROGRAM_ENDPOINT: Final = "tcp://127.0.0.1:6460"
Layout = Literal["canonical-22", "mediapipe-21", "openxr-26"]
#: Joints of each layout, and the table that maps them; None: they are canonical already.
LAYOUTS: Final[dict[Layout, tuple[int, tuple[int, ...] | None]]] = {
    "canonical-22": (N_JOINTS, None),
    "mediapipe-21": (21, MEDIAPIPE_21),
    "openxr-26": (26, OPENXR_26),
}
#: A daemon on this machine is connected to in a few milliseconds; the first frame waits so long.
CONNECT_S: Final = 0.2
#: Messages that wait while the daemon is busy; a second or so. Older than that nobody wants them.
QUEUE: Final = 128


def id_by_side(side: Side) -> int:
    """The id of a hand to which its program gave none: a right and a left one differ."""
    return 2 if side == "left" else 1


def _whole(number: int, name: str) -> int:
    """The number as the wire has it, numpy's too; raises ValueError for one that is not whole."""
    try:
        whole = operator.index(number)
    except TypeError:
        whole = 1 << 63
    if not -(1 << 63) <= whole < 1 << 63:
        raise ValueError(f"{name} {number!r} is no whole number of 64 bits")
    return whole


class TrackedHand:
    """One hand of one frame.

    joints: (22, 3), or (21, 3) and (26, 3) for the layouts "mediapipe-21" and "openxr-26", told
    by the shape; metres, canonical axes.
    id: a whole number, the same while the hand is followed, and no other hand's; None: by its side,
    which is enough unless two hands of one side cross.
    confidence: 0 to 1. Raises ValueError naming what the daemon would refuse.
    """

    __slots__ = ("confidence", "id", "joints", "lacks", "layout", "side")

    def __init__(
        self,
        joints: ArrayLike,
        side: Side = "unknown",
        id: int | None = None,
        confidence: float = 1.0,
        lacks: Sequence[Lack] = (),
    ) -> None:
        points = np.ascontiguousarray(joints, dtype="<f4")
        by_count = {count: name for name, (count, _) in LAYOUTS.items()}
        if points.ndim != 2 or points.shape[1] != 3 or len(points) not in by_count:
            raise ValueError(f"a hand is (22, 3), (21, 3) or (26, 3) joints, not {points.shape}")
        if side not in SIDES:
            raise ValueError(f"side {side!r}: known are {', '.join(SIDES)}")
        try:
            share = float(confidence)
        except (TypeError, ValueError):
            share = float("nan")
        if not 0 <= share <= 1:
            raise ValueError(f"confidence {confidence!r} does not lie between 0 and 1")
        if unknown := set(lacks) - set(LACKS):
            raise ValueError(f"lacks {sorted(unknown)[0]!r}: known are {', '.join(LACKS)}")
        self.joints = points
        self.layout: Layout = by_count[len(points)]
        self.side, self.confidence, self.lacks = side, share, tuple(lacks)
        self.id = id_by_side(side) if id is None else _whole(id, "id")


class Publisher:
    """A PUSH socket to the daemon's ``program`` device. Not for several threads.

    ``sent`` and ``dropped`` count frames: those handed to the socket, and those for which there
    was no room since no daemon took them.
    """

    def __init__(self, endpoint: str = DEFAULT_PROGRAM_ENDPOINT) -> None:
        self.endpoint = endpoint
        self.sent = self.dropped = 0
        self._source = uuid.uuid4().hex[:12]
        self._seq = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE)
        # Without a daemon nothing is queued: it would be told old frames when it comes.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 200)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"endpoint {endpoint!r}: {error}") from None

    def send(self, *hands: TrackedHand, time_ns: int | None = None) -> bool:
        """One frame of all hands that are seen, none included; False if it was dropped.

        time_ns: when it was captured, whole nanoseconds on any clock of yours that only runs
        forward; None: the time of arrival. Raises ValueError for another number, and for more than
        ``MAX_HANDS`` hands."""
        if len(hands) > MAX_HANDS:
            raise ValueError(f"{len(hands)} hands in a frame; it has room for {MAX_HANDS}")
        message = {
            "source": self._source,
            "seq": self._seq,
            "time_ns": None if time_ns is None else _whole(time_ns, "time_ns"),
            "hands": [
                {
                    "joints": hand.joints.tobytes(),
                    "side": hand.side,
                    "id": hand.id,
                    "layout": hand.layout,
                    "confidence": hand.confidence,
                    "lacks": hand.lacks,
                }
                for hand in hands
            ],
        }
        if self._seq == 0:  # without a connection it would be dropped
            self._socket.poll(round(CONNECT_S * 1000), zmq.POLLOUT)
        self._seq += 1
        try:
            self._socket.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self.dropped += 1
            return False
        self.sent += 1
        return True

    def close(self) -> None:
        """Let what was sent go out (a fifth of a second at most), and close."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProgramHand(msgspec.Struct):
    """A hand as it comes over the wire, see the module's docstring."""

    joints: bytes | list[float]
    side: Side = "unknown"
    id: int | None = None
    layout: Layout = "canonical-22"
    confidence: Annotated[float, Meta(ge=0, le=1)] = 1.0
    lacks: list[Lack] = []

    def array(self) -> Float32:
        """Canonical joints, (22, 3) float32, palm computed; raises MessageError for a wrong
        number of them. Whether they are plausible is the segmenter's affair."""
        count, table = LAYOUTS[self.layout]
        given = len(self.joints) / 4 if isinstance(self.joints, bytes) else len(self.joints)
        if given != 3 * count:
            raise MessageError(
                f"a hand of layout {self.layout} has {3 * count} numbers, not {given:g}"
            )
        if isinstance(self.joints, bytes):
            points = np.frombuffer(self.joints, dtype="<f4")
        else:
            with np.errstate(over="ignore"):  # 1e300 becomes infinite, which is refused by name
                points = np.array(self.joints, dtype=np.float64).astype(np.float32)
        points = points.reshape(count, 3)
        return with_palm(points.copy()) if table is None else from_layout(points, table)


class ProgramFrame(msgspec.Struct):
    """A frame as it comes over the wire, see the module's docstring."""

    hands: Annotated[list[ProgramHand], Meta(max_length=MAX_HANDS)]
    source: str = ""
    seq: int = 0
    time_ns: int | None = None


_decoder = msgspec.msgpack.Decoder(ProgramFrame)


class _Sender(msgspec.Struct):
    source: str = ""


_sender_decoder = msgspec.msgpack.Decoder(_Sender)


def sender_of(data: bytes) -> str:
    """The source of a frame that is refused; empty where that cannot be told either."""
    try:
        return _sender_decoder.decode(data).source
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def decode_program_frame(data: bytes) -> ProgramFrame:
    """MessagePack bytes -> a checked frame; raises MessageError naming the fault."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"oversized frame: {len(data)} bytes")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"malformed frame: {error}") from None
