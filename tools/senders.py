"""What suits, gloves and headsets send: packets of their formats, made from canonical joints.

The tests and benchmarks of the network drivers send these over real sockets, because no recorded
packets of these vendors are public. Each function takes hands as (22, 3) metres in canonical axes
and gives bytes; nothing here is used by a driver.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hgr_drivers.network import manus, natnet, rokoko, vmc, xsens
from hgr_drivers.network.geometry import Axes, t_pose_hand, to_canonical
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hgr_stream.skeleton import FINGERS, MIDDLE_BASE, OPENXR_26, WRIST, Float32, Side

Array = NDArray[np.floating]


def from_canonical(joints: Array, axes: Axes, scale: float = 1.0) -> NDArray[np.float64]:
    """Canonical metres -> a sender's axes, in units of ``scale`` metres."""
    matrix = to_canonical(np.eye(3), axes).T.astype(np.float64)
    return np.asarray(joints, dtype=np.float64) @ matrix / scale


def _xyz(point: Array) -> dict[str, float]:
    return {axis: float(value) for axis, value in zip("xyz", point, strict=True)}


# --- Rokoko


def rokoko_packet(
    actors: Mapping[str, Mapping[Side, Float32]],
    time_s: float,
    *,
    version: float = 3,
    fps: float = 120,
    lz4: bool = True,
    gloves: bool = True,
) -> bytes:
    """One frame of a scene; version 2, 2.5 or 3."""
    turn = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    bodies: dict[str, dict[str, Any]] = {}
    for name, hands in actors.items():
        body = bodies[name] = {
            joint: {"position": {"x": 0.0, "y": 1.0, "z": 0.0}, "rotation": turn}
            for joint in ("hip", "spine", "chest", "neck", "head", "leftLowerArm", "rightLowerArm")
        }
        for side, joints in hands.items():
            points = from_canonical(joints, "unity")[[0, *range(2, 22)]]
            for joint, point in zip(rokoko.JOINT_NAMES[side], points, strict=True):
                body[joint] = {"position": _xyz(point), "rotation": turn}
    if version < 3:
        text = json.dumps(
            {
                "version": 2 if version == 2 else 3,
                "timestamp": time_s,
                "playbackTimestamp": 0,
                "props": [],
                "trackers": [],
                "faces": [],
                "actors": [{"name": n, "id": n, "isLive": True, **b} for n, b in bodies.items()],
            }
        )
    else:
        meta = {"hasGloves": gloves, "hasLeftGlove": gloves, "hasRightGlove": gloves}
        listed = [
            {
                "name": n,
                "color": [255, 0, 0],
                "meta": {**meta, "hasBody": True, "hasFace": False},
                "dimensions": {"totalHeight": 1.8, "hipHeight": 1.0},
                "body": b,
            }
            for n, b in bodies.items()
        ]
        scene = {"timestamp": time_s, "actors": listed, "characters": [], "props": []}
        text = json.dumps({"version": 3.0, "fps": fps, "scene": scene})
    if not lz4:
        return text.encode()
    import lz4.frame

    packed: bytes = lz4.frame.compress(text.encode())
    return packed


# --- Xsens


def _segments(joints: Float32) -> NDArray[np.float64]:
    """A hand's 20 segments of MVN, in its order: their near ends."""
    points = np.zeros((xsens.SEGMENTS_A_HAND, 3))
    points[list(xsens.SEGMENTS)] = joints[list(xsens.JOINTS)]
    for metacarpal, base in ((4, 6), (8, 10), (12, 14), (16, 18)):  # near the wrist
        points[metacarpal] = 0.7 * joints[WRIST] + 0.3 * joints[base]
    return points


def xsens_datagrams(
    hands: Mapping[Side, Float32],
    counter: int,
    time_ms: int,
    *,
    character: int = 0,
    props: int = 0,
    kind: bytes = b"02",
    up: str = "z",
    parts: int = 2,
    fingers: bool = True,
) -> list[bytes]:
    """A sample of a whole body, in ``parts`` datagrams; a hand that is not given lies at 0."""
    axes: Axes = "z-up" if up == "z" else "y-up"
    body = np.zeros((23 + props, 3))
    points = [body]
    if fingers:
        sides: tuple[Side, Side] = ("left", "right")
        for side in sides:
            hand = hands.get(side)
            points.append(np.zeros((20, 3)) if hand is None else _segments(hand))
    all_points = from_canonical(np.concatenate(points), axes, scale=0.01)
    items = np.zeros(len(all_points), xsens.ITEM)
    items["id"] = np.arange(1, len(items) + 1)
    items["position"] = all_points
    items["rotation"] = (1, 0, 0, 0)
    out = []
    for number, part in enumerate(np.array_split(items, parts)):
        last = xsens.LAST if number == parts - 1 else 0
        payload = part.tobytes()
        head = xsens.HEADER.pack(
            b"MXTP" + kind, counter, number | last, len(part), time_ms, character,
            23, props, 40 if fingers else 0, 0, len(payload),
        )  # fmt: skip
        out.append(head + payload)
    return out


def xsens_name(name: str, character: int = 0) -> bytes:
    """Message type 12: who a character is."""
    text = f"name:{name}\nxmid:00001\ncolor:00FF00\n".encode()
    head = (b"MXTP12", 0, xsens.LAST, 1, 0, character, 23, 0, 40, 0, len(text))
    return xsens.HEADER.pack(*head) + text


# --- VMC


def _between(a: Array, b: Array) -> Rotation:
    """The least rotation that takes direction a to b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-9:
        return Rotation.identity()
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, float(a @ b)))


def vmc_bones(
    hands: Mapping[Side, Float32], *, positions: bool = True, arm_turn: float = 0.3
) -> dict[str, tuple[Array, Array]]:
    """Bone name -> (position, quaternion) relative to its parent, in Unity's axes, by inverse
    kinematics: the hand as its knuckles lie, each finger bone as it points. ``positions`` false:
    all 0,0,0, as several senders have it; the hand then hangs on default arms."""
    chains = {"left": vmc.Chain("left"), "right": vmc.Chain("right")}
    out: dict[str, tuple[Array, Array]] = {}
    for side, hand_joints in hands.items():
        chain = chains[side]
        rest = t_pose_hand(side).astype(np.float64)
        joints = np.asarray(hand_joints, dtype=np.float64)
        bases = [2, 6, 10, 14, 18]
        hand, _ = Rotation.align_vectors(joints[bases] - joints[WRIST], rest[bases] - rest[WRIST])
        world, at = Rotation.identity(), np.zeros(3)
        for i, name in enumerate(chain.arm):
            offset = chain.rest[i] * (1, 1, -1)
            local = Rotation.identity()
            if name.endswith("Arm"):
                local = Rotation.from_rotvec([0.2 * arm_turn, arm_turn, -arm_turn])
            if name.endswith("Hand"):
                local = world.inv() * hand
                if positions:  # the wrist where it was, whatever the arm's length
                    offset = world.inv().apply(joints[WRIST] - at)
            at = at + world.apply(offset)
            world = world * local
            out[name] = _unity(offset if positions else np.zeros(3), local)
        for finger in range(5):
            parent_turn, parent = hand, WRIST
            for part in range(3):
                joint = 2 + 4 * finger + part
                pointing = rest[joint + 1] - rest[joint]
                local = _between(
                    pointing, parent_turn.inv().apply(joints[joint + 1] - joints[joint])
                )
                offset = parent_turn.inv().apply(joints[joint] - joints[parent])
                name = chain.fingers[part][finger]
                out[name] = _unity(offset if positions else np.zeros(3), local)
                parent_turn, parent = parent_turn * local, joint
    return out


def _unity(position: Array, turn: Rotation) -> tuple[Array, Array]:
    x, y, z, w = turn.as_quat()
    return np.asarray(position) * (1, 1, -1), np.array([-x, -y, z, w])


def vmc_packets(
    bones: Mapping[str, tuple[Array, Array]],
    time_s: float,
    *,
    bundle: int = 16,
    root: bool = True,
) -> list[bytes]:
    """A frame, ``bundle`` messages to a packet (1: each by itself), with other bones about."""
    from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
    from pythonosc.osc_message_builder import OscMessageBuilder

    def message(address: str, *values: Any) -> Any:
        builder = OscMessageBuilder(address)
        for value in values:
            kind = "s" if isinstance(value, str) else "i" if isinstance(value, int) else "f"
            builder.add_arg(value, kind)
        return builder.build()

    def pose(position: Array, turn: Array) -> list[float]:
        return [float(v) for v in (*position, *turn)]

    legs = {name: (np.zeros(3), np.array([0, 0, 0, 1.0])) for name in ("LeftFoot", "RightFoot")}
    messages = [message("/VMC/Ext/OK", 1)]
    if root:
        identity = pose(np.zeros(3), np.array([0, 0, 0, 1.0]))
        messages.append(message("/VMC/Ext/Root/Pos", "root", *identity))
    for name, (position, turn) in {**legs, **bones}.items():
        messages.append(message("/VMC/Ext/Bone/Pos", name, *pose(position, turn)))
    messages.append(message("/VMC/Ext/Blend/Val", "Joy", 0.0))
    messages.append(message("/VMC/Ext/T", time_s))
    if bundle == 1:
        return [m.dgram for m in messages]
    out = []
    for start in range(0, len(messages), bundle):
        builder = OscBundleBuilder(IMMEDIATELY)
        for m in messages[start : start + bundle]:
            builder.add_content(m)
        out.append(builder.build().dgram)
    return out


# --- NatNet

Version = tuple[int, int]
SKELETON_ID = 1


def natnet_bones(convention: str, fingers: bool = True) -> list[tuple[str, int, int]]:
    """(name, id, parent's id) of a skeleton; ``convention`` is "motive" or "fbx"."""
    out = [("Hip" if convention == "motive" else "Hips", 1, 0), ("Chest", 2, 1)]
    for short, long in (("L", "Left"), ("R", "Right")):
        hand = len(out) + 1
        out.append((f"{short}Hand" if convention == "motive" else f"{long}Hand", hand, 2))
        for finger in FINGERS if fingers else ():
            for part in (1, 2, 3):
                name = finger.capitalize() + str(part)
                name = f"{short}{name}" if convention == "motive" else f"{long}Hand{name}"
                out.append((name, len(out) + 1, hand if part == 1 else len(out)))
    return out


def _packed(message: int, body: bytes) -> bytes:
    return struct.pack("<HH", message, len(body)) + body


def _section(count: int, body: bytes, version: Version) -> bytes:
    size = struct.pack("<I", len(body)) if version >= (4, 1) else b""
    return struct.pack("<I", count) + size + body


def natnet_server_info(version: Version = (3, 1)) -> bytes:
    name = b"Motive".ljust(256, b"\x00")
    return _packed(natnet.SERVER_INFO, name + bytes((3, 0, 0, 0)) + bytes((*version, 0, 0)))


def natnet_model(
    names: Sequence[str] = ("Fred",),
    version: Version = (3, 1),
    *,
    convention: str = "motive",
    fingers: bool = True,
) -> bytes:
    """Descriptions of skeletons, after a marker set and a rigid body that nobody asked for."""

    def rigid_body(name: str, number: int, parent: int) -> bytes:
        out = name.encode() + b"\x00" + struct.pack("<ii3f", number, parent, 0, 0, 0)
        if version >= (4, 2):
            out += struct.pack("<4f", 0, 0, 0, 1)
        return out + struct.pack("<I", 0)  # markers

    def dataset(kind: int, body: bytes) -> bytes:
        size = struct.pack("<I", len(body)) if version >= (4, 1) else b""
        return struct.pack("<I", kind) + size + body

    sets = [
        dataset(0, b"all\x00" + struct.pack("<I", 2) + b"m1\x00m2\x00"),
        dataset(1, rigid_body("Box", 77, -1)),
    ]
    for k, name in enumerate(names):
        bones = natnet_bones(convention, fingers)
        body = name.encode() + b"\x00" + struct.pack("<II", SKELETON_ID + k, len(bones))
        body += b"".join(rigid_body(f"{name}_{bone}", i, parent) for bone, i, parent in bones)
        sets.append(dataset(2, body))
    return _packed(natnet.MODEL, struct.pack("<I", len(sets)) + b"".join(sets))


def natnet_frame(
    skeletons: Sequence[Mapping[Side, Float32]],
    number: int,
    time_s: float,
    version: Version = (3, 1),
    *,
    markers: int = 20,
    changed: bool = False,
    local: bool = False,
    valid: bool = True,
) -> bytes:
    """A frame of data with as many skeletons, loose markers beside them."""
    bones = natnet_bones("motive")
    bodies = b""
    for k, hands in enumerate(skeletons):
        body = struct.pack("<II", SKELETON_ID + k, len(bones))
        world: dict[int, Array] = {0: np.zeros(3)}
        for name, i, parent in bones:
            found = natnet.bone_joint(name)
            point = np.array([0.0, 1.0, 0.0])
            if found is not None and found[0] in hands:
                point = from_canonical(hands[found[0]][found[1]], "y-up")
            world[i] = point
            sent, turn = point, (0.0, 0.0, 0.0, 1.0)
            if local:  # every bone is turned half about y: its children's offsets are, too
                sent = point - world[parent]
                depth = _depth(i, bones)
                if depth % 2:
                    sent = sent * (-1, 1, -1)
                turn = (0.0, 1.0, 0.0, 0.0)
            number_of_bone = ((SKELETON_ID + k) << 16) | i
            body += struct.pack("<I3f4ffH", number_of_bone, *sent, *turn, 0.001, int(valid))
        bodies += body
    points = b"".join(struct.pack("<3f", 0.1 * i, 1.0, 0.0) for i in range(markers))
    labelled = b"".join(
        struct.pack("<I3ffHf", i, 0.1 * i, 1.0, 0.0, 0.01, 0, 0.0) for i in range(markers)
    )
    set_of_markers = b"all\x00" + struct.pack("<I", markers) + points
    out = struct.pack("<I", number)
    out += _section(1, set_of_markers, version)
    out += _section(markers, points, version)
    out += _section(0, b"", version)  # rigid bodies
    out += _section(len(skeletons), bodies, version)
    if version >= (4, 1):
        out += _section(0, b"", version)  # assets
    out += _section(markers, labelled, version)
    out += _section(0, b"", version)  # force plates
    out += _section(0, b"", version)  # devices
    out += struct.pack("<IId3QH", 0, 0, time_s, 1, 2, 3, 2 if changed else 0)
    return _packed(natnet.FRAME, out + struct.pack("<I", 0))


def _depth(number: int, bones: list[tuple[str, int, int]]) -> int:
    parents = {i: parent for _, i, parent in bones}
    depth = 0
    while (number := parents[number]) != 0:
        depth += 1
    return depth


# --- Manus


def manus_message(
    hands: Sequence[tuple[str, Float32]],
    *,
    fingers: tuple[manus.Finger, ...] = manus.FINGERS,
    axes: Axes = "unity",
) -> bytes:
    """The bridge's text for gloves of these ids."""
    layout = manus.node_layout(fingers)
    text = ""
    for glove, joints in hands:
        nodes = np.zeros((manus.NODES, 7))
        nodes[:, 6] = 1.0
        points = from_canonical(joints, axes)
        wrist, middle = points[WRIST], points[MIDDLE_BASE]
        nodes[:, :3] = 0.7 * wrist + 0.3 * middle  # metacarpals
        for joint, node in enumerate(layout):
            if node >= 0:
                nodes[node, :3] = points[joint]
        text += f"{glove}," + "".join(f"{v:.3f}," for v in nodes.ravel())
    return text[:-1].encode()


# --- Quest (Hand Tracking Streamer) and headsets with OpenXR hands


def quest_packet(
    joints: Array, side: Side, frame: int = 1, time_ns: int = 1_000, turn: Rotation | None = None
) -> bytes:
    """One hand's two lines: the wrist's pose in the room, 21 joints in the wrist's axes. Frame 0:
    without the stream's metadata. ``turn``: how the wrist is said to be turned."""
    points = from_canonical(joints, "unity")[[0, *range(2, 22)]]
    turn = turn or Rotation.from_euler("yxz", [40, -20, 10], degrees=True)
    local = turn.inv().apply(points - points[0])
    meta = f" | f = {frame} | t = {time_ns}" if frame else ""

    def line(kind: str, values: Array) -> str:
        return f"{side.title()} {kind}{meta}:, {', '.join(f'{v:.6f}' for v in values)}\n"

    wrist = np.array([*points[0], *turn.as_quat()])
    return (line("wrist", wrist) + line("landmarks", local.ravel())).encode()


def openxr_points(joints: Array) -> NDArray[np.float64]:
    """Canonical (22, 3) -> OpenXR's (26, 3); its metacarpals, which nobody looks at, are 0."""
    out = np.zeros((26, 3))
    for ours, theirs in enumerate(OPENXR_26):
        if theirs >= 0:
            out[theirs] = joints[ours]
    return out


def headset_message(hands: Mapping[Side, Array], time_ms: float, *, webxr: bool = False) -> str:
    """A frame of hands (26, 3) in OpenXR's axes and order; ``webxr``: without the palm."""
    told = [
        {"side": side, "joints": np.asarray(points)[1 if webxr else 0 :].tolist()}
        for side, points in hands.items()
    ]
    return json.dumps({"time_ms": time_ms, "hands": told, "more": 1})
