"""`kernel-bridge run`: code in a kernel, from a script or a Makefile."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import IO

import click

from bridge.cli import engine_option, policy_option, say
from bridge.cli.answers import Answers
from bridge.cli.completion import kernel_names
from bridge.cli.interruption import complete
from bridge.cli.kernels import open_kernels
from bridge.errors import BridgeError, KernelDied, UsageError
from bridge.kernels.listing import Outcome
from bridge.kernels.registry import Kernels
from bridge.messages import Message

EXIT_CODES = {"ok": 0, "error": 1}


@click.command()
@click.argument("name", shell_complete=kernel_names)
@click.argument("file", type=click.File("r"), required=False)
@click.option("-c", "code", help="The code itself.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait; the cell itself goes on after them.")
@policy_option
@engine_option
def run(
    *,
    name: str,
    file: IO[str] | None,
    code: str | None,
    timeout: float | None,
    policy_file: Path | None,
    engine: str | None,
) -> int:
    """Run code in the kernel NAME: a sandbox, or a host kernel by its file, id or notebook. FILE may be `-`.

    Exit code 0, or 1 if the code raised. Ctrl-C interrupts the cell. What it asks with input() is answered from
    standard input.

    Example: kernel-bridge run analysis -c 'print(6 * 7)'
    """
    if (file is None) == (code is None):
        raise UsageError("Give either a FILE or -c CODE. Nothing was executed.")
    text = file.read() if file else code or ""
    kernels = open_kernels(policy_file, engine)
    outcome = complete(partial(_execute, kernels, name, text, timeout))
    result = outcome.result
    assert result is not None  # noqa: S101 - it executed
    for each in (*outcome.notices, *result.notes):
        say(f"kernel-bridge: {each}")
    if result.status in ("running", "queued"):
        after = "" if timeout is None else f" after {timeout:g} s"
        say(f"kernel-bridge: still {result.status}{after}; the cell goes on in the kernel.")
        return KernelDied.exit_code
    return EXIT_CODES.get(result.status, KernelDied.exit_code)


async def _execute(kernels: Kernels, name: str, code: str, timeout: float | None) -> Outcome:
    status, _ = await kernels.connect(name)
    failed: list[OSError] = []

    def show(message: Message) -> None:
        try:
            _show(message)
        except OSError as error:
            failed.append(error)
            work.cancel()

    # a cancelled execution interrupts its own cell, so Ctrl-C reaches the code and not only this program
    work = asyncio.ensure_future(
        kernels.execute(code, name=status.name, timeout=timeout, on_message=show, ask=Answers())
    )
    try:
        return await work
    except asyncio.CancelledError:
        if failed and not isinstance(failed[0], BrokenPipeError):
            raise BridgeError(
                f"The output could not be written ({failed[0].strerror}), so the cell was interrupted."
            ) from None
        if failed:
            raise BrokenPipeError from None
        raise
    finally:
        await kernels.close()


def _show(message: Message) -> None:
    content = message.content
    if message.channel != "iopub":
        return
    if message.msg_type == "stream":
        out = sys.stderr if content.get("name") == "stderr" else sys.stdout
        out.write(str(content.get("text", "")))
        out.flush()
    elif message.msg_type in ("execute_result", "display_data"):
        print((content.get("data") or {}).get("text/plain", ""), flush=True)
    elif message.msg_type == "error":
        # click drops the colours where stderr is no terminal
        click.echo(
            "\n".join(content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]), err=True
        )
