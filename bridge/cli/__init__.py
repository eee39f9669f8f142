"""The command line: one file a command group, loaded when it is called. The only place that prints.

The one rule: data goes to stdout, what a person reads to stderr, and every end has its exit code: 0 done, 1 the user's
code raised, 2 bad usage or bad policy, 3 launch failed, 4 kernel failed. A `BridgeError` is one message, no traceback.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click

from bridge.errors import BridgeError

F = TypeVar("F", bound=Callable[..., Any] | click.Command)

COMMANDS = {
    "attach": ("attach", "Open a console on a kernel."),
    "client": ("client", "Put the bridge into an MCP client's configuration."),
    "completion": ("completion", "Print what makes a shell complete commands and kernels."),
    "demo": ("demo", "Show the whole of it on this machine, end to end."),
    "doctor": ("doctor", "Look whether everything is there, and say what to type where not."),
    "export": ("export", "Write what ran in a kernel as a notebook or a script."),
    "gc": ("sandboxes", "Remove what is left of sandboxes that have ended."),
    "get": ("transfer", "Copy a file out of a sandbox."),
    "ide": ("ide", "Put a kernel into the kernel picker of IDEs."),
    "image": ("image", "Build and list the images that sandboxes are started from."),
    "interrupt": ("kernels", "Interrupt what runs in a kernel."),
    "logs": ("kernels", "Print what a sandbox wrote."),
    "ls": ("kernels", "List every kernel the bridge can see."),
    "policy": ("policy", "Check and explain what a policy allows."),
    "put": ("transfer", "Copy a file into a sandbox."),
    "connection-files": ("files", ""),
    "relay": ("relay", ""),
    "restart": ("sandboxes", "Start a sandbox's kernel anew."),
    "run": ("run", "Run code in a kernel."),
    "serve": ("serve", "Serve MCP to an agent over stdio, or to many over HTTP."),
    "status": ("kernels", "Tell all about one kernel."),
    "stop": ("sandboxes", "End a sandbox and remove it."),
    "up": ("sandboxes", "Start a sandbox."),
}


class _Lazy(click.Group):
    """Imports a command's module only when that command is called: `serve` must start fast."""

    def list_commands(self, _: click.Context) -> list[str]:
        return sorted(name for name, (_, about) in COMMANDS.items() if about)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"{__name__}.{COMMANDS[name][0]}"), name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items() if about])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("kernel-bridge"), message="%(version)s")
def cli() -> None:
    """One live IPython kernel, shared by you, your IDE and your AI agent.

    Start here: `kernel-bridge demo`. For Claude Code: `kernel-bridge client add claude`.
    """


def policy_option(command: F) -> F:
    """Add `--policy`, which every command that acts under a policy takes."""
    return click.option(
        "--policy",
        "policy_file",
        type=click.Path(path_type=Path),
        help="The policy file; else $KERNEL_BRIDGE_POLICY, yours, the system's, or the built-in one.",
    )(command)


def engine_option(command: F) -> F:
    """Add `--engine`, which every command that needs one takes."""
    return click.option(
        "--engine",
        metavar="HOST",
        help="The container engine, e.g. unix:///run/docker.sock; else $DOCKER_HOST, the docker context …",
    )(command)


def say(text: str) -> None:
    """Tell a person something; scripts read stdout, so this is stderr."""
    click.echo(text, err=True)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    gc.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no arrow must not cost the line
    try:
        result = cli.main(arguments, prog_name="kernel-bridge", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BridgeError as error:
        say(f"kernel-bridge: {error}")
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        say("kernel-bridge: interrupted")
        return 130
    except BrokenPipeError:
        # whoever read our output has left; Python must not complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
