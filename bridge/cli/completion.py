"""`kernel-bridge completion`, and what a shell is told when TAB is pressed where a kernel's name belongs.

The one rule: a completion never raises, never waits long and never changes anything; what it does not know in time is
left out.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import click
from click.shell_completion import ShellComplete, get_completion_class

PROGRAM = "kernel-bridge"
VARIABLE = "_KERNEL_BRIDGE_COMPLETE"
"""Click's own name for it, from the program's."""
PATIENCE = 1.0
"""Seconds that the engine has; it answers in hundredths of one, and a person waits at the prompt."""
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A shell's script expands what it is given, so a file's name that holds more than these is not offered."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and the names of kernels.

    \b
    Install it for bash or zsh, with one of these lines in ~/.bashrc or ~/.zshrc:
      eval "$(kernel-bridge completion bash)"
      eval "$(kernel-bridge completion zsh)"

    Example: kernel-bridge completion fish > ~/.config/fish/completions/kernel-bridge.fish
    """  # noqa: D301 - click's mark for lines that stay is the character itself
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click knows the three
    script = made(click.Command(PROGRAM), {}, PROGRAM, VARIABLE)
    # not the class's own `source`, which starts a shell first to see how old it is
    click.echo(ShellComplete.source(script), nl=False)


def kernel_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete any kernel's name, as `click.argument(..., shell_complete=kernel_names)`."""
    return _beginning(incomplete, lambda: _in_files(context, sandboxes_only=False), lambda: _in_engine(context))


def sandbox_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a sandbox's name, for commands that take no other kernel."""
    return _beginning(incomplete, lambda: _in_files(context, sandboxes_only=True), lambda: _in_engine(context))


def seen_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete any kernel's name, also of one that has ended and of which cells are kept."""
    return _beginning(incomplete, lambda: _in_files(context, sandboxes_only=False), _in_journals)


def kernelspec_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a kernelspec of ours."""
    return _beginning(incomplete, _installed)


def _beginning(incomplete: str, *sources: Callable[[], Iterable[str]]) -> list[str]:
    """Return the names that begin so, from all sources that answer in time, which are asked at the same time."""
    found: set[str] = set()

    def ask(source: Callable[[], Iterable[str]]) -> None:
        try:
            found.update(source())
        except Exception:  # noqa: BLE001 - at the prompt a traceback is worse than no answer
            return

    # daemons: an engine that hangs must not keep the shell waiting when we end
    asking = [threading.Thread(target=ask, args=(each,), daemon=True) for each in sources]
    for each in asking:
        each.start()
    for each in asking:
        each.join(PATIENCE)
    return sorted(each for each in found.copy() if each.startswith(incomplete) and _SAFE.fullmatch(each))


def _in_files(context: click.Context, *, sandboxes_only: bool) -> list[str]:
    from bridge.kernels.files import kernel_files  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.policy import find  # noqa: PLC0415 - only what is asked for pays for it

    policy_file: Path | None = context.params.get("policy_file")
    return [each.name for each in kernel_files(find(policy_file).attach) if each.is_sandbox or not sandboxes_only]


def _in_journals() -> list[str]:
    from bridge.journals import Journals  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.policy.places import journal_home  # noqa: PLC0415 - only what is asked for pays for it

    journals = Journals(journal_home())
    return [each.name for each in journals.histories()]


def _installed() -> list[str]:
    from bridge.ide.installed import installed  # noqa: PLC0415 - only what is asked for pays for it

    return [each.name for each in installed() if each.name]


def _in_engine(context: click.Context) -> list[str]:
    from bridge.launchers.docker import DockerLauncher  # noqa: PLC0415 - only what is asked for pays for it

    launcher = DockerLauncher(context.params.get("engine"))
    return [each.name for each in anyio.run(launcher.sandboxes) if each.state != "ended"]
