"""``--model`` and ``--config`` of commands that run the stages without a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import config

F = TypeVar("F", bound=Callable[..., Any])


def model_and_config(command: F) -> F:
    """Both options; ``config_`` comes as the checked file, its ``model.use`` set to --model."""
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
        help="A shipped name or a file.  [default: the config's, or leap]",
    )(command)


def _checked(context: click.Context, _: click.Parameter, path: Path | None) -> config.Config:
    found = config.Config() if path is None else config.load(path)
    if named := context.params.get("model"):
        found.model.use = named
    return found
