"""``--rate`` of commands that read one's own recordings, which may not tell their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .numbers import Number

if TYPE_CHECKING:
    from ..recognition.bundle import Bundle

F = TypeVar("F", bound=Callable[..., Any])
#: Data sets of one's own. Others have their times, or their rate is known.
OWN: Final = {"streams", "recordings"}
#: Where a model runs over them, see ``rate_of``.
RATE_HELP: Final = (
    "Frames a second of one's own recordings that tell no times.  "
    "[default: as the model was trained with, or 30, or as the file says]"
)


def rate_option(help_: str) -> Callable[[F], F]:
    """The option, as ``rate_hz``; None where nothing is said."""
    return click.option("--rate", "rate_hz", type=Number(1, 1000), help=help_)


def refuse_rate(rate_hz: float | None, datasets: Sequence[str]) -> None:
    """Where none of the data sets is one's own, ``--rate`` means nothing; raises UsageError."""
    if rate_hz is not None and not OWN & set(datasets):
        raise click.UsageError(f"--rate is of recordings of one's own, not of {datasets[0]}")


def rate_of(bundle: Bundle, asked: float | None) -> float | None:
    """At which recordings without times are read for a model to run over them, or to be trained on
    by them: as they were learnt, unless another rate is asked for. By other times a model's own
    recordings would not be known again, either."""
    found: float | None = bundle.metadata.training.get("recordings_hz")
    return found if asked is None else asked
