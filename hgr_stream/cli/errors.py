"""What keeps a command from its work, as one line and exit code 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click


@contextlib.contextmanager
def errors_told(*more: type[ValueError], written: Path | None = None) -> Iterator[None]:
    """Errors of files, data sets and models, and ``more`` of the command's own. ``written``: the
    file that is meant where the system names none, as it does when a write fails."""
    try:
        yield
    except BrokenPipeError:  # of what is printed: click ends quietly
        raise
    except OSError as error:
        name = error.filename or written or "file"
        raise click.ClickException(f"{name}: {error.strerror or error}") from None
    except ValueError as error:
        # Here, since a command that meets none of them need not wait for their modules.
        from ..datasets.base import DatasetError
        from ..recognition.bundle import ModelError
        from ..recording import RecordingError

        if not isinstance(error, (RecordingError, DatasetError, ModelError, *more)):
            raise
        raise click.ClickException(str(error)) from None


def needs(what: str, error: ImportError) -> click.ClickException:
    """``what`` is to be done without the extra that it needs."""
    return click.ClickException(f'{what} needs {error.name}: pip install "hgr-stream[train]"')
