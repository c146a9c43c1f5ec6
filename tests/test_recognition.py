"""The model file, the causal network in its two forms, the recogniser and the engine."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import save_palm_model
from torch import nn

from hgr_stream.datasets.shrec21 import load_shrec21
from hgr_stream.messages import Window, joint_bytes
from hgr_stream.recognition import bundle, causal, segments
from hgr_stream.recognition.bundle import ModelError
from hgr_stream.recognition.engine import Engine
from hgr_stream.recognition.options import (
    FORMAT,
    ClassOptions,
    DecoderOptions,
    Metadata,
    mirror_pairs,
)
from hgr_stream.recognition.recogniser import HandState, Recogniser, rounds
from hgr_stream.recognition.steppers import Scripted
from hgr_stream.skeleton import Float32, mirrored, with_palm
from hgr_stream.training.metrics import score
from hgr_stream.training.streams import on_grid, to_streams
from hgr_stream.training.validate import spans, truths

CLASSES = 3
LABELS = ["CIRCLE", "LEFT", "ONE"]
STEP_NS = 40_000_000


def motion(frames: int, seed: int = 0) -> Float32:
    """A made-up hand that moves smoothly in front of the sensor: (frames, 22, 3)."""
    rng = np.random.default_rng(seed)
    shape = rng.uniform(-0.08, 0.08, (22, 3))
    path = np.cumsum(rng.normal(0, 0.01, (frames, 1, 3)), 0) + np.array([0, 0.2, 0.1])
    fingers = np.cumsum(rng.normal(0, 0.002, (frames, 22, 3)), 0)
    return with_palm((shape + path + fingers).astype(np.float32))


def random_pair(seed: int = 0) -> tuple[causal.CausalNet, segments.SegmentVerifier]:
    """An untrained network and verifier whose batch norms are not the identity."""
    torch.manual_seed(seed)
    net = causal.CausalNet(CLASSES, width=24, dilations=(1, 2, 4, 8))
    verifier = segments.SegmentVerifier(CLASSES, 25.0, width=8)
    for module in (*net.modules(), *verifier.modules()):
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():  # sure of itself, so that events come of it
        net.head.weight[: 1 + CLASSES] *= 12
    return net.eval(), verifier.eval()


def metadata(**changes: object) -> Metadata:
    base = Metadata(FORMAT, "tiny", "streaming", LABELS, 25.0, 1, 1)
    return msgspec.structs.replace(base, **changes)


@pytest.fixture(scope="module")
def pair() -> tuple[causal.CausalNet, segments.SegmentVerifier]:
    return random_pair()


@pytest.fixture(scope="module")
def tiny(pair, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    options = DecoderOptions(
        begin=0.4, early=0.45, min_duration_s=0.04, boundary_delay_s=0.24, accept=0.1
    )
    bundle.save(causal.export(*pair), metadata(decoder=options), path)
    return path


def windows(
    joints: Float32, track: str = "t", hand: str = "right", side: str = "right", hop: int = 1
) -> list[Window]:
    out = []
    for k in range(len(joints) // hop):
        last = (k + 1) * hop - 1
        part = joint_bytes(joints[k * hop : last + 1])
        at = last * STEP_NS
        out.append(
            Window("d", hand, side, track, k, at, STEP_NS, hop, part, k, at + 7, at + 9)  # type: ignore[arg-type]
        )
    return out


def ending(track: str = "t", hand: str = "right", reason: str = "end", at: int = 1 << 40) -> Window:
    return Window("d", hand, "right", track, 0, at, STEP_NS, 0, b"", ended=reason)


# --- the network --------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([1, 1, 1, 2, 3, 4, 5, 16, 33]), min_size=1, max_size=12))
def test_steps_and_blocks_of_any_length_equal_the_whole_sequence(pair, parts):
    net, verifier = pair
    module = causal.export(net, verifier)
    joints = torch.from_numpy(np.stack([motion(sum(parts), 1), motion(sum(parts), 2)]))
    with torch.inference_mode():
        whole = net(joints)
        state, at, got = module.initial_state(2), 0, []
        for n in parts:
            *out, state = module(joints[:, at : at + n], state)
            got.append(out)
            at += n
    for i, name in enumerate(("logits", "boundary", "embedding")):
        piecewise = torch.cat([out[i] for out in got], 1)
        scale = max(1.0, float(whole[i].abs().max()))
        assert torch.allclose(piecewise, whole[i], atol=1e-5 * scale), name


def test_where_the_hand_is_does_not_matter(pair):
    net, _ = pair
    joints = torch.from_numpy(motion(60))[None]
    with torch.inference_mode():
        here, there = net(joints)[0], net(joints + torch.tensor([0.5, 2.0, -0.3]))[0]
    assert torch.allclose(here, there, atol=5e-3)
    assert here.std() > 0.01


def test_palm_and_thumb_base_are_not_looked_at(pair):
    net, _ = pair
    joints = torch.from_numpy(motion(20))[None]
    other = joints.clone()
    other[:, :, 1:3] += 0.05
    with torch.inference_mode():
        assert torch.equal(net(joints)[0], net(other)[0])


def test_the_network_is_causal(pair):
    net, _ = pair
    joints = torch.from_numpy(motion(40))[None]
    later = joints.clone()
    later[:, 25:] += 0.1 * torch.rand(1, 15, 22, 3)
    with torch.inference_mode():
        before, after = net(joints)[0], net(later)[0]
    assert torch.allclose(before[:, :25], after[:, :25], atol=1e-6)
    assert not torch.allclose(before[:, 25:], after[:, 25:], atol=1e-2)


def test_a_glitch_metres_away_is_forgotten(pair):
    net, _ = pair
    joints = torch.from_numpy(motion(120))[None]
    bad = joints.clone()
    bad[:, 20] += 15.0
    with torch.inference_mode():
        clean, hit = net(joints)[0], net(bad)[0]
    assert torch.isfinite(hit).all()
    assert torch.allclose(clean[:, 80:], hit[:, 80:], atol=1e-5)


# --- the file -----------------------------------------------------------------------------------


def test_metadata_is_read_without_torch(tiny):
    code = (
        "import sys; from hgr_stream.recognition.bundle import read_metadata, resolve, shipped;"
        f"m = read_metadata({str(tiny)!r}); assert 'torch' not in sys.modules; print(m.labels)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(LABELS)


def test_saved_and_loaded_gives_the_same(pair, tiny):
    loaded = bundle.load(tiny)
    assert loaded.metadata.name == "tiny"
    assert loaded.metadata.decoder.early == 0.45
    assert loaded.has_verifier
    assert loaded.has_none
    joints = torch.from_numpy(motion(30))[None]
    with torch.inference_mode():
        whole = pair[0](joints)[0]
        again = loaded.module(joints, loaded.module.initial_state(1))[0]
        assert torch.allclose(whole, again, atol=1e-5)
        assert torch.allclose(pair[1](joints), loaded.module.verify(joints), atol=1e-5)


def rewritten(source: Path, target: Path, change) -> Path:
    """A copy of a model file with its metadata changed by ``change(dict) -> bytes | None``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("extra/hgr.json"):
                data = change(msgspec.json.decode(data))
                if data is None:
                    continue
            new.writestr(item, data)
    return target


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("skeleton", "mano-16", "skeleton 'mano-16'"),
        ("format", 99, "format 99"),
        ("labels", [], "labels"),
        ("labels", ["A", "A"], "labels"),
        ("labels", ["none", "A", "B"], "'none'"),
        ("rate_hz", 0.0, "rate 0.0"),
        ("rate_hz", "fast", "rate_hz"),
        ("hop", 5, "hop"),
        ("size", 9, "size 9"),
        ("kind", "magic", "kind"),
        ("temperature", 0.0, "temperature"),
        ("decoder", {"per_class": {"WAVE": {}}}, "'WAVE'"),
        ("decoder", {"begin_hold_s": 1e308}, "begin_hold_s is 1e+308, not between 0 and 3600"),
        ("decoder", {"max_duration_s": 1e10}, "max_duration_s is 1e+10"),
        ("decoder", {"accept": -0.1}, "accept is -0.1"),
        ("decoder", {"per_class": {"CIRCLE": {"early": -1.0}}}, "early of CIRCLE is -1"),
        ("refine_margin_s", -1.0, "refine_margin_s is -1"),
    ],
)
def test_bad_metadata_is_refused_by_name(tiny, tmp_path, field, value, told):
    def change(content: dict) -> bytes:
        return msgspec.json.encode({**content, field: value})

    path = rewritten(tiny, tmp_path / "bad.pt", change)
    for reader in (bundle.read_metadata, bundle.load):
        with pytest.raises(ModelError) as fault:
            reader(path)
        assert told in str(fault.value)
        assert str(path) in str(fault.value)
        assert "\n" not in str(fault.value)


def test_unknown_metadata_fields_are_for_later_versions(tiny, tmp_path):
    path = rewritten(
        tiny, tmp_path / "new.pt", lambda c: msgspec.json.encode({**c, "colour": "blue"})
    )
    assert bundle.load(path).metadata.name == "tiny"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x04\x95pickle"])
def test_a_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a TorchScript file"):
        bundle.load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_file_is_refused(tiny, tmp_path, method):
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(tiny) as old, zipfile.ZipFile(path, "w", method) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item), method)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    first, end = data.index(b"hgr.json"), len(data)
    for at in [*rng.integers(first, first + 300, 60), *rng.integers(end - 600, end, 60)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xB5]) + data[at + 1 :])
        with contextlib.suppress(ModelError):
            bundle.read_metadata(path)


def test_a_file_whose_attributes_have_other_names_is_refused(tmp_path):
    path = save_palm_model(tmp_path / "palm.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "odd.pt", "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item).replace(b"rate_hz\x71", b"rate_of\x71"))
    with pytest.raises(ModelError, match="torch cannot load it"):
        bundle.load(tmp_path / "odd.pt")


def test_files_that_lack_something(tiny, tmp_path, pair):
    with pytest.raises(ModelError, match="no such model file, nor a shipped model"):
        bundle.load("nowhere")
    with pytest.raises(ModelError, match="no such model file"):
        bundle.load(tmp_path / "nowhere.pt")
    with pytest.raises(ModelError, match="a folder"):
        bundle.load(tmp_path)
    with pytest.raises(ModelError, match="no metadata"):
        bundle.load(rewritten(tiny, tmp_path / "a.pt", lambda _: None))
    torch.save(pair[0].state_dict(), tmp_path / "b.pt")
    with pytest.raises(ModelError, match="no metadata"):
        bundle.load(tmp_path / "b.pt")
    archive = tmp_path / "c.pt"
    with zipfile.ZipFile(archive, "w") as new:
        new.writestr("c/extra/hgr.json", msgspec.json.encode(metadata()))
    with pytest.raises(ModelError, match="torch cannot load it") as fault:
        bundle.load(archive)
    assert "\n" not in str(fault.value)
    (tmp_path / "d.pt").write_bytes(tiny.read_bytes()[:20_000])
    with pytest.raises(ModelError, match="not a TorchScript file"):
        bundle.load(tmp_path / "d.pt")


class Windowed(nn.Module):
    """A third party's network: frames in, logits out."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, joints: torch.Tensor) -> torch.Tensor:
        speed = (joints[:, -1, 0] - joints[:, 0, 0]).abs().sum(-1, keepdim=True)
        return speed * 10.0 * torch.arange(self.outputs)


def test_outputs_that_do_not_match_are_refused(tmp_path, pair):
    windowed = metadata(kind="windowed", size=10, hop=5)
    with pytest.raises(ModelError, match="output has shape"):
        bundle.save(torch.jit.script(Windowed(7)), windowed, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="logits has shape"):
        bundle.save(causal.export(*pair), metadata(labels=["A", "B"]), tmp_path / "s.pt")
    with pytest.raises(ModelError, match=r"no folder/x\.pt: cannot be written"):
        bundle.save(causal.export(*pair), metadata(), tmp_path / "no folder" / "x.pt")
    with pytest.raises(ModelError, match="does not run as a streaming model"):
        bundle.save(torch.jit.script(Windowed(4)), metadata(), tmp_path / "k.pt")
    dated = metadata(kind="windowed", size=10, hop=5, refine_margin_s=0.2)
    with pytest.raises(ModelError, match="refine"):  # it promises a dater and has none
        bundle.save(torch.jit.script(Windowed(4)), dated, tmp_path / "d.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("outputs", [3, 4])
def test_windowed_models_run_with_and_without_a_none(tmp_path, outputs):
    path = tmp_path / "w.pt"
    bundle.save(
        torch.jit.script(Windowed(outputs)), metadata(kind="windowed", size=10, hop=5), path
    )
    recogniser = Recogniser(bundle.load(path))
    joints = motion(10)
    (scores,) = recogniser.push([Window("d", "r", "right", "t", 0, 9, 1, 5, joint_bytes(joints))])
    assert scores.probs.shape == (1, 4)
    assert scores.probs.sum() == pytest.approx(1.0, abs=1e-5)
    assert (scores.probs[0, 0] == 0) == (outputs == 3)


class Verified(Windowed):
    """With a verifier."""

    @torch.jit.export
    def verify(self, joints: torch.Tensor) -> torch.Tensor:
        return joints.new_zeros(1, self.outputs)


def test_a_windowed_models_verifier_sees_the_first_window_whole(tmp_path):
    path = tmp_path / "w.pt"
    bundle.save(torch.jit.script(Verified(4)), metadata(kind="windowed", size=10, hop=5), path)
    recogniser = Recogniser(bundle.load(path))
    joints, given = motion(30), []
    ends = range(10, 31, 5)
    for k, end in enumerate(ends):
        part, new = joint_bytes(joints[end - 10 : end]), 5 if k else 10
        at = (end - 1) * STEP_NS
        recogniser.push([Window("d", "r", "right", "t", k, at, STEP_NS, new, part)])
    recogniser._segments.verify = given.append
    recogniser.verify("d", "r", 9 * STEP_NS, 29 * STEP_NS)
    recogniser.verify("d", "r", 19 * STEP_NS, 24 * STEP_NS)
    assert np.array_equal(given[0], joints)
    assert np.array_equal(given[1], joints[10:25])


def test_the_shipped_model_loads_and_is_small():
    path = bundle.resolve("leap")
    loaded = bundle.load("leap")
    assert path.stat().st_size <= 2_000_000
    assert len(loaded.metadata.labels) == 17
    assert "none" not in loaded.metadata.labels
    assert loaded.has_verifier
    assert loaded.metadata.training["data"]


def test_the_shipped_model_knows_real_gestures(shared_data):
    """On recordings that it was trained with: that the file, not the recipe, is whole."""
    sequences = load_shrec21(shared_data / "shrec21_online_train")[:20]
    engine = Engine(bundle.load("leap"))
    labels = engine.bundle.metadata.labels
    true, found = [], []
    for stream in to_streams(sequences, labels):
        events = engine.push(windows(on_grid(stream, 25.0), stream.name))
        events += engine.close(0, "end")
        true.append(truths(stream, labels))
        found.append(spans(events))
    report = score(true, found, "shrec21")
    assert report.detection_rate > 0.95
    assert report.precision > 0.95
    assert report.overlap > 0.8


# --- the recogniser -----------------------------------------------------------------------------


def test_many_hands_in_one_batch_equal_each_alone(tiny):
    loaded = bundle.load(tiny)
    together, alone = Recogniser(loaded), Recogniser(loaded)
    hands = {f"h{i}": windows(motion(20, i), f"t{i}", f"h{i}") for i in range(5)}
    for k in range(20):
        rows = together.push([w[k] for w in hands.values()])
        for row, w in zip(rows, hands.values(), strict=True):
            (single,) = alone.push([w[k]])
            assert np.allclose(row.probs, single.probs, atol=1e-5)
            assert np.allclose(row.boundary, single.boundary, atol=1e-5)
            assert row.times_ns.tolist() == [k * STEP_NS]


def test_left_hands_are_mirrored_first(tiny):
    loaded = bundle.load(tiny)
    joints = motion(12)
    right = Recogniser(loaded).push(windows(joints))
    left = Recogniser(loaded).push(windows(mirrored(joints), side="left"))
    raw = Recogniser(loaded).push(windows(mirrored(joints)))
    assert np.allclose(right[-1].probs, left[-1].probs, atol=1e-6)
    assert not np.allclose(right[-1].probs, raw[-1].probs, atol=1e-3)


def test_a_new_track_starts_fresh_and_an_ended_one_is_forgotten(tiny):
    recogniser = Recogniser(bundle.load(tiny))
    joints = motion(20)
    first = recogniser.push(windows(joints, "a"))
    assert recogniser.hands == 1
    again = recogniser.push(windows(joints, "b"))
    assert np.allclose(first[-1].probs, again[-1].probs, atol=1e-6)
    (empty,) = recogniser.push([ending("a")])
    assert recogniser.hands == 1, "a late word about the old track must not drop the new one"
    assert len(empty.times_ns) == 0
    recogniser.push([ending("b")])
    assert recogniser.hands == 0


def test_a_hand_moves_to_another_recogniser(tiny):
    loaded = bundle.load(tiny)
    here, there = Recogniser(loaded), Recogniser(loaded)
    every = windows(motion(60))
    here.push(every[:30])
    data = here.export_state("d", "right")
    there.import_state("d", "right", data)
    for window in every[30:]:
        (a,), (b,) = here.push([window]), there.push([window])
        assert np.array_equal(a.probs, b.probs)
    start, end = 10 * STEP_NS, 50 * STEP_NS
    verdicts = [r.verify("d", "right", start, end) for r in (here, there)]
    assert np.array_equal(*verdicts)
    assert here.export_state("d", "left") is None
    with pytest.raises(ModelError, match="hand state"):
        there.import_state("d", "right", data[:50])
    with pytest.raises(ModelError, match="the model wants 7"):
        HandState.from_bytes(data, 7, 10)


def test_the_verifier_sees_the_stretch_asked_for(tiny):
    loaded = bundle.load(tiny)
    recogniser = Recogniser(loaded)
    joints = motion(900)  # more than is kept
    recogniser.push(windows(joints))
    got = recogniser.verify("d", "right", 700 * STEP_NS, 730 * STEP_NS)
    with torch.inference_mode():
        logits = loaded.module.verify(torch.from_numpy(joints[700:731])[None])[0]
    assert np.allclose(got, torch.softmax(logits, 0).numpy(), atol=1e-6)


@pytest.mark.parametrize("hop", [1, 10])
def test_a_burst_that_ran_ahead_leaves_the_verifier_the_whole_segment(pair, tmp_path, hop):
    bundle.save(causal.export(*pair), metadata(size=hop, hop=hop), tmp_path / "wide.pt")
    loaded = bundle.load(tmp_path / "wide.pt")
    joints, seen = motion(1200), []
    for ahead in (0, 640):  # to live's last tick, and a run farther
        recogniser = Recogniser(loaded)
        recogniser.push(windows(joints[: 500 + min(ahead, 64 * hop)], hop=hop))
        recogniser._segments = Scripted(loaded)
        recogniser._segments.verify = seen.append  # type: ignore[method-assign]
        recogniser.verify("d", "right", 100 * STEP_NS, 480 * STEP_NS)
    assert np.array_equal(*seen)
    assert np.array_equal(seen[0], joints[131:481])  # 14 s


def test_a_window_of_another_size_is_refused_before_any_is_used(tiny):
    recogniser = Recogniser(bundle.load(tiny))
    good, bad = windows(motion(1))[0], windows(motion(5), hop=5)[0]
    with pytest.raises(ModelError, match="window of 5 frames from d/right"):
        recogniser.push([good, bad])
    assert recogniser.hands == 0


def test_rounds_keep_each_hands_order():
    burst = [*windows(motion(3), "a", "l"), *windows(motion(2), "b", "r")]
    burst += [ending("a", "l"), *windows(motion(1), "c", "l")]
    assert rounds(burst) == [[[0, 1, 2], [3, 4]], [[5]], [[6]]]


# --- the engine ---------------------------------------------------------------------------------


def lively() -> list[Window]:
    """Two hands, one lost and found, told apart by track; random networks find plenty in it."""
    a, b = windows(motion(300, 1), "a", "l"), windows(motion(300, 2), "b", "r")
    c = windows(motion(200, 3), "c", "l")
    mixed = [w for pair_ in zip(a, b, strict=True) for w in pair_]
    return [*mixed, ending("a", "l", "lost", 300 * STEP_NS), *c, ending("c", "l"), ending("b", "r")]


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 200), st.integers(0, 5))
def test_bursts_change_nothing(tiny, size, offset):
    stream = lively()
    loaded = bundle.load(tiny)
    single = Engine(loaded)
    expected = [e for w in stream for e in single.push([w])]
    assert {"begin", "confirmed"} <= {e.kind for e in expected}
    burst = Engine(loaded)
    got = burst.push(stream[:offset])
    for at in range(offset, len(stream), size):
        got += burst.push(stream[at : at + size])

    def told(event):
        return (event.id, event.kind, event.label, event.decided_ns // 10**6, event.reason,
                event.onset_ns // 10**6, event.offset_ns // 10**6, event.report_ns)  # fmt: skip

    assert [told(e) for e in got] == [told(e) for e in expected]


def test_events_carry_the_stamps_of_the_input_that_made_them(tiny):
    engine = Engine(bundle.load(tiny))
    for window in windows(motion(300, 1)):
        for event in engine.push([window]):
            assert event.report_ns == window.frame_time_ns
            assert event.frame_sent_ns == window.frame_sent_ns
            assert event.decided_ns == window.time_ns
            assert (event.device, event.hand, event.model) == ("d", "right", "tiny")


def test_swap_cancels_what_is_open_or_changes_nothing(tiny, tmp_path):
    engine = Engine(bundle.load(tiny))
    open_ids: set[str] = set()
    for window in windows(motion(300, 1)):
        for event in engine.push([window]):
            (open_ids.add if event.kind == "begin" else open_ids.discard)(event.id)
            if event.kind in ("update", "early"):
                open_ids.add(event.id)
        if open_ids:
            break
    assert open_ids
    other = bundle.load(save_palm_model(tmp_path / "fast.pt", rate_hz=50.0))
    with pytest.raises(ModelError, match="rate_hz"):
        engine.swap(other)
    assert engine.bundle.metadata.name == "tiny"
    fitting = bundle.load(save_palm_model(tmp_path / "palm.pt"))
    cancelled = engine.swap(fitting)
    assert {e.id for e in cancelled} == open_ids
    assert {(e.kind, e.reason, e.model) for e in cancelled} == {
        ("cancelled", "model changed", "tiny")
    }
    assert engine.bundle.metadata.name == "palm"
    assert engine.close(0, "end") == []


def test_decoder_settings_for_an_unknown_gesture_are_refused(tiny):
    options = DecoderOptions(per_class={"WAVE": ClassOptions(begin=0.9)})
    with pytest.raises(ModelError, match="'WAVE'"):
        Engine(bundle.load(tiny), options)


def test_models_survive_a_copy_through_memory(tiny):
    """Nothing about a model file depends on where it lies."""
    data = io.BytesIO(tiny.read_bytes())
    assert torch.jit.load(data).initial_state(2).shape[0] == 2


def test_a_left_hands_gestures_have_their_true_names() -> None:
    labels = ["SWIPE_LEFT", "SWIPE_RIGHT", "ROTATION_CW", "ROTATION_CCW", "GRAB", "LEFTOVER"]
    assert mirror_pairs(labels) == {
        "SWIPE_LEFT": "SWIPE_RIGHT",
        "SWIPE_RIGHT": "SWIPE_LEFT",
        "ROTATION_CW": "ROTATION_CCW",
        "ROTATION_CCW": "ROTATION_CW",
    }
    assert mirror_pairs(["LEFT", "RIGHT", "V"]) == {"LEFT": "RIGHT", "RIGHT": "LEFT"}
    assert mirror_pairs(["LEFT", "V"]) == {}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("swipe left", "swipe right"),
        ("Swipe-Left", "Swipe-Right"),
        ("SwipeLeft", "SwipeRight"),
        ("swipeLeft2", "swipeRight2"),
        ("left (slow)", "right (slow)"),
        ("turnCW", "turnCCW"),
    ],
)
def test_words_of_a_label_are_joined_in_any_way(left: str, right: str) -> None:
    labels = [left, "upright", right, "leftover", "rightover"]
    assert mirror_pairs(labels) == {left: right, right: left}
