"""OptiTrack: skeletons with fingers that Motive streams over NatNet, UDP ports 1510 and 1511.

The client asks, the server streams: we send ``connect`` and learn the protocol's version, ask for
the model definitions (names of skeletons and bones), and keep saying that we are there; frames
then come to the same socket (unicast), or to a multicast group. What the server says of itself and
of its models is read by the package ``natnet`` (MIT), out of a buffer that is bounded and the same
on every platform; frames by ``natnet_wire``. The package's own client is not used: its threads end
at the first bad packet, and it asks the server ten times a second.

Motive solves fingers for skeletons that have them ("Core + Passive Fingers", or gloves). Their
bones are called ``LHand``, ``LThumb1`` ... ``LPinky3`` in Motive's naming and ``LeftHand``,
``LeftHandThumb1`` ... in FBX's, both with the skeleton's name before; a bone's position is its
near end, so the fingertips are not told. Metres, right-handed, y up by default; positions are
global, or relative to the parent when Motive is told so.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.skeleton import N_JOINTS, WRIST, Side

from ..base import DeviceError, Found, HandSample, Options, Sample
from .clock import FrameNumbers, LoopingClock
from .geometry import Axes, collapsed, plausible, rotate, to_canonical, without_tips
from .natnet_wire import Buffer, FrameError, parse_frame
from .packets import Decoder, HandIds, PacketError
from .udp import Port, Socket, UdpDriver, UdpOptions, UdpSocket

COMMAND_PORT: Final = 1510
DATA_PORT: Final = 1511
GROUP: Final = "239.255.42.99"
CONNECT, SERVER_INFO, REQUEST_MODEL, MODEL, FRAME, KEEP_ALIVE = 0, 1, 4, 5, 7, 10
_HEAD: Final = struct.Struct("<HH")
#: How often the server is asked while it does not answer, and told that we are here when it does.
ASK_S: Final = 0.5
KEEP_ALIVE_S: Final = 1.0
FORGOTTEN_S: Final = 1.0  #: no packet for so long: connect again
#: Of a bone's id in a frame, the low half is the bone's, the high half the skeleton's.
_BONE_MASK: Final = 0xFFFF

_WRIST_NAME: Final = re.compile(r"(?:^|[_:\s])(l|r|left|right)_?(?:hand|wrist)$", re.IGNORECASE)
_FINGER_NAME: Final = re.compile(
    r"(?:^|[_:\s])(l|r|left|right)_?(?:hand)?_?(thumb|index|middle|ring|pinky|little)_?([123])$",
    re.IGNORECASE,
)
_FINGERS: Final = {"thumb": 2, "index": 6, "middle": 10, "ring": 14, "pinky": 18, "little": 18}
_N_BONES: Final = 16  # wrist and three for each finger

_CURE: Final = (
    "in Motive's Streaming settings enable NatNet with skeletons, unicast (or multicast = true "
    "here), on an interface that this machine reaches"
)
_FINGER_CURE: Final = "give the skeleton fingers in Motive (a marker set with fingers, or gloves)"


def bone_joint(name: str) -> tuple[Side, int] | None:
    """A bone's name in Motive's or FBX's naming -> (side, canonical joint); None for others."""
    if found := _FINGER_NAME.search(name):
        joint = _FINGERS[found[2].lower()] + int(found[3]) - 1
    elif found := _WRIST_NAME.search(name):
        joint = WRIST
    else:
        return None
    return ("left" if found[1].lower().startswith("l") else "right"), joint


def request(message: int, text: str = "") -> bytes:
    """A client's packet."""
    body = text.encode() + b"\x00"
    return _HEAD.pack(message, len(body)) + body


@dataclass
class _Skeleton:
    """Where a skeleton's hands are among its bones."""

    name: str
    hands: dict[Side, dict[int, int]]  #: side -> bone id -> joint, the wrist first; whole ones only
    parents: dict[int, int]


class NatNetDecoder:
    """NatNet packets to samples; ``version`` and ``wants_model`` tell what to ask the server for.

    counts: ``frames_lost`` (by the frame numbers), ``clock_loops``, ``hand_implausible``,
    ``hand_empty`` (zeros), ``hand_not_tracked``, ``hand_incomplete``, ``other_actor``."""

    def __init__(
        self,
        *,
        actor: str = "",
        axes: Axes = "y-up",
        local: bool = False,
        heading_deg: float = 0.0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.version: Any = None
        self.server = ""
        self.wants_model = True
        self._actor = actor
        self._axes: Axes = axes
        self._local = local
        self._heading_deg = heading_deg
        self._skeletons: dict[int, _Skeleton] = {}
        self._fingerless: list[str] = []
        self._clock = LoopingClock()
        self._numbers = FrameNumbers()
        self._ids = HandIds()

    def push(self, data: bytes, sender: str = "") -> Sample | None:
        """One packet; a sample for a frame. Raises PacketError."""
        if len(data) < _HEAD.size:
            raise PacketError("not_natnet", f"{len(data)} bytes that are no NatNet packet")
        message, size = _HEAD.unpack_from(data)
        if size != len(data) - _HEAD.size:
            raise PacketError("bad_size", f"a packet of {len(data)} bytes that says {size}")
        if message == SERVER_INFO:
            self._server_info(data)
        elif self.version is None:
            self.counts["before_version"] += 1
        elif message == MODEL:
            self._model(data)
        elif message == FRAME:
            return self._frame(data)
        return None

    def _read(self, kind: Any, data: bytes) -> Any:
        """A component of the package, out of a packet's body."""
        from natnet.exceptions import NatNetError

        try:
            return kind.read_from_buffer(Buffer(data, _HEAD.size), self.version)
        except (NatNetError, struct.error, ValueError, TypeError, KeyError, IndexError) as error:
            text = str(error).partition("\n")[0]
            raise PacketError("broken", f"a NatNet packet that cannot be read: {text}") from None

    def _server_info(self, data: bytes) -> None:
        from natnet.server_info import ServerInfo
        from natnet.version import Version

        info = self._read(ServerInfo, data)
        if info.nat_net_protocol_version < Version(3, 0):
            raise PacketError(
                "old_version",
                f"NatNet {info.nat_net_protocol_version} is too old, 3.0 is needed",
                "update Motive to 2.0 or later",
            )
        self.server = f"{info.application_name} {info.server_version}"[:80]
        self.version = info.nat_net_protocol_version

    def _model(self, data: bytes) -> None:
        from natnet.data_descriptions import DataDescriptions

        described = self._read(DataDescriptions, data)
        self.wants_model = False
        self._skeletons, self._fingerless = {}, []
        for skeleton in described.skeletons[: HandIds.LIMIT]:
            hands: dict[Side, dict[int, int]] = {"left": {}, "right": {}}
            parents: dict[int, int] = {}
            for bone in skeleton.rigid_body_descriptions:
                number = bone.id_num & _BONE_MASK
                parents[number] = bone.parent_id & _BONE_MASK
                if (where := bone_joint(bone.name or "")) is not None:
                    hands[where[0]][number] = where[1]
            whole = {
                side: dict(sorted(hand.items(), key=lambda bone: bone[1]))
                for side, hand in hands.items()
                if len(set(hand.values())) == _N_BONES
            }
            if not whole:
                self._fingerless.append(skeleton.name)
            self._skeletons[skeleton.id_num] = _Skeleton(skeleton.name, whole, parents)

    def _frame(self, data: bytes) -> Sample | None:
        from natnet.version import Version

        try:
            frame = parse_frame(data, _HEAD.size, assets=self.version >= Version(4, 1))
        except FrameError as error:
            raise PacketError("broken", str(error)) from None
        if frame.models_changed:
            self.wants_model = True
        hands: list[HandSample] = []
        known = False
        for number, bones in frame.skeletons:
            skeleton = self._skeletons.get(number)
            if skeleton is None:
                self.wants_model = True
            elif self._actor and skeleton.name != self._actor:
                self.counts["other_actor"] += 1
            else:
                known = known or bool(skeleton.hands)
                hands += self._hands(skeleton, bones)
        self.counts["frames_lost"] += self._numbers.push(frame.number)
        loops = self._clock.loops
        device_ns = self._clock.push(frame.time_s, None)
        self.counts["clock_loops"] += self._clock.loops - loops
        if not known and not self.wants_model:
            names = ", ".join(self._fingerless[:3])
            if names and not self._actor:
                text = f"skeleton {names} has no fingers"
                raise PacketError("no_fingers", text[:200], _FINGER_CURE)
            if self._actor and all(s.name != self._actor for s in self._skeletons.values()):
                there = ", ".join(s.name for s in self._skeletons.values()) or "none"
                text = f"no skeleton {self._actor!r}; there is {there}"
                raise PacketError("no_actor", text[:200], "set actor to a skeleton's name")
        return Sample(device_ns, hands, frame.number)

    def _hands(self, skeleton: _Skeleton, bones: NDArray[np.void]) -> list[HandSample]:
        rows = {int(number) & _BONE_MASK: row for row, number in enumerate(bones["id"])}
        out: list[HandSample] = []
        for side, wanted in skeleton.hands.items():
            if not wanted.keys() <= rows.keys():
                self.counts["hand_incomplete"] += 1
                continue
            mine = [rows[number] for number in wanted]
            if not bones["flags"][mine[0]] & 1:
                self.counts["hand_not_tracked"] += 1
                continue
            points = np.zeros((N_JOINTS, 3))
            if self._local:
                world: dict[int, tuple[Any, Any]] = {}
                for number, joint in wanted.items():
                    points[joint] = self._global(number, skeleton.parents, rows, bones, world)[0]
            else:
                points[list(wanted.values())] = bones["position"][mine]
            if not plausible(points):
                self.counts["hand_implausible"] += 1
                continue
            joints = without_tips(to_canonical(points, self._axes, heading_deg=self._heading_deg))
            if collapsed(joints):
                self.counts["hand_empty"] += 1
                continue
            out.append(
                HandSample(self._ids.of((skeleton.name, side)), side, joints, lacks=("tips",))
            )
        return out

    def _global(
        self,
        number: int,
        parents: dict[int, int],
        rows: dict[int, int],
        bones: NDArray[np.void],
        world: dict[int, tuple[Any, Any]],
    ) -> tuple[Any, Any]:
        """Position and rotation of a bone whose pose is relative to its parent's."""
        chain = []
        while number not in world and number in rows and number not in chain:
            chain.append(number)
            number = parents.get(number, -1)
        position, turn = world.get(number, (np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0])))
        for number in reversed(chain):
            bone = bones[rows[number]]
            position = position + rotate(turn, bone["position"].astype(np.float64))
            turn = _product(turn, bone["rotation"].astype(np.float64))
            world[number] = position, turn
        return position, turn


def _product(a: Any, b: Any) -> Any:
    """Quaternion a after b, (x, y, z, w)."""
    u, v = a[:3], b[:3]
    return np.append(a[3] * v + b[3] * u + np.cross(u, v), a[3] * b[3] - u @ v)


class NatNetOptions(UdpOptions):
    """Keys of a device's table in the config."""

    server: str = "127.0.0.1"  #: the machine that Motive runs on
    command_port: Port = COMMAND_PORT
    multicast: bool = False  #: as Motive streams; unicast needs no settings on the network
    data_port: Port = DATA_PORT  #: of multicast
    group: str = GROUP
    actor: Annotated[str, Meta(max_length=200)] = ""  #: only this skeleton; empty: all
    up: Literal["y", "z"] = "y"  #: Motive's "Up Axis"
    local: bool = False  #: Motive streams bones relative to their parents


class NatNetDriver(UdpDriver[NatNetOptions]):
    """Hands of all skeletons that a Motive streams."""

    name: ClassVar[str] = "natnet"
    about: ClassVar[str] = "OptiTrack Motive (NatNet)"
    packages: ClassVar[tuple[str, ...]] = ("natnet",)
    extra: ClassVar[str] = "natnet"
    Options: ClassVar[type[Options]] = NatNetOptions
    holder: ClassVar[str] = "the other NatNet client"
    switch_on: ClassVar[str] = _CURE
    decoder: NatNetDecoder

    def __init__(self, options: NatNetOptions) -> None:
        self._server = ""
        self._ask_s = self._alive_s = 0.0
        self._asked = CONNECT
        super().__init__(options)

    def _port(self) -> int:
        return self.options.data_port if self.options.multicast else 0

    def _decoder(self) -> Decoder:
        options = self.options
        return NatNetDecoder(
            actor=options.actor,
            axes="y-up" if options.up == "y" else "z-up",
            local=options.local,
            heading_deg=options.heading_deg,
        )

    def listens_at(self) -> str:
        return ""  # several receivers may share a multicast group's port

    def _listen(self, cure: str) -> Socket:
        options = self.options
        try:
            import natnet.data_descriptions  # noqa: F401
        except ImportError:
            raise DeviceError(
                "the natnet driver needs the package natnet",
                'pip install "hgr-stream[natnet]"',
                fatal=True,
            ) from None
        try:
            self._server = socket.gethostbyname(options.server)
        except (OSError, TypeError, ValueError) as error:  # a name like "192.168..5" cannot be
            raise DeviceError(
                f"no machine {options.server!r}: {error}", "set server to Motive's machine"
            ) from None
        # An answer comes from whom we asked: nobody else is listened to, unless named.
        heard = msgspec.structs.replace(options, senders=options.senders or [self._server])
        if not options.multicast and options.host == "127.0.0.1" != self._server:
            heard = msgspec.structs.replace(heard, host="0.0.0.0")
        self._ask_s = self._alive_s = 0.0
        group = options.group if options.multicast else ""
        return UdpSocket(heard, self._port(), cure, group=group)

    def _receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        self._ask(time.monotonic())
        return super()._receive(min(timeout_s, ASK_S))

    def _ask(self, now_s: float) -> None:
        """Connect, ask for the models, and tell that we are here, each in its time."""
        decoder = self.decoder
        # A server that was started anew knows nothing of us.
        forgotten = decoder.version is None or now_s - self._packet_s > FORGOTTEN_S
        if forgotten or decoder.wants_model:
            asking = CONNECT if forgotten else REQUEST_MODEL
            if now_s >= self._ask_s or asking != self._asked:
                self._asked, self._ask_s = asking, now_s + ASK_S
                decoder.wants_model = True
                self._send(request(asking, "Ping" if forgotten else ""))
        if now_s >= self._alive_s and decoder.version is not None and not self.options.multicast:
            self._alive_s = now_s + KEEP_ALIVE_S
            self._send(request(KEEP_ALIVE))

    def _send(self, data: bytes) -> None:
        if not isinstance(self._socket, UdpSocket):
            return  # not open: reading says so
        try:
            self._socket.socket.sendto(data, (self._server, self.options.command_port))
        except BlockingIOError:
            pass  # asked again soon
        except OSError as error:
            raise DeviceError(
                f"cannot reach {self._server}: {error}", "check the network, or set server"
            ) from None

    def _nothing(self) -> DeviceError:
        where = f"{self.options.server}:{self.options.command_port}"
        if self.decoder.version is None:
            text = f"no answer from a NatNet server at {where}"
        else:
            text = f"{self.decoder.server} at {where} answers but sends no frames"
        # An address is asked again and again; a name may be another one's by now: looked up anew.
        return DeviceError(text, _CURE, waiting=self._server == self.options.server)

    def _where(self) -> str:
        if self.options.multicast:
            return super()._where()
        return f"UDP of {self._server or self.options.server}"  # our own port is any

    @classmethod
    def find(cls) -> list[Found]:
        """A server on this machine, within half a second."""
        driver = cls(NatNetOptions())
        deadline_s = time.monotonic() + 0.5
        try:
            driver.open()
            while driver.decoder.version is None and time.monotonic() < deadline_s:
                driver.read(0.05)
        except DeviceError:
            return []
        finally:
            driver.close()
        if driver.decoder.version is None:
            return []
        text = f"{driver.decoder.server}, NatNet {driver.decoder.version}, on this machine"
        return [Found(cls.name, cls.name, text)]
