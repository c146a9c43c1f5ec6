"""A hand in a terminal: joints and bones on a canvas of braille dots (2 x 4 dots a character)."""

from __future__ import annotations

import numpy as np

from ..skeleton import BONES, PALM, Float32

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # rows x columns of a cell


class Canvas:
    """``width`` x ``height`` characters over a rectangle of the x-y plane, metres."""

    def __init__(
        self, width: int, height: int, centre_m: tuple[float, float], span_m: float
    ) -> None:
        self.width, self.height = width, height
        # A character cell is about twice as high as wide, and so are its 4 x 2 dots: square.
        self._dots_per_m = 2 * width / span_m
        self._left = centre_m[0] - span_m / 2
        self._top = centre_m[1] + 4 * height / self._dots_per_m / 2
        self._cells = np.zeros((height, width), dtype=np.uint8)

    def dot(self, x_m: float, y_m: float) -> None:
        column = round((x_m - self._left) * self._dots_per_m)
        row = round((self._top - y_m) * self._dots_per_m)
        if 0 <= column < 2 * self.width and 0 <= row < 4 * self.height:
            self._cells[row // 4, column // 2] |= _DOTS[row % 4][column % 2]

    def line(self, a: Float32, b: Float32) -> None:
        length = float(np.hypot(*(b[:2] - a[:2])))
        steps = max(1, round(length * self._dots_per_m))
        for i in range(steps + 1):
            x, y = a[:2] + (b[:2] - a[:2]) * (i / steps)
            self.dot(float(x), float(y))

    def hand(self, joints: Float32) -> None:
        """The bones of one hand, (22, 3), seen by the user: x to the right, y up."""
        for parent, child in BONES:
            if child != PALM:
                self.line(joints[parent], joints[child])

    def text(self) -> str:
        return "\n".join(
            "".join(chr(0x2800 + cell) for cell in row) for row in self._cells.tolist()
        )
