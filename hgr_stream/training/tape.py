"""What a model says of a recording, kept: decoder settings are tried without running it again.

``tape`` runs the segmenter and the network once; ``Tape.events`` then gives what the whole pipeline
would give under other settings, some fifty times faster. The engine and its decoders are the real
ones; only the recogniser is played back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..config import Segmentation
from ..datasets.base import DatasetError
from ..datasets.convert import Recording
from ..datasets.numbering import FrameNumbers
from ..messages import Event, Window
from ..pipeline import BATCH
from ..recognition.bundle import Bundle
from ..recognition.engine import Engine
from ..recognition.options import DecoderOptions
from ..recognition.recogniser import Recogniser, Scores, softmax
from ..segmentation import Segmenter, WindowSpec
from ..skeleton import Float32, mirrored


@dataclass
class _Track:
    """One unbroken stretch of one hand, as the model saw it."""

    parts: list[Float32] = field(default_factory=list)
    last_ns: int = 0
    joints: Float32 = field(default_factory=lambda: np.zeros((0, 22, 3), np.float32))
    verdicts: dict[tuple[int, int], Float32] = field(default_factory=dict)


@dataclass
class Tape:
    """One recording's windows and scores, in order, and its device's frame numbers."""

    bundle: Bundle
    recording: Recording
    numbers: FrameNumbers
    windows: list[Window]
    scores: dict[tuple[str, str, str, int], Scores]
    tracks: dict[str, _Track]

    def events(self, options: DecoderOptions | None = None) -> list[Event]:
        """The pipeline's events under these decoder settings [the model's own]."""
        engine = Engine(self.bundle, options)
        engine.recogniser = _Player(self)
        events: list[Event] = []
        for at in range(0, len(self.windows), BATCH):
            events += engine.push(self.windows[at : at + BATCH])
        return events + engine.close(0, "end")


class _Player(Recogniser):
    """A recogniser that says again what was said before."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape.bundle)
        self._tape = tape
        self._now: dict[tuple[str, str], _Track] = {}

    def push(self, windows: Sequence[Window]) -> list[Scores]:
        for w in windows:
            if not w.ended:
                self._now[(w.device, w.hand)] = self._tape.tracks[w.track]
        return [self._tape.scores[_key(w)] for w in windows]

    def verify(self, device: str, hand: str, start_ns: int, end_ns: int) -> Float32 | None:
        track = self._now.get((device, hand))
        if track is None or not self.bundle.has_verifier:
            return None
        metadata = self.bundle.metadata
        step_ns = 1e9 / metadata.rate_hz
        frames = max(round((end_ns - start_ns) / step_ns) + 1, 3)
        last = len(track.joints) - max(round((track.last_ns - end_ns) / step_ns), 0)
        part = (max(last - frames, 0), max(last, 1))
        if part not in track.verdicts:
            import torch

            with torch.inference_mode():
                x = torch.from_numpy(np.ascontiguousarray(track.joints[slice(*part)]))[None]
                logits = self.bundle.module.verify(x)[0].numpy()
            track.verdicts[part] = softmax(logits / metadata.verify_temperature)
        return track.verdicts[part]


def _key(window: Window) -> tuple[str, str, str, int]:
    return window.device, window.hand, window.track, -1 if window.ended else window.seq


def tape(bundle: Bundle, recording: Recording, segmentation: Segmentation | None = None) -> Tape:
    """Run segmenter and network over one recording; raises DatasetError unless of one device."""
    m = bundle.metadata
    segmenter = Segmenter(WindowSpec(m.rate_hz, m.size, m.hop), segmentation)
    recogniser = Recogniser(bundle)
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
    tracks: dict[str, _Track] = {}
    for at in range(0, len(windows), BATCH):
        batch = windows[at : at + BATCH]
        for window, said in zip(batch, recogniser.push(batch), strict=True):
            scores[_key(window)] = said
            if not window.ended:
                track = tracks.setdefault(window.track, _Track())
                joints = window.array()[-max(window.new, 1) :]
                left = window.side == "left" and m.mirror_left
                track.parts.append(mirrored(joints) if left else joints)
                track.last_ns = window.time_ns
    for track in tracks.values():
        track.joints = np.concatenate(track.parts)
        track.parts.clear()
    (only,) = numbers.values()
    return Tape(bundle, recording, only.freeze(), windows, scores, tracks)
