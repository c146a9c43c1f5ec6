"""Recogniser and decoders in one object: windows in, events out, for all hands.

What the worker process, ``hgr process``, evaluation and the tests run. The result does not depend
on how windows are grouped into pushes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from ..config import Recognition
from ..messages import Event, Window
from ..skeleton import LACKS, SIDES, Side
from .bundle import Bundle, ModelError
from .choice import Choice, settings
from .decoder import NEVER_NS, Decoder
from .options import DecoderOptions, Metadata
from .recogniser import Recogniser, rounds

#: So long a hand may lack what the model needs (depth with holes, say) and still be followed.
LACK_NS: Final = 250_000_000


class Engine:
    """``options`` replaces the decoder settings that the model carries; ``asked`` is the config's
    word on them and on which gestures are told."""

    def __init__(
        self,
        bundle: Bundle,
        options: DecoderOptions | None = None,
        asked: Recognition | None = None,
    ) -> None:
        self._options = options
        self._asked = asked or Recognition()
        self._choice = Choice(self._asked)
        self._decoders: dict[tuple[str, str], Decoder] = {}
        self._last_end_ns: dict[tuple[str, str], int] = {}  # of a hand that was lost
        #: ``windows_lost``: numbers of a track's windows that were stepped over.
        #: ``windows_lacking_<what>``: the model needs what their source cannot see.
        self.counts: Counter[str] = Counter()
        self.notices: list[str] = []  #: lines for people, drained by the caller
        self._next_seq: dict[tuple[str, str], tuple[str, int]] = {}
        self._told: set[tuple[str, str]] = set()  # (device, lack)
        # (device, hand, track) that lack something -> since when; None: followed no more
        self._lacking: dict[tuple[str, str, str], int | None] = {}
        self._adopt(bundle)

    @property
    def labels(self) -> list[str]:
        """The gestures that are told: the model's, less those that the config leaves out."""
        return [n for n in self.bundle.metadata.labels if self._choice.wanted(n)]

    def _adopt(self, bundle: Bundle) -> None:
        self.options: dict[Side, DecoderOptions] = {
            side: self._options_for(bundle, side) for side in SIDES
        }
        self.recogniser = Recogniser(bundle)
        self.bundle = bundle

    def _options_for(self, bundle: Bundle, side: Side = "right") -> DecoderOptions:
        """The settings that a model would run with; raises ModelError if they do not suit it."""
        options = self._options or bundle.metadata.decoder
        options = settings(bundle.metadata, self._asked, options, side)
        unknown = set(options.per_class) - set(bundle.metadata.labels)
        if unknown:
            raise ModelError(
                f"decoder settings for {sorted(unknown)[0]!r}, which model "
                f"{bundle.metadata.name!r} does not know"
            )
        return options

    def fits(self, metadata: Metadata) -> str:
        """Why the windows that come in now would not suit another model; empty if they would."""
        now = self.bundle.metadata
        for name in ("rate_hz", "size", "hop", "skeleton"):
            if getattr(now, name) != getattr(metadata, name):
                return (
                    f"model {metadata.name!r} wants {name} {getattr(metadata, name)}, "
                    f"the stream is cut for {getattr(now, name)}: start the daemon with it, "
                    "by hgr run --model"
                )
        return ""

    def push(self, windows: Sequence[Window]) -> list[Event]:
        """All events that these windows decide, in the windows' order.

        Raises ModelError for windows of another shape than the model's, before any is used.
        """
        self.recogniser.check(windows)
        self._count_lost(windows)  # of all: what is refused has come
        if self._lacking or any(window.lacks for window in windows):
            windows = [w for w in map(self.suited, windows) if w is not None]
        found: list[tuple[int, list[Event]]] = []
        for runs in rounds(windows):
            # A track's last words come before its state is dropped: the verifier needs it.
            found += [(run[0], self._farewell(windows[run[0]])) for run in runs]
            due = [i for run in runs for i in run]
            for i, scores in zip(due, self.recogniser.push([windows[i] for i in due]), strict=True):
                if not windows[i].ended:
                    decoder = self._decoders[(windows[i].device, windows[i].hand)]
                    found.append((i, decoder.push(scores)))
        found.sort(key=lambda item: item[0])
        return self._choice.of(self._signed(event) for _, events in found for event in events)

    def suited(self, window: Window) -> Window | None:
        """The window if the model can judge the hand; None if it cannot, which is told once for
        each device and lack. The first after ``LACK_NS`` without is the end for the model: what was
        begun is cancelled, and the hand starts afresh when it suits again."""
        metadata = self.bundle.metadata
        key = (window.device, window.hand, window.track)
        missing = [lack for lack in window.lacks if lack in metadata.needs]
        if window.ended or not missing:
            self._lacking.pop(key, None)
            return window
        for lack in missing:
            self.counts[f"windows_lacking_{lack}"] += 1
            if (window.device, lack) not in self._told:
                self._told.add((window.device, lack))
                self.notices.append(
                    f"{window.device}: model {metadata.name!r} needs {LACKS[lack]}, which this "
                    "source does not give; its hands are not recognised"
                )
        since_ns = self._lacking.setdefault(key, window.time_ns)
        if since_ns is None or window.time_ns - since_ns <= LACK_NS:
            return None
        self._lacking[key] = None
        return msgspec.structs.replace(window, joints=b"", ended=f"lacks {missing[0]}")

    def _count_lost(self, windows: Sequence[Window]) -> None:
        for window in windows:
            key = (window.device, window.hand)
            track, expected = self._next_seq.get(key, ("", 0))
            if track == window.track and window.seq > expected:
                self.counts["windows_lost"] += window.seq - expected
            if window.ended:
                self._next_seq.pop(key, None)
            else:
                self._next_seq[key] = (window.track, window.seq + 1)

    def _farewell(self, window: Window) -> list[Event]:
        """Finish the decoder that this window makes obsolete; have one ready for its track."""
        key = (window.device, window.hand)
        decoder = self._decoders.get(key)
        events: list[Event] = []
        if decoder is not None and (window.ended or decoder.track != window.track):
            mine = decoder.track == window.track
            events = decoder.finish(window.time_ns, window.ended if mine else "lost", window)
            self._last_end_ns[key] = decoder.last_end_ns
            del self._decoders[key]
            decoder = None
        if decoder is None and not window.ended:
            m = self.bundle.metadata
            tick_s = (1 if m.kind == "streaming" else m.hop) / m.rate_hz
            last_end_ns = self._last_end_ns.pop(key, NEVER_NS)
            if last_end_ns > window.time_ns:  # the device's clock was set back
                last_end_ns = NEVER_NS
            self._decoders[key] = Decoder(
                self.options[window.side],
                m.labels,
                tick_s,
                partial(self.recogniser.verify, *key) if self.bundle.has_verifier else None,
                window.track,
                partial(self.recogniser.refine, *key) if m.refine_margin_s > 0 else None,
                last_end_ns,
            )
        return events

    def _signed(self, event: Event) -> Event:
        m = self.bundle.metadata
        event.model = m.name
        event.label = m.told(event.label, event.side)
        return event

    def swap(self, bundle: Bundle) -> list[Event]:
        """Change the model: open gestures are cancelled, hands start afresh.

        Raises ModelError, and changes nothing, if the windows would not suit the new model.
        """
        fault = self.fits(bundle.metadata)
        if fault:
            raise ModelError(fault)
        self._options_for(bundle)
        events = self.close(0, "model changed")
        self._adopt(bundle)
        return events

    def close(self, time_ns: int, reason: str) -> list[Event]:
        """End all tracks. With reason "end" or "lost" a whole gesture is still confirmed.

        ``time_ns``: when they ended in stream time, or 0 for "with their last windows".
        """
        events = [e for d in self._decoders.values() for e in d.finish(time_ns, reason)]
        self._decoders.clear()
        self._lacking.clear()
        self.recogniser = Recogniser(self.bundle)
        return self._choice.of(self._signed(event) for event in events)
