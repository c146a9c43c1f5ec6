"""The wire: what is encoded comes back, any library reads it, and nothing else gets in."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgr_stream.messages import (
    MAX_MESSAGE_BYTES,
    Event,
    Frame,
    Hand,
    MessageError,
    Status,
    Truth,
    Window,
    decode,
    encode,
    joint_bytes,
)
from hgr_stream.stream import topics
from tests.hands import frame, hand_joints

EVENT = Event("t:1", "confirmed", "LEFT", "leap", "right", "right", 10, 30, 0.9, offset_ns=20)


def test_round_trip_is_exact() -> None:
    joints = hand_joints(0.1, 0.2, 0.3)
    sent = frame(3, 12345, joints)
    got = decode(Frame, encode(sent))
    assert got == sent
    np.testing.assert_array_equal(got.hands[0].array(), joints)
    assert decode(Event, encode(EVENT)) == EVENT


def test_any_messagepack_library_reads_a_frame() -> None:
    joints = hand_joints()
    fields = msgpack.unpackb(encode(frame(3, 12345, joints)))
    assert fields["device"] == "test"
    assert fields["time_ns"] == 12345
    read = np.frombuffer(fields["hands"][0]["joints"], "<f4").reshape(22, 3)
    np.testing.assert_array_equal(read, joints)


def test_a_later_version_may_append_fields() -> None:
    fields = msgpack.unpackb(encode(frame(3, 12345, hand_joints())))
    fields["something_new"] = {"x": 1}
    assert decode(Frame, msgpack.packb(fields)).seq == 3


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: {**f, "v": 2}, "version 2"),
        (lambda f: {**f, "seq": "three"}, "seq"),
        (lambda f: {k: v for k, v in f.items() if k != "boot_id"}, "boot_id"),
        (lambda f: {**f, "hands": [{**f["hands"][0], "joints": b"x" * 263}]}, "263 joint bytes"),
        (lambda f: {**f, "hands": [{**f["hands"][0], "side": "middle"}]}, "side"),
        (lambda f: {**f, "hands": f["hands"] * 300}, "300 hands"),
        (lambda f: [1, 2, 3], "malformed"),
    ],
)
def test_a_wrong_frame_is_refused_by_name(spoil, text: str) -> None:
    fields = spoil(msgpack.unpackb(encode(frame(3, 12345, hand_joints()))))
    with pytest.raises(MessageError, match=text):
        decode(Frame, msgpack.packb(fields))


def test_truncated_oversized_and_random_bytes() -> None:
    data = encode(frame(3, 12345, hand_joints()))
    for cut in range(len(data)):
        with pytest.raises(MessageError):
            decode(Frame, data[:cut])
    with pytest.raises(MessageError, match="oversized"):
        decode(Frame, b"\x00" * (MAX_MESSAGE_BYTES + 1))
    with pytest.raises(MessageError):  # nested deeper than any stack
        decode(Frame, b"\x91" * 100_000)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.sampled_from([Frame, Window, Event, Truth, Status]))
def test_no_bytes_do_worse_than_an_error(data: bytes, kind: type) -> None:
    try:
        message = decode(kind, data)
    except MessageError:
        return
    assert isinstance(message, kind)


def test_a_window_without_joints_must_say_that_its_track_ended() -> None:
    window = Window("d", "right", "right", "t.1", 0, 0, 40, 0, b"")
    with pytest.raises(MessageError, match="window"):
        decode(Window, encode(window))
    window.ended = "lost"
    assert decode(Window, encode(window)).ended == "lost"


def test_topics_name_what_they_carry() -> None:
    window = Window("d", "right.2", "right", "t.1", 0, 0, 40, 1, joint_bytes(hand_joints()))
    status = Status("worker", "b", "up", 0, 0)
    truth = Truth("d", "right", "LEFT", 0, 1)
    shown = {topics.of(m): m for m in (frame(0, 0, None), window, EVENT, status, truth)}
    assert list(shown) == [
        "frame/test", "window/d/right.2", "gesture/leap/right/LEFT", "status/worker", "truth/d",
    ]  # fmt: skip
    for topic, message in shown.items():
        assert topics.message_type(topic) is type(message)
    assert topics.message_type("somebody/else") is None
    assert isinstance(frame(0, 0, hand_joints()).hands[0], Hand)
