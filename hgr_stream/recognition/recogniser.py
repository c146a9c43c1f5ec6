"""Windows in, calibrated scores out: all hands that are due in one batch.

A streaming model's memory of a hand is a ``HandState``, kept by track: a new track starts fresh,
an ended one is forgotten, and a state can be taken out as bytes and put in elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..messages import JOINT_BYTES, Window
from ..skeleton import N_JOINTS, Float32, mirrored
from .bundle import Bundle, ModelError
from .steppers import Scripted, softmax, stepper

__all__ = ["HandState", "Recogniser", "Scores", "refined", "rounds", "softmax"]

#: The longest segment that the verifier sees; of a longer one its end.
SEGMENT_S: Final = 14.0
#: How long after a segment's end the decoder may ask for it.
WAIT_S: Final = 2.0
#: Windows of one hand that a burst runs at once.
MAX_RUN: Final = 64


@dataclass(frozen=True)
class Scores:
    """What the model says of one window. Row i belongs to tick ``times_ns[i]``.

    probs: (n, 1+C), rows sum to 1, column 0 is none. boundary: (n, 2) probabilities of a start
    and of an end. embedding: (n, E). A window that only ends its track has n = 0.
    """

    window: Window
    times_ns: NDArray[np.int64]
    probs: Float32
    boundary: Float32
    embedding: Float32


@dataclass(frozen=True)
class _Due:
    """Windows of one hand that run together: their places, and their frames as the model's."""

    run: list[int]
    hand: HandState
    frames: list[Float32]


class _Moved(msgspec.Struct):
    """A hand's state on the wire."""

    track: str
    last_ns: int
    state: bytes
    history: bytes


class HandState:
    """All that is remembered of one track: the model's state, and recent frames for the verifier.

    state: (S,) float32. history: (at most capacity, 22, 3) as the model saw them, the newest last.
    """

    def __init__(self, track: str, state: Float32, capacity: int) -> None:
        self.track, self.state, self.last_ns = track, state, 0
        self._ring = np.zeros((2 * capacity, N_JOINTS, 3), np.float32)
        self._capacity, self._end = capacity, 0

    @property
    def history(self) -> Float32:
        return self._ring[max(self._end - self._capacity, 0) : self._end]

    def remember(self, frames: Float32, last_ns: int, step_ns: int = 1) -> None:
        """Frames of ticks that are ``step_ns`` apart, the last at ``last_ns``. Where windows are
        missing between, lost or without what the model needs, the hand is held: rows are times."""
        missing = round((last_ns - self.last_ns) / step_ns) - len(frames) if self._end else 0
        if missing > 0:
            held = self.history[-1:].repeat(min(missing, self._capacity), 0)
            frames = np.concatenate([held, frames])
        frames = frames[-self._capacity :]
        if self._end + len(frames) > len(self._ring):
            kept = (
                self.history[-(self._capacity - len(frames)) :].copy()
                if (len(frames) < self._capacity)
                else self.history[:0].copy()
            )
            self._ring[: len(kept)] = kept
            self._end = len(kept)
        self._ring[self._end : self._end + len(frames)] = frames
        self._end += len(frames)
        self.last_ns = last_ns

    def to_bytes(self) -> bytes:
        """A plain MessagePack map; arrays as little-endian float32."""
        return msgspec.msgpack.encode(
            _Moved(
                self.track,
                self.last_ns,
                np.ascontiguousarray(self.state, "<f4").tobytes(),
                np.ascontiguousarray(self.history, "<f4").tobytes(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, state_size: int, capacity: int) -> HandState:
        """Raises ModelError when it is no state of a model with this state size."""
        try:
            moved = msgspec.msgpack.decode(data, type=_Moved)
        except msgspec.MsgspecError as error:
            raise ModelError(f"hand state: {error}") from None
        if len(moved.state) != 4 * state_size or len(moved.history) % JOINT_BYTES:
            raise ModelError(
                f"hand state of {len(moved.state) // 4} numbers; the model wants {state_size}"
            )
        hand = cls(moved.track, np.frombuffer(moved.state, "<f4").copy(), capacity)
        frames = np.frombuffer(moved.history, "<f4").reshape(-1, N_JOINTS, 3)
        hand.remember(frames, moved.last_ns)
        return hand


class Recogniser:
    """Runs one model over any number of hands."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._hands: dict[tuple[str, str], HandState] = {}
        m = bundle.metadata
        self._streams = m.kind == "streaming"
        self._step_ns = round(1e9 / m.rate_hz)
        self._longest = max(int(SEGMENT_S * m.rate_hz), m.size)
        # Besides, a run: the oldest frames are there however far a burst has run ahead.
        self._capacity = self._longest + int(WAIT_S * m.rate_hz) + MAX_RUN * m.hop
        self._no_embedding = np.zeros((1, 0), np.float32)
        self._initial = (
            np.array(bundle.module.initial_state(1)[0].numpy(), np.float32)
            if self._streams
            else np.zeros(0, np.float32)
        )
        self.step = stepper(bundle) if self._streams else None
        self._segments = self.step or Scripted(bundle)

    def push(self, windows: Sequence[Window]) -> list[Scores]:
        """One ``Scores`` a window, in the windows' order.

        Windows of one hand must come in their order. All hands that are due run in one batch; of
        a burst, a streaming model takes each hand's windows in one go. Raises ModelError for a
        window of another shape than the model's, before any is used.
        """
        self.check(windows)
        results: list[Scores | None] = [None] * len(windows)
        for runs in rounds(windows):
            self._round(windows, runs, results)
        return [r for r in results if r is not None]

    def check(self, windows: Sequence[Window]) -> None:
        """Raises ModelError for a window of another shape than the model's."""
        size = self.bundle.metadata.size
        for window in windows:
            if not window.ended and len(window.joints) != size * JOINT_BYTES:
                name = self.bundle.metadata.name
                raise ModelError(
                    f"window of {len(window.joints) // JOINT_BYTES} frames from "
                    f"{window.device}/{window.hand}; model {name!r} wants {size}"
                )

    def _round(
        self, windows: Sequence[Window], runs: Sequence[list[int]], results: list[Scores | None]
    ) -> None:
        """At most one run of windows of each hand."""
        live: list[_Due] = []
        for run in runs:
            window = windows[run[0]]
            key = (window.device, window.hand)
            hand = self._hands.get(key)
            if window.ended:
                if hand is not None and hand.track == window.track:
                    del self._hands[key]
                results[run[0]] = self._nothing(window)
                continue
            if hand is None or hand.track != window.track:
                hand = HandState(window.track, self._initial.copy(), self._capacity)
                self._hands[key] = hand
            live.append(_Due(run, hand, [self._joints(windows[i]) for i in run]))
        if self._streams:
            for length in sorted({len(due.run) for due in live}):
                self._stream([due for due in live if len(due.run) == length], windows, results)
        else:
            self._classify(live, windows, results)

    def _joints(self, window: Window) -> Float32:
        joints = window.array()
        if window.side == "left" and self.bundle.metadata.mirror_left:
            joints = mirrored(joints)
        return joints

    def _stream(
        self, due: list[_Due], windows: Sequence[Window], results: list[Scores | None]
    ) -> None:
        """Runs of one length, all hands in one batch: a row of scores for every frame."""
        if len(due) == 1 and len(due[0].frames) == 1:
            joints, states = np.array(due[0].frames[0][None]), due[0].hand.state[None]
        else:
            joints = np.stack([np.concatenate(d.frames) for d in due])
            states = np.stack([d.hand.state for d in due])
        assert self.step is not None
        probs, edges, embedding, after = self.step(joints, states)
        size = self.bundle.metadata.size
        for row, d in enumerate(due):
            d.hand.state = after[row]
            for k, place in enumerate(d.run):
                window = windows[place]
                d.hand.remember(d.frames[k], window.time_ns, self._step_ns)
                part = slice(k * size, (k + 1) * size)
                results[place] = Scores(
                    window,
                    _times(window, size),
                    probs[row, part],
                    edges[row, part],
                    embedding[row, part],
                )

    def _classify(
        self, due: list[_Due], windows: Sequence[Window], results: list[Scores | None]
    ) -> None:
        """A windowed model: every window of every hand in one batch, a row of scores each."""
        import torch

        if not due:
            return
        joints = np.stack([frames for d in due for frames in d.frames])
        with torch.inference_mode():
            logits = self.bundle.module(torch.from_numpy(joints)).float().numpy()
        probs = softmax(logits / self.bundle.metadata.temperature)
        if not self.bundle.has_none:
            probs = np.concatenate([np.zeros_like(probs[:, :1]), probs], 1)
        row = 0
        for d in due:
            for frames, place in zip(d.frames, d.run, strict=True):
                window = windows[place]
                new = frames[-min(max(window.new, 1), len(frames)) :]
                d.hand.remember(new, window.time_ns, self._step_ns)
                results[place] = Scores(
                    window,
                    _times(window, 1),
                    probs[row : row + 1],
                    np.zeros((1, 2), np.float32),
                    self._no_embedding,
                )
                row += 1

    def _nothing(self, window: Window) -> Scores:
        classes = 1 + len(self.bundle.metadata.labels)
        empty = np.zeros((0, classes), np.float32)
        return Scores(window, np.zeros(0, np.int64), empty, empty[:, :2], self._no_embedding[:0])

    def verify(self, device: str, hand: str, start_ns: int, end_ns: int) -> Float32 | None:
        """The verifier's probabilities (1+C,) for a stretch of a live track, or None."""
        state = self._hands.get((device, hand))
        if not self.bundle.has_verifier or state is None:
            return None
        m = self.bundle.metadata
        step_ns = 1e9 / m.rate_hz
        history = state.history
        # Half a tick goes the same way however far a burst has run ahead.
        back = math.floor((state.last_ns - end_ns) / step_ns + 0.5)
        frames = max(round((end_ns - start_ns) / step_ns) + 1, 3)
        frames += m.size - 1 if m.kind == "windowed" else 0  # the first window was seen whole
        frames = min(frames, self._longest)
        last = max(len(history) - max(back, 0), 1)
        segment = history[max(last - frames, 0) : last]
        return self._segments.verify(segment)

    def refine(
        self, device: str, hand: str, start_ns: int, end_ns: int, now_ns: int
    ) -> tuple[int, int] | None:
        """Both ends of a stretch of a live track dated anew by the model's dater, or None.

        now_ns: what came later is not looked at, so that bursts give the same as single frames.
        """
        m = self.bundle.metadata
        state = self._hands.get((device, hand))
        if m.refine_margin_s <= 0 or state is None or not len(state.history):
            return None
        times = (state.last_ns, start_ns, end_ns, now_ns)
        dater = self._segments.refine
        return refined(dater, state.history, times, m.rate_hz, m.refine_margin_s)

    def export_state(self, device: str, hand: str) -> bytes | None:
        """A live hand's state, for another recogniser's ``import_state``; None if unknown."""
        state = self._hands.get((device, hand))
        return state.to_bytes() if state else None

    def import_state(self, device: str, hand: str, data: bytes) -> None:
        """Go on with a hand where another recogniser of the same model left it."""
        self._hands[(device, hand)] = HandState.from_bytes(data, len(self._initial), self._capacity)

    @property
    def hands(self) -> int:
        """How many live tracks are held."""
        return len(self._hands)


def refined(
    dater: Callable[[Float32], Float32],
    joints: Float32,
    times_ns: tuple[int, int, int, int],
    rate_hz: float,
    margin_s: float,
) -> tuple[int, int]:
    """Both ends of a segment dated anew. joints: (T, 22, 3), the model's ticks up to the first of
    ``times_ns``: the last tick, start, end, and now, after which nothing is looked at. dater: as
    ``Stepper.refine``; in arrays, since torch costs a worker that has slept more than the dater."""
    last_ns, start_ns, end_ns, now_ns = times_ns
    step_ns = 1e9 / rate_hz
    newest = len(joints) - 1
    now = newest - round((last_ns - now_ns) / step_ns)

    def row(time_ns: int) -> int:
        # Counted from now, wherever the recording ends: half a tick goes the same way in bursts.
        return now - max(math.floor((now_ns - time_ns) / step_ns + 0.5), 0)

    last = row(end_ns)
    first = min(row(start_ns), last - 2)
    margin = round(margin_s * rate_hz)
    rows = np.arange(first - margin, last + margin + 1).clip(0, max(now, 0))
    shift = dater(joints[rows]).tolist()
    # To the millisecond: the last digits are the processor's.
    start_ns, end_ns = (
        last_ns - round((newest - at) * step_ns) + round(by * 1e3) * 1_000_000
        for at, by in zip((first, last), shift, strict=True)
    )
    return start_ns, end_ns


def _times(window: Window, rows: int) -> NDArray[np.int64]:
    return window.time_ns - window.step_ns * np.arange(rows - 1, -1, -1, dtype=np.int64)


def rounds(windows: Sequence[Window]) -> list[list[list[int]]]:
    """The order in which a burst may run: rounds of runs of places in ``windows``.

    A run is consecutive windows of one track, or the message that ends one. A round has at most
    one run of each hand, so that its runs may go together.
    """
    if len(windows) == 1:  # the live case
        return [[[0]]]
    by_hand: dict[tuple[str, str], list[list[int]]] = {}
    for i, window in enumerate(windows):
        runs = by_hand.setdefault((window.device, window.hand), [])
        if runs and not window.ended and len(runs[-1]) < MAX_RUN:
            last = windows[runs[-1][-1]]
            if not last.ended and last.track == window.track:
                runs[-1].append(i)
                continue
        runs.append([i])
    most = max((len(runs) for runs in by_hand.values()), default=0)
    return [[runs[k] for runs in by_hand.values() if k < len(runs)] for k in range(most)]
