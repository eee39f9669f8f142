"""`kernel-bridge image`: the images that sandboxes are started from."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from bridge.cli import engine_option, policy_option, say
from bridge.cli.interruption import complete
from bridge.cli.progress import Progress
from bridge.errors import PolicyError
from bridge.launchers.docker import DockerLauncher
from bridge.launchers.docker.build import How
from bridge.launchers.docker.build import build as build_image
from bridge.launchers.docker.image import TAGS, how_to_get
from bridge.launchers.docker.requirements import read
from bridge.policy import allows_image, find, format_size

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def image() -> None:
    """Build the images that sandboxes are started from, with your packages too, and list them."""


@image.command()
@click.argument("name", default="python", metavar=f"[{'|'.join(TAGS)}]")
@click.option(
    "--requirements",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A requirements.txt or pyproject.toml: its packages on top of the image NAME, as an image of their own.",
)
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="An extra of the pyproject.toml too.")
@click.option("--tag", help="What to call it; by default the image's name, with requirements the project's after it.")
@click.option("--base", help="The image to build on; by default the one that its Dockerfile names.")
@click.option("--ca-bundle", type=FILE, help="CA certificates for the build, where a proxy inspects TLS.")
@click.option("--pip-config", type=FILE, help="A pip configuration for the build, e.g. with your package index.")
@engine_option
def build(
    *,
    name: str,
    file: Path | None,
    extras: tuple[str, ...],
    tag: str | None,
    base: str | None,
    ca_bundle: Path | None,
    pip_config: Path | None,
    engine: str | None,
) -> None:
    """Build the image NAME (python, or scipy: numpy, pandas, matplotlib), or one with your own packages on top of it.

    The docker command builds it, in the engine that sandboxes are started in. Certificates and pip's configuration
    leave no trace in it. What the kernel itself runs on keeps its versions. Prints the image's name.

    Example: kernel-bridge image build --requirements pyproject.toml
    """
    if base and file:
        raise click.UsageError("With --requirements name the image to build on in place of --base: python or scipy.")
    if extras and not file:
        raise click.UsageError("Give --extra together with --requirements pyproject.toml.")
    requirements = read(file, extras) if file else None
    about = f"the packages of {file} on top of the image {name}" if file else f"the image {name}"
    say(f"Building {about}; the first time takes a minute or two.")
    with Progress() as progress:
        how = How(progress.say, progress.watch, ca_bundle, pip_config, engine)
        made = complete(partial(build_image, name, how, requirements=requirements, tag=tag, base=base))
    click.echo(made)
    say(_next_step(made))


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
        say(f"{TAGS[name]} is not there; type: {how_to_get(TAGS[name])}")


def _next_step(made: str) -> str:
    """Say how a sandbox is started from an image, or what keeps it from that."""
    try:
        policy = find()
    except PolicyError as error:
        return f"No sandbox can be started from it yet: {error}"
    if allows_image(policy, made):
        return f"Start a sandbox from it: kernel-bridge up --image {made}"
    repository, _, tag = made.rpartition(":")
    return (
        f"No sandbox may be started from it: {policy.origin} does not allow it. Add to sandbox.images in a policy: "
        f'{{repository: {repository}, tags: ["{tag}"]}}'
    )


def _size(number: int) -> str:
    return format_size(number // 2**20 * 2**20)
