"""The public conformance suite for MCP servers, run against a server of ours, and what it has found.

The one rule: what counts is the suite's own record of each check. Its exit code says nothing of a scenario that was
left out, nor of one whose checks were all passed over.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.serving import Served
from tests.node import WANTED, environment, program

# A whole set of requirements on a busy machine; each scenario ends after half a minute by the suite's own clock.
ALL = 300.0


@dataclass(frozen=True)
class Check:
    """One check, as the suite has recorded it."""

    name: str
    status: str
    told: str


Found = dict[str, list[Check]]


def run(server: Served, place: Path, *arguments: str, token: str | None = None) -> Found:
    """Run scenarios against a server and return the checks of each, by its name.

    `token`: what is sent instead of the right one.
    """
    host = f"127.0.0.1:{server.port}"
    done = subprocess.run(
        [
            *("node", f"--import={(WANTED / 'bearer.mjs').as_uri()}", str(program("conformance")), "server"),
            *("--url", server.url, "--output-dir", str(place), *arguments),
        ],
        env=environment(BEARER_HOST=host, BEARER_TOKEN=token or server.token),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALL,
        check=False,
    )
    found = {_scenario(file): [_check(each) for each in json.loads(file.read_text())] for file in _records(place)}
    assert found, f"no scenario was run: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return found


def scenarios(revision: str) -> set[str]:
    """Return the scenarios for servers that the suite has written down for a revision of MCP, but for extensions' ones.

    It scores servers by all of them but those that were added after the revision, or that its own server fails.
    """
    package = program("conformance").resolve().parents[1]
    written = yaml.safe_load((package / "requirements" / f"{revision}.yaml").read_text())
    others = {
        each["scenario"] for each in written["not_scored"] if each["leg"] == "server" and each["reason"] != "extension"
    }
    return others.union(written["server"])


def departures(found: Found) -> dict[str, str]:
    """Return what the suite says against us, by `SCENARIO:CHECK`; that it checked nothing, by `SCENARIO`.

    What it warns of is there too: the specification recommends it.
    """
    against = {
        f"{scenario}:{check.name}": f"{check.status}: {check.told}"
        for scenario, checks in found.items()
        for check in checks
        if check.status in ("FAILURE", "WARNING")
    }
    checked = {scenario for scenario, checks in found.items() if any(_says_something(each) for each in checks)}
    return against | dict.fromkeys(found.keys() - checked, "nothing was checked")


def _says_something(check: Check) -> bool:
    # messages that fit the schema are not all that a scenario is for
    return check.status in ("SUCCESS", "FAILURE", "WARNING") and check.name != "wire-schema-valid"


def _records(place: Path) -> list[Path]:
    return sorted(place.glob("*/checks.json"))


def _scenario(file: Path) -> str:
    # server-NAME-TIME, where the time has only digits and dashes in it
    return re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)


def _check(record: dict[str, Any]) -> Check:
    return Check(record["id"], record["status"], record.get("errorMessage") or record.get("description", ""))
