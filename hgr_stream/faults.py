"""Faults as a person is told of them: each in one line, and none so often that it fills a log."""

from __future__ import annotations

from typing import Final

#: Of a line that may quote a stranger's file, in characters.
MOST: Final = 200


def error_line(error: BaseException) -> str:
    """All that an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an error says, of a library that goes on for many; its kind where it
    says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MOST]


def worth_telling(count: int) -> bool:
    """Whether a fault that has come so often is told again: at the first time, and at every
    tenfold."""
    return str(count).rstrip("0") == "1"
