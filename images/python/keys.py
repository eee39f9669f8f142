"""Makes a kernel's key and the token of the MCP server beside it, once: the first step of compose.yaml.

The one rule: what is there is used again, so that a kernel that runs keeps its key, and a client its token. It is root
in a container without a network, sees two volumes and nothing of the host, and gives each file to its one reader.

    keys.py NAME UID CPUS    writes to /run/kernel-bridge-key and /run/kernel-bridge-token
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

KEYS, TOKENS = Path("/run/kernel-bridge-key"), Path("/run/kernel-bridge-token")
SECRET = re.compile("[0-9a-f]{64}")
NAME = re.compile("[a-z0-9][a-z0-9-]{0,31}")


def connection(key: str) -> dict[str, Any]:
    """The connection over the kernel's own sockets, for the supervisor and for containers beside it."""
    ports = {f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
    where = {"transport": "ipc", "ip": "/run/kernel-bridge/k", **ports}
    return {**where, "key": key, "signature_scheme": "hmac-sha256", "kernel_name": "python3", "supervised": True}


def problem(name: str, uid: str, cpus: str) -> str | None:
    """What is wrong with a line of `.env`, in a sentence; None where nothing is."""
    if not NAME.fullmatch(name):
        return f"KERNEL_NAME is {name!r}; write 1 to 32 of a-z, 0-9 and '-', the first not a '-'."
    if not uid.isdecimal() or not 0 < int(uid) < 1 << 31:
        return f"KERNEL_UID is {uid!r}; write a number, and not that of root."
    if not cpus.isdecimal() or int(cpus) < 1:
        return f"KERNEL_CPUS is {cpus!r}; write a whole number, at least 1: it is also the number of threads."
    return None


def secret(volume: Path) -> str:
    """Return what was drawn for a volume, which only root can read."""
    kept = volume / "secret"
    text = kept.read_text(encoding="ascii") if kept.exists() else ""
    if not SECRET.fullmatch(text):
        text = secrets.token_hex(32)
        give(kept, text, os.geteuid())
    return text


def give(path: Path, text: str, uid: int) -> None:
    """Write a file that one user can read; a reader sees the old one or the new one."""
    draft = path.with_suffix(".part")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.chown(draft, uid, uid)
    draft.replace(path)


def make(keys: Path, tokens: Path, name: str, uid: int) -> None:
    """Write the supervisor's line, the connection file for containers beside the kernel, and the token."""
    inside = connection(secret(keys))
    beside = keys / "beside"
    beside.mkdir(exist_ok=True)
    give(keys / "orders.json", json.dumps({"connection": inside, "environment": {}}) + "\n", uid)
    give(beside / f"{name}.json", json.dumps(inside), uid)
    for each in beside.glob("*.json"):
        if each.stem != name:  # of an earlier name
            each.unlink()
    give(tokens / "token", secret(tokens), uid)


if __name__ == "__main__":
    wrong = problem(*sys.argv[1:4])
    if wrong:
        raise SystemExit(f"In .env {wrong} Nothing was started.")
    make(KEYS, TOKENS, sys.argv[1], int(sys.argv[2]))
