"""Programs from npm packages, in the versions that `e2e/node/package-lock.json` holds, on this environment's Node."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
WANTED = Path(__file__).parent / "e2e" / "node"
FILES = ("package.json", "package-lock.json", ".npmrc")
INSTALL = 300.0


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with our Node first on the path."""
    return os.environ | {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"} | more


@cache
def program(name: str) -> Path:
    """Return one of the packages' programs; they are installed once, until the lock changes."""
    digest = hashlib.sha256(b"".join((WANTED / each).read_bytes() for each in FILES)).hexdigest()[:16]
    place = ROOT / ".cache" / f"node-{digest}"
    found = place / "node_modules" / ".bin" / name
    if not found.exists():
        place.mkdir(parents=True, exist_ok=True)
        for each in FILES:
            shutil.copy(WANTED / each, place)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts"],
            cwd=place,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=INSTALL,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return found
