"""Numbers on the command line, which are numbers."""

from __future__ import annotations

import math
from typing import Any, Final

import click


class Number(click.FloatRange):
    """A finite number in a range. click's own takes "nan", which no comparison refuses."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


#: How long something goes on; 0 is no time.
SECONDS: Final = Number(min=0, min_open=True)
#: How long to wait; 0: take what is there already.
PATIENCE: Final = Number(min=0)
