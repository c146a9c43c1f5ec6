"""Virtual Motion Capture protocol: avatars' bones over OSC, UDP port 39539.

VSeeFace, VirtualMotionCapture, Warudo, VMagicMirror, Waidayo and others send it (they are the
"performer", we are the "marionette"). After protocol.vmc.info:

- ``/VMC/Ext/Bone/Pos`` (s name, f x 7): a bone of Unity's ``HumanBodyBones``, position and
  quaternion (x, y, z, w) **relative to its parent**, in Unity's axes (left-handed, y up).
- ``/VMC/Ext/Root/Pos``: the avatar in the world, in the same form (later versions append to it).
- ``/VMC/Ext/T`` (f): the sender's time in seconds. ``/VMC/Ext/OK`` (i ...): 0 while no avatar is
  loaded.

What arrives are rotations of an avatar in T-pose at rest, so the joints are worked out: forward
kinematics from the hips to the fingers. Positions are the avatar's bone lengths; several senders
put 0,0,0 there, and an avatar's hand may be any size, so a bone without a position is that of a
default human hand (and ``bones = "default"`` uses that hand for all). How long the last bones are
is not told: the tips are a default hand's, scaled.

A frame has no mark of its own: its messages come in one bundle, in several, or one by one. It is
complete when every bone that the frames before had is here; the root, or a bone that comes again,
begins the next frame.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hgr_stream.skeleton import N_JOINTS, TIPS, WRIST, Float32, Lack, Side, with_palm

from ..base import HandSample, Options, Sample
from .clock import LoopingClock
from .geometry import collapsed, plausible, t_pose_hand, to_canonical
from .osc import OscError, messages, string
from .packets import Decoder, PacketError
from .udp import Port, UdpDriver, UdpOptions

DEFAULT_PORT: Final = 39_539
_BONE: Final = b"/VMC/Ext/Bone/Pos"
_ROOT: Final = b"/VMC/Ext/Root/Pos"
_TIME: Final = b"/VMC/Ext/T"
_LOADED: Final = b"/VMC/Ext/OK"
_POSE: Final = struct.Struct(">7f")
_FLOAT: Final = struct.Struct(">f")
_INT: Final = struct.Struct(">i")
_MAX_NAME: Final = 64
_SHRINK_AFTER: Final = 3
_NO_ROOT: Final[tuple[float, ...]] = (0, 0, 0, 0, 0, 0, 1)

_SPINE: Final = ("Hips", "Spine", "Chest", "UpperChest")
_ARM: Final = ("Shoulder", "UpperArm", "LowerArm", "Hand")
#: Unity's names; VRM 1.0 calls the thumb's three Metacarpal, Proximal and Distal instead.
_PARTS: Final = ("Proximal", "Intermediate", "Distal")
_FINGERS: Final = ("Thumb", "Index", "Middle", "Ring", "Little")
_OPTIONAL: Final = frozenset({"Chest", "UpperChest"})
#: Rest offsets of a person of 1.7 m in T-pose, canonical metres, right side: for senders that
#: leave the body's positions out. They only place the hand.
_REST: Final[dict[str, tuple[float, float, float]]] = {
    "Hips": (0.0, 0.95, 0.0),
    "Spine": (0.0, 0.10, 0.0),
    "Chest": (0.0, 0.13, 0.0),
    "UpperChest": (0.0, 0.13, 0.0),
    "Shoulder": (0.04, 0.10, 0.0),
    "UpperArm": (0.13, 0.0, 0.0),
    "LowerArm": (0.28, 0.0, 0.0),
    "Hand": (0.25, 0.0, 0.0),
}

_CURE: Final = (
    "in the sending program switch on its VMC protocol sender, with this machine's address and port"
)
_OK_CURE: Final = "load an avatar in the sending program"


class Chain:
    """Bones from the hips to one hand's fingers: eight in a row, then three for each finger."""

    def __init__(self, side: Side) -> None:
        prefix = "Left" if side == "left" else "Right"
        hand = t_pose_hand(side).astype(np.float64)
        flip = (-1.0, 1.0, 1.0) if side == "left" else (1.0, 1.0, 1.0)
        self.side: Side = side
        self.arm = [*_SPINE, *(prefix + part for part in _ARM)]
        #: Bone i of each finger, thumb to little finger, and the joint that it ends the way to.
        self.fingers = [[f"{prefix}{name}{part}" for name in _FINGERS] for part in _PARTS]
        self.names = [*self.arm, *(name for row in self.fingers for name in row)]
        self.finger_bones = frozenset(name for row in self.fingers for name in row)
        self.bones = self.finger_bones | {prefix + "Hand"}
        rest = [np.multiply(_REST[name.removeprefix(prefix)], flip) for name in self.arm]
        bases = np.arange(5) * 4 + 2
        for part in range(3):
            ends, starts = bases + part, (bases + part - 1 if part else WRIST)
            rest += list(hand[ends] - hand[starts])
        self.rest = np.array(rest) * (1, 1, -1)  # in Unity's axes
        self.tips = (hand[bases + 3] - hand[bases + 2]) * (1, 1, -1)
        self.before_tips = np.linalg.norm(self.rest[-5:], axis=1)  # lengths of the last bones told
        self.rows = [bases + part for part in range(3)]

    def joints_of(self, bones: dict[str, tuple[float, ...]], *, default: bool) -> Float32:
        """(22, 3) in Unity's axes, metres from the avatar's root, without the palm. Tips: the last
        bone's rotation tells their direction, the bone before it their scale.

        bones: name -> 3 of position, 4 of rotation; ``default``: a default hand's bone lengths."""
        n_arm = len(self.arm)
        offsets = self.rest.copy()
        rotations = np.zeros((len(self.names), 4))
        rotations[:, 3] = 1.0
        for i, name in enumerate(self.names):
            pose = bones.get(name)
            if pose is None:
                if name in _OPTIONAL:
                    offsets[i] = 0.0  # an avatar without it has no length there
                continue
            rotations[i] = pose[3:]
            if any(pose[:3]) and (i < n_arm or not default):
                offsets[i] = pose[:3]
        turns = _matrices(rotations)
        turn, position = turns[0], offsets[0]
        for i in range(1, n_arm):
            position = position + turn @ offsets[i]
            turn = turn @ turns[i]
        joints = np.zeros((N_JOINTS, 3))
        joints[WRIST] = position
        world, start = np.broadcast_to(turn, (5, 3, 3)), np.broadcast_to(position, (5, 3))
        for part, row in enumerate(self.rows):
            five = slice(n_arm + 5 * part, n_arm + 5 * part + 5)
            start = start + (world @ offsets[five, :, None])[..., 0]
            world = world @ turns[five]
            joints[row] = start
        scale = np.linalg.norm(offsets[-5:], axis=1) / self.before_tips
        joints[list(TIPS)] = start + (world @ (self.tips * scale[:, None])[..., None])[..., 0]
        return joints.astype(np.float32)


def _matrices(quaternions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) x, y, z, w -> (n, 3, 3); a zero quaternion, which some senders send, is no turn."""
    squared = np.einsum("ij,ij->i", quaternions, quaternions)
    none = squared < 1e-12
    x, y, z, w = (quaternions * np.sqrt(2.0 / np.where(none, 1.0, squared))[:, None]).T
    out = np.empty((len(quaternions), 3, 3))
    xx, yy, zz = x * x, y * y, z * z
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2] = 1 - yy - zz, 1 - xx - zz, 1 - xx - yy
    for i, j, product, turn in ((0, 1, x * y, z * w), (2, 0, x * z, y * w), (1, 2, y * z, x * w)):
        out[:, i, j], out[:, j, i] = product - turn, product + turn
    if none.any():
        out[none] = np.eye(3)
    return out


class VmcDecoder:
    """OSC packets of one avatar to samples.

    counts: ``frame_incomplete`` (the next frame began before this one was whole),
    ``frames_overtaken`` (one packet held several), ``hand_implausible``, ``clock_loops``,
    ``bad_message`` (a bone that is not as it should be)."""

    def __init__(
        self, *, bones: Literal["sent", "default"] = "sent", heading_deg: float = 0.0
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._default = bones == "default"
        self._heading_deg = heading_deg
        self._chains = (Chain("left"), Chain("right"))
        self._known = frozenset(name for chain in self._chains for name in chain.names)
        self._wire = {name.lower().encode(): name for name in self._known}
        self._wire.update(_vrm1_thumbs(self._wire))
        self._vrm1 = False
        self._pose: dict[str, tuple[float, ...]] = {}  # all bones, the latest of each
        self._seen: set[str] = set()  # of this frame
        self._expected: set[str] = set()  # bones of the frames before
        self._short = 0  # frames in a row that had fewer
        self._root: tuple[float, ...] = _NO_ROOT
        self._clock = LoopingClock()
        self._time_s: float | None = None
        self._loaded = True
        self._index = 0

    def push(self, data: bytes, sender: str = "") -> Sample | None:
        """One packet; the newest sample that it completes, if any. Raises PacketError."""
        out: Sample | None = None
        try:
            for address, tags, arguments in messages(data):
                done = None
                if address == _BONE:
                    done = self._bone(tags, arguments)
                elif address == _TIME and tags[:1] == b"f" and len(arguments) >= 4:
                    (self._time_s,) = _FLOAT.unpack_from(arguments)
                elif address == _ROOT and tags[:8] == b"sfffffff":
                    done = self._finish()
                    self._root = self._values(arguments) or self._root
                elif address == _LOADED and tags[:1] == b"i" and len(arguments) >= 4:
                    self._loaded = _INT.unpack_from(arguments)[0] != 0
                if done is not None:
                    self.counts["frames_overtaken"] += out is not None
                    out = done
        except OscError as error:
            if out is None:
                raise PacketError("not_osc", str(error), _CURE) from None
            self.counts["bad_message"] += 1
        if out is None and not self._loaded and not self._seen:
            raise PacketError("not_loaded", "the sender has no avatar loaded", _OK_CURE)
        return out

    def _values(self, arguments: bytes) -> tuple[float, ...] | None:
        """The pose behind a name: seven finite floats."""
        try:
            name, rest = string(arguments)
        except OscError:
            name, rest = b"", b""
        if len(rest) < _POSE.size or len(name) > _MAX_NAME:
            self.counts["bad_message"] += 1
            return None
        pose = _POSE.unpack_from(rest)
        if not sum(map(abs, pose)) < 1e4:  # NaN, too
            self.counts["bad_message"] += 1
            return None
        return pose

    def _bone(self, tags: bytes, arguments: bytes) -> Sample | None:
        if tags[:8] != b"sfffffff":
            self.counts["bad_message"] += 1
            return None
        end = arguments.find(b"\x00")
        wire = arguments[: max(end, 0)].lower()
        if b"thumb" in wire:
            wire = self._thumb(wire)
        name = self._wire.get(wire)
        if name is None:
            return None  # legs, eyes: not ours
        pose = self._values(arguments)
        if pose is None:
            return None
        done = self._finish() if name in self._seen else None
        self._pose[name] = pose
        self._seen.add(name)
        if len(self._seen) >= len(self._expected) > 0 and self._expected <= self._seen:
            self.counts["frames_overtaken"] += done is not None
            done = self._finish()
        return done

    def _thumb(self, wire: bytes) -> bytes:
        """VRM 1.0's Proximal is the second thumb bone; 0.x's is the first."""
        if wire.endswith(b"metacarpal"):
            self._vrm1 = True
        elif self._vrm1 and wire.endswith(b"proximal"):
            return wire.replace(b"proximal", b"intermediate")
        return wire

    def _finish(self) -> Sample | None:
        """The frame of the bones seen, if there is a hand among them."""
        seen, self._seen = self._seen, set()
        if not seen:
            return None
        if self._expected <= seen:
            self._expected, self._short = seen, 0
        else:
            self.counts["frame_incomplete"] += 1
            self._short += 1
            if self._short >= _SHRINK_AFTER:  # not lost: no longer sent
                self._expected, self._short = seen, 0
        hands = [
            hand
            for number, chain in enumerate(self._chains, start=1)
            if seen & chain.bones and (hand := self._hand(chain, number)) is not None
        ]
        if not hands:
            return None
        loops = self._clock.loops
        device_ns = self._clock.push(self._time_s, None)
        self.counts["clock_loops"] += self._clock.loops - loops
        self._index += 1
        return Sample(device_ns, hands, self._index)

    def _hand(self, chain: Chain, number: int) -> HandSample | None:
        local: NDArray[np.floating] = chain.joints_of(self._pose, default=self._default)
        if self._root != _NO_ROOT:
            root = np.array(self._root)
            local = local @ _matrices(root[None, 3:])[0].T + root[:3]
        joints = with_palm(to_canonical(local, "unity", heading_deg=self._heading_deg))
        if not plausible(joints) or collapsed(joints):
            self.counts["hand_implausible"] += 1
            return None
        told = chain.finger_bones <= self._pose.keys()
        lacks: tuple[Lack, ...] = ("tips",) if told else ("tips", "fingers")
        return HandSample(number, chain.side, joints, lacks=lacks)


def _vrm1_thumbs(wire: dict[bytes, str]) -> dict[bytes, str]:
    return {
        name.replace(b"proximal", b"metacarpal"): bone
        for name, bone in wire.items()
        if b"thumbproximal" in name
    }


class VmcOptions(UdpOptions):
    """Keys of a device's table in the config."""

    port: Port = DEFAULT_PORT
    bones: Literal["sent", "default"] = "sent"  #: bone lengths: the avatar's, or a human hand's


class VmcDriver(UdpDriver[VmcOptions]):
    """Both hands of the avatar that a VMC performer sends."""

    name: ClassVar[str] = "vmc"
    about: ClassVar[str] = "avatars by OSC: VSeeFace, VMagicMirror, Warudo (VMC)"
    Options: ClassVar[type[Options]] = VmcOptions
    holder: ClassVar[str] = "the other VMC receiver (an avatar or streaming program)"
    switch_on: ClassVar[str] = _CURE

    def _port(self) -> int:
        return self.options.port

    def _decoder(self) -> Decoder:
        options = self.options
        return VmcDecoder(bones=options.bones, heading_deg=options.heading_deg)
