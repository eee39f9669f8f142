"""`kernel-bridge ide`: a kernel in the picker of IDEs, and how to pick it in each that is here."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from bridge.cli import engine_option, policy_option, say
from bridge.cli.completion import kernel_names, kernelspec_names
from bridge.cli.kernels import with_kernels
from bridge.cli.requests import request_options
from bridge.errors import LaunchError, NoSuchKernel, PolicyRefused, UsageError
from bridge.ide import installed
from bridge.ide.installed import Installed
from bridge.ide.kernelspec import Target, content, provisioner_config, relay, target_of
from bridge.ide.programs import ANY, IDES, Ide, words_of
from bridge.kernels.finder import Found
from bridge.kernels.registry import Kernels
from bridge.policy import SandboxRequest, decide
from bridge.policy import find as policy_in_force
from bridge.policy.decision import NAME

ide_option = click.option("--ide", "which", type=click.Choice(list(IDES)), help="One of them, found here or not.")
WIDTH = 100
_PLACES = ("JUPYTER_DATA_DIR", "XDG_DATA_HOME")
VERBS = (
    'What an IDE does with a kernel that it picked as "Shared: …": interrupt interrupts the cell that runs; restart, '
    "shut down and closing the IDE leave the kernel alone, with all its variables, for everybody else who uses it. For "
    'an empty one, where it is a sandbox: kernel-bridge restart NAME. With "Sandbox: …" and "Sandbox" restart starts '
    "the sandbox anew and shut down ends it."
)


@click.group()
def ide() -> None:
    """Put a kernel into the kernel picker of VS Code, JupyterLab, Zed and others, which can only start kernels.

    Example: kernel-bridge ide install analysis
    """


@ide.command()
@click.argument("name", required=False, shell_complete=kernel_names)
@click.option("--owner", is_flag=True, help="The IDE starts, restarts and ends the sandbox NAME.")
@click.option(
    "--provisioner",
    is_flag=True,
    help="For programs that use jupyter_client in this Python: without a relay between; others do not list it then.",
)
@ide_option
@request_options
@policy_option
@engine_option
def install(
    *,
    name: str | None,
    owner: bool,
    provisioner: bool,
    which: str | None,
    request: SandboxRequest,
    policy_file: Path | None,
    engine: str | None,
) -> None:
    """Put a kernel into the picker of IDEs, and print where its kernelspec was written.

    NAME is a sandbox, which need not run yet, or a host kernel by file, id or notebook: it appears as "Shared: NAME",
    and no IDE that picks it ends it. With --owner it appears as "Sandbox: NAME" and belongs to the IDE. Without NAME
    each pick of "Sandbox" is a new sandbox, which ends with it. The options of a sandbox are for these two.

    \b
    Examples:
      kernel-bridge ide install analysis
      kernel-bridge ide install ~/notebooks/today.ipynb --ide vscode
      kernel-bridge ide install --memory 2GiB
    """  # noqa: D301 - click's mark for lines that stay is the character itself
    target, remark = _target(name, policy_file, engine, owner=owner)
    if target.owner:
        # what would be refused at each start is refused now
        decide(policy_in_force(policy_file), dataclasses.replace(request, name=target.kernel or "new"))
    elif request != SandboxRequest(name=""):
        raise UsageError(
            "The options of a sandbox are for one that the IDE starts. Nothing was installed. Give them to "
            f"`kernel-bridge up {name}`, or say --owner here."
        )
    started = relay(target, request, policy_file, engine)
    config = provisioner_config(target, request, started) if provisioner else None
    directory, shown = installed.slot(target)
    old = next((each.display_name for each in installed.installed() if each.directory == directory), shown)
    written = installed.write(directory, content(target, shown, started, config))
    say(f'"{shown}" is in the kernel picker of IDEs now; kernel-bridge ide guide tells how to pick it in each.')
    if old != shown:
        say(f'It takes the place of "{old}".')
    for each in filter(None, (remark, *_remarks(directory, request, started.environment, provisioned=provisioner))):
        say(each)
    click.echo(str(directory))
    if which:
        say("\n".join(_section(IDES[which], words_of(written))))


@ide.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=kernelspec_names)
@click.option("--all", "all_of_them", is_flag=True, help="Every kernelspec of ours.")
def remove(*, names: tuple[str, ...], all_of_them: bool) -> None:
    """Take a kernel out of the picker of IDEs; the kernel itself goes on. Prints what was removed.

    NAME is what was installed, or what `kernel-bridge ide ls` shows; without it the one that starts new sandboxes.
    Other programs' kernelspecs are never touched.

    Example: kernel-bridge ide remove analysis
    """
    if names and all_of_them:
        raise click.UsageError("Give either names or --all.")
    ours = installed.installed() if all_of_them else [installed.find(each) for each in names or (None,)]
    for spec in {each.directory: each for each in ours}.values():
        installed.remove(spec)
        say(f'"{spec.display_name}" is in no picker any more. IDEs that use it now go on until they are closed.')
        click.echo(str(spec.directory))
    if not ours:
        say(f"There is no kernelspec of ours in {installed.place()}.")


@ide.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(*, as_json: bool) -> None:
    """List the kernelspecs of ours, and which of them lead nowhere.

    Example: kernel-bridge ide ls --json
    """
    ours = installed.installed()
    if as_json:
        click.echo(json.dumps({"kernelspecs": [_described(each) for each in ours]}, indent=2))
        return
    if not ours:
        say(f"There is no kernelspec of ours in {installed.place()}; kernel-bridge ide install NAME writes one.")
    for line in _listed(ours):
        click.echo(line)


@ide.command()
@click.argument("name", required=False, shell_complete=kernelspec_names)
@ide_option
def guide(*, name: str | None, which: str | None) -> None:
    """Print the steps for the IDEs on this machine: how to pick a kernel of ours, and what each cannot do.

    NAME is an installed one (`kernel-bridge ide ls`), whose names then stand in the steps.

    Example: kernel-bridge ide guide --ide vscode
    """
    words = words_of(installed.find(name)) if name is not None else ANY
    here = {each: each.found() for each in IDES.values()}
    chosen = [IDES[which]] if which else [each for each, place in here.items() if place]
    lines = [*_head(name), *(line for each in chosen for line in ("", *_section(each, words, here[each])))]
    click.echo("\n".join(lines))
    if not chosen:
        say("None of the IDEs that are known was found, on PATH or where they usually are.")
    others = ", ".join(each for each in IDES if IDES[each] not in chosen)
    if others and not which:
        say(f"\nThe steps for another: kernel-bridge ide guide --ide IDE, which is one of {others}.")


def _target(name: str | None, policy_file: Path | None, engine: str | None, *, owner: bool) -> tuple[Target, str]:
    """Return what the kernelspec is to lead to, and what a person must know of it."""
    if name is None:
        return Target(owner=True), ""
    if owner:
        return Target(name, name, owner=True), ""

    async def work(kernels: Kernels) -> tuple[Found, str]:
        found = await kernels.find(name)
        listed, _ = await kernels.listing() if found.file else ([], None)
        return found, next((each.state for each in listed if each.connection_file == str(found.path)), "alive")

    try:
        found, state = with_kernels(policy_file, engine, work)
    except (NoSuchKernel, LaunchError, PolicyRefused) as error:
        # where the policy allows no host kernels, a name can only be a sandbox's
        refused = isinstance(error, PolicyRefused) and policy_in_force(policy_file).attach.allowed
        if refused or not NAME.fullmatch(name):
            raise
        why = str(error) if isinstance(error, LaunchError) else f"No sandbox {name} runs yet"
        return Target(name, name), f"{why.rstrip('.')}. Start it before you pick the kernel: kernel-bridge up {name}"
    remark = "" if state == "alive" else f"That kernel is {state} Until it answers nothing comes of picking it."
    return target_of(found, name), remark


def _remarks(
    directory: Path, request: SandboxRequest, environment: Mapping[str, str], *, provisioned: bool
) -> Iterator[str]:
    if request.environment:
        yield f"The values of {', '.join(request.environment)} stand in {directory}, in a file that only you can read."
    elsewhere = next((each for each in _PLACES if each in environment), None)
    if elsewhere:
        yield f"Only programs that are started with {elsewhere}={environment[elsewhere]}, as this shell has it, see it."
    if provisioned:
        yield "With --provisioner it is listed only by a Jupyter that has kernel-bridge installed beside it."


def _head(name: str | None) -> Iterator[str]:
    """Tell what is installed, and what holds in every IDE."""
    ours = installed.installed()
    if ours:
        yield f"In the kernel pickers of this machine, from {installed.place()}:"
        yield from (f"  {line}" for line in _listed(ours))
    else:
        yield "No kernel of ours is in the pickers yet. Put one there: kernel-bridge ide install NAME"
    yield ""
    yield from textwrap.wrap(VERBS, WIDTH)
    if name is None:
        yield ""
        yield from textwrap.wrap(
            "Below, NAME is the kernel and FILE its connection file: kernel-bridge status NAME", WIDTH
        )


def _section(program: Ide, words: Mapping[str, str], place: str | None = None) -> Iterator[str]:
    yield f"{program.title}{f' ({place})' if place else ''}"
    steps, limits = program.told(words)
    if not steps:
        yield "  It joins kernels that run, and this one is a new one each time: kernel-bridge up NAME starts one."
    yield from (f"  {number}. {step}" for number, step in enumerate(steps, 1))
    yield from (f"  - {limit}" for limit in limits)


def _listed(ours: list[Installed]) -> Iterator[str]:
    width = max((len(each.directory.name) for each in ours), default=0)
    for each in ours:
        fault = each.fault()
        yield f"{each.directory.name:<{width}}  {each.display_name}" + (
            f"  leads nowhere: {fault.found}; {fault.cure}" if fault else ""
        )


def _described(spec: Installed) -> dict[str, object]:
    fault = spec.fault()
    return {
        "name": spec.directory.name,
        "display_name": spec.display_name,
        "directory": str(spec.directory),
        "kernel": spec.target.kernel,
        "owner": spec.target.owner,
        "fault": fault.found if fault else None,
        "cure": fault.cure if fault else None,
    }
