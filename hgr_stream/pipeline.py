"""The stages in lock step: segmentation, recogniser and decoder in one object, without processes
or clocks. The daemon runs these very objects apart; replay, evaluation and tests compare with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from .config import Recognition, Segmentation
from .datasets.numbering import FrameNumbers
from .messages import Event, Frame, Window
from .segmentation import Segmenter, WindowSpec

if TYPE_CHECKING:
    from .recognition.bundle import Bundle
    from .recognition.options import DecoderOptions

#: Windows put through the network together: the events are the same, and far cheaper.
BATCH = 64
#: No sensor of hands gives more frames a second, and none worth the name gives fewer.
RATES_HZ: Final = (5.0, 1000.0)
#: What a recording's times may be in when they are not in nanoseconds.
OTHER_TIMES: Final = {"microseconds": 1e3, "milliseconds": 1e6}
#: A device whose first frame is farther than this from the frame before, another device's, has a
#: clock of its own: a recording that was replayed while this one was made.
SAME_CLOCK_NS: Final = 3_600_000_000_000
#: Fewer frames than this tell no rate.
MIN_FRAMES: Final = 10


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
    zeros_ns: dict[str, int] = {}
    events: list[Event] = []
    before: Frame | None = None
    for frame in frames:
        if not frame.end:
            numbers = devices.get(frame.device)
            if numbers is None:
                near = before and abs(frame.time_ns - before.time_ns) < SAME_CLOCK_NS
                zero_ns = zeros_ns[before.device] if before and near else frame.time_ns
                zeros_ns[frame.device] = zero_ns
                numbers = devices[frame.device] = FrameNumbers(zero_ns)
            numbers.add(frame)
            before = frame
        events += pipeline.push(frame)
    events += pipeline.finish()
    return events, {device: numbers.freeze() for device, numbers in devices.items()}


def recording_notes(pipeline: Pipeline, devices: Mapping[str, FrameNumbers]) -> list[str]:
    """What people should know of a recording that was run: one line each, the likely cause in it.

    ``devices`` is what ``run_recording`` gave. How often something was refused is in ``counts``.
    """
    notes = [*pipeline.segmenter.notices.values(), *pipeline.engine.notices]
    counts = pipeline.segmenter.counts
    if not counts["tracks"] and not any(name.startswith("hands_") for name in counts):
        notes.append("there is no hand in any frame")
    for device, numbers in devices.items():
        n = len(numbers.times_ns)
        lasted_s = float(numbers.times_ns[-1] - numbers.times_ns[0]) / 1e9
        if n < MIN_FRAMES or n <= lasted_s * RATES_HZ[1]:
            continue
        unit = "nanoseconds"
        for other, factor in OTHER_TIMES.items():
            if RATES_HZ[0] * lasted_s * factor <= n <= RATES_HZ[1] * lasted_s * factor:
                unit = other
                break
        notes.append(f"{device}: {n:,} frames within {lasted_s:.3g} s; are its times in {unit}?")
    return notes
