"""Whose a cell is, by the headers that real clients send."""

from __future__ import annotations

import uuid

import pytest

from bridge.authors import OURS, Author, author

LAB = "6c9d1b3a-3d0e-4f0a-9a52-0a6d5cf1a3be"


def fresh(number: int = 1) -> str:
    """Return a new message's id as VS Code and Jupyter make it: the same in every process that collects these tests."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


@pytest.mark.parametrize(
    ("session", "msg_id", "username", "told"),
    [
        (
            "5ae790a7-01",
            "5ae790a7-01_4711_12",
            "alice",
            ("alice", "5ae790a7", "jupyter_client (a console, Spyder, nbclient)"),
        ),
        (LAB, fresh(), "", ("", "6c9d1b3a", "JupyterLab, Notebook or another client of a Jupyter server")),
        (LAB, fresh(), fresh(2), ("", "6c9d1b3a", "VS Code")),
        (LAB, fresh(), "runtimelib", ("runtimelib", "6c9d1b3a", "runtimelib (Zed)")),
        (f"{OURS}00ff00ff00", f"{OURS}00ff00ff00_1_2", "claude-code", ("claude-code", "00ff00ff", "kernel-bridge")),
    ],
)
def test_the_program_is_told_by_how_it_fills_in_its_headers(
    session: str, msg_id: str, username: str, told: tuple[str, str, str]
) -> None:
    assert author(msg_id=msg_id, session=session, username=username) == Author(*told)


@pytest.mark.parametrize(
    ("session", "msg_id", "username"),
    [
        (LAB, fresh(), "alice"),  # Emacs and others make UUIDs too
        ("s", "s_1", "alice"),
        ("s", "other_1_2", ""),
        ("", "_1_2", ""),
        ("s(", "s(_1_x", ""),
    ],
)
def test_where_the_program_cannot_be_told_nothing_is_said(session: str, msg_id: str, username: str) -> None:
    assert author(msg_id=msg_id, session=session, username=username).client == ""


def test_a_name_without_end_is_cut() -> None:
    assert len(author(msg_id="m", session="s", username="a" * 10_000).username) == 64
