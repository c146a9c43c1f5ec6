"""``hgr train``: whole gestures, or with ``--online`` streams."""

from __future__ import annotations

from .either import Either
from .train_isolated import train_isolated_command as isolated
from .train_online import train as online

train = Either("train", online=online, isolated=isolated)
