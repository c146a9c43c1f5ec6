"""Whose finger a joint of a skeleton belongs to, by its name in any of the usual spellings."""

from __future__ import annotations

import re
from typing import Final

from ..skeleton import FINGERS

_WORDS: Final = {
    "thumb": "thumb",
    "index": "index",
    "pointer": "index",
    "middle": "middle",
    "ring": "ring",
    "pinky": "pinky",
    "pinkie": "pinky",
    "little": "pinky",
}
_BIPED: Final = re.compile(r"finger([0-4])")
_SIDE_WORD: Final = re.compile(r"(left|right)", re.IGNORECASE)
_SIDE_LETTER: Final = re.compile(r"(?:^|[ ._:-])([LRlr])(?:[ ._:-]|$)|^([LRlr])(?=[A-Z][a-z])")


def finger_of(name: str) -> tuple[str, str] | None:
    """("left", "index") of a joint's name; side "" where it does not tell; None if no finger's."""
    name = name.rpartition(":")[2]
    low = name.lower()
    if "toe" in low or "foot" in low:
        return None
    finger = next((f for word, f in _WORDS.items() if word in low), None)
    if finger is None:
        biped = _BIPED.search(low)
        if biped is None:
            return None
        finger = FINGERS[int(biped[1])]
    return _side_of(name), finger


def _side_of(name: str) -> str:
    word = _SIDE_WORD.search(name)
    if word:
        return word[1].lower()
    letter = _SIDE_LETTER.search(name)
    if letter is None:
        return ""
    return "left" if (letter[1] or letter[2]).lower() == "l" else "right"
