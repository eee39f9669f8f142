"""What an audit's file holds, for tests that look into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines(file: Path) -> list[dict[str, Any]]:
    """Return its lines, each read as JSON; none where there is no file yet."""
    return [json.loads(each) for each in file.read_text().splitlines()] if file.exists() else []
