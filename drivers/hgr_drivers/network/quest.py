"""Meta Quest through Hand Tracking Streamer (HTS), an app of the Quest store: UDP or TCP.

The protocol is the app's own (its CONNECTIONS.md): UTF-8 lines, one for a wrist's pose in the
room and one for 21 joints in the wrist's axes, in Unity's left-handed coordinates, with the
headset's frame number and clock behind the label when "stream metadata" is on; also the head's
pose. The lines are read by the app's own package, ``hand-tracking-sdk``.

By UDP the headset sends to port 9000 of this machine (host must then be "0.0.0.0"); by TCP it
connects, over the USB cable with ``adb reverse tcp:8000 tcp:8000``.

Each hand's frame is a sample of its own: the app numbers and sends them apart.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from hgr_stream.skeleton import MEDIAPIPE_21, TIP_EXTENSION, Lack, from_layout

from ..base import DeviceError, HandSample, Options, Sample
from .geometry import Float, collapsed, plausible, rotate, to_canonical
from .udp import PacketError, Port, Socket, UdpDriver, UdpOptions, among, networks

if TYPE_CHECKING:
    from hgr_stream.skeleton import Float32

log = logging.getLogger(__name__)

DEFAULT_PORTS: Final = {"udp": 9000, "tcp": 8000}
#: A line of 63 numbers is 600 bytes; the SDK's own bound is far above.
MAX_LINE_BYTES: Final = 1 << 14
#: A frame number that falls back farther than this: the app was started anew.
RESTART_FRAMES: Final = 100
#: A year of 120 Hz. The gaps between larger ones would add up to a count beyond 64 bits.
MAX_FRAME: Final = 1 << 32
#: Early versions of the app send the little finger from its metacarpal on, without its tip (the
#: sample line of its documentation is one): "knuckle" to wrist is then this much shorter.
OLD_LITTLE_FINGER: Final = 0.65
#: The user may have turned round while no hand was seen for so long.
FACE_ANEW_NS: Final = 2_000_000_000


class QuestOptions(UdpOptions):
    """Keys of a device's table in the config."""

    transport: Literal["udp", "tcp"] = "udp"
    port: Port = 0  #: 0: the app's own, 9000 for UDP and 8000 for TCP
    face_head: bool = True  #: "right" is the user's, by the head's pose when the hands appeared


@dataclass
class _Side:
    """What is known of one hand."""

    pose: tuple[Float, Float] | None = None  # position (3,), quaternion (4,)
    pose_frame: int | None = None
    frame: int | None = None  # the last one given


class QuestDecoder:
    """HTS lines to samples. Raises PacketError for a packet without one good line.

    ``counts``: ``lines``, ``lines_malformed``, ``lost`` and ``late`` by the app's frame numbers,
    ``unmatched`` (joints without a wrist of their frame)."""

    def __init__(self, *, face_head: bool = True, heading_deg: float = 0.0) -> None:
        try:
            from hand_tracking_sdk import (
                HeadPosePacket,
                ParseError,
                WristPacket,
                parse_line,
            )
        except ImportError:
            raise DeviceError(
                "the Quest driver needs the package hand-tracking-sdk",
                'pip install "hgr-stream[quest]"',
                fatal=True,
            ) from None
        self._parse = parse_line
        self._error = ParseError
        self._head_kind, self._wrist_kind = HeadPosePacket, WristPacket
        self._face_head, self._given_deg = face_head, heading_deg
        self._head_deg: float | None = None
        self._facing_deg = 0.0
        self._hand_ns: int | None = None
        self._sides = {"Left": _Side(), "Right": _Side()}
        self._index = 0  # counted here where the app sends no frame numbers
        self.counts: Counter[str] = Counter()

    def push(self, data: bytes, sender: str) -> Sample | None:
        hands: list[HandSample] = []
        device_ns: int | None = None
        index, good, fault = 0, 0, "no line in it"
        for raw in data.splitlines():
            if not raw.strip():
                continue
            self.counts["lines"] += 1
            try:
                packet = self._parse(raw.decode("utf-8"))
                found = self._take(packet)
            except (self._error, UnicodeDecodeError, PacketError) as error:
                self.counts["lines_malformed"] += 1
                fault = str(error)
                continue
            good += 1
            if found is not None:
                if any(hand.id == found.id for hand in hands):
                    hands = [hand for hand in hands if hand.id != found.id]
                    self.counts["overtaken"] += 1  # two frames in one packet: the newer one
                hands.append(found)
                index, device_ns = _stamps(packet)
        if not good:
            raise PacketError("malformed", f"not Hand Tracking Streamer's: {fault}")
        if not hands:
            return None
        self._index = index or self._index + 1
        return Sample(device_ns, hands, self._index)

    def _take(self, packet: Any) -> HandSample | None:
        if isinstance(packet, self._head_kind):
            head = packet.data
            self._head_deg = _heading_deg(np.array([head.qx, head.qy, head.qz, head.qw]))
            return None
        side = self._sides[packet.side.value]
        frame, time_ns = _stamps(packet)
        if isinstance(packet, self._wrist_kind):
            p = packet.data
            pose = np.array([p.x, p.y, p.z]), np.array([p.qx, p.qy, p.qz, p.qw])
            norm = float(np.linalg.norm(pose[1])) if plausible(pose[1]) else 0.0
            if not (plausible(pose[0]) and 0.5 < norm < 2.0):
                raise PacketError("absurd", f"a wrist pose of {pose[0]} and quaternion {pose[1]}")
            side.pose, side.pose_frame = (pose[0], pose[1] / norm), frame
            return None
        if side.pose is None or (frame and side.pose_frame and frame != side.pose_frame):
            self.counts["unmatched"] += 1
            return None
        if frame and side.frame is not None:
            if side.frame - RESTART_FRAMES < frame <= side.frame:
                self.counts["late"] += 1
                return None
            if frame > side.frame:
                self.counts["lost"] += frame - side.frame - 1
        side.frame = frame or None
        right = packet.side.value == "Right"
        local = np.array(packet.data.points, dtype=float)
        if not plausible(local):
            raise PacketError("absurd", "joints that are not finite or over 1 km away")
        self._face(time_ns)
        ring, little = np.linalg.norm(local[[13, 17]] - local[0], axis=1)
        old = bool(little < OLD_LITTLE_FINGER * ring)
        if old:
            local[17:20] = local[18:21]
            local[20] = local[19] + TIP_EXTENSION[4] * (local[19] - local[18])
            self.counts["little_tip_extended"] += 1
        joints = self._joints(side.pose, local)
        lacks: tuple[Lack, ...] = ("tips",) if old else ()
        return HandSample(2 if right else 1, "right" if right else "left", joints, lacks=lacks)

    def _joints(self, pose: tuple[Float, Float], local: Float) -> Float32:
        points = pose[0] + rotate(pose[1], local)
        turn_deg = self._given_deg + self._facing_deg
        joints = from_layout(to_canonical(points, "unity", heading_deg=turn_deg), MEDIAPIPE_21)
        if collapsed(joints):
            raise PacketError("empty", "all joints in one place: the headset does not see the hand")
        return joints

    def _face(self, time_ns: int | None) -> None:
        """Which way is right: taken anew when hands appear, so that a look aside moves nothing."""
        if not self._face_head or self._head_deg is None:
            return
        # Without the headset's clock a pause cannot be told: the first hand decides.
        paused_ns = 0 if self._hand_ns is None or time_ns is None else time_ns - self._hand_ns
        if self._hand_ns is None or paused_ns > FACE_ANEW_NS:
            self._facing_deg = self._head_deg
        self._hand_ns = time_ns or 0


def _stamps(packet: Any) -> tuple[int, int | None]:
    """The headset's frame number (0: not sent) and clock in ns."""
    debug = packet.debug
    if debug is None:
        return 0, None
    frame, time_ns = debug.source_frame_seq or 0, debug.source_ts_ns
    if not 0 <= frame < MAX_FRAME or (time_ns is not None and not 0 <= time_ns < 1 << 62):
        raise PacketError("absurd", f"frame number {frame}, time {time_ns}")
    return frame, time_ns


def _heading_deg(quaternion: Float) -> float | None:
    """How far Unity's forward is turned, seen from above: what turns it back; None if unknown."""
    ahead = rotate(quaternion, np.array([0.0, 0.0, 1.0]))
    if not np.isfinite(ahead).all() or float(np.hypot(ahead[0], ahead[2])) < 0.2:
        return None  # looking straight up or down
    return float(np.degrees(np.arctan2(ahead[0], ahead[2])))


class TcpLines:
    """A listening socket with one sender at a time, giving whole lines: the shape of UdpSocket.

    The app that connects anew is the one that lives, its old connection may be half dead; but it is
    the app only once it has sent something: who looks whether the port is open displaces nobody.
    """

    kind = "TCP"

    def __init__(self, options: QuestOptions, port: int, cure: str) -> None:
        """Raises DeviceError naming the port and the cure."""
        self.counts: Counter[str] = Counter()
        self._client: socket.socket | None = None
        self._sender = ""
        self._newcomer: tuple[socket.socket, str] | None = None  # connected, silent so far
        self._rest = b""
        self._waiting: deque[bytes] = deque()
        try:
            self._listener = socket.create_server((options.host, port), backlog=1)
        except (OSError, TypeError) as error:  # the latter for a host that cannot be a name
            busy = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
            text = "is in use" if busy else f"cannot be had: {error}"
            raise DeviceError(f"TCP port {port} on {options.host} {text}", cure) from None
        self._listener.setblocking(False)
        self._allowed = networks(options.senders)
        self.port = int(self._listener.getsockname()[1])

    def receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        """The next line and its sender, or None when none came in time."""
        if self._waiting:
            return self._waiting.popleft(), self._sender
        newcomer = self._newcomer[0] if self._newcomer else None
        watched = [s for s in (self._listener, self._client, newcomer) if s is not None]
        ready = select.select(watched, [], [], timeout_s)[0]
        if newcomer in ready:
            self._welcome()
        if self._listener in ready:
            self._accept()
        if self._client is not None and self._client in ready:
            self._fill(self._client)
        return (self._waiting.popleft(), self._sender) if self._waiting else None

    def _accept(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError:
            return  # it went away again
        if self._allowed and not among(str(address[0]), self._allowed):
            self.counts["foreign_sender"] += 1
            client.close()
            return
        client.setblocking(False)
        self._turn_away()
        self._newcomer = client, str(address[0])
        if self._client is None:
            self._welcome()

    def _welcome(self) -> None:
        """The newcomer takes the place of who is connected, if it has something to say."""
        assert self._newcomer is not None
        client, sender = self._newcomer
        if self._client is not None:
            try:
                silent = not client.recv(1, socket.MSG_PEEK)
            except OSError:
                silent = True
            if silent:  # it has gone again
                self._turn_away()
                return
        self._drop()
        self._newcomer = None
        self._client, self._sender = client, sender
        self.counts["connections"] += 1
        log.info("port %d: %s is connected", self.port, self._sender)

    def _turn_away(self) -> None:
        if self._newcomer is not None:
            self._newcomer[0].close()
            self._newcomer = None
            self.counts["silent_connections"] += 1

    def _fill(self, client: socket.socket) -> None:
        try:
            data = client.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            log.warning("port %d: %s has closed the connection", self.port, self._sender)
            self._drop()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._waiting += [line for line in lines if line.strip()]
        if len(self._rest) > MAX_LINE_BYTES:
            self.counts["lines_oversized"] += 1
            self._rest = b""

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client, self._rest = None, b""
        self._waiting.clear()

    def close(self) -> None:
        self._drop()
        self._turn_away()
        self._listener.close()


class QuestDriver(UdpDriver[QuestOptions]):
    """Both hands of one headset."""

    name: ClassVar[str] = "quest"
    about: ClassVar[str] = "Meta Quest (Hand Tracking Streamer)"
    packages: ClassVar[tuple[str, ...]] = ("hand_tracking_sdk",)
    extra: ClassVar[str] = "quest"
    Options: ClassVar[type[Options]] = QuestOptions
    holder: ClassVar[str] = "the other program that receives from the headset"
    switch_on: ClassVar[str] = (
        "start Hand Tracking Streamer on the headset, with this machine's address and port "
        "(TCP over USB: adb reverse tcp:8000 tcp:8000)"
    )

    def _decoder(self) -> QuestDecoder:
        return QuestDecoder(face_head=self.options.face_head, heading_deg=self.options.heading_deg)

    def _port(self) -> int:
        return self.options.port or DEFAULT_PORTS[self.options.transport]

    def listens_at(self) -> str:
        return f"{self.options.transport}://{self.options.host}:{self._port()}"

    def _listen(self, cure: str) -> Socket:
        if self.options.transport == "tcp":
            return TcpLines(self.options, self._port(), cure)
        return super()._listen(cure)
