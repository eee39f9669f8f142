"""`kernel-bridge image`: the images that sandboxes are started from."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from bridge.checks import size
from bridge.cli import engine_option, policy_option, say
from bridge.cli.interruption import complete
from bridge.cli.progress import Progress
from bridge.errors import PolicyError
from bridge.launchers.docker import host
from bridge.launchers.docker.build import build as build_image
from bridge.launchers.docker.engine import Engine
from bridge.launchers.docker.image import TAGS, Built, how_to_get, listed
from bridge.launchers.docker.requirements import read
from bridge.policy import Policy, find
from bridge.policy.images import allows, parse

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
        built = complete(
            partial(
                build_image,
                name,
                requirements=requirements,
                tag=tag,
                base=base,
                ca_bundle=ca_bundle,
                pip_config=pip_config,
                say=progress.say,
                watch=progress.watch,
                engine=engine,
            )
        )
    click.echo(built)
    say(_next_step(built))


@image.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@policy_option
@engine_option
def ls(*, as_json: bool, policy_file: Path | None, engine: str | None) -> None:
    """List the images in the engine that sandboxes can be started from, and whether the policy in force allows each.

    Example: kernel-bridge image ls
    """
    policy = find(policy_file)
    asked = Engine(partial(host.find, engine))

    async def work() -> list[Built]:
        try:
            return await listed(asked)
        finally:
            asked.close()

    found = complete(work)
    named = [(each.reference, each) for each in found if each.reference]
    replaced = [each for each in found if each.reference is None]
    there = {_full(reference) for reference, _ in named}
    missing = {tag: how_to_get(full) for tag in TAGS.values() if (full := _full(tag)) not in there}
    if as_json:
        rows = [
            {
                "image": reference,
                "id": each.id,
                "size": each.size,
                "created": each.created.isoformat(),
                "allowed": _allowed(policy, reference),
            }
            for reference, each in named
        ]
        absent = [{"image": tag, "build": how} for tag, how in missing.items()]
        about = {"images": rows, "missing": absent, "replaced": [each.id for each in replaced]}
        click.echo(json.dumps({"policy": policy.origin, **about}, indent=2))
        return
    width = max((len(reference) for reference, _ in named), default=0)
    for reference, each in named:
        created = each.created.astimezone().strftime("%Y-%m-%d %H:%M")
        short = each.id.removeprefix("sha256:")[:12]
        allowed = "allowed" if _allowed(policy, reference) else "not allowed by the policy"
        click.echo(f"{reference:<{width}}  {short}  {size(each.size):>9}  {created}  {allowed}")
    for tag, how in missing.items():
        say(f"{tag} is not there; type: {how}")
    if replaced:
        say(
            f"{len(replaced)} more without a name, since a later build took it; to remove what nothing uses, type: "
            "docker image prune --filter label=io.kernel-bridge.image=1"
        )


def _next_step(built: str) -> str:
    """Say how a sandbox is started from an image, or what keeps it from that."""
    try:
        policy = find()
    except PolicyError as error:
        return f"No sandbox can be started from it yet: {error}"
    if not _allowed(policy, built):
        repository, _, tag = built.rpartition(":")
        return (
            f"No sandbox may be started from it: {policy.origin} does not allow it. Add to sandbox.images in a policy: "
            f'- {{repository: {repository}, tags: ["{tag}"]}}'
        )
    asked = "" if _full(policy.sandbox.default_image) == _full(built) else f" --image {built}"
    return f"Start a sandbox from it: kernel-bridge up{asked}"


def _allowed(policy: Policy, reference: str) -> bool:
    try:
        return allows(policy.sandbox.images, parse(reference))
    except ValueError:  # the engine has names that no policy can hold, such as one with a tag and a digest
        return False


def _full(reference: str) -> str:
    try:
        return str(parse(reference))
    except ValueError:
        return reference
