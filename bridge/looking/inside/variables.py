"""What the user's code has bound, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import bound, describe


def variables(shell: Any, limit: int, start: int) -> dict[str, Any]:
    """All of it in pages; what IPython itself put there is left out."""
    hidden = {name: id(value) for name, value in bound(shell.user_ns_hidden)}
    mine = [
        (name, value)
        for name, value in bound(shell.user_ns)
        if not name.startswith("_") and hidden.get(name) != id(value)
    ]
    mine.sort(key=lambda pair: pair[0])
    return {"total": len(mine), "variables": [describe(*pair) for pair in mine[start : start + limit]]}
