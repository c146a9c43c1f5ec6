"""Scores in, gesture events out: the rules by which probabilities become begin and end.

1. Probabilities are smoothed (``smooth_s``).
2. A gesture *begins* when one class holds ``begin`` for ``begin_hold_s``, or is sure enough to be
   told early (4), and not within ``refractory_s`` of the one before.
3. While it lasts its label is the class with the most evidence so far; a change is an *update*.
4. When the label holds ``early`` for ``early_hold_s`` it is told *early*, and is then fixed. These
   probabilities have a smoothing of their own (``early_smooth_s``): a high threshold needs less of
   it than a low one, and less of it is less delay.
5. It ends when all gestures together stay below ``end`` for ``end_hold_s``, or at
   ``max_duration_s`` (after which there must be quiet before the next).
6. Both ends are then dated: by the network's own boundary peaks where it gives any, which come
   ``boundary_delay_s`` late, otherwise by where the probability rose and fell. Those of a gesture
   of at most ``refine_max_s`` are dated once more by the model's dater, where it has one.
7. Too short (``min_duration_s``), too weak (``min_mean``), refused by the verifier (``accept``)
   or doubtful as a whole (``min_quality``): *cancelled*, with the reason. Quality is the product
   of the verifier's probability, the label's highest probability, and the geometric mean of the
   two boundary peaks: true gestures have all of them, most false ones lack an end.
8. Otherwise *confirmed*, both ends told ``margin_s`` wider: dates err both ways, and of a short
   gesture half is easily missed. The verifier may change the label, but an id keeps a label that
   was told early: of that one the verifier may only say yes or no. If it is surer than
   ``overrule`` that it was another gesture, the early event is cancelled and the other gets an
   event of its own.
9. A hand that is lost ends its gesture: confirmed if it passes 7, else cancelled.

Pure: values in, values out, time is in the scores. One ``Decoder`` follows one track.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..messages import Event, Kind, Window
from ..skeleton import Float32
from .options import DecoderOptions
from .recogniser import Scores

#: (start_ns, end_ns) -> the verifier's probabilities (1+C,), or None where there is no verifier.
Verify = Callable[[int, int], "Float32 | None"]
#: (start_ns, end_ns, now_ns) -> both ends dated anew, or None where there is nothing to date by.
Refine = Callable[[int, int, int], "tuple[int, int] | None"]

#: Reasons after which what was seen still counts as a whole gesture, if it passes the gates.
_ORDINARY_ENDS = frozenset({"lost", "end"})

#: Before any stream time.
NEVER_NS: Final = -(1 << 62)


@dataclass
class _Tick:
    time_ns: int
    probs: Float32
    start: float
    end: float


@dataclass
class _Open:
    """A gesture that has begun and not ended."""

    id: str
    label: int
    onset_ns: int
    evidence: NDArray[np.float64]
    peak: NDArray[np.float64]  #: each class's highest smoothed probability
    early: bool = False
    quiet_run: int = 0
    quiet_since_ns: int = 0


@dataclass
class _Limits:
    """``DecoderOptions`` as arrays over the classes (column 0 unused) and in ticks."""

    begin: NDArray[np.float64]
    end: NDArray[np.float64]
    early: NDArray[np.float64]
    min_mean: NDArray[np.float64]
    accept: NDArray[np.float64]
    sure: NDArray[np.float64]
    min_quality: NDArray[np.float64]
    min_ns: NDArray[np.int64]
    max_ns: NDArray[np.int64]
    begin_ticks: int
    end_ticks: int
    wait_ns: int  #: after a fall, until the network can have told of the end
    early_ticks: int
    gain: float
    early_gain: float

    @classmethod
    def of(cls, options: DecoderOptions, labels: Sequence[str], tick_s: float) -> _Limits:
        def each(name: str) -> NDArray[np.float64]:
            return np.array([0.0, *(float(options.of(label, name)) for label in labels)])

        def ticks(seconds: float) -> int:
            return max(1, round(seconds / tick_s))

        def gain(time_constant_s: float) -> float:
            return 1.0 - float(np.exp(-tick_s / time_constant_s)) if time_constant_s > 0 else 1.0

        return cls(
            begin=each("begin"),
            end=each("end"),
            early=each("early"),
            min_mean=each("min_mean"),
            accept=each("accept"),
            sure=each("sure"),
            min_quality=each("min_quality"),
            min_ns=(each("min_duration_s") * 1e9).astype(np.int64),
            max_ns=(each("max_duration_s") * 1e9).astype(np.int64),
            begin_ticks=ticks(options.begin_hold_s),
            end_ticks=ticks(options.end_hold_s),
            wait_ns=round(
                max(options.boundary_delay_s - options.release_s - options.smooth_s, 0.0) * 1e9
            ),
            early_ticks=ticks(options.early_hold_s),
            gain=gain(options.smooth_s),
            early_gain=gain(
                options.smooth_s if options.early_smooth_s is None else options.early_smooth_s
            ),
        )


@dataclass
class Decoder:
    """Follows one track. ``tick_s`` is the time between rows of scores."""

    options: DecoderOptions
    labels: Sequence[str]
    tick_s: float
    verify: Verify | None = None
    track: str = ""
    refine: Refine | None = None
    last_end_ns: int = NEVER_NS  #: of the hand's gesture before, also on another track
    _limits: _Limits = field(init=False)
    _ticks: list[_Tick] = field(default_factory=list)
    _smoothed: NDArray[np.float64] | None = None
    _sharp: NDArray[np.float64] | None = None  #: smoothed for early labels
    _sure_run: NDArray[np.int64] = field(init=False)  #: for how long each class has held ``early``
    _open: _Open | None = None
    _begin_run: int = 0
    _begin_label: int = 0
    _exhausted: bool = False
    _told_end_ns: int = NEVER_NS  # of the last that was confirmed, with its margin
    _window: Window | None = None

    def __post_init__(self) -> None:
        self._limits = _Limits.of(self.options, self.labels, self.tick_s)
        self._sure_run = np.zeros(1 + len(self.labels), np.int64)
        o = self.options
        self._keep_s = o.lookback_s + o.boundary_delay_s + 2.0

    def push(self, scores: Scores) -> list[Event]:
        """The events that these scores decide, in order."""
        self._window = scores.window
        events: list[Event] = []
        for i in range(len(scores.times_ns)):
            tick = int(scores.times_ns[i])
            self._step(tick, scores.probs[i], scores.boundary[i], events)
        return events

    def finish(self, time_ns: int, reason: str, window: Window | None = None) -> list[Event]:
        """The track is over: end the open gesture, if any.

        ``time_ns`` caps its end, if positive. ``window`` is the message that said so, whose
        stamps the events carry.
        """
        events: list[Event] = []
        if window is not None:
            self._window = window
        gesture = self._open
        if gesture is not None:
            last_ns = self._ticks[-1].time_ns
            if time_ns > 0:
                last_ns = min(last_ns, time_ns)
            if reason in _ORDINARY_ENDS:
                self._close(last_ns, last_ns, events, lost=reason)
            else:
                self._cancel(gesture, last_ns, last_ns, reason, events)
        self._ticks.clear()
        self._smoothed = self._sharp = None
        self._sure_run[:] = 0
        self._begin_run = 0
        return events

    # --- one tick -------------------------------------------------------------------------------

    def _step(self, now_ns: int, probs: Float32, edges: Float32, events: list[Event]) -> None:
        lim = self._limits
        p = probs.astype(np.float64)
        self._smoothed = s = _nearer(self._smoothed, p, lim.gain)
        self._sharp = _nearer(self._sharp, p, lim.early_gain)
        self._sure_run = (self._sure_run + 1) * (self._sharp >= lim.early)
        gesture_p = 1.0 - float(s[0])
        self._ticks.append(_Tick(now_ns, probs, float(edges[0]), float(edges[1])))
        if self._open is not None:
            self._follow(self._open, now_ns, p, s, gesture_p, events)
            return
        best = int(s[1:].argmax()) + 1
        if self._exhausted:
            self._exhausted = gesture_p >= lim.end[best]
        quiet_ns = self.last_end_ns + int(self.options.refractory_s * 1e9)
        if self._exhausted or now_ns <= quiet_ns or s[best] < lim.begin[best]:
            self._begin_run = 0
        else:
            self._begin_run = self._begin_run + 1 if best == self._begin_label else 1
            self._begin_label = best
            if self._begin_run >= lim.begin_ticks or self._sure(best):
                self._begin(best, now_ns, s, events)
        if self._open is None and len(self._ticks) * self.tick_s > 2 * self._keep_s:
            del self._ticks[: len(self._ticks) - int(self._keep_s / self.tick_s)]

    def _begin(self, label: int, now_ns: int, s: NDArray[np.float64], events: list[Event]) -> None:
        onset_ns = self._rise(label, now_ns)
        first = self._first_after(onset_ns)
        evidence = np.array([t.probs for t in self._ticks[first:]], np.float64).sum(0)
        # Counted it would be used again by a worker that is started, or given a model, on the way;
        # and the devices of one recording, which have its boot id, name their tracks alike.
        assert self._window is not None
        name = f"{self._window.device}:{self.track}:{now_ns // 1_000_000}"
        self._open = _Open(name, label, onset_ns, evidence, s.copy())
        self._begin_run = 0
        confidence = float(s[label])
        self._emit("begin", self._open.id, label, onset_ns, now_ns, confidence, events)
        self._tell_early(self._open, now_ns, events)

    def _sure(self, label: int) -> bool:
        return self.options.early_on and bool(self._sure_run[label] >= self._limits.early_ticks)

    def _tell_early(self, g: _Open, now_ns: int, events: list[Event]) -> None:
        if not g.early and self._sure(g.label):
            g.early = True
            assert self._sharp is not None
            confidence = float(self._sharp[g.label])
            self._emit("early", g.id, g.label, g.onset_ns, now_ns, confidence, events)

    def _rise(self, label: int, now_ns: int) -> int:
        """Where the probability of a gesture rose: the beginning as far as can be told now."""
        earliest = max(now_ns - int(self.options.lookback_s * 1e9), self.last_end_ns + 1)
        low = 0.5 * float(self._limits.begin[label])
        onset_ns = now_ns
        for tick in reversed(self._ticks):
            if tick.time_ns < earliest or 1.0 - float(tick.probs[0]) < low:
                break
            onset_ns = tick.time_ns
        return onset_ns

    def _follow(
        self,
        g: _Open,
        now_ns: int,
        p: NDArray[np.float64],
        s: NDArray[np.float64],
        gesture_p: float,
        events: list[Event],
    ) -> None:
        lim = self._limits
        g.evidence += p
        np.maximum(g.peak, s, out=g.peak)
        leader = int(g.evidence[1:].argmax()) + 1
        if not g.early and leader != g.label:
            g.label = leader
            self._emit("update", g.id, leader, g.onset_ns, now_ns, float(s[leader]), events)
        self._tell_early(g, now_ns, events)
        if gesture_p < lim.end[g.label]:
            if g.quiet_run == 0:
                g.quiet_since_ns = now_ns
            g.quiet_run += 1
        else:
            g.quiet_run = 0
        if g.quiet_run >= lim.end_ticks and now_ns >= g.quiet_since_ns + lim.wait_ns:
            self._close(g.quiet_since_ns, now_ns, events)
        elif now_ns - g.onset_ns >= lim.max_ns[g.label]:
            self._exhausted = True
            self._close(now_ns, now_ns, events)

    # --- the end --------------------------------------------------------------------------------

    def _close(self, fall_ns: int, now_ns: int, events: list[Event], lost: str = "") -> None:
        g = self._open
        assert g is not None
        cut = fall_ns == now_ns
        onset_ns, offset_ns, edges = self._dated(g, fall_ns, now_ns, cut)
        onset_ns, offset_ns = self._refined(onset_ns, offset_ns, now_ns, cut)
        first, last = self._first_after(onset_ns), self._first_after(offset_ns + 1)
        rows = [t.probs for t in self._ticks[first:last]] or [self._ticks[-1].probs]
        mean = np.array(rows, np.float64).mean(0)
        g.onset_ns = onset_ns
        label, confidence, refusal = self._judge(g, onset_ns, offset_ns, mean, edges)
        if refusal:
            reason = f"hand {lost}: {refusal}" if lost else refusal
            self._cancel(g, offset_ns, now_ns, reason, events)
            return
        self._confirm(g, label, confidence, (onset_ns, offset_ns, now_ns), events)
        self._ended(offset_ns)

    def _confirm(
        self, g: _Open, label: int, confidence: float, times: tuple[int, int, int],
        events: list[Event],
    ) -> None:  # fmt: skip
        onset_ns, offset_ns, now_ns = times
        margin_ns = int(self.options.margin_s * 1e9)
        # Not into the one before, nor to before the hand was there.
        onset_ns = max(onset_ns - margin_ns, self._told_end_ns + 1, self._ticks[0].time_ns)
        offset_ns = max(min(offset_ns + margin_ns, now_ns), onset_ns)
        self._told_end_ns = offset_ns
        event_id = g.id
        if g.early and label != g.label:
            self._cancel(g, offset_ns, now_ns, f"verifier says {self._name(label)}", events)
            event_id = f"{g.id}.2"
            self._emit("begin", event_id, label, onset_ns, now_ns, confidence, events)
        self._emit("confirmed", event_id, label, onset_ns, now_ns, confidence, events, offset_ns)

    def _judge(
        self,
        g: _Open,
        onset_ns: int,
        offset_ns: int,
        mean: NDArray[np.float64],
        edges: float,
    ) -> tuple[int, float, str]:
        """(label, confidence, why it is refused or nothing)."""
        lim = self._limits
        label = g.label
        verdict = self.verify(onset_ns, offset_ns) if self.verify is not None else None
        if verdict is not None:
            # Two witnesses of nearly independent errors: the product of what both say.
            both = verdict.astype(np.float64) * (mean + 0.05)
            if self.options.relabel:
                other = int(both[1:].argmax()) + 1
                if not g.early or verdict[other] >= self.options.overrule:
                    label = other
        confidence = float(mean[label])
        if offset_ns - onset_ns < lim.min_ns[label]:
            return label, confidence, "too short"
        if mean[1:].sum() < lim.min_mean[label]:
            return label, confidence, "too weak"
        if verdict is not None:
            confidence = float(verdict[label])
            if confidence < lim.accept[label]:
                return label, confidence, "refused by the verifier"
        # After a change of label its own peak says little.
        peak = float(g.peak[label]) if label == g.label else 1.0
        if confidence * peak * edges < lim.min_quality[label]:
            return label, confidence, "doubtful"
        if confidence < lim.sure[label]:
            return label, confidence, "less sure than asked for"
        return label, confidence, ""

    def _dated(self, g: _Open, fall_ns: int, now_ns: int, cut: bool) -> tuple[int, int, float]:
        """Onset, offset, and the boundary peaks' geometric mean (1 where there are none to tell).

        The ends are the peaks near where the probability rose and fell. ``cut``: the gesture did
        not end by itself, so that no end is to be expected.
        """
        edges = 1.0
        o = self.options
        onset_ns = g.onset_ns
        # Without a peak the end is where the probability fell, less what smoothing and the
        # network's own release put on top. Where the gesture was cut, nothing fell.
        late_s = 0.0 if cut else o.release_s + o.smooth_s
        offset_ns = max(fall_ns - int(late_s * 1e9), onset_ns)
        if o.boundary_delay_s > 0:
            late = int(o.boundary_delay_s * 1e9)
            back = int(o.lookback_s * 1e9)
            earliest = max(onset_ns - back, self.last_end_ns + 1, self._ticks[0].time_ns)
            latest = min(onset_ns + int(0.4e9), offset_ns)
            at, start = self._peak("start", earliest + late, latest + late, late)
            onset_ns = onset_ns if at is None else at
            least = onset_ns + int(self._limits.min_ns[g.label])
            at, end = self._peak("end", max(fall_ns - back, least) + late, now_ns, late)
            offset_ns = offset_ns if at is None else at
            edges = start if cut else float(np.sqrt(start * end))
        return onset_ns, max(offset_ns, onset_ns), edges

    def _refined(self, onset_ns: int, offset_ns: int, now_ns: int, cut: bool) -> tuple[int, int]:
        """Both ends as the dater tells them, who has seen the whole gesture. Long ones are left:
        it sees them too coarsely."""
        long = offset_ns - onset_ns > self.options.refine_max_s * 1e9
        found = None if long or self.refine is None else self.refine(onset_ns, offset_ns, now_ns)
        if found is not None:
            onset_ns = max(found[0], self.last_end_ns + 1, self._ticks[0].time_ns)
            offset_ns = offset_ns if cut else min(found[1], now_ns)
        return onset_ns, max(offset_ns, onset_ns)

    def _peak(self, side: str, from_ns: int, to_ns: int, late_ns: int) -> tuple[int | None, float]:
        """The highest boundary probability in a stretch; its time, dated back, or None if faint."""
        best, at = 0.0, -1
        first = self._first_after(from_ns)
        for i in range(first, len(self._ticks)):
            if self._ticks[i].time_ns > to_ns:
                break
            value = getattr(self._ticks[i], side)
            if value > best:
                best, at = value, i
        if at < 0 or best < self.options.boundary_min:
            return None, best
        # The peak's centre of mass lies between ticks. In steps of an eighth, so that the last
        # digits of the scores, which depend on how hands were batched, do not show in the times.
        around = range(max(at - 1, 0), min(at + 2, len(self._ticks)))
        values = [float(getattr(self._ticks[i], side)) for i in around]
        moment = sum(v * (i - at) for v, i in zip(values, around, strict=True)) / sum(values)
        peak_ns = (
            self._ticks[at].time_ns - late_ns + round(round(moment * 8) / 8 * self.tick_s * 1e9)
        )
        return min(max(peak_ns, from_ns - late_ns), to_ns - late_ns), best

    def _first_after(self, time_ns: int) -> int:
        """Index of the first tick at or after ``time_ns``."""
        i = len(self._ticks)
        while i > 0 and self._ticks[i - 1].time_ns >= time_ns:
            i -= 1
        return i

    def _cancel(
        self, g: _Open, offset_ns: int, now_ns: int, reason: str, events: list[Event]
    ) -> None:
        confidence = float(g.evidence[g.label] / max(g.evidence.sum(), 1e-9))
        self._emit(
            "cancelled", g.id, g.label, g.onset_ns, now_ns, confidence, events, offset_ns, reason
        )
        self._ended(offset_ns)

    def _ended(self, offset_ns: int) -> None:
        self._open = None
        self._begin_run = 0
        self.last_end_ns = offset_ns

    def _name(self, label: int) -> str:
        return self.labels[label - 1]

    def _emit(
        self,
        kind: Kind,
        event_id: str,
        label: int,
        onset_ns: int,
        now_ns: int,
        confidence: float,
        events: list[Event],
        offset_ns: int = 0,
        reason: str = "",
    ) -> None:
        window = self._window
        assert window is not None
        events.append(
            Event(
                id=event_id,
                kind=kind,
                label=self._name(label),
                device=window.device,
                hand=window.hand,
                side=window.side,
                onset_ns=onset_ns,
                decided_ns=now_ns,
                confidence=round(confidence, 4),
                offset_ns=offset_ns,
                reason=reason,
                report_ns=window.frame_time_ns,
                frame_sent_ns=window.frame_sent_ns,
            )
        )


def _nearer(
    smoothed: NDArray[np.float64] | None, to: NDArray[np.float64], gain: float
) -> NDArray[np.float64]:
    return to if smoothed is None or gain >= 1.0 else smoothed + gain * (to - smoothed)
