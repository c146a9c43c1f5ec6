"""A thread that reads a live source and keeps only the newest item.

A camera goes on taking pictures while hands are looked for in the last one. Left in a queue they
would grow old there; a gesture recogniser wants the newest, and to know how many it missed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: For how long ``close`` waits for a source that does not come back.
CLOSE_S = 2.0


class Newest(Generic[T]):
    """``produce`` is called in a thread of its own, again and again; it gives an item, or None
    when none came for a while (it must come back within ``CLOSE_S``). What it raises is raised by
    the next ``get``, after the last item, and ends the thread."""

    def __init__(self, produce: Callable[[], T | None], name: str = "camera") -> None:
        self.skipped = 0  #: items that a newer one replaced before they were asked for
        self._produce = produce
        self._changed = threading.Condition()
        self._item: T | None = None
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> T | None:
        """The newest item since the last call, or None when none came in ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._error, timeout_s)
            item, self._item = self._item, None
            if item is None and self._error is not None:
                raise self._error
            return item

    def close(self) -> bool:
        """End the thread; False when the source holds it, and nothing may be freed under it."""
        with self._changed:
            self._closed = True
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closed:
            try:
                item = self._produce()
            except BaseException as error:  # raised where it is heard
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            if item is None:
                time.sleep(0)  # a source that comes back at once must not starve the reader
                continue
            with self._changed:
                if self._item is not None:
                    self.skipped += 1
                self._item = item
                self._changed.notify_all()
