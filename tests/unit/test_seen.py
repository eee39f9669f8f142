"""Whose history is meant: by any form of name, while it runs and after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.connection import load
from bridge.errors import BadConnectionFile, NoSuchKernel
from bridge.journal import Journal
from bridge.journals import History, Journals
from bridge.kernels.seen import find_history
from bridge.policy import find

PORTS = dict.fromkeys(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), 1)


def write_file(path: Path, key: str, **more: str) -> str:
    path.write_text(json.dumps({**PORTS, "ip": "127.0.0.1", "transport": "tcp", "key": key, **more}))
    path.chmod(0o600)
    return load(path).fingerprint


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", 1 << 20)
    yield made
    made.close()


def run(journal: Journal, name: str, fingerprint: str) -> None:
    book = journal.book(name, fingerprint=fingerprint)
    book.begin(kernel=f"process of {fingerprint}", msg_id="m", code="1", client="c", username="u")


def chosen(which: str, directory: Path) -> tuple[History, list[str]]:
    journals = Journals(directory / "journal")
    return find_history(which, find(None), journals)


@pytest.mark.parametrize("which", ["kernel-abc", "abc", "kernel-abc.json", "nb.ipynb", "{runtime}/kernel-abc.json"])
def test_a_kernel_that_runs_is_found_by_any_form_of_its_name(
    journal: Journal, runtime: Path, tmp_path: Path, which: str
) -> None:
    run(journal, "kernel-abc", write_file(runtime / "kernel-abc.json", "k1", jupyter_session="/home/u/nb.ipynb"))
    run(journal, "kernel-other", "f2")
    history, notes = chosen(which.format(runtime=runtime), tmp_path)
    assert (history.name, notes) == ("kernel-abc", [])


@pytest.mark.parametrize("which", ["abc", "kernel-abc", "kernel-abc.json", "/gone/kernel-abc.json"])
def test_a_host_kernel_that_has_ended_is_found_by_what_it_was_called(
    journal: Journal, runtime: Path, tmp_path: Path, which: str
) -> None:
    run(journal, "kernel-abc", "f1")
    assert chosen(which, tmp_path)[0].fingerprint == "f1"


@pytest.mark.parametrize("which", ["box", "kernel-bridge-box.json", "/gone/kernel-bridge-box.json"])
def test_a_sandbox_that_has_ended_is_found_by_its_name_or_file(
    journal: Journal, runtime: Path, tmp_path: Path, which: str
) -> None:
    run(journal, "box", "f1")
    assert chosen(which, tmp_path)[0].fingerprint == "f1"


def test_of_several_of_a_name_the_newest_is_taken_and_the_others_can_be_named(
    journal: Journal, runtime: Path, tmp_path: Path
) -> None:
    for each in ("f1", "f2"):
        run(journal, "lab", each)
    history, [note] = chosen("lab", tmp_path)
    assert history.fingerprint == "f2"
    assert "f1 (20" in note
    assert chosen("f1", tmp_path)[0].fingerprint == "f1"


def test_the_kernel_that_runs_comes_before_a_later_one_of_the_name(
    journal: Journal, runtime: Path, tmp_path: Path
) -> None:
    run(journal, "lab", write_file(runtime / "lab.json", "k1"))
    run(journal, "lab", "later")
    assert chosen("lab", tmp_path)[0].fingerprint == load(runtime / "lab.json").fingerprint


def test_an_earlier_kernel_is_not_quietly_taken_for_the_one_that_runs(
    journal: Journal, runtime: Path, tmp_path: Path
) -> None:
    run(journal, "lab", "f1")
    write_file(runtime / "lab.json", "k1")
    history, [note] = chosen("lab", tmp_path)
    assert history.fingerprint == "f1"
    assert "an earlier kernel of that name" in note


def test_of_what_no_bridge_saw_it_is_said_what_to_do_and_what_there_is(
    journal: Journal, runtime: Path, tmp_path: Path
) -> None:
    run(journal, "lab", "f1")
    with pytest.raises(NoSuchKernel, match=r"'nix'.*let the agent connect.*kept: lab\.") as caught:
        chosen("nix", tmp_path)
    assert caught.value.exit_code == 2
    (runtime / "half.json").write_text("{")
    with pytest.raises(BadConnectionFile, match="cut short"):
        chosen(str(runtime / "half.json"), tmp_path)


def test_the_key_cannot_be_read_from_the_fingerprint(runtime: Path) -> None:
    assert write_file(runtime / "a.json", "secret") == write_file(runtime / "b.json", "secret")
    assert write_file(runtime / "a.json", "secret") != write_file(runtime / "c.json", "other")
    assert "secret" not in load(runtime / "a.json").fingerprint
