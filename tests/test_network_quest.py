"""Meta Quest through Hand Tracking Streamer: its lines, made from real hands, over real sockets."""

from __future__ import annotations

import contextlib
import socket

import numpy as np
import pytest
from hgr_drivers.base import DeviceError
from hgr_drivers.network.quest import MAX_LINE_BYTES, QuestDecoder, QuestDriver, QuestOptions
from hgr_drivers.network.udp import PacketError
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hgr_stream.cli.demo import free_port
from hgr_stream.datasets.convert import open_recordings
from hgr_stream.skeleton import bone_lengths, chirality, mirrored
from tests.network_hands import collect, hololens_file
from tools.senders import quest_packet

#: The sample of the app's own documentation (CONNECTIONS.md), of an early version.
DOCUMENTED = (
    b"Right wrist:, 0.2502, 1.0635, 0.2540, 0.194, -0.116, 0.094, -0.970\n"
    b"Right landmarks:, 0.0000, 0.0000, 0.0000, -0.0275, -0.0197, 0.0362, -0.0438, -0.0335, "
    b"0.0608, -0.0418, -0.0480, 0.0913, -0.0329, -0.0595, 0.1111, -0.0236, -0.0073, 0.0960, "
    b"-0.0179, -0.0226, 0.1302, -0.0150, -0.0428, 0.1435, -0.0116, -0.0633, 0.1518, -0.0017, "
    b"-0.0025, 0.0956, 0.0054, -0.0226, 0.1329, 0.0081, -0.0456, 0.1478, 0.0100, -0.0680, "
    b"0.1589, 0.0175, -0.0065, 0.0887, 0.0252, -0.0222, 0.1236, 0.0279, -0.0407, 0.1424, "
    b"0.0282, -0.0595, 0.1580, 0.0230, -0.0094, 0.0341, 0.0351, -0.0137, 0.0779, 0.0433, "
    b"-0.0227, 0.1061, 0.0477, -0.0342, 0.1223\n"
)
FLIP = np.array([1.0, 1.0, -1.0])  # Unity's left-handed axes


def packet(joints, side="right", frame=1, time_ns=1_000) -> bytes:
    return quest_packet(joints, side, frame, time_ns)


@pytest.fixture(scope="module")
def hands(shared_data, tmp_path_factory):
    """Real hands of a HoloLens, (T, 22, 3), right ones."""
    file = hololens_file(shared_data, tmp_path_factory.mktemp("shrec22"))
    recording = next(iter(open_recordings([file])))
    joints = np.stack([f.hands[0].array() for f in recording.frames if f.hands])
    return joints[np.linalg.norm(joints[:, 10] - joints[:, 0], axis=1) > 0.02]


def test_the_documented_sample_is_a_plausible_right_hand() -> None:
    sample = QuestDecoder().push(DOCUMENTED, "headset")
    assert sample is not None
    hand = sample.hands[0]
    assert hand.side == "right"
    assert chirality(hand.joints) > 0
    lengths = bone_lengths(hand.joints)
    assert (lengths > 0.015).all()
    assert (lengths < 0.12).all()
    np.testing.assert_allclose(hand.joints[0], [0.2502, 1.0635, -0.2540], atol=1e-6)
    assert hand.lacks == ("tips",)  # that version sent no tip of the little finger


def test_an_app_that_sends_no_frame_numbers_has_its_frames_counted() -> None:
    decoder = QuestDecoder()
    samples = [decoder.push(DOCUMENTED, "headset") for _ in range(3)]
    assert [s.index for s in samples if s is not None] == [1, 2, 3]


def test_real_hands_come_back_as_they_were(hands) -> None:
    decoder = QuestDecoder()
    for i, joints in enumerate(hands[:200]):
        for side, given_hand in (("right", joints), ("left", mirrored(joints))):
            data = packet(given_hand, side, frame=i + 1, time_ns=i * 14_000_000 + 1)
            sample = decoder.push(data, "headset")
            assert sample is not None
            hand = sample.hands[0]
            np.testing.assert_allclose(hand.joints[0], given_hand[0], atol=2e-5)
            np.testing.assert_allclose(hand.joints[2:], given_hand[2:], atol=2e-5)
            assert hand.side == side
            assert hand.lacks == ()
            assert (sample.device_ns, sample.index) == (i * 14_000_000 + 1, i + 1)
            assert (chirality(hand.joints) > 0) == (chirality(given_hand) > 0)
    assert decoder.counts["lost"] == decoder.counts["late"] == 0


def test_right_is_the_users_right_wherever_he_faces(hands) -> None:
    """The room turned by 90 degrees: with the head's pose the hands come out the same."""
    turn = Rotation.from_euler("y", 90, degrees=True)
    turned = (turn.apply(hands[0].astype(float) * FLIP) * FLIP).astype(np.float32)
    head = "Head pose | f = 1 | t = 5:, 0, 1.6, 0, " + ", ".join(map(str, turn.as_quat())) + "\n"
    decoder = QuestDecoder()
    assert decoder.push(head.encode(), "headset") is None
    sample = decoder.push(packet(turned), "headset")
    assert sample is not None
    np.testing.assert_allclose(sample.hands[0].joints[2:], hands[0][2:], atol=3e-5)
    aside = head.replace("f = 1", "f = 2").replace(", 0.70", ", 0.10")
    decoder.push(aside.encode(), "headset")  # a look aside while the hand is seen
    again = decoder.push(packet(turned, frame=2, time_ns=2_000), "headset")
    assert again is not None
    np.testing.assert_allclose(again.hands[0].joints, sample.hands[0].joints, atol=1e-6)


def test_lost_late_unmatched_and_malformed_are_counted_and_the_rest_is_kept(hands) -> None:
    decoder = QuestDecoder()
    first, later = packet(hands[0], frame=1), packet(hands[1], frame=4)
    assert decoder.push(first + b"Right elbow:, 1, 2\n", "headset") is not None
    assert decoder.push(later, "headset") is not None  # 2 and 3 are lost
    assert decoder.push(packet(hands[0], frame=3), "headset") is None  # late
    only_joints = packet(hands[0], frame=5).partition(b"\n")[2]
    assert decoder.push(only_joints, "headset") is None
    counts = decoder.counts
    assert (counts["lost"], counts["late"], counts["unmatched"]) == (2, 1, 1)
    assert counts["lines_malformed"] == 1
    with pytest.raises(PacketError, match="Hand Tracking Streamer"):
        decoder.push(b"hello", "headset")
    restarted = decoder.push(packet(hands[2], frame=1, time_ns=9), "headset")
    assert restarted is None  # three frames back: late, not a restart
    decoder.push(packet(hands[2], frame=1000, time_ns=10), "headset")
    assert decoder.push(packet(hands[2], frame=1, time_ns=11), "headset") is not None


def test_frame_numbers_and_times_that_cannot_be_are_refused_and_count_as_nothing_lost(
    hands,
) -> None:
    decoder = QuestDecoder()
    decoder.push(packet(hands[0], frame=1), "headset")
    for frame, time_ns in ((1 << 52, 2_000), (2, 1 << 63)):
        with pytest.raises(PacketError, match=f"frame number {frame}, time {time_ns}"):
            decoder.push(packet(hands[1], frame=frame, time_ns=time_ns), "headset")
    assert decoder.push(packet(hands[1], frame=2, time_ns=2_000), "headset").index == 2
    assert decoder.counts["lost"] == 0


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda cut, byte, at: DOCUMENTED[:cut][:at] + bytes([byte]) + DOCUMENTED[:cut][at:],
            st.integers(0, len(DOCUMENTED)),
            st.integers(0, 255),
            st.integers(0, len(DOCUMENTED)),
        ),
        st.lists(st.floats(width=64), min_size=7, max_size=7).map(
            lambda v: (
                f"Left wrist | f = {int(abs(v[0])) if v[0] == v[0] and abs(v[0]) < 1e300 else 0}"
                f":, {', '.join(map(repr, v))}\n".encode()
                + DOCUMENTED.replace(b"Right", b"Left").partition(b"\n")[2]
            )
        ),
    )
)
def test_any_bytes_give_a_sample_or_the_one_error(data) -> None:
    with contextlib.suppress(PacketError):
        sample = QuestDecoder().push(data, "x")
        assert sample is None or np.isfinite(sample.hands[0].joints).all()


def test_over_udp(hands) -> None:
    driver = QuestDriver(QuestOptions(port=free_port()))
    with contextlib.closing(driver):
        driver.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for i in range(50):
                out.sendto(packet(hands[i], frame=i + 1), ("127.0.0.1", driver.port))
        samples = collect(driver, 50)
    assert [s.index for s in samples] == list(range(1, 51))


def test_over_tcp_in_any_pieces_with_a_headset_that_comes_back(hands, caplog) -> None:
    driver = QuestDriver(QuestOptions(transport="tcp", port=free_port()))
    stream = b"".join(packet(hands[i], frame=i + 1) for i in range(40))
    with contextlib.closing(driver):
        driver.open()
        indices = []
        for part in (stream[: len(stream) // 2], stream[len(stream) // 2 :]):
            with socket.create_connection(("127.0.0.1", driver.port)) as out:
                for at in range(0, len(part), 700):
                    out.sendall(part[at : at + 700])
                indices += [s.index for s in collect(driver, 19)]
            indices += [s.index for s in collect(driver, 2, 0.3)]  # the rest, and the end
        assert indices == sorted(set(indices))
        assert len(indices) >= 39  # the frame that the cut went through
        assert indices[-1] == 40
        assert driver.counts()["connections"] == 2
        with socket.create_connection(("127.0.0.1", driver.port)) as out:
            out.sendall(b"x" * (MAX_LINE_BYTES + 10) + b"\n" + packet(hands[0], frame=99))
            samples = collect(driver, 1)
        assert samples[0].index == 99


def test_over_tcp_who_says_nothing_displaces_nobody(hands) -> None:
    driver = QuestDriver(QuestOptions(transport="tcp", port=free_port()))
    with contextlib.closing(driver):
        driver.open()
        address = ("127.0.0.1", driver.port)
        with socket.create_connection(address) as headset:
            headset.sendall(packet(hands[0], frame=1))
            assert [s.index for s in collect(driver, 1)] == [1]
            with socket.create_connection(address):  # a port scanner that waits,
                assert collect(driver, 1, 0.3) == []
                socket.create_connection(address).close()  # and one that goes at once
                assert collect(driver, 1, 0.3) == []
                headset.sendall(packet(hands[1], frame=2))
                assert [s.index for s in collect(driver, 1)] == [2]
            assert driver.counts()["connections"] == 1
            with socket.create_connection(address) as again:  # the headset, come back
                again.sendall(packet(hands[2], frame=3))
                assert [s.index for s in collect(driver, 1)] == [3]
            assert driver.counts()["connections"] == 2
            assert driver.counts()["silent_connections"] == 2


def test_a_busy_port_and_silence_are_explained() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(DeviceError, match=str(port)):
        QuestDriver(QuestOptions(transport="tcp", port=port)).open()
    driver = QuestDriver(QuestOptions(transport="tcp", port=free_port()))
    with contextlib.closing(driver):
        driver.open()
        with pytest.raises(DeviceError, match="no packet on TCP") as caught:
            collect(driver, 1)
    assert "adb reverse" in caught.value.cure


@pytest.mark.parametrize(("senders", "heard"), [(["127.0.0.0/8"], True), (["192.168.1.5"], False)])
def test_over_tcp_only_the_named_senders_are_heard(hands, senders, heard) -> None:
    driver = QuestDriver(QuestOptions(transport="tcp", port=free_port(), senders=senders))
    with contextlib.closing(driver):
        driver.open()
        with socket.create_connection(("127.0.0.1", driver.port)) as out:
            out.sendall(packet(hands[0]))
            assert len(collect(driver, 1, 3.0 if heard else 0.5)) == heard
        assert driver.counts().get("foreign_sender", 0) == (not heard)
