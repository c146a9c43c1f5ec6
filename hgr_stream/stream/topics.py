"""Every topic of the stream, in one table: its form, its message, how often, and who sends it.

A topic's first word is its kind; the rest says where it comes from, so that a prefix selects:
``gesture/`` is every gesture, ``gesture/leap/right/`` those of one hand.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..messages import Event, Frame, Status, Truth, Window


class Topic(NamedTuple):
    """One line of the table."""

    form: str
    message: type[Frame | Window | Event | Truth | Status]
    rate: str
    sender: str


TOPICS: Final[dict[str, Topic]] = {
    "frame": Topic("frame/<device>", Frame, "the device's", "driver"),
    "window": Topic("window/<device>/<hand>", Window, "model's rate / hop", "segmenter"),
    "gesture": Topic("gesture/<device>/<hand>/<label>", Event, "when it happens", "worker"),
    "truth": Topic("truth/<device>", Truth, "when it happened", "a source that knows"),
    "status": Topic("status/<stage>", Status, "1 Hz", "supervisor"),
}


def of(message: Frame | Window | Event | Truth | Status) -> str:
    """The topic that a message belongs to."""
    if isinstance(message, Frame):
        return f"frame/{message.device}"
    if isinstance(message, Window):
        return f"window/{message.device}/{message.hand}"
    if isinstance(message, Event):
        return f"gesture/{message.device}/{message.hand}/{message.label}"
    if isinstance(message, Truth):
        return f"truth/{message.device}"
    return f"status/{message.stage}"


def message_type(topic: str) -> type[Frame | Window | Event | Truth | Status] | None:
    """What a topic carries; None for a topic that is not ours."""
    entry = TOPICS.get(topic.split("/", 1)[0])
    return entry.message if entry else None
