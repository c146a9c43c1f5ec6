"""How far a long work is: bars on a terminal, a line for each tenth in a log."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

TENTHS = 10


class Stages:
    """Stages of one work, told on stderr; call it with a stage, its share done and a text.

    A stage begins when it is first told of, and again after ``again``.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console or Console(stderr=True, markup=False)
        self.bars = Progress(
            TextColumn("{task.description:18}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Stages:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def __call__(self, stage: str, share: float, text: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(stage, total=1.0, text="")
            self._told[stage] = 0
        self.bars.update(self._tasks[stage], completed=share, text=text)
        tenth = int(TENTHS * share + 1e-9)
        if not self.console.is_terminal and tenth > self._told[stage]:
            self._told[stage] = tenth
            print(f"{stage} {share:.0%} {text}".rstrip(), file=self.console.file, flush=True)

    def again(self) -> None:
        """The same stages come once more, for another piece of the work."""
        self._tasks.clear()
