"""The command line: ``hgr COMMAND``. Each command lives in a module that is imported only when it
is called, so that ``hgr listen`` never waits for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from typing import Final

import click

from .. import __version__
from ..config import ConfigError
from ..stream.bus import BusError

#: command -> (module in this package, one line of help, heading)
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "run": ("daemon", "Run the daemon for the devices in a config file.", "Daemon"),
    "config": ("daemon", "The shipped configs, one for each device.", "Daemon"),
    "status": ("daemon", "What the running daemon's processes do and count.", "Daemon"),
    "stop": ("daemon", "Stop the running daemon.", "Daemon"),
    "model": ("model", "Show models, or give the running daemon another one.", "Daemon"),
    "demo": ("demo", "The whole pipeline on the synthetic hand, live in the terminal.", "Daemon"),
    "listen": ("stream", "Gesture events as they come.", "Stream"),
    "echo": ("stream", "Print the messages of a topic.", "Stream"),
    "hz": ("stream", "Rates, ages and losses of topics.", "Stream"),
    "record": ("recordings", "Record all topics to an MCAP file.", "Recordings"),
    "replay": ("recordings", "Replay a recording as a device on the stream.", "Recordings"),
    "info": ("recordings", "What a recording holds.", "Recordings"),
    "recover": ("recordings", "Make a whole file of a cut recording.", "Recordings"),
    "import": ("recordings", "Bring foreign recordings in.", "Recordings"),
    "process": ("process", "Gesture events of recordings, faster than real time.", "Recordings"),
    "train": ("train", "Train a model on whole gestures, or with --online on streams.", "Models"),
    "evaluate": ("evaluation", "How good a model is, on whole gestures or streams.", "Models"),
    "export": ("evaluate", "Write a trained run as a model file.", "Models"),
    "tune": ("online", "Find thresholds for a wanted rate of false events.", "Models"),
    "devices": ("system", "Drivers, and the devices that can be seen now.", "System"),
    "doctor": ("system", "What is installed, what is missing, and the cure.", "System"),
}


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command", None) or getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, (_, text, heading) in COMMANDS.items():
            headings.setdefault(heading, []).append((name, text))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"{error.message}{hint}", ctx) from None


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  hgr demo        see it at work, no device needed
  hgr run leap    the daemon for a Leap Motion
  hgr listen      what it recognises, in another terminal
""",
)
@click.version_option(__version__, "--version", prog_name="hgr-stream")
def cli() -> None:
    """From a hand-tracking sensor to gesture events."""


def _drop_output() -> None:
    """Let what could not be written go: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The console script: errors of ours are one line, and Ctrl-C is no error to shout about."""
    from ..client import ClientError

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A file's name may be any bytes: as on stderr, they are shown somehow.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except (ConfigError, BusError, ClientError) as error:
        click.echo(f"Error: {error}", err=True)
        code = 2 if isinstance(error, ConfigError) else 1
    except OSError as error:  # `hgr status > /dev/full`
        what = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {what}{error.strerror or error}", err=True)
        _drop_output()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
