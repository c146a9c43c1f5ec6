"""What a config asks of a model's gestures: thresholds of one's own, and which are told at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from ..config import Recognition
from ..messages import Event
from ..skeleton import Side
from .bundle import ModelError
from .options import ClassOptions, DecoderOptions, Metadata

EVERY = "*"


def settings(
    metadata: Metadata, asked: Recognition, base: DecoderOptions, side: Side = "right"
) -> DecoderOptions:
    """The decoder's settings for a hand of this side, with the config's wishes in them.

    ``base`` is by the network's labels, as the model's own settings are; a config's thresholds are
    by what is told, which of a mirrored hand is another label (``Metadata.told``).
    Raises ModelError naming a gesture that the model does not know, or an ``idle`` by which
    gestures would end as they begin, or never."""
    named = {*asked.allow, *asked.ignore, *(asked.threshold.keys() - {EVERY})}
    unknown = sorted(named - set(metadata.labels))
    if unknown:
        raise ModelError(
            f"[recognition] names {unknown[0]!r}, which model {metadata.name!r} does not know; "
            f"it knows {', '.join(metadata.labels)}"
        )
    options = msgspec.structs.replace(base, early_on=base.early_on and asked.early)
    if asked.refractory_s is not None:
        options = msgspec.structs.replace(options, refractory_s=asked.refractory_s)
    if asked.idle is not None:
        begin = min(base.of(label, "begin") for label in metadata.labels)
        if not 0 < asked.idle <= begin:
            raise ModelError(
                f"[recognition] idle {asked.idle:g} does not lie between 0 and {begin:g}, at which "
                f"gestures of model {metadata.name!r} begin"
            )
        options = msgspec.structs.replace(options, end=asked.idle)
    per_class = dict(options.per_class)
    for label in metadata.labels:
        least = asked.threshold.get(metadata.told(label, side), asked.threshold.get(EVERY))
        if least is not None:
            own = per_class.get(label, ClassOptions())
            per_class[label] = msgspec.structs.replace(
                own, accept=least, sure=least, early=max(least, options.of(label, "early"))
            )
    return msgspec.structs.replace(options, per_class=per_class)


@dataclass
class Choice:
    """Lets through the events of the gestures that are wanted; one for each engine.

    What was told of a gesture and then turns out to be an unwanted one is told as cancelled, so
    that every id that begins ends. An update says only what it may be: it may yet be wanted."""

    asked: Recognition
    _told: dict[str, str] = field(default_factory=dict)  # id -> the label last told
    _hushed: set[str] = field(default_factory=set)  # ids that were cancelled here

    def wanted(self, label: str) -> bool:
        asked = self.asked
        return label not in asked.ignore and (not asked.allow or label in asked.allow)

    def of(self, events: Iterable[Event]) -> list[Event]:
        if not (self.asked.allow or self.asked.ignore):
            return list(events)
        out: list[Event] = []
        for event in events:
            before = self._told.get(event.id)
            if event.id in self._hushed:
                pass
            elif self.wanted(event.label):
                if before is None and event.kind == "cancelled":
                    continue  # nothing was told of it
                if before is None and event.kind != "begin":
                    # What went before bore an unwanted label: for the subscriber it begins now.
                    out.append(msgspec.structs.replace(event, kind="begin", offset_ns=0))
                if event.kind != "update" or before not in (None, event.label):
                    out.append(event)
                self._told[event.id] = event.label
            elif before is not None and event.kind != "update":
                reason = f"turned out to be {event.label}, which is not told"
                end_ns = event.offset_ns or event.decided_ns
                out.append(
                    msgspec.structs.replace(
                        event, kind="cancelled", label=before, reason=reason, offset_ns=end_ns
                    )
                )
                self._hushed.add(event.id)
            if event.final:
                self._told.pop(event.id, None)
                self._hushed.discard(event.id)
        return out
