"""The config's word on gestures: thresholds, and which are told at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hgr_stream.config import Recognition
from hgr_stream.messages import Event
from hgr_stream.pipeline import Pipeline, run_recording
from hgr_stream.recognition.bundle import ModelError, load
from hgr_stream.recognition.choice import Choice, settings
from hgr_stream.recognition.engine import Engine
from hgr_stream.recognition.options import ClassOptions, DecoderOptions
from hgr_stream.segmentation import Segmenter, WindowSpec
from tests.hands import left_hands, swipe_frames
from tests.models import save_palm_model


def life(event_id: str, *steps: tuple[str, str]) -> list[Event]:
    return [
        Event(event_id, kind, label, "d", "right", "right", 0, i, 0.9)  # type: ignore[arg-type]
        for i, (kind, label) in enumerate(steps)
    ]


def told(asked: Recognition, events: list[Event]) -> list[tuple[str, str]]:
    choice = Choice(asked)
    return [(e.kind, e.label) for event in events for e in choice.of([event])]


def test_unwanted_gestures_are_not_told() -> None:
    events = life("a", ("begin", "V"), ("early", "V"), ("confirmed", "V"))
    events += life("b", ("begin", "TAP"), ("cancelled", "TAP"))
    assert told(Recognition(ignore=["V"]), events) == [("begin", "TAP"), ("cancelled", "TAP")]
    assert told(Recognition(allow=["V"]), events) == [
        ("begin", "V"), ("early", "V"), ("confirmed", "V"),
    ]  # fmt: skip
    assert told(Recognition(), events) == [(e.kind, e.label) for e in events]


def test_what_turns_out_unwanted_is_cancelled_and_what_turns_out_wanted_begins() -> None:
    asked = Recognition(ignore=["V"])
    turned = life("a", ("begin", "TAP"), ("update", "V"), ("early", "V"), ("confirmed", "V"))
    assert told(asked, turned) == [("begin", "TAP"), ("cancelled", "TAP")]
    other = life("b", ("begin", "V"), ("update", "TAP"), ("early", "TAP"), ("confirmed", "TAP"))
    assert told(asked, other) == [("begin", "TAP"), ("early", "TAP"), ("confirmed", "TAP")]
    (_, ended) = Choice(asked).of(turned)
    assert (ended.decided_ns, ended.offset_ns) == (2, 2)
    wavered = life("e", ("begin", "TAP"), ("update", "V"), ("update", "TAP"), ("confirmed", "TAP"))
    assert told(asked, wavered) == [("begin", "TAP"), ("confirmed", "TAP")]
    at_the_end = life("c", ("begin", "V"), ("confirmed", "TAP"))
    assert told(asked, at_the_end) == [("begin", "TAP"), ("confirmed", "TAP")]
    nothing = life("d", ("begin", "V"), ("cancelled", "TAP"))
    assert told(asked, nothing) == []


def test_thresholds_become_the_decoders_settings(tmp_path: Path) -> None:
    metadata = load(save_palm_model(tmp_path / "palm.pt")).metadata
    base = DecoderOptions(accept=0.2, early=0.7, per_class={"LEFT": ClassOptions(begin=0.6)})
    asked = Recognition(threshold={"LEFT": 0.9, "*": 0.4}, early=False, refractory_s=1.5, idle=0.33)
    got = settings(metadata, asked, base)
    assert (got.early_on, got.refractory_s, got.end) == (False, 1.5, 0.33)
    assert (got.of("LEFT", "accept"), got.of("LEFT", "early")) == (0.9, 0.9)
    assert (got.of("RIGHT", "accept"), got.of("RIGHT", "early")) == (0.4, 0.7)
    assert got.of("LEFT", "begin") == 0.6
    assert settings(metadata, Recognition(), base) == base
    for idle in (0.0, 0.61):
        with pytest.raises(ModelError, match=r"between 0 and 0\.6, at which"):
            settings(metadata, Recognition(idle=idle), msgspec.structs.replace(base, begin=0.7))
    with pytest.raises(ModelError, match=r"names 'JUMP', which model 'palm' does not know"):
        settings(metadata, Recognition(ignore=["JUMP"]), base)
    # "*" is of thresholds alone: allowed it would leave nothing, ignored everything.
    for every in (Recognition(allow=["*"]), Recognition(ignore=["*"])):
        with pytest.raises(ModelError, match=r"names '\*', which model 'palm' does not know"):
            settings(metadata, every, base)


@pytest.mark.parametrize(
    ("threshold", "kinds"),
    [
        ({}, ["begin", "early", "confirmed"]),
        ({"LEFT": 1.0}, ["begin", "early", "confirmed"]),
        ({"RIGHT": 1.0}, ["begin", "cancelled"]),
        ({"LEFT": 0.0, "*": 1.0}, ["begin", "cancelled"]),
    ],
)
def test_a_left_hands_threshold_is_that_of_the_gesture_that_is_told(
    tmp_path: Path, threshold: dict[str, float], kinds: list[str]
) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt", mirrors=True))
    pipeline = Pipeline(bundle, asked=Recognition(threshold=threshold))
    events, _ = run_recording(pipeline, left_hands(swipe_frames(1)))
    assert [(e.kind, e.label) for e in events] == [(kind, "RIGHT") for kind in kinds]


def test_the_models_own_settings_are_by_the_labels_of_the_mirrored_hand(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt", mirrors=True))
    for label, last in (("LEFT", "cancelled"), ("RIGHT", "confirmed")):
        own = msgspec.structs.replace(
            bundle.metadata.decoder, per_class={label: ClassOptions(sure=1.0)}
        )
        frames = left_hands(swipe_frames(1))
        events, _ = run_recording(Pipeline(bundle, options=own), frames)
        assert [e.label for e in events] == ["RIGHT"] * len(events)
        assert events[-1].kind == last


def test_the_engine_obeys_and_a_swapped_model_too(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    frames = swipe_frames(2)
    segmenter = Segmenter(WindowSpec(25, 1, 1))
    windows = [w for f in frames for w in segmenter.push(f)] + segmenter.finish()
    plain = Engine(bundle).push(windows)
    assert {e.label for e in plain} == {"RIGHT"}
    engine = Engine(bundle, asked=Recognition(ignore=["RIGHT"]))
    assert engine.push(windows) == []
    engine.swap(load(save_palm_model(tmp_path / "other.pt", name="other")))
    assert engine.push(windows) == []
    late = Engine(bundle, asked=Recognition(early=False)).push(windows)
    assert [e.kind for e in late] == ["begin", "confirmed"] * 2


def test_quiet_after_a_gesture_holds_for_a_hand_that_is_lost_and_found(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    for quiet_s, strokes in ((5.0, 2), (8.0, 1)):  # 6.4 s from stroke to stroke
        frames = swipe_frames(2)
        for f in frames[150:300]:
            f.hands = []
        events, _ = run_recording(Pipeline(bundle, asked=Recognition(refractory_s=quiet_s)), frames)
        assert [e.kind for e in events].count("confirmed") == strokes
    frames = swipe_frames(2)
    for f in frames[640:]:  # the clock was set back between the two
        f.time_ns -= 10_000_000_000
    events, _ = run_recording(Pipeline(bundle, asked=Recognition(refractory_s=8.0)), frames)
    assert [e.kind for e in events].count("confirmed") == 2


def test_an_id_is_not_used_again_by_a_model_that_takes_over_on_the_way(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    segmenter = Segmenter(WindowSpec(25, 1, 1))
    windows = [w for f in swipe_frames(2) for w in segmenter.push(f)] + segmenter.finish()
    engine = Engine(bundle)
    half = len(windows) // 2
    first = engine.push(windows[:half])
    engine.swap(load(save_palm_model(tmp_path / "other.pt", name="other")))
    second = engine.push(windows[half:])
    restarted = Engine(bundle).push(windows[half:])  # a worker that was started again
    assert [e.kind for e in first].count("confirmed") == 1
    assert {e.id for e in second} == {e.id for e in restarted} != set()
    assert not {e.id for e in first} & {e.id for e in second}
