"""What a source cannot see travels with its hands, and a model that needs it refuses them."""

from __future__ import annotations

import contextlib

import pytest

from hgr_stream.messages import Frame, Hand, Window, decode, encode, joint_bytes
from hgr_stream.pipeline import Pipeline
from hgr_stream.recognition.bundle import load
from hgr_stream.recognition.engine import Engine
from hgr_stream.recognition.recogniser import Recogniser
from hgr_stream.segmentation import Segmenter, WindowSpec
from hgr_stream.skeleton import Lack
from tests.daemon_process import Daemon, feeding, wait_until
from tests.hands import MS, frame, hand_joints
from tests.models import save_palm_model


def stroke(device: str, lacks: list[Lack]) -> list[Frame]:
    """Still, a stroke to the right, still: 25 Hz."""
    positions = [0.0] * 10 + [0.06 * i for i in range(8)] + [0.42] * 20
    return [
        frame(
            i,
            i * 40 * MS,
            [Hand(1, "right", joint_bytes(hand_joints(x)), lacks=lacks)],
            device=device,
        )
        for i, x in enumerate(positions)
    ]


def test_what_is_lacking_goes_from_frame_to_window() -> None:
    segmenter = Segmenter(WindowSpec(25.0, 1, 1))
    first = decode(Frame, encode(stroke("cam", ["depth", "tips"])[0]))
    windows = [w for f in stroke("cam", ["depth", "tips"]) for w in segmenter.push(f)]
    assert first.hands[0].lacks == ["depth", "tips"]
    assert windows
    assert all(decode(Window, encode(w)).lacks == ["depth", "tips"] for w in windows)


@pytest.mark.parametrize(("lacks", "told"), [(["depth"], "needs depth"), (["tips"], "")])
def test_a_model_refuses_what_lacks_its_need_by_name_and_no_other(tmp_path, lacks, told) -> None:
    """Two devices side by side: only the one that lacks something is refused."""
    pipeline = Pipeline(load(str(save_palm_model(tmp_path / "palm.pt"))))
    events = [
        event
        for flat, deep in zip(stroke("cam", lacks), stroke("leap", []), strict=True)
        for event in [*pipeline.push(flat), *pipeline.push(deep)]
    ]
    events += pipeline.finish()
    devices = {event.device for event in events if event.kind == "confirmed"}
    assert devices == ({"leap"} if told else {"leap", "cam"})
    if told:
        assert len(pipeline.engine.notices) == 1
        assert "cam" in pipeline.engine.notices[0]
        assert "'palm'" in pipeline.engine.notices[0]
        assert told in pipeline.engine.notices[0]
        assert pipeline.counts["windows_lacking_depth"] == 38
    else:
        assert not pipeline.engine.notices


def test_what_is_refused_for_a_lack_was_not_lost(tmp_path) -> None:
    """A hand that lacks something for a while, and one window that is lost indeed."""
    engine = Engine(load(str(save_palm_model(tmp_path / "palm.pt"))))
    segmenter = Segmenter(WindowSpec(25.0, 1, 1))
    frames = stroke("cam", [])
    for f in frames[5:15]:
        f.hands[0].lacks = ["depth"]
    windows = [w for f in frames for w in segmenter.push(f)]
    for w in windows[:20] + windows[21:]:
        engine.push([w])
    assert engine.counts["windows_lacking_depth"] == 10
    assert engine.counts["windows_lost"] == 1


@pytest.mark.parametrize("hop", [1, 4])
def test_what_is_remembered_of_a_hand_keeps_its_place_where_windows_are_missing(
    tmp_path, hop: int
) -> None:
    """The verifier sees the same of a hand, however many windows have come since."""
    bundle = load(str(save_palm_model(tmp_path / "palm.pt", hop=hop)))
    segmenter = Segmenter(WindowSpec(25.0, hop, hop))
    windows = [w for f in stroke("cam", []) for w in segmenter.push(f)]
    del windows[3:5]
    recogniser = Recogniser(bundle)
    recogniser.push(windows)
    state = recogniser._hands[("cam", "right")]
    xs = state.history[:, 0, 0]
    ticks = (windows[-1].time_ns - windows[0].time_ns) // windows[0].step_ns + hop
    assert len(xs) == ticks
    held = xs[3 * hop - 1 : 5 * hop]
    assert len(set(held.tolist())) == 1 < len(set(xs.tolist()))
    single = Recogniser(bundle)
    for w in windows:
        single.push([w])
    assert single.export_state("cam", "right") == recogniser.export_state("cam", "right")


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize(("lacking_s", "kinds"), [(0.2, ["confirmed"]), (0.4, ["cancelled"])])
def test_a_gesture_does_not_outlive_what_the_model_needs(
    tmp_path, lacking_s: float, kinds: list[str], size: int
) -> None:
    """A stroke in the middle of which the depth is lost; how windows come changes nothing."""
    bundle = load(str(save_palm_model(tmp_path / "palm.pt")))
    engine, segmenter = Engine(bundle), Segmenter(WindowSpec(25.0, 1, 1))
    xs = [0.0] * 10 + [0.06 * i for i in range(40)] + [2.34] * 20
    joints = [joint_bytes(hand_joints(x)) for x in xs]
    lacking = range(20, 20 + round(lacking_s * 25))
    frames = [
        frame(i, i * 40 * MS, [Hand(1, "right", j, lacks=["depth"] * (i in lacking))])
        for i, j in enumerate(joints)
    ]
    windows = [w for f in frames for w in segmenter.push(f)] + segmenter.finish()
    events = [e for k in range(0, len(windows), size) for e in engine.push(windows[k : k + size])]
    first = [e for e in events if e.id == events[0].id]
    assert [e.kind for e in first if e.kind in ("confirmed", "cancelled")] == kinds
    if kinds == ["cancelled"]:
        assert first[-1].reason == "lacks depth"
        # When the depth is back, the rest of the stroke is a gesture of its own.
        again = [e for e in events if e.id != first[0].id]
        assert again[0].kind == "begin"
        assert again[0].onset_ns >= frames[lacking[-1]].time_ns
        assert again[-1].kind == "confirmed"
    assert engine.counts["windows_lost"] == 0


def test_the_daemon_tells_of_hands_that_its_model_cannot_judge(tmp_path) -> None:
    model = save_palm_model(tmp_path / "palm.pt")
    config = f'[devices.cam]\ndriver = "synthetic"\n[model]\nuse = "{model}"\n'
    with contextlib.closing(Daemon(tmp_path, config)) as daemon, feeding(daemon) as feeder:
        feeder.send(stroke("flat", ["depth"]))
        wait_until(
            lambda: daemon.count("worker", "windows_lacking_depth") == 38, what="the worker's count"
        )
        assert "flat: model 'palm' needs depth" in daemon.text()
