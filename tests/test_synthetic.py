"""The synthetic hand: anatomy, movement, truth, the device, and that it is recognised."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hgr_drivers import registry
from hgr_drivers.base import DeviceError, EndOfStream, Sample
from hgr_drivers.synthetic import GESTURES, LABELS, Performance, SyntheticDriver
from hgr_drivers.synthetic.driver import SPACING_M, SyntheticOptions
from hgr_drivers.synthetic.hand import (
    ANGLES,
    LIMITS,
    forward,
    rotation_from_vector,
    vector_from_rotation,
)
from hgr_drivers.synthetic.performance import sensor_noise

from hgr_stream import config
from hgr_stream.messages import Event, Frame, Hand, joint_bytes
from hgr_stream.skeleton import BONES, JOINTS, bone_lengths, chirality

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 200.0


@pytest.fixture(scope="module")
def everything() -> Performance:
    """All gestures once."""
    return Performance(LABELS, seed=4)


def times(performance: Performance, rate_hz: float = RATE_HZ) -> np.ndarray:
    return np.arange(0.0, performance.duration_s, 1.0 / rate_hz)


# ----------------------------------------------------------------------------------- the hand
def test_bones_keep_their_natural_lengths(everything: Performance) -> None:
    lengths = bone_lengths(everything.joints(times(everything, 50.0)))
    assert np.ptp(lengths, axis=0).max() < 1e-5
    at = {child: i for i, (_, child) in enumerate(BONES)}
    size = everything.shape.size
    for name, natural_m in (  # SHREC'17 medians
        ("thumb_first", 0.0396),
        ("index_first", 0.0436),
        ("middle_first", 0.0480),
        ("middle_base", 0.1010),
        ("pinky_tip", 0.0158),
    ):
        assert lengths[0, at[JOINTS.index(name)]] == pytest.approx(size * natural_m, rel=0.035)
    assert 0.84 <= size <= 1.0


def test_angles_stay_within_what_a_hand_can_do(everything: Performance) -> None:
    angles, _, rotation = everything.pose(times(everything, 50.0))
    assert angles.shape[1] == len(ANGLES) == 20
    assert (angles >= LIMITS[:, 0]).all()
    assert (angles <= LIMITS[:, 1]).all()
    # No posture leans on the clipping: all were authored inside the limits.
    for gesture in GESTURES.values():
        for posture in (gesture.start, *(stroke.to for stroke in gesture.strokes)):
            assert (posture.angles() >= LIMITS[:, 0]).all(), gesture.label
            assert (posture.angles() <= LIMITS[:, 1]).all(), gesture.label
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-9)


def test_flexing_bends_towards_the_palm() -> None:
    flat = np.zeros((1, 20))
    fist = flat.copy()
    fist[:, [0, 4, 8, 12]] = np.radians(80)
    still = np.zeros((1, 3)), np.eye(3)[None]
    straight, curled = forward(flat, *still)[0], forward(fist, *still)[0]
    for finger in ("index", "middle", "ring", "pinky"):
        tip = JOINTS.index(f"{finger}_tip")
        assert straight[tip, 1] == pytest.approx(straight[tip - 3, 1], abs=1e-6)
        assert curled[tip, 1] < straight[tip, 1] - 0.05  # palm down: below the knuckles
    assert straight[0, 2] > straight[13, 2]  # fingers away from the user
    assert straight[5, 0] < straight[21, 0]  # a right hand's thumb is on its left, palm down


def test_it_is_a_right_hand(everything: Performance) -> None:
    for act in everything.acts:
        t_s = np.linspace(act.onset_s, act.offset_s, 20)
        if act.label in ("ONE", "TWO", "THREE", "PINCH", "TAP", "GRAB", "KNOB", "DENY"):
            assert chirality(everything.joints(t_s)).mean() > 0, act.label


def test_rotation_vectors_round_trip() -> None:
    rng = np.random.default_rng(0)
    for angle in (0.0, 1e-12, 0.3, 2.9, np.pi - 1e-9, np.pi):
        axis = rng.normal(size=3)
        matrix = rotation_from_vector(axis / np.linalg.norm(axis) * angle)
        assert np.allclose(rotation_from_vector(vector_from_rotation(matrix)), matrix, atol=1e-6)


# ------------------------------------------------------------------------------- the movement
def test_movement_is_smooth(everything: Performance) -> None:
    joints = everything.joints(times(everything)).astype(np.float64)
    velocity = np.diff(joints, axis=0) * RATE_HZ
    speed = np.linalg.norm(velocity, axis=-1)
    jolt = np.linalg.norm(np.diff(velocity, axis=0), axis=-1)
    assert speed.max() < 4.0  # metres a second, a fingertip in a fast stroke
    assert jolt.max() < 0.4  # a jump of 2 mm between two samples would already show as this
    assert np.linalg.norm(joints[0] - joints[-1], axis=-1).max() < 0.001  # loops without a seam


def test_truth_is_in_order_and_named(everything: Performance) -> None:
    assert [act.label for act in everything.acts] == list(LABELS)
    edges = [edge for act in everything.acts for edge in (act.onset_s, act.offset_s)]
    assert edges == sorted(edges)
    assert edges[0] > 1.0
    assert everything.duration_s - edges[-1] > 1.5
    durations = {act.label: act.offset_s - act.onset_s for act in everything.acts}
    assert 1.5 < durations["OK"] < 4.5
    assert 0.2 < durations["TAP"] < 0.7


def test_a_seed_is_a_performance() -> None:
    a, b, c = (Performance(["LEFT", "OK"], seed) for seed in (1, 1, 2))
    t_s = times(a, 20.0)
    assert np.array_equal(a.joints(t_s), b.joints(t_s))
    assert a.acts == b.acts
    assert a.acts != c.acts
    assert np.array_equal(a.at(t_s[37]), a.joints(t_s)[37])
    calm = Performance(["LEFT", "LEFT"], 3, variation=0.0).acts
    assert calm[0].offset_s - calm[0].onset_s == pytest.approx(calm[1].offset_s - calm[1].onset_s)


def test_unknown_gestures_are_named() -> None:
    with pytest.raises(ValueError, match="unknown gesture 'WAVE'"):
        Performance(["GRAB", "WAVE"])


def test_noise_has_the_asked_size_and_is_partly_slow() -> None:
    noise = sensor_noise(4000, 100.0, 0.001, np.random.default_rng(0))
    assert np.sqrt((noise**2).sum(-1).mean()) == pytest.approx(0.001, rel=0.02)
    flat = noise.reshape(4000, -1)
    neighbours = np.mean(flat[1:] * flat[:-1]) / np.mean(flat**2)
    assert 0.4 < neighbours < 0.7  # white noise alone has 0, slow noise alone nearly 1


# --------------------------------------------------------------------------------- the device
class Time:
    """A host clock that only a sleep moves."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000
        self.slept: list[float] = []

    def clock(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ns += round(seconds * 1e9)


def driver(host: Time | None = None, **options: object) -> SyntheticDriver:
    host = host or Time()
    made = SyntheticDriver(
        msgspec.convert(options, SyntheticOptions), clock=host.clock, sleep=host.sleep
    )
    made.open()
    return made


def play(device: SyntheticDriver, limit: int = 1_000_000) -> list[Sample]:
    samples = []
    while len(samples) < limit:
        try:
            sample = device.read(1.0)
        except EndOfStream:
            break
        assert sample is not None
        samples.append(sample)
    return samples


def test_samples_come_at_their_time_and_the_stream_ends() -> None:
    host = Time()
    device = driver(host, gestures=["TAP", "GRAB"], repeat=2, fps=100, jitter_ms=2.0, pause_s=0.5)
    start_ns = host.ns
    samples = play(device)
    device_ns = np.array([s.device_ns for s in samples])
    assert [s.index for s in samples] == list(range(len(samples)))
    assert (np.diff(device_ns) > 0).all()
    assert device_ns[0] < 10_000_000
    assert np.diff(device_ns).mean() == pytest.approx(1e7, rel=0.01)
    assert np.std(np.diff(device_ns)) > 1e6  # jittered
    assert host.ns - start_ns == pytest.approx(device_ns[-1], abs=1e6)
    done = [p for s in samples for p in s.performed]
    assert sorted(p.label for p in done) == ["GRAB", "GRAB", "TAP", "TAP"]
    assert device_ns[-1] - done[-1].offset_ns > 1.4e9  # a closing rest
    for sample in samples:
        for p in sample.performed:
            assert p.onset_ns < p.offset_ns <= sample.device_ns
            assert sample.device_ns - p.offset_ns < 20_000_000


def test_a_late_reader_gets_what_is_due_without_waiting() -> None:
    host = Time()
    device = driver(host, fps=100, jitter_ms=0, gestures=["TAP"])
    assert device.read(0.004) is not None
    assert device.read(0.004) is None  # not yet due
    assert host.slept == [0.004]
    host.ns += 1_000_000_000
    before = len(host.slept)
    samples = play(device, limit=100)
    assert len(host.slept) == before
    assert [s.device_ns for s in samples] == [k * 10_000_000 for k in range(1, 101)]
    play(device, limit=1)
    assert len(host.slept) == before + 1  # it has caught up


def test_an_endless_stream_repeats_without_a_seam() -> None:
    device = driver(gestures=["LEFT"], fps=60, noise_mm=0, jitter_ms=0, pause_s=0.5)
    samples = play(device, limit=60 * 40)
    device_ns = np.array([s.device_ns for s in samples])
    assert np.allclose(np.diff(device_ns), 1e9 / 60, atol=2e4)
    joints = np.stack([s.hands[0].joints for s in samples])
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 5.0 / 60
    done = [p for s in samples for p in s.performed]
    assert len(done) > 6
    assert all(b.onset_ns > a.offset_ns for a, b in pairwise(done))


def test_the_left_hand_is_the_mirror_of_the_right() -> None:
    same = {"gestures": ["GRAB", "CIRCLE"], "fps": 30, "repeat": 1}
    right, left = (play(driver(side=side, **same)) for side in ("right", "left"))
    for a, b in zip(right, left, strict=True):
        assert np.allclose(a.hands[0].joints * [-1, 1, 1], b.hands[0].joints, atol=1e-6)
    assert {h.side for s in left for h in s.hands} == {"left"}
    assert [p.label for s in left for p in s.performed] == [
        p.label for s in right for p in s.performed
    ]


def test_left_is_left_for_either_hand() -> None:
    for side in ("right", "left"):
        device = driver(side=side, gestures=["LEFT"], fps=60, repeat=1, noise_mm=0)
        samples = play(device)
        (done,) = [p for s in samples for p in s.performed]
        assert done.label == "LEFT"
        moved = [s.hands[0].joints[1, 0] for s in samples if s.device_ns is not None
                 and done.onset_ns <= s.device_ns <= done.offset_ns]  # fmt: skip
        assert moved[-1] - moved[0] < -0.1


def test_a_dropout_leaves_frames_without_that_hand() -> None:
    device = driver(hands=2, side="both", dropout=0.4, fps=60, gestures=["TAP"], seed=3)
    samples = play(device, limit=60 * 20)
    counts = {len(s.hands) for s in samples}
    assert counts >= {1, 2}
    assert device.counts()["lost_hands"] >= 3
    by_side = {side: [h.id for s in samples for h in s.hands if h.side == side]
               for side in ("left", "right")}  # fmt: skip
    assert not set(by_side["left"]) & set(by_side["right"])
    assert max(len(set(ids)) for ids in by_side.values()) > 1  # found again under a new id
    assert "lost_hands" not in driver(gestures=["TAP"]).counts()


def test_hands_are_apart_and_perform_their_own() -> None:
    samples = play(driver(hands=12, gestures=["TAP", "LEFT"], fps=30), limit=30 * 30)
    palms = np.stack([[h.joints[1] for h in s.hands] for s in samples])
    gaps = np.linalg.norm(palms[:, :, None] - palms[:, None], axis=-1)[:, ~np.eye(12, dtype=bool)]
    assert gaps.min() > 0.25 * SPACING_M
    assert len({h.id for h in samples[0].hands}) == 12
    onsets = {h: [p.onset_ns for s in samples for p in s.performed if p.hand == h]
              for h in range(1, 13)}  # fmt: skip
    assert all(onsets.values())
    assert len({tuple(times_ns) for times_ns in onsets.values()}) == 12


def test_an_empty_scene_has_no_hands_and_does_not_end() -> None:
    samples = play(driver(hand_present=False, repeat=1, fps=60), limit=600)
    assert len(samples) == 600
    assert not any(s.hands or s.performed for s in samples)


def test_sixty_four_hands_cost_little() -> None:
    device = driver(hands=64, fps=120, gestures=["TAP", "OK"])
    play(device, limit=60)
    start = time.process_time()
    samples = play(device, limit=600)
    per_frame_s = (time.process_time() - start) / len(samples)
    assert len(samples[0].hands) == 64
    assert per_frame_s * 120 < 0.25


def test_bad_options_are_refused_by_name() -> None:
    with pytest.raises(DeviceError, match="'WAVE'") as refused:
        driver(gestures=["WAVE"])
    assert refused.value.fatal
    assert "GRAB" in refused.value.cure
    for bad in ({"fps": 1000}, {"hands": 0}, {"side": "up"}, {"speed": 2}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, SyntheticOptions)
    with pytest.raises(DeviceError, match="not open"):
        SyntheticDriver(SyntheticOptions()).read(0.1)


def test_the_commented_config_holds() -> None:
    table = config.load(ROOT / "configs" / "synthetic.toml").devices["synthetic"]
    kind, options = registry.configured("synthetic", table)
    assert kind is SyntheticDriver
    names = {field.name for field in msgspec.structs.fields(SyntheticOptions)}
    assert set(table) == names | {"driver"}
    default = SyntheticOptions()
    for name in names - {"fps"}:
        assert getattr(options, name) == getattr(default, name), name
    (found,) = SyntheticDriver.find()
    assert found.driver == "synthetic"


# ------------------------------------------------------------------------------ being recognised
def frames(samples: list[Sample]) -> list[Frame]:
    """What the runner would publish, with the device's clock as stream time."""
    out = []
    for i, s in enumerate(samples):
        ns = s.device_ns or 0
        hands = [Hand(h.id, h.side, joint_bytes(h.joints)) for h in s.hands]
        out.append(
            Frame(
                "synthetic", "b", i, ns, ns, ns, ns, ns, index=s.index, hands=hands, lossless=True
            )
        )
    return out


def recognised(samples: list[Sample], events: list[Event]) -> tuple[int, int, int]:
    """(gestures performed, those confirmed under their label while they overlap, all else)."""
    truth = [p for s in samples for p in s.performed]
    confirmed = [e for e in events if e.kind == "confirmed"]
    right = 0
    for p in truth:
        hit = next(
            (
                e
                for e in confirmed
                if e.label == p.label and e.onset_ns < p.offset_ns and e.offset_ns > p.onset_ns
            ),
            None,
        )
        if hit is not None:
            right += 1
            confirmed.remove(hit)
    return len(truth), right, len(confirmed)


def test_the_shipped_model_recognises_the_script() -> None:
    pytest.importorskip("torch", reason="needs the extra `inference`")
    from hgr_stream.pipeline import Pipeline
    from hgr_stream.recognition import bundle

    if "leap" not in bundle.shipped():
        pytest.skip("needs the shipped model hgr_stream/models/leap.pt")
    model = bundle.load(bundle.resolve("leap"))
    performed = right = wrong = 0
    for seed in range(3):
        samples = play(driver(seed=seed, repeat=1))
        pipeline = Pipeline(model, batch=64)
        events = [e for frame in frames(samples) for e in pipeline.push(frame)]
        p, r, w = recognised(samples, events + pipeline.finish())
        performed, right, wrong = performed + p, right + r, wrong + w
    assert performed == 3 * len(LABELS)
    assert right >= 0.9 * performed
    assert wrong == 0
