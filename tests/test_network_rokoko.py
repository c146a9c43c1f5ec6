"""Rokoko Studio's JSON: real hands in the true format, over a real socket."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from hgr_drivers.network import rokoko
from hgr_drivers.network.packets import PacketError
from hgr_drivers.network.rokoko import RokokoDecoder, RokokoDriver, RokokoOptions
from hypothesis import given
from hypothesis import strategies as st

from tests.hands import hand_joints
from tests.network_hands import (
    assert_same_hands,
    by_side,
    clapping,
    complaint,
    opened,
    read,
    send_and_read,
    sending_to,
)
from tools.senders import rokoko_packet

HANDS = {"left": hand_joints(side="left"), "right": hand_joints(side="right")}
PACKET = rokoko_packet({"Ann": HANDS}, 1.0, lz4=False)


def driver(**options: object) -> RokokoDriver:
    return RokokoDriver(RokokoOptions(port=0, **options))


@pytest.mark.parametrize(("version", "packed"), [(3, True), (3, False), (2.5, True), (2, False)])
def test_real_hands_arrive(shared_data: Path, version: float, packed: bool) -> None:
    truth = clapping(shared_data)[::2]
    frames = [
        [rokoko_packet({"Ann": hands}, i / 60, version=version, fps=60, lz4=packed)]
        for i, hands in enumerate(truth)
    ]
    with opened(driver()) as rokoko_driver:
        samples = send_and_read(rokoko_driver, frames, len(frames))
        assert rokoko_driver.counts() == {"datagrams": len(frames)}
    assert_same_hands(samples, truth)
    assert {hand.lacks for s in samples for hand in s.hands} == {()}
    assert {(hand.side, hand.id) for s in samples for hand in s.hands} == {
        ("left", 1),
        ("right", 2),
    }
    times_ns = [s.device_ns for s in samples if s.device_ns is not None]
    np.testing.assert_allclose(np.diff(times_ns), 1e9 / 60, atol=2)


def test_several_actors_are_several_hands() -> None:
    packet = rokoko_packet({"Ann": HANDS, "Bob": HANDS, "Cy": {"left": HANDS["left"]}}, 1.0)
    sample = RokokoDecoder().push(packet)
    assert sample is not None
    assert [(h.id, h.side) for h in sample.hands] == [
        (1, "left"), (2, "right"), (3, "left"), (4, "right"), (5, "left"),
    ]  # fmt: skip
    chosen = RokokoDecoder(actor="Bob")
    sample = chosen.push(packet)
    assert sample is not None
    assert by_side(sample).keys() == {"left", "right"}
    assert chosen.counts == {"other_actor": 2}


def test_actor_keeps_its_ids_when_others_come_and_go() -> None:
    decoder = RokokoDecoder()
    scenes = [{"Ann": HANDS, "Bob": HANDS}, {"Bob": HANDS}, {"Bob": HANDS, "Ann": HANDS}]
    ids = [
        [h.id for h in sample.hands]
        for scene in scenes
        if (sample := decoder.push(rokoko_packet(scene, 0.0))) is not None
    ]
    assert ids == [[1, 2, 3, 4], [3, 4], [3, 4, 1, 2]]


def test_body_without_gloves_says_what_it_lacks() -> None:
    sample = RokokoDecoder().push(rokoko_packet({"Ann": HANDS}, 1.0, gloves=False))
    assert sample is not None
    assert [h.lacks for h in sample.hands] == [("fingers",), ("fingers",)]


def test_clip_that_loops_runs_on() -> None:
    decoder = RokokoDecoder()
    times_s = [5.0, 5.1, 5.2, 5.3, 5.0, 5.1, 5.2, 5.3, 5.0]
    samples = [decoder.push(rokoko_packet({"A": HANDS}, t, fps=10)) for t in times_s]
    got_ns = [s.device_ns for s in samples if s is not None and s.device_ns is not None]
    np.testing.assert_allclose(np.diff(got_ns), 1e8, atol=10)
    assert decoder.counts == {"clock_loops": 2}


def test_clock_that_stands_still_is_no_clock() -> None:
    decoder = RokokoDecoder()
    samples = [decoder.push(rokoko_packet({"A": HANDS}, 0.0)) for _ in range(4)]
    assert [s.device_ns for s in samples if s is not None] == [0, None, None, None]
    no_clock = RokokoDecoder(timestamp_unit="none").push(rokoko_packet({"A": HANDS}, 3.0))
    assert no_clock is not None
    assert no_clock.device_ns is None


def test_frames_that_are_missing_are_counted() -> None:
    decoder = RokokoDecoder()
    for i in (0, 1, 2, 6, 7, 9):
        decoder.push(rokoko_packet({"A": HANDS}, i / 60, fps=60))
    assert decoder.counts == {"frames_lost": 4}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"hello", "not_json"),
        (b"", "not_json"),
        (b'{"version":3', "bad_json"),
        (b'{"version":3,"scene":5}', "bad_json"),
        (b"{}", "no_scene"),
        (b'{"version":1.0,"actors":[]}', "old_version"),
        (b'{"version":"1,0","actors":[]}', "old_version"),
        (b"\x04\x22\x4d\x18rubbish", "bad_lz4"),
        (lz4.frame.compress(PACKET)[:-30], "bad_lz4"),
        (lz4.frame.compress(b" " * (rokoko.MAX_JSON_BYTES + 1)), "bad_lz4"),
        (b'{"scene":' + b"[" * 50_000, "bad_json"),
    ],
)
def test_packets_that_are_refused(packet: bytes, reason: str) -> None:
    with pytest.raises(PacketError) as caught:
        RokokoDecoder().push(packet)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_hands_that_cannot_be_are_left_out() -> None:
    scene = json.loads(PACKET)
    body = scene["scene"]["actors"][0]["body"]
    decoder = RokokoDecoder()
    del body["leftIndexTip"]
    body["rightIndexTip"]["position"]["x"] = 1e9
    sample = decoder.push(json.dumps(scene).encode())
    assert sample is not None
    assert not sample.hands
    for joint in body.values():
        joint["position"] = {"x": 0, "y": 0, "z": 0}
    decoder.push(json.dumps(scene).encode())
    assert decoder.counts == {"hand_incomplete": 2, "hand_implausible": 1, "hand_empty": 1}


def test_heading_turns_about_the_vertical() -> None:
    sample = RokokoDecoder(heading_deg=90).push(PACKET)
    assert sample is not None
    turned = by_side(sample)["right"].joints
    x, y, z = HANDS["right"].T
    np.testing.assert_allclose(turned, np.stack([z, y, -x], axis=-1), atol=1e-6)


def test_bad_packets_are_counted_and_the_next_one_is_read() -> None:
    with opened(driver()) as device, sending_to(device) as send:
        send(b"rubbish", b"\x04\x22\x4d\x18", PACKET[:100], PACKET)
        [sample] = read(device, 1)
        assert len(sample.hands) == 2
        assert device.counts() == {
            "datagrams": 4,
            "refused_not_json": 1,
            "refused_bad_lz4": 1,
            "refused_bad_json": 1,
        }


def test_missing_lz4_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = rokoko_packet({"A": HANDS}, 0.0, lz4=True)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(PacketError) as caught:
        RokokoDecoder().push(packed)
    assert 'pip install "hgr-stream[rokoko]"' in caught.value.cure
    assert RokokoDecoder().push(PACKET) is not None


def test_silence_names_what_to_switch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.05)
    with opened(driver()) as device:
        error = complaint(device, r"no packet on UDP 127\.0\.0\.1:\d+")
    assert "Custom Streaming" in error.cure
    assert 'host = "0.0.0.0"' in error.cure


KEYS = ["version", "fps", "scene", "timestamp", "actors", "name", "meta", "body", "position"]
KEYS += ["leftHand", "rightHand", "x", "y", "z"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_sample_or_refused(data: bytes) -> None:
    for packet in (data, lz4.frame.compress(data)):
        try:
            sample = RokokoDecoder().push(packet)
        except PacketError:
            continue
        assert sample is not None
        assert all(np.isfinite(hand.joints).all() for hand in sample.hands)


@given(st.integers(0, len(PACKET) - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_any_change_of_a_packet_is_a_sample_or_refused(at: int, new: bytes, packed: bool) -> None:
    packet = lz4.frame.compress(PACKET) if packed else PACKET
    at %= len(packet)
    decoder = RokokoDecoder()
    try:
        sample = decoder.push(packet[:at] + new + packet[at + len(new) :])
    except PacketError:
        return
    assert sample is not None
    assert len(sample.hands) <= 2
    assert all(np.isfinite(hand.joints).all() for hand in sample.hands)
