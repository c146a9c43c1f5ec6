"""What travels: frames, windows, events, truths and status, and the one codec for them.

Every message is a MessagePack map with named fields; joints are raw little-endian float32 bytes,
so that any MessagePack library in any language reads them. A field that has its default, as told
below, is left out of the map: who reads takes it from here. Fields are only ever appended, always
with a default; readers ignore what they do not know. ``v`` is the schema's major version: a reader
refuses another one.

Times are integer nanoseconds. ``time_ns`` is *stream time*: the capture time of a frame on the
host's monotonic clock for a live device (device clock mapped, see ``stream.clock``), and the
recording's own clock in a replay. All segmentation and recognition runs on stream time alone.
``host_ns`` (monotonic) and ``sent_ns`` are of the machine that runs now, for ages and latency.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec
import numpy as np

from .skeleton import N_JOINTS, Float32, Lack, Side

VERSION: Final = 1
JOINT_BYTES: Final = N_JOINTS * 3 * 4
#: No message of ours comes near; anything larger is refused before it is decoded.
MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_HANDS: Final = 256

Kind = Literal["begin", "update", "early", "confirmed", "cancelled"]
StageState = Literal["starting", "up", "degraded", "down", "restarting", "gave-up", "stopped"]


class MessageError(ValueError):
    """A message that cannot be what it claims; the text names the reason in one line."""


class Hand(msgspec.Struct, omit_defaults=True):
    """One hand in one frame. ``joints``: 22 x 3 float32, little-endian, metres."""

    id: int  #: the sensor's own id; it may change when the hand is lost and found
    side: Side
    joints: bytes
    confidence: float = 1.0
    lacks: list[Lack] = []  #: what the source could not see, see ``skeleton.Lack``

    def array(self) -> Float32:
        """The joints as a read-only view of shape (22, 3)."""
        return np.frombuffer(self.joints, dtype="<f4").reshape(N_JOINTS, 3)


class Frame(msgspec.Struct, omit_defaults=True):
    """What a device saw at one instant: no hand, one, or many."""

    device: str
    boot_id: str  #: new at every start of the publisher
    seq: int  #: +1 for each frame published under this boot_id
    time_ns: int  #: stream time (see the module's docstring)
    device_ns: int  #: the device's own clock, as it gave it
    host_ns: int  #: host monotonic clock at arrival
    wall_ns: int  #: host wall clock at arrival
    sent_ns: int  #: host monotonic clock at publishing
    index: int = 0  #: the source's own frame number
    hands: list[Hand] = []
    lossless: bool = False  #: a replay: wait rather than drop
    end: bool = False  #: the source's last message: it has no more to give
    v: int = VERSION


class Window(msgspec.Struct, omit_defaults=True):
    """``n`` resampled frames of one hand, due for the model. Shape (n, 22, 3), see ``array``."""

    device: str
    hand: str  #: the slot, stable while the hand is followed: "right", "left", "right.2", ...
    side: Side
    track: str  #: one unbroken stretch of one hand; unique among its device's
    seq: int  #: window number in this track, from 0
    time_ns: int  #: stream time of the *last* resampled frame in it
    step_ns: int  #: the fixed clock's period
    new: int  #: how many of the frames were not in the window before (the hop)
    joints: bytes
    frame_seq: int = 0  #: the input frame that made it due
    frame_time_ns: int = 0
    frame_sent_ns: int = 0
    ended: str = ""  #: set on a track's last message: "lost", "end", ...; joints are empty
    lossless: bool = False
    lacks: list[Lack] = []  #: what the hand's source could not see, see ``skeleton.Lack``
    v: int = VERSION

    def array(self) -> Float32:
        """The frames as a read-only view of shape (n, 22, 3), metres."""
        return np.frombuffer(self.joints, dtype="<f4").reshape(-1, N_JOINTS, 3)


class Event(msgspec.Struct, omit_defaults=True):
    """One step in the life of one gesture; all steps share ``id``, which no other gesture has.

    ``begin`` (something has started, label may change), ``update``, ``early`` (label fixed, told
    at once), then exactly one of ``confirmed`` (ended, verified, dated) and ``cancelled``.
    """

    id: str
    kind: Kind
    label: str
    device: str
    hand: str
    side: Side
    onset_ns: int  #: stream time
    decided_ns: int  #: stream time of the last resampled frame that this decision used
    confidence: float
    offset_ns: int = 0  #: stream time; 0 while unknown
    model: str = ""
    reason: str = ""  #: why it was cancelled
    report_ns: int = 0  #: stream time of the input frame that made the decision possible
    wall_ns: int = 0  #: host wall clock when the worker sent it
    host_ns: int = 0  #: host monotonic clock when the worker sent it
    frame_sent_ns: int = 0  #: ``sent_ns`` of the input frame that triggered it
    boot_id: str = ""
    seq: int = 0
    worked_ns: int = 0  #: from the worker's having read the window to the sending of this event
    v: int = VERSION

    @property
    def final(self) -> bool:
        """Whether its gesture has ended with it."""
        return self.kind in ("confirmed", "cancelled")


def cut_off(event: Event, reason: str) -> Event:
    """The ending of a gesture whose own will not come; ``event`` is its last known step."""
    return msgspec.structs.replace(
        event, kind="cancelled", reason=reason, offset_ns=event.decided_ns
    )


class Truth(msgspec.Struct, omit_defaults=True):
    """What a source knows that it performs (the synthetic hand, an annotated recording)."""

    device: str
    hand: str
    label: str
    onset_ns: int
    offset_ns: int
    v: int = VERSION


class Status(msgspec.Struct, omit_defaults=True):
    """A stage's heartbeat. ``counts`` only ever grow under one ``boot_id``."""

    stage: str
    boot_id: str
    state: StageState
    host_ns: int
    wall_ns: int
    pid: int = 0
    counts: dict[str, int] = {}
    gauges: dict[str, float] = {}
    message: str = ""
    v: int = VERSION
    labels: list[str] = []  #: of the worker: the gestures that it tells


Message = Frame | Window | Event | Truth | Status
M = TypeVar("M", Frame, Window, Event, Truth, Status)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder] = {
    t: msgspec.msgpack.Decoder(t) for t in (Frame, Window, Event, Truth, Status)
}


def encode(message: Message) -> bytes:
    """One message as MessagePack bytes."""
    return _encoder.encode(message)


def decode(kind: type[M], data: bytes) -> M:
    """MessagePack bytes -> a checked message of ``kind``; raises MessageError naming the fault.

    Checks types, version and sizes. Whether joints are *plausible* is the segmenter's affair: a
    bad hand must not cost the good ones beside it.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"oversized {kind.__name__.lower()}: {len(data)} bytes")
    try:
        message: M = _decoders[kind].decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"malformed {kind.__name__.lower()}: {error}") from None
    if message.v != VERSION:
        raise MessageError(
            f"{kind.__name__.lower()} of schema version {message.v}; this is version {VERSION}"
        )
    if isinstance(message, Frame):
        if len(message.hands) > MAX_HANDS:
            raise MessageError(f"frame with {len(message.hands)} hands (limit {MAX_HANDS})")
        for hand in message.hands:
            if len(hand.joints) != JOINT_BYTES:
                raise MessageError(
                    f"hand with {len(hand.joints)} joint bytes instead of {JOINT_BYTES}"
                )
    elif isinstance(message, Window) and (
        len(message.joints) % JOINT_BYTES or (not message.joints and not message.ended)
    ):
        raise MessageError(f"window with {len(message.joints)} joint bytes")
    return message


def joint_bytes(joints: Float32) -> bytes:
    """(22, 3) or (n, 22, 3) joints -> little-endian float32 bytes."""
    return np.ascontiguousarray(joints, dtype="<f4").tobytes()
