"""`kernel-bridge policy`: what a policy file says, before anything is started under it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from bridge.audit import trail_of
from bridge.cli import policy_option, say
from bridge.cli.requests import request_options
from bridge.policy import Policy, SandboxRequest, decide, explain, find, load, written_out

FILE = click.Path(path_type=Path)


@click.group()
def policy() -> None:
    """Check and explain what a policy allows."""


@policy.command()
@click.argument("file", type=FILE)
def check(file: Path) -> None:
    """Tell whether FILE is a valid policy; every problem is listed with its line, and the exit code is 2.

    Example: kernel-bridge policy check policy.yaml
    """
    checked = load(file)
    say(f"{file} is a valid policy.")
    _tell_of_audit(checked)


@policy.command()
@policy_option
def show(policy_file: Path | None) -> None:
    """Print the policy in force, every setting of it, as YAML that can be edited and used.

    Example: kernel-bridge policy show > policy.yaml
    """
    in_force = find(policy_file)
    say(f"In force: {in_force.origin}")
    _tell_of_audit(in_force)
    click.echo(written_out(in_force), nl=False)


@policy.command("explain")
@click.argument("file", type=FILE, required=False)
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_(*, file: Path | None, request: SandboxRequest, as_json: bool) -> None:
    """Tell what a sandbox would be given under FILE, or under the policy in force, and why; nothing is started.

    What the policy refuses is listed with every reason, and the exit code is 2.

    Example: kernel-bridge policy explain policy.yaml --workspace . --rw --memory 1GiB
    """
    in_force = load(file) if file else find()
    asked = dataclasses.replace(request, name="explained")
    reasons = explain(in_force, asked, decide(in_force, asked))
    if as_json:
        rows = [dataclasses.asdict(each) for each in reasons]
        click.echo(json.dumps({"policy": in_force.origin, "settings": rows}, indent=2))
        return
    say(f"Under {in_force.origin} this sandbox may be started:")
    for each in reasons:
        click.echo(f"{each.setting:<12} {each.value:<40} {each.why}")


def _tell_of_audit(policy: Policy) -> None:
    audit = trail_of(policy.audit)
    if audit:
        reason = audit.trouble()
        say(
            f"Recorded in {audit.file}: "
            + (f"not now, so nothing would be done: {reason}." if reason else "all that is done with kernels.")
        )
