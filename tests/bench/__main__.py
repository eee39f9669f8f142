"""What things cost, measured side by side in one run: the kernel itself, a trivial server, and ours; run as a program.

    python -m tests.bench [--short] [PART ...]

Without parts all are measured, and RESULT.md and RESULT.png beside this file are written anew; with some, their tables
are only printed. `--short` measures less often, to see that all works.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import docker

from tests.bench import figures
from tests.bench.figures import Report
from tests.bench.world import world

PARTS = ("many", "output", "ways", "interrupts", "idle")
RESULT, PICTURE = (Path(__file__).with_name(name) for name in ("RESULT.md", "RESULT.png"))
SHORT = 0.05
PACKAGES = ("mcp", "jupyter_client", "ipykernel", "pyzmq", "docker")


def main() -> None:
    """Measure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true")
    arguments.add_argument("part", nargs="*", choices=[[], *PARTS])
    asked = arguments.parse_args()
    reports = []
    for part in asked.part or PARTS:
        print(f"measuring {part}", file=sys.stderr)
        with world() as here:
            reports.append(
                importlib.import_module(f"tests.bench.parts.{part}").measure(here, SHORT if asked.short else 1)
            )
    told = page(reports)
    if asked.part or asked.short:
        print(told)
        return
    RESULT.write_text(told)
    figures.plot([curve for each in reports for curve in each.curves], PICTURE)
    print(told)


def page(reports: list[Report]) -> str:
    """Return all of it in Markdown."""
    engine = docker.from_env()
    try:
        used = f"Docker {engine.version()['Version']}"
    finally:
        engine.close()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{os.cpu_count()} processors ({platform.machine()}), Linux {platform.release()}"
    about = (
        f"Measured by `make bench` on {datetime.now(UTC):%Y-%m-%d}, on a shared machine with {machine}, "
        f"Python {platform.python_version()}, {used}, {versions}. "
        "Times are of this machine; what counts is the ratios, of things that were measured by turns."
    )
    lines = ["# What things cost", "", about, ""]
    for each in reports:
        lines += each.lines()
    if any(each.curves for each in reports):
        lines += [f"![How cost grows]({PICTURE.name})", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
