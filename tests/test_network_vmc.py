"""VMC over OSC: real hands as an avatar's bones, encoded by python-osc, over a real socket."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.network.geometry import t_pose_hand
from hgr_drivers.network.osc import OscError, messages
from hgr_drivers.network.packets import PacketError
from hgr_drivers.network.vmc import VmcDecoder, VmcDriver, VmcOptions
from hypothesis import given
from hypothesis import strategies as st
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.osc_packet import OscPacket
from scipy.spatial.transform import Rotation

from hgr_stream.skeleton import BONES, TIPS, WRIST, Float32, mirrored
from tests.hands import hand_joints
from tests.network_hands import (
    KNOWN_WITHOUT_TIPS,
    assert_natural,
    assert_same_hands,
    by_side,
    clapping,
    complaint,
    opened,
    read,
    send_and_read,
    sending_to,
)
from tools.senders import vmc_bones, vmc_packets

HANDS = {"left": hand_joints(side="left"), "right": hand_joints(side="right")}
FRAME = vmc_packets(vmc_bones(HANDS), 1.0)


def driver(**options: object) -> VmcDriver:
    return VmcDriver(VmcOptions(port=0, **options))


def pushed(decoder: VmcDecoder, *frames: list[bytes]) -> list:
    return [s for packets in frames for p in packets if (s := decoder.push(p)) is not None]


def directions(joints: Float32) -> np.ndarray:
    """Unit vectors along the finger bones past the knuckles, (15, 3)."""
    chain = [(a, b) for a, b in BONES if a != WRIST]
    bones = np.array([joints[b] - joints[a] for a, b in chain])
    return bones / np.linalg.norm(bones, axis=1, keepdims=True)


@pytest.mark.parametrize("bundle", [1, 16])
def test_real_hands_arrive(shared_data: Path, bundle: int) -> None:
    truth = clapping(shared_data)[::4]
    frames = [vmc_packets(vmc_bones(hands), i / 60, bundle=bundle) for i, hands in enumerate(truth)]
    with opened(driver()) as device:
        samples = send_and_read(device, [*frames, frames[-1]], len(frames) + 1)
    # How the sender divides its frames is known from the second on.
    assert_same_hands(samples[1:], [*truth[1:], truth[-1]], KNOWN_WITHOUT_TIPS)
    assert {(h.id, h.side, h.lacks) for s in samples for h in s.hands} == {
        (1, "left", ("tips",)),
        (2, "right", ("tips",)),
    }
    for sample, hands in zip(samples[1:], truth[1:], strict=False):
        for side, hand in by_side(sample).items():  # the last bone's turn tells of the tip
            np.testing.assert_allclose(directions(hand.joints), directions(hands[side]), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"bones": "default"}])
def test_senders_without_positions_get_a_default_hand(shared_data: Path, options: dict) -> None:
    truth = clapping(shared_data)[::4]
    decoder = VmcDecoder(**options)
    frames = [vmc_packets(vmc_bones(h, positions=False), i / 60) for i, h in enumerate(truth)]
    samples = pushed(decoder, *frames)
    assert len(samples) == len(truth)
    stretches = {side: np.array([by_side(s)[side].joints for s in samples[1:]]) for side in HANDS}
    assert_natural(stretches)
    for side, stretch in stretches.items():
        rest = t_pose_hand(side)
        for joints, hands in zip(stretch, truth[1:], strict=True):
            # Every finger bone points as it did; its length is the default hand's.
            np.testing.assert_allclose(directions(joints), directions(hands[side]), atol=1e-4)
        apart = np.linalg.norm(stretch[:, 9] - stretch[:, 8], axis=1)
        np.testing.assert_allclose(apart, np.linalg.norm(rest[9] - rest[8]), rtol=1e-4)


def test_t_pose_is_a_t_pose() -> None:
    """Identity rotations and no positions: arms out to the sides, palms down."""
    rest = {name: (np.zeros(3), np.array([0, 0, 0, 1.0])) for name in vmc_bones(HANDS)}
    sample = pushed(VmcDecoder(), vmc_packets(rest, 0.0), vmc_packets(rest, 0.1))[-1]
    right, left = by_side(sample)["right"].joints, by_side(sample)["left"].joints
    np.testing.assert_allclose(left, mirrored(right), atol=1e-6)
    assert right[WRIST, 0] > 0.5  # metres to the right of the body
    np.testing.assert_allclose(directions(right)[4:, 0], 1.0, atol=0.02)  # fingers point right
    assert right[2:6, 2].max() < 0  # the thumbs forward, away from the performer
    assert right[6, 2] < right[18, 2]  # the index finger before the little one: palms down


def test_frame_is_told_as_soon_as_it_is_whole() -> None:
    decoder = VmcDecoder()
    first, second, third = (vmc_packets(vmc_bones(HANDS), t, bundle=1) for t in (0.0, 0.1, 0.2))
    assert not pushed(decoder, first)
    assert len(pushed(decoder, second)) == 2  # the first, when the second began
    assert len(pushed(decoder, third)) == 1
    assert not any(decoder.counts.values())


def test_packet_that_is_lost_costs_one_frame() -> None:
    decoder = VmcDecoder()
    frames = [vmc_packets(vmc_bones(HANDS), i / 60, bundle=12) for i in range(10)]
    del frames[5][2]
    samples = pushed(decoder, *frames)
    assert decoder.counts["frame_incomplete"] == 1
    assert len(samples) == 10
    assert all(len(s.hands) == 2 for s in samples)


def test_sender_that_stops_sending_a_hand() -> None:
    decoder = VmcDecoder()
    both, one = vmc_packets(vmc_bones(HANDS), 0.0), vmc_packets(
        vmc_bones({"left": HANDS["left"]}), 0.0
    )  # fmt: skip
    samples = pushed(decoder, both, both, *[one] * 8)
    assert [len(s.hands) for s in samples[-4:]] == [1] * 4
    assert decoder.counts["frame_incomplete"] == 3


def test_hand_without_finger_bones_says_so() -> None:
    bones = {k: v for k, v in vmc_bones(HANDS).items() if "Hand" in k or "Arm" in k}
    packets = vmc_packets(bones, 0.0)
    for hand in pushed(VmcDecoder(), packets, packets)[-1].hands:
        assert hand.lacks == ("tips", "fingers")
        assert np.isfinite(hand.joints).all()


def test_vrm1_thumbs_are_the_same_thumbs() -> None:
    bones = vmc_bones(HANDS)
    new = {"ThumbProximal": "ThumbMetacarpal", "ThumbIntermediate": "ThumbProximal"}
    renamed = {
        name[: -len(part)] + new[part] if (part := name.lstrip("LefRight")) in new else name: pose
        for name, pose in bones.items()
    }
    assert "LeftThumbMetacarpal" in renamed
    plain, vrm1 = (
        pushed(VmcDecoder(), vmc_packets(b, 0.0), vmc_packets(b, 0.1))[-1] for b in (bones, renamed)
    )
    for a, b in zip(plain.hands, vrm1.hands, strict=True):
        np.testing.assert_array_equal(a.joints, b.joints)


def test_root_moves_the_whole_avatar() -> None:
    packets = vmc_packets(vmc_bones(HANDS), 0.0, root=False)
    plain = pushed(VmcDecoder(), packets, packets)[-1]
    builder = OscMessageBuilder("/VMC/Ext/Root/Pos")
    turn = Rotation.from_euler("y", 90, degrees=True)
    for value in ("root", 1.0, 2.0, 3.0, *turn.as_quat(), 1.0, 1.0, 1.0, 0.0, 0.0, 0.0):
        builder.add_arg(value, "s" if isinstance(value, str) else "f")
    root = [builder.build().dgram]
    moved = pushed(VmcDecoder(), root, packets, root, packets)[-1]
    for a, b in zip(plain.hands, moved.hands, strict=True):
        # Unity: x right, z forward; +90 degrees about y there takes z to x.
        x, y, z = a.joints.T * np.array([[1], [1], [-1]])
        expected = np.stack([z + 1, y + 2, -(-x + 3)], axis=-1)
        np.testing.assert_allclose(b.joints, expected, atol=1e-5)


def test_avatar_that_is_not_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.1)
    builder = OscMessageBuilder("/VMC/Ext/OK")
    builder.add_arg(0, "i")
    message = builder.build().dgram
    with opened(driver()) as device, sending_to(device) as send:
        assert "load an avatar" in complaint(device, "no avatar", lambda: send(message)).cure
        send(*FRAME, *FRAME)
        read(device, 1)


def test_packets_without_hands_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.1)
    face = OscMessageBuilder("/VMC/Ext/Blend/Val")
    face.add_arg("Joy", "s")
    face.add_arg(1.0, "f")
    packet = face.build().dgram
    with opened(driver()) as device, sending_to(device) as send:
        complaint(device, "packets on UDP .* but no hands in them", lambda: send(packet))


def test_silence_names_what_to_switch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.05)
    with opened(driver()) as device:
        assert "VMC protocol sender" in complaint(device, "no packet on UDP").cure


def bone(name: str, *values: float) -> bytes:
    builder = OscMessageBuilder("/VMC/Ext/Bone/Pos")
    builder.add_arg(name, "s")
    for value in values:
        builder.add_arg(value, "f")
    return builder.build().dgram


def test_bad_bones_are_counted_and_passed_over() -> None:
    decoder = VmcDecoder()
    for values in ((0.0,) * 3, (math.nan, *(0.0,) * 6), (1e30, *(0.0,) * 6), (math.inf,) * 7):
        assert decoder.push(bone("LeftHand", *values)) is None
    assert decoder.counts == {"bad_message": 4}
    assert decoder.push(bone("NoSuchBone", *(0.0,) * 7)) is None
    # A zero quaternion is no turn.
    packets = [bone(n, *p, 0, 0, 0, 0) for n, (p, _) in vmc_bones(HANDS).items()]
    sample = pushed(decoder, packets, packets)[-1]
    assert all(np.isfinite(h.joints).all() for h in sample.hands)


@pytest.mark.parametrize(
    "packet",
    [
        b"", b"rubbish", b"#bundle", b"/VMC", b"/VMC\x00\x00\x00\x00ss",
        b"#bundle\x00" + bytes(8) + struct.pack(">i", -4) + b"abcd",  # python-osc never returns
        b"#bundle\x00" + bytes(8) + struct.pack(">i", 1 << 30) + b"abcd",
        b"#bundle\x00" + bytes(8) + struct.pack(">i", 0),
        b"#bundle\x00" + bytes(8) + b"\x00",
    ],
)  # fmt: skip
def test_packets_that_are_refused(packet: bytes) -> None:
    with pytest.raises(PacketError) as caught:
        VmcDecoder().push(packet)
    assert caught.value.reason == "not_osc"


def test_bundles_nested_without_end() -> None:
    packet = bone("LeftHand", *(0.0,) * 7)
    for _ in range(5):
        packet = b"#bundle\x00" + bytes(8) + struct.pack(">i", len(packet)) + packet
    with pytest.raises(PacketError, match="deep"):
        VmcDecoder().push(packet)


@given(st.lists(st.tuples(st.text(max_size=9), st.lists(st.floats(width=32), max_size=8))))
def test_osc_reads_what_python_osc_writes(sent: list[tuple[str, list[float]]]) -> None:
    for name, values in sent:
        if "\x00" in name:
            continue
        packet = bone(name, *values)
        [message] = messages(packet)
        [reference] = OscPacket(packet).messages
        assert message.address.decode() == reference.message.address
        assert message.tags == b"s" + b"f" * len(values)
        assert len(message.arguments) == (len(name.encode()) // 4 + 1) * 4 + 4 * len(values)


BUNDLE = FRAME[1]


@given(
    st.lists(
        st.binary(max_size=200)
        | st.binary(max_size=60).map(lambda b: b"#bundle\x00" + bytes(8) + b)
        | st.builds(
            lambda at, new: BUNDLE[:at] + new + BUNDLE[at + len(new) :],
            st.integers(0, len(BUNDLE) - 1), st.binary(min_size=1, max_size=6),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_any_packets_are_samples_or_refused(packets: list[bytes]) -> None:
    decoder = VmcDecoder()
    for packet in [*FRAME, *packets, *FRAME]:
        try:
            sample = decoder.push(packet)
        except PacketError:
            continue
        for hand in sample.hands if sample else ():
            assert np.isfinite(hand.joints).all()
            assert hand.joints[list(TIPS)].any()


@given(st.binary(max_size=100))
def test_osc_ends(data: bytes) -> None:
    try:
        assert len(list(messages(data))) <= len(data)
    except OscError:
        return
