"""Xsens MVN's datagrams: real hands in the true format, over a real socket."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.network import xsens
from hgr_drivers.network.packets import HandIds, PacketError
from hgr_drivers.network.xsens import XsensDecoder, XsensDriver, XsensOptions
from hypothesis import given
from hypothesis import strategies as st

from tests.hands import hand_joints
from tests.network_hands import (
    KNOWN_WITHOUT_TIPS,
    assert_same_hands,
    clapping,
    complaint,
    opened,
    read,
    send_and_read,
    sending_to,
)
from tools.senders import xsens_datagrams, xsens_name

HANDS = {"left": hand_joints(side="left"), "right": hand_joints(side="right")}
PARTS = xsens_datagrams(HANDS, 7, 100)


def driver(**options: object) -> XsensDriver:
    return XsensDriver(XsensOptions(port=0, **options))


@pytest.mark.parametrize(("up", "props", "parts"), [("z", 0, 2), ("y", 0, 1), ("z", 3, 3)])
def test_real_hands_arrive(shared_data: Path, up: str, props: int, parts: int) -> None:
    truth = clapping(shared_data)[::2]
    frames = [
        xsens_datagrams(hands, 1000 + i, 8 * i, up=up, props=props, parts=parts)
        for i, hands in enumerate(truth)
    ]
    if parts == 1:  # as the protocol's own example has it
        assert len(frames[0][0]) == 24 + 63 * 32
    with opened(driver(up=up)) as device:
        samples = send_and_read(device, frames, len(frames))
        counts = device.counts()
    assert counts["datagrams"] == len(frames) * parts
    assert not any(n for name, n in counts.items() if name != "datagrams")
    assert_same_hands(samples, truth, KNOWN_WITHOUT_TIPS)
    assert {(h.side, h.id, h.lacks) for s in samples for h in s.hands} == {
        ("left", 1, ("tips",)),
        ("right", 2, ("tips",)),
    }
    assert [s.index for s in samples] == list(range(1000, 1000 + len(truth)))
    times_ns = [s.device_ns for s in samples if s.device_ns is not None]
    assert np.diff(times_ns).tolist() == [8_000_000] * (len(truth) - 1)


def test_datagrams_out_of_order_and_twice() -> None:
    decoder = XsensDecoder()
    three = xsens_datagrams(HANDS, 1, 0, parts=3)
    assert decoder.push(three[2]) is None
    assert decoder.push(three[0]) is None
    assert decoder.push(three[0]) is None
    sample = decoder.push(three[1])
    assert sample is not None
    assert len(sample.hands) == 2
    assert decoder.push(three[1]) is None
    assert decoder.counts == {"frames_lost": 0, "datagram_late": 1}


def test_datagrams_that_are_lost_are_counted() -> None:
    decoder = XsensDecoder()
    samples = []
    for i in range(12):
        first, second = xsens_datagrams(HANDS, i, 8 * i)
        if i in (3, 4):  # half a sample each
            decoder.push(first if i == 3 else second)
        elif i not in (7, 8):  # and two lost wholly
            samples += [decoder.push(first), decoder.push(second)]
    assert [s.index for s in samples if s is not None] == [0, 1, 2, 5, 6, 9, 10, 11]
    assert decoder.counts == {"frames_lost": 4, "sample_incomplete": 2}
    # One of a sample given up comes too late; the sample in work stays whole.
    assert decoder.push(xsens_datagrams(HANDS, 20, 0)[0]) is None
    assert decoder.push(xsens_datagrams(HANDS, 19, 0)[1]) is None
    assert decoder.push(xsens_datagrams(HANDS, 20, 0)[1]) is not None
    assert decoder.counts["datagram_late"] == 1


def test_stream_at_a_quarter_of_the_rate_has_lost_nothing() -> None:
    decoder = XsensDecoder()
    for i in (0, 4, 8, 12, 20, 24, 2, 6):  # 16 is lost; then MVN starts anew
        for part in xsens_datagrams(HANDS, i, 0):
            decoder.push(part)
    assert decoder.counts == {"frames_lost": 1}


def test_time_code_that_does_not_run_or_runs_back() -> None:
    decoder = XsensDecoder()
    times = []
    for i, time_ms in enumerate((0, 0, 0, 8, 16, 0, 8)):
        for part in xsens_datagrams(HANDS, i, time_ms):
            if (sample := decoder.push(part)) is not None:
                times.append(sample.device_ns)
    assert times[:3] == [0, None, None]
    assert np.diff([t for t in times[3:] if t is not None]).tolist() == [8_000_000] * 3


def test_characters_are_told_apart_and_chosen() -> None:
    packets = [p for who in (0, 1) for p in xsens_datagrams(HANDS, 5, 40, character=who)]
    decoder = XsensDecoder()
    samples = [s for p in packets if (s := decoder.push(p)) is not None]
    assert [[h.id for h in s.hands] for s in samples] == [[1, 2], [3, 4]]
    for actor in ("1", "Ann"):
        chosen = XsensDecoder(actor=actor)
        chosen.push(xsens_name("Ann", 1))
        samples = [s for p in packets if (s := chosen.push(p)) is not None]
        assert [[h.id for h in s.hands] for s in samples] in ([[1, 2]], [[3, 4]])
        assert chosen.counts["other_actor"] == 2


def test_hand_without_data_is_no_hand() -> None:
    decoder = XsensDecoder()
    samples = [decoder.push(p) for p in xsens_datagrams({"right": HANDS["right"]}, 1, 0)]
    assert samples[1] is not None
    assert [h.side for h in samples[1].hands] == ["right"]
    assert decoder.counts["hand_empty"] == 1


@pytest.mark.parametrize(
    ("packet", "reason", "cure"),
    [
        (b"", "not_mvn", "Network Streamer"),
        (b"MXTP02", "not_mvn", "Network Streamer"),
        (xsens_datagrams(HANDS, 1, 0, kind=b"05")[0], "type_05", "Quaternion"),
        (xsens_datagrams(HANDS, 1, 0, kind=b"01")[0], "type_01", "Quaternion"),
        (xsens_datagrams(HANDS, 1, 0, fingers=False)[0], "no_fingers", "finger tracking"),
        (PARTS[0][:-1], "bad_size", ""),
        (PARTS[0] + b"\x00" * 32, "bad_size", ""),
        (PARTS[0][:10] + b"\x7f" + PARTS[0][11:], "bad_header", ""),
        (PARTS[0][:19] + b"\x29" + PARTS[0][20:], "bad_header", ""),
    ],
)
def test_packets_that_are_refused(packet: bytes, reason: str, cure: str) -> None:
    with pytest.raises(PacketError) as caught:
        XsensDecoder().push(packet)
    assert caught.value.reason == reason
    assert cure in caught.value.cure


def test_unity_protocol_is_refused_with_the_setting_that_cures_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.1)
    with opened(driver()) as device, sending_to(device) as send:
        unity = xsens_datagrams(HANDS, 1, 0, kind=b"05", parts=1)[0]
        error = complaint(device, "Unity3D protocol, which has no fingers", lambda: send(unity))
        assert "type 02" in error.cure
        assert error.waiting
        assert device.counts()["refused_type_05"] > 1
        # It goes on by itself once the setting is right, and beside that it does no harm.
        send(unity, *PARTS)
        assert len(read(device, 1)[0].hands) == 2


def test_silence_names_what_to_switch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.05)
    with opened(driver()) as device:
        assert "Network Streamer" in complaint(device, "no packet on UDP").cure


def test_a_sender_whose_address_changes_every_day_is_read_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HandIds, "GONE", 10)
    decoder = XsensDecoder()
    samples = [xsens_datagrams(HANDS, counter, 100) for counter in range(6)]
    for day in range(3 * xsens.MAX_CHARACTERS):
        number = day % xsens.MAX_CHARACTERS
        for parts in samples:
            _, whole = (decoder.push(part, sender=f"fe80::{day}") for part in parts)
            assert [hand.id for hand in whole.hands] == [2 * number + 1, 2 * number + 2]
    assert len(decoder._characters) == xsens.MAX_CHARACTERS


def test_memory_stays_bounded() -> None:
    decoder = XsensDecoder()
    refused = Counter[str]()
    for i in range(3000):
        data = bytearray(PARTS[i % 2])
        struct.pack_into(">I", data, 6, i)
        data[16] = i % 200
        try:
            decoder.push(bytes(data), sender=f"10.0.0.{i % 250}")
        except PacketError as error:
            refused[error.reason] += 1
    assert refused.keys() == {"too_many_hands"}
    assert refused.total() > 2000
    assert len(decoder._characters) <= xsens.MAX_CHARACTERS


HEADERS = st.builds(
    xsens.HEADER.pack,
    st.sampled_from([b"MXTP02", b"MXTP02", b"MXTP12", b"MXTP05", b"MXTP25", b"MXTPxx"]),
    st.integers(0, 3), st.sampled_from([0, 1, 0x80, 0x81, 0xFF]), st.integers(0, 63),
    st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(0, 255), st.integers(0, 255),
    st.sampled_from([0, 40, 40, 41]), st.integers(0, 9), st.integers(0, 2048),
)  # fmt: skip


@given(
    st.lists(
        st.binary(max_size=100)
        | st.builds(lambda head, body: head + body, HEADERS, st.binary(max_size=64))
        | st.builds(lambda head, n: head + bytes(32 * n), HEADERS, st.integers(0, 63))
        | st.builds(
            lambda at, new, part: PARTS[part][:at] + new + PARTS[part][at + len(new) :],
            st.integers(0, 1000), st.binary(min_size=1, max_size=4), st.integers(0, 1),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_datagrams_are_samples_or_refused(packets: list[bytes]) -> None:
    decoder = XsensDecoder()
    for packet in packets:
        try:
            sample = decoder.push(packet)
        except PacketError:
            continue
        for hand in sample.hands if sample else ():
            assert np.isfinite(hand.joints).all()
