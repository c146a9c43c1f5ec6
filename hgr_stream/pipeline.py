"""The stages in lock step: segmentation, recogniser and decoder in one object, without processes
or clocks. The daemon runs these very objects apart; replay, evaluation and tests compare with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .config import Recognition, Segmentation
from .datasets.numbering import FrameNumbers
from .messages import Event, Frame, Window
from .segmentation import Segmenter, WindowSpec

if TYPE_CHECKING:
    from .recognition.bundle import Bundle
    from .recognition.options import DecoderOptions

#: Windows put through the network together: the events are the same, and far cheaper.
BATCH = 64


class Pipeline:
    """``push`` frames, get events; ``finish`` when there are no more.

    ``options`` replaces the decoder settings that the model carries; ``asked`` is a config's word
    on them, and on which gestures are told.
    ``batch``: windows gathered before the network runs. 1 gives each event with the frame that
    made it; more is for files.
    """

    def __init__(
        self,
        bundle: Bundle,
        segmentation: Segmentation | None = None,
        *,
        batch: int = 1,
        options: DecoderOptions | None = None,
        asked: Recognition | None = None,
    ) -> None:
        from .recognition.engine import Engine

        metadata = bundle.metadata
        spec = WindowSpec(metadata.rate_hz, metadata.size, metadata.hop)
        self.segmenter = Segmenter(spec, segmentation)
        self.engine = Engine(bundle, options, asked)
        self.batch = batch
        self._due: list[Window] = []

    @property
    def counts(self) -> Counter[str]:
        """What was refused, lost or mended on the way."""
        return self.segmenter.counts + self.engine.counts

    def push(self, frame: Frame) -> list[Event]:
        """Events that this frame brought about."""
        self._due += self.segmenter.push(frame)
        return self._run() if len(self._due) >= self.batch else []

    def finish(self) -> list[Event]:
        """There is no more input: the open gestures end."""
        self._due += self.segmenter.finish()
        return self._run() + self.engine.close(0, "end")

    def _run(self) -> list[Event]:
        due, self._due = self._due, []
        return self.engine.push(due) if due else []


def run_recording(
    pipeline: Pipeline, frames: Iterable[Frame]
) -> tuple[list[Event], dict[str, FrameNumbers]]:
    """All events of a recording, and the frame numbers of each device in it."""
    devices: dict[str, FrameNumbers] = {}
    events: list[Event] = []
    for frame in frames:
        if not frame.end:
            numbers = devices.get(frame.device)
            if numbers is None:
                numbers = devices[frame.device] = FrameNumbers()
            numbers.add(frame)
        events += pipeline.push(frame)
    events += pipeline.finish()
    return events, {device: numbers.freeze() for device, numbers in devices.items()}
