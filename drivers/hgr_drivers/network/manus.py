"""Manus gloves, through the ZeroMQ bridge that is made of Manus's own SDK client: tcp port 8000.

Manus's SDK is C++ and licensed; a small bridge built on its example client is what research code
uses (github.com/leap-hand/Bidex_Manus_Teleop and its copies). It binds a PUSH socket and sends one
text message a frame: for each glove its id in hexadecimal and 25 nodes of ``x, y, z, qx, qy, qz,
qw``, all with three decimals and separated by commas. So a millimetre is the finest step.

Nodes are the hand's root and, for the thumb, metacarpal, proximal, distal and tip; for the other
fingers metacarpal, proximal, intermediate, distal and tip. The SDK's remote mode has the fingers
in order from thumb to little finger; its integrated mode (Linux) was seen with index, middle,
little, ring, thumb: set ``fingers``. The bridge of SDK 2.4 asks for metres in Unity's axes, later
examples for z up: set ``axes``. Which glove is which hand is told by ``left`` and ``right``; for
a glove that neither names, the shape of the hand decides, after some frames.

ZeroMQ shares a PUSH socket's messages out among its receivers: keep other programs off the bridge.
The gloves know no place in the room; what moves the root is what Manus Core is told to move it by.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any, ClassVar, Final, Literal

import numpy as np
from msgspec import field

from hgr_stream.skeleton import N_JOINTS, Side, chirality, with_palm

from ..base import DeviceError, HandSample, Options, Sample
from .geometry import Axes, Heading, collapsed, plausible, to_canonical
from .packets import BACKLOG, Decoder, HandIds, PacketDriver, PacketError

DEFAULT_ENDPOINT: Final = "tcp://127.0.0.1:8000"
NODES: Final = 25
_FIELDS: Final = 1 + 7 * NODES  # of one glove
MAX_MESSAGE_BYTES: Final = 1 << 16
MAX_GLOVES: Final = 8
Finger = Literal["thumb", "index", "middle", "ring", "pinky"]
FINGERS: Final[tuple[Finger, ...]] = ("thumb", "index", "middle", "ring", "pinky")
#: Frames that must agree on a glove's side, when it is not configured.
SIDE_FRAMES: Final = 30

_START: Final = "start the Manus bridge, with gloves on, and set endpoint to where it listens"
_FULL: Final = 'let the bridge send the full skeleton ("bool full = true")'


def node_layout(fingers: tuple[Finger, ...]) -> tuple[int, ...]:
    """The 25 nodes' indices of the 22 canonical joints (-1: the palm) for an order of fingers."""
    if sorted(fingers) != sorted(FINGERS):
        raise PacketError("bad_fingers", "fingers must name each of the five once")
    first: dict[str, int] = {}
    node = 1
    for finger in fingers:
        first[finger] = node + (finger != "thumb")  # past a finger's metacarpal
        node += 4 if finger == "thumb" else 5
    return (0, -1, *(first[finger] + part for finger in FINGERS for part in range(4)))


class ManusDecoder:
    """Text messages of the bridge to samples.

    counts: ``hand_implausible``, ``hand_empty`` (zeros), ``ergonomics`` (angles beside the
    skeleton, passed over)."""

    def __init__(
        self,
        *,
        left: str = "",
        right: str = "",
        fingers: tuple[Finger, ...] = FINGERS,
        axes: Axes = "unity",
        heading_deg: float = 0.0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._sides: dict[str, Side] = {}
        if left:
            self._sides[left.lower()] = "left"
        if right:
            self._sides[right.lower()] = "right"
        self._votes: dict[str, int] = {}
        self._layout = [max(i, 0) for i in node_layout(fingers)]
        self._axes: Axes = axes
        self._heading_deg = heading_deg
        self._ids = HandIds()
        self._index = 0

    def push(self, data: bytes, sender: str = "") -> Sample | None:
        """One message to the gloves' hands; raises PacketError."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise PacketError("oversized", f"a message of {len(data)} bytes")
        try:
            fields = data.decode("ascii").strip().rstrip(",").split(",")
        except UnicodeDecodeError:
            raise PacketError(
                "not_text", "a message that is not the bridge's text", _START
            ) from None
        if len(fields) == 40:
            self.counts["ergonomics"] += 1
            return None
        if len(fields) % _FIELDS or len(fields) > MAX_GLOVES * _FIELDS:
            raise PacketError(
                "bad_length", f"{len(fields)} values, not {_FIELDS} for each glove", _FULL
            )
        self._index += 1
        hands: list[HandSample] = []
        for start in range(0, len(fields), _FIELDS):
            hand = self._hand(fields[start], fields[start + 1 : start + _FIELDS])
            if hand is not None:
                hands.append(hand)
        return Sample(None, hands, self._index)

    def _hand(self, glove: str, values: list[str]) -> HandSample | None:
        try:
            nodes = np.array(values, dtype=np.float64).reshape(NODES, 7)
        except ValueError:
            raise PacketError("bad_number", "a message with values that are no numbers") from None
        points = nodes[self._layout, :3]
        if not plausible(points):
            self.counts["hand_implausible"] += 1
            return None
        joints = with_palm(to_canonical(points, self._axes, heading_deg=self._heading_deg))
        if collapsed(joints):
            self.counts["hand_empty"] += 1
            return None
        assert joints.shape == (N_JOINTS, 3)
        name = glove.strip().lower()[:64]
        return HandSample(self._ids.of(name), self._side(name, joints), joints)

    def _side(self, glove: str, joints: Any) -> Side:
        """Configured, or voted for by the hand's shape until one side is ahead."""
        side = self._sides.get(glove)
        if side is None:
            vote = self._votes.get(glove, 0) + (1 if chirality(joints) > 0 else -1)
            self._votes[glove] = vote
            if abs(vote) < SIDE_FRAMES:
                return "unknown"
            side = self._sides[glove] = "right" if vote > 0 else "left"
        return side


class ManusOptions(Options):
    """Keys of a device's table in the config."""

    endpoint: str = DEFAULT_ENDPOINT
    left: str = ""  #: the left glove's id, in hexadecimal as the bridge sends it
    right: str = ""
    fingers: list[Finger] = field(default_factory=lambda: list(FINGERS))  #: order of the nodes
    axes: Axes = "unity"
    heading_deg: Heading = 0.0


class ManusDriver(PacketDriver[ManusOptions]):
    """Both gloves of one bridge. They have no clock of their own: arrival time is taken."""

    name: ClassVar[str] = "manus"
    about: ClassVar[str] = "Manus gloves, by their ZeroMQ bridge"
    Options: ClassVar[type[Options]] = ManusOptions
    switch_on: ClassVar[str] = _START

    def __init__(self, options: ManusOptions) -> None:
        super().__init__(options)
        self._context: Any = None
        self._socket: Any = None
        self._waiting: deque[bytes] = deque()
        self._received: Counter[str] = Counter()

    def _decoder(self) -> Decoder:
        options = self.options
        try:
            return ManusDecoder(
                left=options.left,
                right=options.right,
                fingers=tuple(options.fingers),
                axes=options.axes,
                heading_deg=options.heading_deg,
            )
        except PacketError as error:
            raise DeviceError(str(error), f"write fingers = {list(FINGERS)}", fatal=True) from None

    def _connect(self) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, BACKLOG)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        try:
            self._socket.connect(self.options.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise DeviceError(
                f"endpoint {self.options.endpoint!r}: {error}",
                f'write it like "{DEFAULT_ENDPOINT}"',
                fatal=True,
            ) from None

    def _receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        import zmq

        if self._socket is None:
            raise DeviceError("the manus driver is not open")
        if not self._waiting:
            self._socket.poll(round(1000 * timeout_s))
            began_s = time.monotonic()
            while time.monotonic() - began_s < 0.05:
                try:
                    parts = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if len(self._waiting) >= BACKLOG:
                    self._waiting.popleft()
                    self._received["overtaken"] += 1
                self._received["messages"] += 1
                self._waiting.append(b"".join(parts))
        return (self._waiting.popleft(), self.options.endpoint) if self._waiting else None

    def _where(self) -> str:
        return self.options.endpoint

    def close(self) -> None:
        self._waiting.clear()
        if self._socket is not None:
            self._socket.close()
        if self._context is not None:
            self._context.term()
        self._socket = self._context = None

    def counts(self) -> dict[str, int]:
        """``messages``, ``overtaken``, ``refused_<reason>``, and what the decoder counts."""
        return {**self._received, **super().counts()}
