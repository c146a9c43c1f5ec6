"""``--model`` and ``--config`` of commands that run the stages without a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from .. import config

F = TypeVar("F", bound=Callable[..., Any])
_MODEL: Final = f"{__name__}.model"


def model_and_config(command: F) -> F:
    """Both options, as one argument ``config_``: the checked file, its ``model.use`` --model's."""
    command = click.option(
        "--config",
        "config_",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_checked,
        metavar="FILE",
        help="A daemon's config: its [model], [recognition] and [segmentation] hold here too.",
    )(command)
    return click.option(
        "--model",
        is_eager=True,  # before the config, whose model it overrules
        expose_value=False,
        callback=_named,
        help="A shipped name or a file.  [default: the config's, or leap]",
    )(command)


def _named(context: click.Context, _: click.Parameter, name: str | None) -> None:
    context.meta[_MODEL] = name


def _checked(context: click.Context, _: click.Parameter, path: Path | None) -> config.Config:
    found = config.Config() if path is None else config.load(path)
    if named := context.meta[_MODEL]:
        found.model.use = named
    return found
