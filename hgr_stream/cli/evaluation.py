"""``hgr evaluate``: whole gestures, or with ``--online`` streams."""

from __future__ import annotations

from .either import Either
from .evaluate import evaluate as isolated
from .online import evaluate_online_command as online

evaluate = Either("evaluate", online=online, isolated=isolated)
