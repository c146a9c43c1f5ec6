"""The same recording as another sensor, place or hand would have given it.

Each perturbation is a name with a number, ``rate=15``, and acts on whole frames, so that everything
from the segmenter on meets it as it would live. Truth stays where it is in time.

=========  =================================  ==========================================
name       number                             what happens
=========  =================================  ==========================================
rate       frames a second                    interpolated onto another clock
jitter     share of the frame's period        stamps shaken by as much (deviation)
gaps       seconds                            as long without any frame, every 2 s or so
glitch     share of the frames                hands are metres away for one or two frames
phantom    share of the frames                a second hand that is none, at one place
lost       seconds                            no hand for as long in mid-gesture
left       -                                  mirrored: a left hand
turned     degrees about the vertical         another seat
raised     degrees about the user's x         another sensor pose
size       factor                             a larger or smaller hand
noise      millimetres                        joints shaken frame by frame
=========  =================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from ..datasets.base import DatasetError
from ..datasets.convert import Recording
from ..messages import Frame, Hand, Truth, joint_bytes
from ..recognition.options import mirror_pairs
from ..skeleton import WRIST, Float32, mirrored
from .truth import MAX_GAP_NS

Rng = np.random.Generator
Change = Callable[[list[Frame], list[Truth], float, Rng], tuple[list[Frame], list[Truth]]]


@dataclass(frozen=True)
class Perturbation:
    name: str
    value: float

    def __str__(self) -> str:
        return self.name if self.name == "left" else f"{self.name}={self.value:g}"

    def of(self, recording: Recording, seed: int = 0) -> Recording:
        """The recording perturbed; the same seed gives the same."""
        rng = np.random.default_rng([seed, *recording.name.encode()])
        frames = [frame for frame in recording.frames if not frame.end]
        if not frames:
            return recording
        frames, truths = CHANGES[self.name](frames, recording.truths, self.value, rng)
        # What a sensor never gave was not lost on the way.
        numbered = [msgspec.structs.replace(frame, seq=seq) for seq, frame in enumerate(frames)]
        return replace(recording, frames=numbered, truths=truths)


def parse(text: str) -> Perturbation:
    """``NAME=NUMBER`` (or ``left``) -> a perturbation; raises DatasetError naming the fault."""
    name, _, number = text.partition("=")
    if name not in CHANGES:
        raise DatasetError(f"{text!r} is no perturbation; there are {', '.join(CHANGES)}")
    if name == "left" and not number:
        return Perturbation(name, 0.0)
    try:
        value = float(number)
    except ValueError:
        raise DatasetError(f"{text!r} wants a number: {name}=NUMBER") from None
    low, high = LIMITS[name]
    if not low <= value <= high:
        raise DatasetError(f"{name} {value:g} is not between {low:g} and {high:g}")
    return Perturbation(name, value)


def _frame(like: Frame, index: int, time_ns: int, hands: list[Hand]) -> Frame:
    return Frame(
        like.device, like.boot_id, 0, time_ns, time_ns, 0, 0, 0, index, hands, like.lossless
    )


def _hand(like: Hand, joints: Float32) -> Hand:
    return msgspec.structs.replace(like, joints=joint_bytes(joints))


def _moved(frames: list[Frame], change: Callable[[Float32], Float32]) -> list[Frame]:
    """The frames with every hand's joints changed."""
    return [
        _frame(
            f,
            f.index,
            f.time_ns,
            [_hand(h, change(h.array())) for h in f.hands],
        )
        for f in frames
    ]


def _between(a: Hand, b: Hand, share: np.float32) -> Hand:
    """The hand so far on the way from one to the other; what either lacks it lacks."""
    joints = a.array() * (1 - share) + b.array() * share
    return msgspec.structs.replace(
        _hand(a, joints), lacks=[*a.lacks, *(lack for lack in b.lacks if lack not in a.lacks)]
    )


def _rate(
    frames: list[Frame], truths: list[Truth], hz: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    first_ns, last_ns = frames[0].time_ns, frames[-1].time_ns
    out: list[Frame] = []
    k = 1
    for n in range(int((last_ns - first_ns) * hz / 1e9) + 1):
        now_ns = first_ns + round(n * 1e9 / hz)
        while k < len(frames) - 1 and frames[k].time_ns < now_ns:
            k += 1
        a, b = frames[k - 1], frames[min(k, len(frames) - 1)]
        if b.time_ns - a.time_ns > MAX_GAP_NS and now_ns not in (a.time_ns, b.time_ns):
            continue
        share = np.float32((now_ns - a.time_ns) / max(b.time_ns - a.time_ns, 1))
        after = {h.id: h for h in b.hands}
        hands = [_between(h, after[h.id], share) for h in a.hands if h.id in after]
        out.append(_frame(a, len(out), now_ns, hands))
    return out, truths


def _jitter(
    frames: list[Frame], truths: list[Truth], share: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    times = np.array([f.time_ns for f in frames])
    shaken = times + rng.normal(0, share * float(np.median(np.diff(times))), len(times))
    # Device drivers deliver stamps in order.
    shaken = np.maximum.accumulate(np.rint(shaken).astype(np.int64)) + np.arange(len(times))
    pairs = zip(frames, shaken.tolist(), strict=True)
    return [_frame(f, f.index, t, f.hands) for f, t in pairs], truths


def _gaps(
    frames: list[Frame], truths: list[Truth], seconds: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    out, until_ns = [], 0
    next_ns = frames[0].time_ns + round(rng.uniform(0.5, 2) * 1e9)
    for f in frames:
        if f.time_ns >= next_ns:
            until_ns = f.time_ns + round(seconds * 1e9)
            next_ns = until_ns + round(rng.uniform(1, 3) * 1e9)
        if f.time_ns >= until_ns:
            out.append(f)
    return out, truths


def _glitch(
    frames: list[Frame], truths: list[Truth], share: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    hit = rng.random(len(frames)) < share / 1.5
    hit[1:] |= hit[:-1] & (rng.random(len(frames) - 1) < 0.5)
    out = []
    for f, away in zip(frames, hit, strict=True):
        way = rng.normal(0, 1, 3)
        by = (way / np.linalg.norm(way) * rng.uniform(2, 15)).astype(np.float32)
        out += _moved([f], lambda joints, by=by: joints + by) if away else [f]  # type: ignore[misc]
    return out, truths


def _phantom(
    frames: list[Frame], truths: list[Truth], share: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    """Half a metre from where the hand first is; in a posture of its own each time."""
    hands = [h for f in frames for h in f.hands]
    if not hands:
        return frames, truths
    other = {"right": "left", "left": "right"}
    free_id = 1 + max(h.id for h in hands)
    place = hands[0].array()[WRIST] + np.array([0.5, 0.0, 0.0], dtype=np.float32)

    def phantom() -> Hand:
        hand = hands[int(rng.integers(len(hands)))]
        shape = mirrored(hand.array() - hand.array()[WRIST])
        shaken = place + rng.normal(0, 0.02, 3).astype(np.float32)
        side = other.get(hand.side, hand.side)
        return msgspec.structs.replace(_hand(hand, shape + shaken), id=free_id, side=side)

    return [
        _frame(f, f.index, f.time_ns, [*f.hands, phantom()] if rng.random() < share else f.hands)
        for f in frames
    ], truths


def _lost(
    frames: list[Frame], truths: list[Truth], seconds: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    half_ns = round(seconds * 5e8)
    middles = [(t.onset_ns + t.offset_ns) // 2 for t in truths]

    def seen(f: Frame) -> bool:
        return all(abs(f.time_ns - m) > half_ns for m in middles)

    return [f if seen(f) else _frame(f, f.index, f.time_ns, []) for f in frames], truths


def _left(
    frames: list[Frame], truths: list[Truth], _: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    other = {"right": "left", "left": "right"}
    pairs = mirror_pairs(sorted(_NAMES | {t.label for t in truths}))
    out = [
        _frame(
            f,
            f.index,
            f.time_ns,
            [
                msgspec.structs.replace(
                    h, side=other.get(h.side, h.side), joints=joint_bytes(mirrored(h.array()))
                )
                for h in f.hands
            ],
        )
        for f in frames
    ]
    return out, [
        Truth(
            t.device,
            other.get(t.hand, t.hand),
            pairs.get(t.label, t.label),
            t.onset_ns,
            t.offset_ns,
        )
        for t in truths
    ]


#: Labels whose mirror image a recording may lack: LEFT alone still becomes RIGHT.
_NAMES: Final = {"LEFT", "RIGHT", "SWIPE_LEFT", "SWIPE_RIGHT", "ROTATION_CW", "ROTATION_CCW"}


def _turn(axis: int) -> Change:
    def change(
        frames: list[Frame], truths: list[Truth], degrees: float, rng: Rng
    ) -> tuple[list[Frame], list[Truth]]:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        matrix = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, s, -s, c
        if axis == 0:
            matrix = matrix.T
        turn = matrix.astype(np.float32).T
        return _moved(frames, lambda joints: joints @ turn), truths

    return change


def _size(
    frames: list[Frame], truths: list[Truth], factor: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    def change(joints: Float32) -> Float32:
        out: Float32 = joints[:1] + (joints - joints[:1]) * np.float32(factor)
        return out

    return _moved(frames, change), truths


def _noise(
    frames: list[Frame], truths: list[Truth], mm: float, rng: Rng
) -> tuple[list[Frame], list[Truth]]:
    def change(joints: Float32) -> Float32:
        shake = rng.standard_normal(joints.shape, dtype=np.float32)
        out: Float32 = joints + shake * np.float32(mm / 1e3)
        return out

    return _moved(frames, change), truths


CHANGES: Final[dict[str, Change]] = {
    "rate": _rate,
    "jitter": _jitter,
    "gaps": _gaps,
    "glitch": _glitch,
    "phantom": _phantom,
    "lost": _lost,
    "left": _left,
    "turned": _turn(1),
    "raised": _turn(0),
    "size": _size,
    "noise": _noise,
}
LIMITS: Final = {
    "rate": (1, 1000),
    "jitter": (0, 1),
    "gaps": (0, 10),
    "glitch": (0, 0.5),
    "phantom": (0, 1),
    "lost": (0, 10),
    "left": (0, 0),
    "turned": (-180, 180),
    "raised": (-180, 180),
    "size": (0.1, 10),
    "noise": (0, 50),
}


def perturbed(
    recordings: Sequence[Recording], changes: Sequence[Perturbation], seed: int = 0
) -> list[Recording]:
    """All recordings, each change applied after the one before."""
    out = list(recordings)
    for change in changes:
        out = [change.of(recording, seed) for recording in out]
    return out
