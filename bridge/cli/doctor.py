"""`kernel-bridge doctor`: what is there, what is not, and what to type."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from bridge import checks
from bridge.checks import Check, Finding
from bridge.checks.clients import clients
from bridge.checks.engine import engine as look_at_engine
from bridge.checks.host import audit, directories, policy_in_force, python
from bridge.checks.kernels import connection_files
from bridge.checks.kernelspecs import kernelspecs
from bridge.cli import engine_option, policy_option, say
from bridge.errors import LaunchError
from bridge.launchers.docker import DockerLauncher
from bridge.policy import Attach

PATIENCE = 10.0
"""Seconds for all of it; an engine that is loaded heavily answers within two."""
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@policy_option
@engine_option
def doctor(*, as_json: bool, policy_file: Path | None, engine: str | None) -> int:
    """Look whether all that a sandbox needs is there, and of each fault say what to type. Nothing is changed.

    Exit code 0 where sandboxes can be started, also with warnings; 3 where something failed that keeps them from it.

    Example: kernel-bridge doctor
    """
    policy, spec, told = policy_in_force(policy_file)
    found = checks.run(
        [
            Check("python", python),
            Check("policy", lambda: [told]),
            Check("audit", partial(audit, policy)),
            Check("engine", partial(look_at_engine, lambda: DockerLauncher(engine), spec), late="fail"),
            Check("directories", partial(directories, spec)),
            Check("connection files", partial(connection_files, policy.attach if policy else Attach())),
            Check("MCP clients", clients),
            Check("kernelspecs", kernelspecs),
        ],
        patience=PATIENCE,
    )
    failed = any(each.level == "fail" for each in found)
    if as_json:
        click.echo(json.dumps({"able": not failed, "findings": [asdict(each) for each in found]}, indent=2))
    else:
        width = max(len(each.check) for each in found)
        for each in found:
            click.echo(_line(each, width))
    count = Counter(each.level for each in found)
    warnings = f"{count['warn']} warning{'' if count['warn'] == 1 else 's'}"
    say(f"{count['fail']} failed, so no sandbox starts; {warnings}." if failed else f"Nothing failed; {warnings}.")
    return LaunchError.exit_code if failed else 0


def _line(finding: Finding, width: int) -> str:
    margin = "\n" + " " * (4 + 2 + width + 2)
    level = click.style(f"{finding.level:<4}", fg=COLOURS[finding.level])
    cure = f"{margin}-> {finding.cure}" if finding.cure else ""
    return f"{level}  {finding.check:<{width}}  {finding.found.replace(chr(10), margin)}{cure}"
