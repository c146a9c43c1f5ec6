"""Leap JSON messages: what they mean, and what each kind of damage costs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leap_frames import FIELDS, finger, frame, hand

from hgr_stream.datasets import leap_json
from hgr_stream.datasets.leap_json import (
    DeviceState,
    LeapFrame,
    LeapJsonError,
    ServiceVersion,
    decode_message,
)
from hgr_stream.skeleton import FINGERS, JOINTS, PALM, bone_lengths, mirrored


def decoded(message: object) -> LeapFrame:
    result = decode_message(json.dumps(message))
    assert isinstance(result, LeapFrame)
    return result


def test_every_joint_comes_from_its_field_in_metres() -> None:
    made = frame((7, "right"), index=42, timestamp_us=123_456)
    result = decoded(made)
    assert (result.device_ns, result.index, result.refused) == (123_456_000, 42, [])
    [got] = result.hands
    assert (got.id, got.side, got.confidence) == (7, "right", 0.75)
    assert got.joints.shape == (22, 3)
    assert got.joints.dtype == np.float32
    np.testing.assert_allclose(got.joints[0], [0.007, 0.195, 0.080], atol=1e-7)
    for name, pointable in zip(FINGERS, made["pointables"], strict=True):
        for part, field in zip(("base", "first", "second", "tip"), FIELDS, strict=True):
            expected = np.array(pointable[field]) / 1000
            np.testing.assert_allclose(
                got.joints[JOINTS.index(f"{name}_{part}")], expected, atol=1e-7
            )
    middle = got.joints[JOINTS.index("middle_base")]
    np.testing.assert_allclose(got.joints[PALM], (got.joints[0] + middle) / 2, atol=1e-7)


@pytest.fixture
def gemini(shared_data: Path) -> dict[str, Any]:
    path = shared_data / "devices/leap_wire/gemini_ws_two_hands.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_gemini_frame_has_two_plausible_hands(gemini: dict[str, Any]) -> None:
    result = decoded(gemini)
    assert result.device_ns == gemini["timestamp"] * 1000
    assert [(h.id, h.side) for h in result.hands] == [(280, "right"), (281, "left")]
    assert result.estimated_wrists == 0
    for got in result.hands:
        lengths_mm = 1000 * bone_lengths(got.joints)
        assert 10 < lengths_mm.min() < 25
        assert 90 < lengths_mm.max() < 110
        by_id = {p["type"]: p for p in gemini["pointables"] if p["handId"] == got.id}
        for kind, name in enumerate(FINGERS):
            np.testing.assert_allclose(
                got.joints[JOINTS.index(f"{name}_tip")] * 1000,
                by_id[kind]["btipPosition"],
                atol=1e-3,
            )


def test_order_of_the_pointables_is_arbitrary(gemini: dict[str, Any]) -> None:
    before = decoded(gemini)
    for seed in range(5):
        random.Random(seed).shuffle(gemini["pointables"])
        after = decoded(gemini)
        for a, b in zip(before.hands, after.hands, strict=True):
            np.testing.assert_array_equal(a.joints, b.joints)


def test_a_missing_wrist_is_placed_within_2_mm_and_counted(gemini: dict[str, Any]) -> None:
    true = decoded(gemini)
    for one in gemini["hands"]:
        del one["wrist"]
    estimated = decoded(gemini)
    assert estimated.estimated_wrists == 2
    for a, b in zip(true.hands, estimated.hands, strict=True):
        assert np.linalg.norm(a.joints[0] - b.joints[0]) < 0.002
        np.testing.assert_array_equal(a.joints[2:], b.joints[2:])


def test_a_missing_wrist_is_mirrored_with_the_hand() -> None:
    right = frame((0, "right"), wrist=False)
    left = json.loads(json.dumps(right))
    left["hands"][0]["type"] = "left"
    for vectors in (*left["hands"], *left["pointables"]):
        for value in vectors.values():
            if isinstance(value, list):
                value[0] = -value[0]
    np.testing.assert_allclose(
        decoded(left).hands[0].joints, mirrored(decoded(right).hands[0].joints), atol=1e-6
    )


def test_fields_of_older_services() -> None:
    made = frame((7, "right"))
    for pointable in made["pointables"]:
        del pointable["type"]  # packed recordings: told by the id
        pointable["tipPosition"] = pointable.pop("btipPosition")  # SDK 2 betas
    np.testing.assert_array_equal(
        decoded(made).hands[0].joints, decoded(frame((7, "right"))).hands[0].joints
    )


def test_numbers_written_as_strings_are_numbers() -> None:
    def quoted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: quoted(item) for key, item in value.items()}
        if isinstance(value, list):
            return [quoted(item) for item in value]
        return value if isinstance(value, str) else str(value).lower()

    plain, strings = decoded(frame((7, "left"))), decoded(quoted(frame((7, "left"))))
    assert strings.device_ns == plain.device_ns
    np.testing.assert_array_equal(strings.hands[0].joints, plain.hands[0].joints)


def spoil(made: dict[str, Any], how: str) -> None:
    """Damage the first of two hands."""
    first, thumb = made["hands"][0], made["pointables"][0]
    if how == "finger missing":
        del made["pointables"][3]
    elif how == "finger twice":
        made["pointables"][3]["type"] = 2
    elif how == "joint missing":
        del thumb["pipPosition"]
    elif how == "joint null":
        thumb["pipPosition"] = None
    elif how == "joint short":
        thumb["pipPosition"] = [1.0, 2.0]
    elif how == "joint of words":
        thumb["pipPosition"] = ["a", "b", "c"]
    elif how == "wrist short":
        first["wrist"] = [1.0]
    elif how == "hand is no object":
        made["hands"][0] = 5
    elif how == "id is an object":
        first["id"] = {}
    elif how == "NaN":
        thumb["dipPosition"][1] = float("nan")
    elif how == "infinite wrist":
        first["wrist"][2] = float("inf")
    elif how == "huge":
        thumb["dipPosition"][1] = 1e300
    elif how == "huge integer":
        thumb["dipPosition"][1] = 10**400
    elif how == "NaN confidence":
        first["confidence"] = float("nan")
    elif how == "NaN direction, no wrist":
        del first["wrist"]
        first["direction"] = [float("nan")] * 3
    elif how == "neither wrist nor direction":
        del first["wrist"], first["direction"]
    elif how == "no bones":
        for pointable in made["pointables"][:5]:
            for name in FIELDS:
                del pointable[name]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("finger missing", leap_json.INCOMPLETE),
        ("finger twice", leap_json.INCOMPLETE),
        ("joint missing", leap_json.INCOMPLETE),
        ("joint null", leap_json.INCOMPLETE),
        ("joint short", leap_json.MALFORMED),
        ("joint of words", leap_json.MALFORMED),
        ("wrist short", leap_json.MALFORMED),
        ("hand is no object", leap_json.MALFORMED),
        ("id is an object", leap_json.MALFORMED),
        ("NaN", leap_json.NOT_FINITE),
        ("infinite wrist", leap_json.NOT_FINITE),
        ("huge", leap_json.NOT_FINITE),
        ("huge integer", leap_json.MALFORMED),
        ("NaN confidence", leap_json.NOT_FINITE),
        ("NaN direction, no wrist", leap_json.NOT_FINITE),
        ("neither wrist nor direction", leap_json.INCOMPLETE),
        ("no bones", leap_json.NO_BONES),
    ],
)
def test_a_bad_hand_costs_neither_the_other_nor_the_frame(how: str, reason: str) -> None:
    made = frame((7, "right"), (8, "left"), index=9)
    spoil(made, how)
    result = decoded(made)
    assert result.index == 9
    assert result.refused == [reason]
    [good] = result.hands
    assert (good.id, good.side) == (8, "left")
    np.testing.assert_array_equal(good.joints, decoded(frame((8, "left"))).hands[0].joints)


def test_sdk_1_hand_without_any_finger_has_no_bones() -> None:
    made = frame((7, "right"), wrist=False)
    made["pointables"] = []
    assert decoded(made).refused == [leap_json.NO_BONES]


def test_two_hands_of_one_id_are_refused() -> None:
    assert decoded(frame((7, "right"), (7, "left"))).refused == [leap_json.INCOMPLETE] * 2


def test_tools_are_not_fingers() -> None:
    made = frame((7, "right"))
    made["pointables"].insert(0, {**finger(7, 1), "tool": True, "length": 120.0})
    assert len(decoded(made).hands) == 1


def test_side_that_is_not_told_is_unknown_and_confidence_stays_in_range() -> None:
    made = frame((7, "right"), (8, "left"))
    del made["hands"][0]["type"]
    made["hands"][0]["confidence"] = 3.0
    made["hands"][1]["confidence"] = -1.0
    assert [(h.side, h.confidence) for h in decoded(made).hands] == [
        ("unknown", 1.0),
        ("left", 0.0),
    ]


def test_more_hands_than_anyone_has_are_refused_and_counted() -> None:
    made = frame((7, "right"))
    made["hands"] += [hand(1000 + i, "left") for i in range(leap_json.MAX_HANDS + 3)]
    result = decoded(made)
    assert len(result.hands) == 1
    assert result.refused.count(leap_json.TOO_MANY) == 4


def test_messages_that_are_no_frames(shared_data: Path) -> None:
    wire = shared_data / "devices/leap_wire"
    versions = [decode_message(x) for x in (wire / "version_messages.jsonl").open()]
    assert versions == [ServiceVersion(6, "2.3.1+33747"), ServiceVersion(6)]
    events = [decode_message(x) for x in (wire / "device_events.jsonl").open()]
    assert events == [
        DeviceState(True, True, "LP95597022824", "Peripheral"),
        DeviceState(False, False, "NNNNNNNNNNN", "peripheral"),
    ]
    assert decode_message('{"event":{"type":"focusEvent"}}') is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[1, 2]",
        "null",
        "{}",
        '{"id": 1, "hands": []}',
        '{"timestamp": "now"}',
        '{"timestamp": 1e300}',
        '{"timestamp": 1, "hands": 5}',
        '{"timestamp": 1, "pointables": {"a": 1}}',
        '{"timestamp": 99999999999999999999999999}',
        '{"timestamp": 1, "id": 1',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_other_messages_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(LeapJsonError) as caught:
        decode_message(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


WORDS = st.text("ab1-", max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=5,
)


@settings(deadline=None)
@given(data=st.data())
def test_any_field_may_hold_anything(data: st.DataObject) -> None:
    made = frame((7, "right"), (8, "left"))
    targets = [made, made["hands"][0], made["pointables"][0]]
    for target in targets:
        for key in data.draw(st.lists(st.sampled_from(sorted(target)), max_size=2)):
            target[key] = data.draw(JSON)
    try:
        result = decode_message(json.dumps(made))
    except LeapJsonError:
        return
    if isinstance(result, LeapFrame):
        assert all(np.isfinite(h.joints).all() and 0 <= h.confidence <= 1 for h in result.hands)
        assert abs(result.device_ns) < 2**63


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_noise_is_refused(noise: bytes | str) -> None:
    try:
        result = decode_message(noise)
    except LeapJsonError:
        return
    assert result is None or isinstance(result, LeapFrame | ServiceVersion | DeviceState)
