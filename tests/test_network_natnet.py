"""NatNet: a Motive that speaks the true protocol, with real hands in its skeletons."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.network import natnet
from hgr_drivers.network.natnet import NatNetDecoder, NatNetDriver, NatNetOptions, bone_joint
from hgr_drivers.network.natnet_wire import parse_frame
from hgr_drivers.network.packets import PacketError
from hypothesis import given
from hypothesis import strategies as st
from natnet.data_frame import DataFrame
from natnet.packet_buffer import PacketBuffer
from natnet.version import Version

from hgr_stream.skeleton import Float32, Side
from tests.hands import hand_joints
from tests.network_hands import (
    KNOWN_WITHOUT_TIPS,
    LOOPBACK,
    assert_same_hands,
    clapping,
    complaint,
    opened,
    read,
    refusal_to_open,
)
from tools.motive import Motive
from tools.senders import natnet_frame, natnet_model, natnet_server_info

HANDS: dict[Side, Float32] = {
    "left": hand_joints(side="left"),
    "right": hand_joints(side="right"),
}
VERSIONS = [(3, 0), (3, 1), (4, 1), (4, 2)]


def driver(server: Motive, **options: object) -> NatNetDriver:
    return NatNetDriver(NatNetOptions(command_port=server.port, **options))


def until_ready(device: NatNetDriver) -> None:
    for _ in range(100):
        device.read(0.02)
        if device.decoder.version is not None and not device.decoder.wants_model:
            return
    raise AssertionError("the server's answers did not come")


def decoder(version: tuple[int, int] = (3, 1), **options: object) -> NatNetDecoder:
    out = NatNetDecoder(**options)  # type: ignore[arg-type]
    out.push(natnet_server_info(version))
    out.push(natnet_model(("Fred", "Ann"), version))
    assert not out.wants_model
    return out


@pytest.mark.parametrize("version", VERSIONS)
def test_real_hands_arrive(shared_data: Path, version: tuple[int, int]) -> None:
    truth = clapping(shared_data)[::4]
    with Motive(version) as server, opened(driver(server)) as device:
        until_ready(device)
        samples = []
        for i, hands in enumerate(truth):
            server.send(natnet_frame([hands], 100 + i, i / 60, version))
            samples += read(device, 1)
        assert not any(n for k, n in device.counts().items() if k != "datagrams")
    assert_same_hands(samples, truth, KNOWN_WITHOUT_TIPS)
    assert {(h.id, h.side, h.lacks) for s in samples for h in s.hands} == {
        (1, "left", ("tips",)),
        (2, "right", ("tips",)),
    }
    assert [s.index for s in samples] == list(range(100, 100 + len(truth)))
    times_ns = [s.device_ns for s in samples if s.device_ns is not None]
    np.testing.assert_allclose(np.diff(times_ns), 1e9 / 60, atol=2)


def test_multicast(shared_data: Path) -> None:
    truth = clapping(shared_data)[:5]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    with Motive() as server, opened(driver(server, multicast=True, data_port=port)) as device:
        until_ready(device)
        samples = []
        for i, hands in enumerate(truth):
            server.send(natnet_frame([hands], i, i / 60), (natnet.GROUP, port))
            samples += read(device, 1)
        assert natnet.KEEP_ALIVE not in server.requests
    assert_same_hands(samples, truth, KNOWN_WITHOUT_TIPS)


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_are_read_as_the_package_reads_them(version: tuple[int, int]) -> None:
    packet = natnet_frame([HANDS, {"left": HANDS["left"]}], 77, 12.5, version, changed=True)
    ours = parse_frame(packet, 4, assets=version >= (4, 1))
    buffer = PacketBuffer(packet)
    buffer.pointer = 4
    reference = DataFrame.read_from_buffer(buffer, Version(*version))
    assert ours.number == reference.prefix.frame_number == 77
    assert ours.time_s == reference.suffix.timestamp == 12.5
    assert ours.models_changed is reference.suffix.tracked_models_changed is True
    assert [i for i, _ in ours.skeletons] == [s.id_num for s in reference.skeletons] == [1, 2]
    for (_, bones), skeleton in zip(ours.skeletons, reference.skeletons, strict=True):
        for mine, theirs in zip(bones, skeleton.rigid_bodies, strict=True):
            assert mine["id"] == theirs.id_num
            assert tuple(mine["position"]) == theirs.pos
            assert tuple(mine["rotation"]) == theirs.rot
            assert mine["flags"] & 1 == theirs.tracking_valid


def test_bones_relative_to_their_parents() -> None:
    sample = decoder(local=True).push(natnet_frame([HANDS], 1, 0.0, local=True))
    assert sample is not None
    assert_same_hands([sample], [HANDS], KNOWN_WITHOUT_TIPS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Fred_LHand", ("left", 0)), ("RHand", ("right", 0)), ("Fred_RightHand", ("right", 0)),
        ("Fred_LThumb1", ("left", 2)), ("Fred_RPinky3", ("right", 20)),
        ("LeftHandIndex2", ("left", 7)), ("Ann:RightHandLittle1", ("right", 18)),
        ("Fred_LeftHandMiddle4", None), ("Fred_Hip", None), ("Fred_LFArm", None),
        ("Fred_LeftInHandIndex", None), ("FullHand", None), ("", None),
    ],
)  # fmt: skip
def test_bone_names_of_both_conventions(name: str, expected: tuple[str, int] | None) -> None:
    assert bone_joint(name) == expected


def test_fbx_names_are_the_same_hand() -> None:
    out = NatNetDecoder()
    out.push(natnet_server_info())
    out.push(natnet_model(("Fred",), convention="fbx"))
    sample = out.push(natnet_frame([HANDS], 1, 0.0))
    assert sample is not None
    assert_same_hands([sample], [HANDS], KNOWN_WITHOUT_TIPS)


def test_skeletons_are_told_apart_and_chosen() -> None:
    frame = natnet_frame([HANDS, HANDS], 1, 0.0)
    sample = decoder().push(frame)
    assert sample is not None
    assert [(h.id, h.side) for h in sample.hands] == [
        (1, "left"), (2, "right"), (3, "left"), (4, "right"),
    ]  # fmt: skip
    sample = decoder(actor="Ann").push(frame)
    assert sample is not None
    assert len(sample.hands) == 2
    with pytest.raises(PacketError, match="no skeleton 'Bob'; there is Fred, Ann"):
        decoder(actor="Bob").push(frame)


def test_lost_frames_and_loops_are_counted() -> None:
    out = decoder()
    for number, time_s in ((1, 0.0), (2, 0.1), (5, 0.4), (6, 0.5), (1, 0.0), (2, 0.1)):
        out.push(natnet_frame([HANDS], number, time_s))
    assert out.counts == {"frames_lost": 2, "clock_loops": 1}


def test_skeleton_that_is_not_tracked_has_no_hands() -> None:
    out = decoder()
    sample = out.push(natnet_frame([HANDS], 1, 0.0, valid=False))
    assert sample is not None
    assert not sample.hands
    assert out.counts["hand_not_tracked"] == 2
    empty: Mapping[Side, Float32] = {}
    sample = out.push(natnet_frame([empty], 2, 0.0))
    assert sample is not None
    assert not sample.hands
    assert out.counts["hand_empty"] == 2


def test_models_are_asked_for_again_when_they_change() -> None:
    with Motive() as server, opened(driver(server)) as device:
        until_ready(device)
        server.names = ("Fred", "Ann")
        before = server.requests.count(natnet.REQUEST_MODEL)
        server.send(natnet_frame([HANDS], 1, 0.0, changed=True))
        read(device, 1)
        until_ready(device)
        assert server.requests.count(natnet.REQUEST_MODEL) > before
        server.send(natnet_frame([HANDS, HANDS], 2, 0.1))
        assert len(read(device, 1)[0].hands) == 4


def test_server_that_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natnet, "FORGOTTEN_S", 0.1)
    monkeypatch.setattr(natnet, "ASK_S", 0.05)
    with Motive() as server, opened(driver(server)) as device:
        until_ready(device)
        server.clients.clear()
        for _ in range(50):
            device.read(0.02)
            if server.clients:
                break
        server.send(natnet_frame([HANDS], 1, 0.0))
        assert len(read(device, 1)[0].hands) == 2


def test_a_server_that_has_another_address_now_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.05)
    address = "127.0.0.2"  # nobody is there
    monkeypatch.setattr(socket, "gethostbyname", lambda _: address)
    with (
        Motive() as server,
        opened(
            NatNetDriver(NatNetOptions(command_port=server.port, server="motive.local"))
        ) as device,
    ):
        fault = complaint(device, "no answer from a NatNet server at motive.local")
        assert not fault.waiting  # so that the runner opens it again
        address = LOOPBACK
        device.open()
        until_ready(device)
        server.send(natnet_frame([HANDS], 1, 0.0))
        assert_same_hands(read(device, 1), [HANDS], KNOWN_WITHOUT_TIPS)


def test_absent_server_and_one_that_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.2)
    monkeypatch.setattr(natnet, "KEEP_ALIVE_S", 60.0)
    with Motive() as server:
        port = server.port
        with opened(driver(server)) as device:
            until_ready(device)
            error = complaint(device, "Motive 3.0.0.0 at .* answers but sends no frames")
            assert "enable NatNet" in error.cure
    with opened(NatNetDriver(NatNetOptions(command_port=port))) as device:
        error = complaint(device, f"no answer from a NatNet server at 127.0.0.1:{port}")
        assert "Streaming settings" in error.cure


def test_skeleton_without_fingers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.1)
    with Motive() as server, opened(driver(server)) as device:
        server.fingers = False
        until_ready(device)
        frame = natnet_frame([HANDS], 1, 0.0)
        error = complaint(device, "skeleton Fred has no fingers", lambda: server.send(frame))
        assert "fingers in Motive" in error.cure


def test_find_names_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with Motive((4, 1)) as server:
        defaults = NatNetOptions(command_port=server.port)
        monkeypatch.setattr(natnet, "NatNetOptions", lambda: defaults)
        [found] = NatNetDriver.find()
        assert "Motive 3.0.0.0, NatNet 4.1" in found.description
    assert NatNetDriver.find() == []


def test_missing_package_and_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal_to_open(NatNetDriver(NatNetOptions(server="no.such.invalid")), "no machine")
    assert not error.fatal
    monkeypatch.setitem(sys.modules, "natnet.data_descriptions", None)
    error = refusal_to_open(NatNetDriver(NatNetOptions()), "needs the package natnet")
    assert error.fatal
    assert error.cure == 'pip install "hgr-stream[natnet]"'


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "not_natnet"),
        (b"\x07\x00\x10\x00", "bad_size"),
        (b"\x07\x00\x04\x00abcd", "broken"),
        (b"\x05\x00\x08\x00\x01\x00\x00\x00\x63\x00\x00\x00", "broken"),  # an unknown data set
        # Names without an end, four thousand million of them: the package's own buffer reads on.
        (b"\x05\x00\x0e\x00\x01\x00\x00\x00\x00\x00\x00\x00a\x00\xff\xff\xff\xff", "broken"),
    ],
)
def test_packets_that_are_refused(packet: bytes, reason: str) -> None:
    with pytest.raises(PacketError) as caught:
        decoder().push(packet)
    assert caught.value.reason == reason


def test_old_protocol_is_refused() -> None:
    with pytest.raises(PacketError, match=r"NatNet 2\.9.* is too old"):
        NatNetDecoder().push(natnet_server_info((2, 9)))


def test_frames_before_the_version_wait() -> None:
    out = NatNetDecoder()
    assert out.push(natnet_frame([HANDS], 1, 0.0)) is None
    assert out.counts == {"before_version": 1}


WHOLE = [natnet_server_info(), natnet_model(), natnet_frame([HANDS], 1, 0.0, markers=2)]


@given(
    st.lists(
        st.binary(max_size=80)
        | st.builds(
            lambda message, body: struct.pack("<HH", message, len(body)) + body,
            st.sampled_from([1, 5, 7, 8]),
            st.binary(max_size=120),
        )
        | st.builds(
            lambda which, at, new: (
                WHOLE[which][: 4 + at % (len(WHOLE[which]) - 4)]
                + new
                + WHOLE[which][4 + at % (len(WHOLE[which]) - 4) + len(new) :]
            ),
            st.integers(0, 2),
            st.integers(0, 5000),
            st.binary(min_size=1, max_size=4),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_any_packets_are_samples_or_refused(packets: list[bytes], local: bool) -> None:
    out = NatNetDecoder(local=local)
    for packet in [*WHOLE, *packets, WHOLE[2]]:
        try:
            sample = out.push(packet)
        except PacketError:
            continue
        for hand in sample.hands if sample else ():
            assert np.isfinite(hand.joints).all()
