"""What a model says of a recording, kept: decoder settings are tried without running it again.

``tape`` runs the segmenter and the network once; ``Tape.events`` then gives what the whole pipeline
would give under other settings, some fifty times faster. The engine and its decoders are the real
ones; only the recogniser is played back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..config import Recognition, Segmentation
from ..datasets.base import DatasetError
from ..datasets.convert import Recording
from ..datasets.numbering import FrameNumbers
from ..messages import Event, Window
from ..pipeline import BATCH, Pipeline, recording_notes
from ..recognition.bundle import Bundle
from ..recognition.engine import Engine
from ..recognition.options import DecoderOptions
from ..recognition.recogniser import HandState, Recogniser, Scores
from ..skeleton import Float32, mirrored


@dataclass
class Tape:
    """One recording's windows and scores, in order, and its device's frame numbers."""

    bundle: Bundle
    recording: Recording
    numbers: FrameNumbers
    windows: list[Window]
    scores: dict[tuple[str, str, str, int], Scores]
    tracks: dict[str, HandState]  #: each with all of its frames, by ``_Lives``
    notes: list[str]  #: what people should know of the recording
    verdicts: dict[tuple[str, int, int], Float32 | None] = field(default_factory=dict)

    def events(
        self, options: DecoderOptions | None = None, asked: Recognition | None = None
    ) -> list[Event]:
        """The pipeline's events under these decoder settings [the model's own], and a config's
        word on them and on which gestures are told."""
        engine = Engine(self.bundle, options, asked)
        engine.recogniser = _Player(self)
        events: list[Event] = []
        for at in range(0, len(self.windows), BATCH):
            events += engine.push(self.windows[at : at + BATCH])
        return events + engine.close(0, "end")


class _Player(Recogniser):
    """A recogniser that says again what was said before. It knows each track to its end, and is
    asked only about its past."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape.bundle)
        self._tape, self._lives = tape, _Lives()

    def push(self, windows: Sequence[Window]) -> list[Scores]:
        for w in windows:
            name = self._lives.name(w)
            if not w.ended:
                self._hands[(w.device, w.hand)] = self._tape.tracks[name]
        return [self._tape.scores[_key(w)] for w in windows]

    def verify(self, device: str, hand: str, start_ns: int, end_ns: int) -> Float32 | None:
        state = self._hands.get((device, hand))
        if state is None:
            return None
        asked = (state.track, start_ns, end_ns)
        if asked not in self._tape.verdicts:
            self._tape.verdicts[asked] = super().verify(device, hand, start_ns, end_ns)
        return self._tape.verdicts[asked]


class _Lives:
    """Names for what a recogniser remembers: a track that has ended for the model, since it lacked
    what that needs, may go on afresh."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()

    def name(self, window: Window) -> str:
        name = f"{window.track}/{self._ended[window.track]}"
        self._ended[window.track] += bool(window.ended)
        return name


def _key(window: Window) -> tuple[str, str, str, int]:
    return window.device, window.hand, window.track, -1 if window.ended else window.seq


def tape(bundle: Bundle, recording: Recording, segmentation: Segmentation | None = None) -> Tape:
    """Run segmenter and network over one recording; raises DatasetError unless of one device."""
    m = bundle.metadata
    pipeline = Pipeline(bundle, segmentation)
    segmenter, recogniser = pipeline.segmenter, pipeline.engine.recogniser
    numbers: dict[str, FrameNumbers] = {}
    windows: list[Window] = []
    for frame in recording.frames:
        if not frame.end:
            numbers.setdefault(frame.device, FrameNumbers()).add(frame)
        windows += segmenter.push(frame)
    windows += segmenter.finish()
    if len(numbers) != 1:
        raise DatasetError(f"{recording.file}: holds {len(numbers)} devices; one is wanted")
    scores: dict[tuple[str, str, str, int], Scores] = {}
    lives, seen = _Lives(), dict[str, list[Window]]()
    suited = [w for w in map(pipeline.engine.suited, windows) if w is not None]
    for at in range(0, len(suited), BATCH):
        batch = suited[at : at + BATCH]
        for window, said in zip(batch, recogniser.push(batch), strict=True):
            scores[_key(window)] = said
            name = lives.name(window)
            if not window.ended:
                seen.setdefault(name, []).append(window)
    tracks = {}
    for name, own in seen.items():
        ticks = round((own[-1].time_ns - own[0].time_ns) / own[0].step_ns) + own[0].new
        tracks[name] = HandState(name, np.zeros(0, np.float32), ticks)
        for window in own:
            joints = window.array()[-max(window.new, 1) :]
            left = window.side == "left" and m.mirror_left
            right = mirrored(joints) if left else joints
            tracks[name].remember(right, window.time_ns, window.step_ns)
    (only,) = numbers.values()
    only.freeze()
    notes = [*recording.notes, *recording_notes(pipeline, numbers)]
    return Tape(bundle, recording, only, windows, scores, tracks, notes)
