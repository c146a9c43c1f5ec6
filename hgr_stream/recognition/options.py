"""How a decoder is set, and what a model file says of itself. No torch, so that anybody can read.

All times are in seconds: the same settings hold at any rate.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Literal

import msgspec

from ..skeleton import Lack, Side

FORMAT: Final = 1
SKELETON: Final = "canonical-22"  #: what the stream carries
#: What a model is given that has learnt from whole hands in space, and then cannot do without.
NEEDS: Final[tuple[Lack, ...]] = ("depth", "fingers")


def needs_left(lacks: Collection[Lack], needs: Iterable[Lack] = NEEDS) -> list[Lack]:
    """What is needed yet by a model that has learnt from hands with these ``lacks``."""
    return [one for one in needs if one not in lacks]


class ClassOptions(msgspec.Struct, omit_defaults=True):
    """One gesture's own settings; what is None is taken from ``DecoderOptions``."""

    begin: float | None = None
    end: float | None = None
    early: float | None = None
    min_mean: float | None = None
    min_duration_s: float | None = None
    max_duration_s: float | None = None
    accept: float | None = None
    min_quality: float | None = None
    sure: float | None = None


class DecoderOptions(msgspec.Struct, omit_defaults=True):
    """Thresholds are probabilities after smoothing; see ``decoder`` for the rules they serve."""

    begin: float = 0.5  #: a class this likely, for ``begin_hold_s``, begins a gesture
    begin_hold_s: float = 0.08
    end: float = 0.4  #: all gestures together less likely than this, for ``end_hold_s``, end it
    end_hold_s: float = 0.12
    early: float = 0.8  #: the label this likely, for ``early_hold_s``, is told early and fixed
    early_hold_s: float = 0.12
    early_smooth_s: float | None = None  #: of the probabilities that ``early`` is asked of, see
    #: ``smooth_s``; None: the same
    early_on: bool = True
    smooth_s: float = 0.08  #: time constant of the smoothing
    min_mean: float = 0.3  #: the label's mean probability over the gesture
    min_duration_s: float = 0.12
    max_duration_s: float = 6.0
    refractory_s: float = 0.1  #: nothing begins within this after a gesture's end
    boundary_delay_s: float = 0.0  #: how long after a boundary the network tells it; 0: it does not
    release_s: float = 0.0  #: how long after its end the network goes on naming a gesture
    boundary_min: float = 0.15  #: fainter boundary peaks are not believed
    lookback_s: float = 0.8  #: how far before its detection a beginning is looked for
    accept: float = 0.3  #: the verifier's least probability
    min_quality: float = 0.0  #: see rule 7 of ``decoder``; 0: not asked for
    refine_max_s: float = 1.6  #: the dater dates gestures no longer than this anew
    margin_s: float = 0.0  #: both ends of what is confirmed are told this much wider
    relabel: bool = True  #: the verifier may change the label
    sure: float = 0.0  #: the least confidence that is told, verifier or not
    #: The verifier, this sure of another label, confirms that one in place of one told early,
    #: which is cancelled; less sure, it may only confirm or refuse. Above 1: never.
    overrule: float = 0.8
    per_class: dict[str, ClassOptions] = {}

    def of(self, label: str, name: str) -> Any:
        """Setting ``name`` for one class."""
        own = self.per_class.get(label)
        value = getattr(own, name) if own is not None else None
        return getattr(self, name) if value is None else value


class Metadata(msgspec.Struct, omit_defaults=False, forbid_unknown_fields=False):
    """What is written into the model file, beside the network."""

    format: int
    name: str
    kind: Literal["streaming", "windowed"]
    labels: list[str]  #: in the data set's own spelling; "none" is not among them
    rate_hz: float
    size: int  #: frames in a window
    hop: int  #: frames between windows
    skeleton: str = SKELETON
    mirror_left: bool = True  #: left hands are mirrored before the model
    mirror_labels: dict[str, str] = {}  #: what a mirrored hand's gesture is in truth: LEFT is RIGHT
    temperature: float = 1.0  #: logits are divided by it
    verify_temperature: float = 1.0
    refine_margin_s: float = 0.0  #: what the dater sees on either side of a segment; 0: no dater
    decoder: DecoderOptions = msgspec.field(default_factory=DecoderOptions)
    training: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    version: str = "1"
    #: What the model cannot do without; a hand that lacks it is refused (``skeleton.Lack``).
    needs: list[Lack] = msgspec.field(default_factory=lambda: [*NEEDS])

    def told(self, label: str, side: Side) -> str:
        """The gesture that the network's ``label`` is, for a hand of this side."""
        mirrored = self.mirror_left and side == "left"
        return self.mirror_labels.get(label, label) if mirrored else label


#: Words in a gesture's name that a mirror exchanges.
_MIRRORED: Final = (("LEFT", "RIGHT"), ("CCW", "CW"))


def mirror_pairs(labels: Sequence[str]) -> dict[str, str]:
    """The labels that a mirror turns into one another, told by the words of their names, however
    these are joined: SWIPE_LEFT, swipe left, SwipeLeft.

    A left hand that moves to the left is, mirrored, a right hand that moves to the right."""
    pairs: dict[str, str] = {}
    for label in labels:
        words = _words(label)
        for a, b in _MIRRORED:
            if a in words or b in words:
                wanted = [{a: b, b: a}.get(word, word) for word in words]
                for other in labels:
                    if _words(other) == wanted:
                        pairs[label] = other
    return pairs


def _words(label: str) -> list[str]:
    apart = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)", "_", label)
    return re.split(r"[\W_]+", apart.upper())
