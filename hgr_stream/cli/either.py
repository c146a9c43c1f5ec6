"""One command name, two commands: with ``--online`` for streams, without it for whole gestures.

Their options have little in common; each is parsed, and helped with, by its own.
"""

from __future__ import annotations

from typing import Any

import click

FLAG = "--online"


class Either(click.Command):
    """Hands over to one of two commands before the arguments are parsed."""

    def __init__(self, name: str, *, online: click.Command, isolated: click.Command) -> None:
        super().__init__(name, help=isolated.help)
        self.online, self.isolated = online, isolated

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if FLAG in args:
            return self.online.make_context(f"{info_name} {FLAG}", args, parent, **extra)
        return self.isolated.make_context(info_name, args, parent, **extra)
