"""`kernel-bridge image`: the images that sandboxes are started from."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from bridge.cli import engine_option, policy_option, say
from bridge.cli.interruption import complete
from bridge.errors import UsageError
from bridge.launchers.docker import DockerLauncher
from bridge.launchers.docker.build import TAGS, How, build_packages
from bridge.launchers.docker.build import build as build_image
from bridge.policy import allows_image, find, format_size

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def image() -> None:
    """Build and list the images that sandboxes are started from."""


@image.command()
@click.argument("name", required=False)
@click.option(
    "--requirements", type=FILE, metavar="FILE", help="Your packages: a requirements.txt or a pyproject.toml."
)
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="Of a pyproject.toml; may be given again.")
@click.option("--tag", help="What the image with your packages is called.")
@click.option("--base", help="The image to build NAME on; by default a public Python image.")
@click.option("--ca-bundle", type=FILE, help="CA certificates for the build, where a proxy inspects TLS.")
@click.option("--pip-config", type=FILE, help="A pip configuration for the build, e.g. with your package index.")
@engine_option
def build(
    *,
    name: str | None,
    requirements: Path | None,
    extras: tuple[str, ...],
    tag: str | None,
    base: str | None,
    ca_bundle: Path | None,
    pip_config: Path | None,
    engine: str | None,
) -> None:
    """Build the image NAME (python or scipy; python if left out), or one with your own packages; prints its tag.

    With the docker command; the CA bundle and the pip configuration leave no trace in the image. Your packages are
    installed within the versions that the kernel itself runs on.

    Example: kernel-bridge image build --requirements requirements.txt
    """
    if requirements and (name or base):
        raise UsageError("Give either NAME or --requirements; your packages are built on the image python.")
    if not requirements and (tag or extras):
        raise UsageError("--tag and --extra go with --requirements. Nothing was built.")
    line = _Line()
    how = How(line.show, ca_bundle, pip_config, engine)
    try:
        if requirements:
            made = build_packages(requirements, how, extras=extras, tag=tag)
        else:
            say(f"Building the image {name or 'python'}; the first time takes a minute or two.")
            made = build_image(name or "python", how, base=base)
    finally:
        line.clear()
    click.echo(made)
    say(f"Start a sandbox from it: kernel-bridge up --image {made}")


@image.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@policy_option
@engine_option
def list_images(*, as_json: bool, policy_file: Path | None, engine: str | None) -> None:
    """List the images in the engine that sandboxes can be started from, and whether the policy in force allows each.

    Example: kernel-bridge image ls
    """
    policy = find(policy_file)
    launcher = DockerLauncher(engine)
    try:
        found = complete(launcher.images)
    finally:
        launcher.close()
    rows = [{**asdict(each), "allowed": allows_image(policy, each.reference)} for each in found]
    there = {each.reference for each in found}
    missing = [name for name, tag in TAGS.items() if tag not in there]
    if as_json:
        click.echo(json.dumps({"images": rows, "missing": missing}, indent=2))
        return
    width = max((len(each.reference) for each in found), default=0)
    for each, row in zip(found, rows, strict=True):
        about = f"{each.id.removeprefix('sha256:')[:12]}  {_size(each.bytes):>7}  {each.created[:10]}"
        click.echo(
            f"{each.reference:<{width}}  {about}  {'allowed' if row['allowed'] else 'not allowed by the policy'}"
        )
    for name in missing:
        say(f"{TAGS[name]} is not there; type: kernel-bridge image build{'' if name == 'python' else f' {name}'}")


class _Line:
    """What a build says: on a terminal one line that changes, with the time that it has taken; elsewhere every line."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._live = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if not self._live:
            say(text)
            return
        width = shutil.get_terminal_size().columns - 1
        line = f"{time.monotonic() - self._since:4.0f} s  {text}"
        click.echo(f"\r\x1b[K{line[:width]}", err=True, nl=False)

    def clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", err=True, nl=False)


def _size(number: int) -> str:
    return format_size(number // 2**20 * 2**20)
