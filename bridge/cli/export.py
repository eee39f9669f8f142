"""`kernel-bridge export`: what ran in a kernel, whoever ran it, as a notebook or a script."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from bridge.cli import policy_option, say
from bridge.cli.completion import seen_names
from bridge.cli.saving import PRIVATE, in_units, must_be_writable, saved
from bridge.errors import UsageError
from bridge.journals import Entry, History, Journals
from bridge.kernels.seen import find_history
from bridge.notebooks.ipynb import notebook
from bridge.notebooks.parts import Remark, by, parts
from bridge.notebooks.percent import percent
from bridge.policy import find
from bridge.policy.places import journal_home

FORMATS: dict[str, Callable[[History, Iterable[Remark | Entry]], Iterator[str]]] = {"ipynb": notebook, "py": percent}


@click.command()
@click.argument("name", shell_complete=seen_names)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--by", "author", metavar="WHO", help="Only the cells of one user or agent.")
@click.option("--format", "kind", type=click.Choice(sorted(FORMATS)), help="Else by FILE's ending; ipynb for `-`.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@policy_option
def export(
    *, name: str, file: Path, author: str | None, kind: str | None, force: bool, policy_file: Path | None
) -> None:
    """Write what ran in the kernel NAME, whoever ran it, to FILE: a notebook (.ipynb), or a script with cells (.py).

    NAME is a kernel as `ls` shows it, a kernel id, a notebook or a connection file; also one that has ended. Each cell
    says who ran it. Only what a bridge saw is there: what ran while none was connected is not. A script has no output,
    and what is no Python (magics, shell lines) as comments. FILE may be `-`; else it is readable by you only.

    Example: kernel-bridge export analysis session.ipynb
    """
    written = FORMATS[kind or _kind(file)]
    if str(file) != "-":
        must_be_writable(file, force=force)
    policy = find(policy_file)
    journals = Journals(journal_home())
    history, notes = find_history(name, policy, journals)
    entries = journals.entries(history)
    for each in (*journals.troubles, *notes):
        say(f"kernel-bridge: {each}")
    if author is not None:
        entries = _only(author, entries)
    if written is percent and history.language.get("name", "python") != "python":
        raise UsageError(f"{history.name} does not run Python, so it makes no .py; write a notebook (.ipynb).")
    forgotten = journals.has_forgotten(history)
    texts = written(history, parts(history, entries, forgotten=forgotten, only=author))
    if str(file) == "-":
        for text in texts:
            sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        return
    with saved(file, force=force, mode=PRIVATE) as out:
        out.writelines(text.encode() for text in texts)
        size = out.tell()
    count = f"{len(entries)} cell{'s' * (len(entries) != 1)}"
    say(f"Wrote {count} of {history.name} to {file} ({in_units(size)}).")


def _kind(file: Path) -> str:
    kind = "ipynb" if str(file) == "-" else file.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(
            f"{file} ends neither in .ipynb nor in .py, so what it shall be is not known; name it so, or give --format."
        )
    return kind


def _only(author: str, entries: list[Entry]) -> list[Entry]:
    chosen = [each for each in entries if by(each) == author]
    if not chosen:
        raise UsageError(
            f"No cell of {author!r} is kept; there are those of: {', '.join(sorted({by(each) for each in entries}))}."
        )
    return chosen
