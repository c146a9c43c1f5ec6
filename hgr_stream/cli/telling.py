"""What is told to a person beside a command's output, which may be another program's input."""

from __future__ import annotations

import click


def tell(text: str) -> None:
    """A line on standard error."""
    click.echo(text, err=True)


def tell_left_out(count: int, model: str) -> None:
    """That so many recordings are not used, if any: the model has learnt from them."""
    if count:
        tell(f"left out: {count} recordings that {model} was trained on")
