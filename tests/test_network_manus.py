"""The Manus bridge: real hands in its text, pushed by a real ZeroMQ socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from hgr_drivers.network.manus import (
    FINGERS,
    MAX_MESSAGE_BYTES,
    SIDE_FRAMES,
    ManusDecoder,
    ManusDriver,
    ManusOptions,
    node_layout,
)
from hgr_drivers.network.packets import BACKLOG, PacketError
from hypothesis import given
from hypothesis import strategies as st

from tests.hands import hand_joints
from tests.network_hands import (
    LOOPBACK,
    assert_same_hands,
    by_side,
    clapping,
    complaint,
    opened,
    read,
    refusal_to_open,
)
from tools.senders import manus_message

LEFT, RIGHT = "60f3738b", "bccdf6ef"
HANDS = {"left": hand_joints(side="left"), "right": hand_joints(side="right")}
BOTH = manus_message([(LEFT, HANDS["left"]), (RIGHT, HANDS["right"])])
INTEGRATED = ("index", "middle", "pinky", "ring", "thumb")
MILLIMETRE_M = 0.0009  # the bridge writes three decimals: half of one on each axis


@contextmanager
def bridge() -> Iterator[tuple[zmq.Socket, str]]:
    """What SDKClient binds: a PUSH socket."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as out:
        out.setsockopt(zmq.LINGER, 0)
        yield out, f"tcp://{LOOPBACK}:{out.bind_to_random_port(f'tcp://{LOOPBACK}')}"


def driver(endpoint: str, **options: object) -> ManusDriver:
    return ManusDriver(ManusOptions(endpoint=endpoint, **options))


@pytest.mark.parametrize(
    ("fingers", "axes"), [(FINGERS, "unity"), (INTEGRATED, "z-up"), (FINGERS, "y-up")]
)
def test_real_hands_arrive(shared_data: Path, fingers: tuple, axes: str) -> None:
    truth = clapping(shared_data)[::4]
    options = {"left": LEFT.upper(), "right": RIGHT, "fingers": list(fingers), "axes": axes}
    with bridge() as (out, endpoint), opened(driver(endpoint, **options)) as device:
        for hands in truth:
            out.send(
                manus_message(
                    [(LEFT, hands["left"]), (RIGHT, hands["right"])], fingers=fingers, axes=axes
                )
            )
        samples = read(device, len(truth))
        assert device.counts() == {"messages": len(truth)}
    assert_same_hands(samples, truth, within_m=MILLIMETRE_M)
    assert {(h.id, h.side, h.lacks) for s in samples for h in s.hands} == {
        (1, "left", ()),
        (2, "right", ()),
    }
    assert {s.device_ns for s in samples} == {None}


def test_sides_that_are_not_configured_are_told_by_the_hands(shared_data: Path) -> None:
    decoder = ManusDecoder()
    sides = []
    for hands in clapping(shared_data):
        sample = decoder.push(manus_message([("aa", hands["right"]), ("bb", hands["left"])]))
        assert sample is not None
        sides.append(tuple(h.side for h in sample.hands))
    assert sides[0] == ("unknown", "unknown")
    assert sides[-1] == ("right", "left")
    assert sides.index(("right", "left")) < 4 * SIDE_FRAMES


def test_layouts_of_both_modes() -> None:
    remote, integrated = node_layout(FINGERS), node_layout(INTEGRATED)
    # The tips' nodes that the bridge's own scripts name for each mode.
    assert [remote[tip] for tip in (5, 9, 13, 17, 21)] == [4, 9, 14, 19, 24]
    assert [integrated[tip] for tip in (5, 9, 13, 17, 21)] == [24, 5, 10, 20, 15]
    with pytest.raises(PacketError, match="each of the five once"):
        node_layout(("thumb", "thumb", "middle", "ring", "pinky"))
    error = refusal_of_options(fingers=["thumb"])
    assert "thumb" in error


def refusal_of_options(**options: object) -> str:
    with pytest.raises(Exception, match="each of the five once") as caught:
        driver("tcp://127.0.0.1:1", **options)
    return str(getattr(caught.value, "cure", ""))


def test_one_glove_and_a_trailing_comma() -> None:
    decoder = ManusDecoder(right=RIGHT)
    sample = decoder.push(manus_message([(RIGHT, HANDS["right"])]) + b",\n")
    assert sample is not None
    np.testing.assert_allclose(by_side(sample)["right"].joints, HANDS["right"], atol=MILLIMETRE_M)


def test_angles_beside_the_skeleton_are_passed_over() -> None:
    decoder = ManusDecoder()
    assert decoder.push(",".join(["1.0"] * 40).encode()) is None
    assert decoder.counts == {"ergonomics": 1}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "bad_length"),
        (b"hello", "bad_length"),
        (",".join(["a", *["0.1"] * 30]).encode(), "bad_length"),  # the short skeleton
        (b"\xff" * 50, "not_text"),
        (BOTH.replace(b"0.", b"0x", 1), "bad_number"),
        (BOTH * 20, "bad_length"),
        (b"1" * (MAX_MESSAGE_BYTES + 1), "oversized"),
    ],
)
def test_messages_that_are_refused(message: bytes, reason: str) -> None:
    with pytest.raises(PacketError) as caught:
        ManusDecoder().push(message)
    assert caught.value.reason == reason


def test_hands_that_cannot_be_are_left_out() -> None:
    for number in ("nan", "inf", "1e300", "0"):
        decoder = ManusDecoder()
        sample = decoder.push(",".join([LEFT, *[number] * 175]).encode())
        assert sample is not None
        assert not sample.hands
        assert decoder.counts == {"hand_empty" if number == "0" else "hand_implausible": 1}


def test_bridge_that_comes_late_goes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.1)
    with bridge() as (_, endpoint):
        pass
    with opened(driver(endpoint)) as device:
        error = complaint(device, "no packet on tcp://")
        assert "start the Manus bridge" in error.cure
        assert error.waiting
        for _ in range(2):
            with zmq.Context() as context, context.socket(zmq.PUSH) as out:
                out.setsockopt(zmq.LINGER, 0)
                out.bind(endpoint)
                out.send(b"not a skeleton")
                out.send(BOTH)
                monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 10)
                read(device, 1)
        assert device.counts() == {"messages": 4, "refused_bad_length": 2}


def test_short_skeleton_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.1)
    short = ",".join([LEFT, *["0.1"] * 30]).encode()
    with bridge() as (out, endpoint), opened(driver(endpoint)) as device:
        error = complaint(device, "31 values, not 176", lambda: out.send(short))
        assert "full" in error.cure


def test_newest_are_kept_when_the_reader_was_away() -> None:
    with bridge() as (out, endpoint), opened(driver(endpoint, left=LEFT)) as device:
        out.send(BOTH)
        read(device, 1)
        for _ in range(3 * BACKLOG):
            out.send(BOTH)
        samples = 0
        while device.read(0.2) is not None:
            samples += 1
        assert samples + device.counts().get("overtaken", 0) == 3 * BACKLOG


def test_bad_endpoint_is_final() -> None:
    error = refusal_to_open(driver("gloves:8000"), "endpoint 'gloves:8000'")
    assert error.fatal
    assert "tcp://127.0.0.1:8000" in error.cure


VALUES = st.floats().map(str) | st.text("0123456789.,-e", max_size=6)


@given(
    st.binary(max_size=400)
    | st.lists(VALUES, min_size=8, max_size=8).map(lambda v: ",".join(v * 22).encode())
    | st.builds(
        lambda at, new: BOTH[:at] + new + BOTH[at + len(new) :],
        st.integers(0, len(BOTH) - 1),
        st.binary(min_size=1, max_size=6),
    )
)  # fmt: skip
def test_any_message_is_a_sample_or_refused(message: bytes) -> None:
    try:
        sample = ManusDecoder().push(message)
    except PacketError:
        return
    for hand in sample.hands if sample else ():
        assert np.isfinite(hand.joints).all()
