"""What a line of the audit says, and what it never says."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import errors
from bridge.audit import _BOUNDS, MAX_CODE, MAX_TEXT, Audit, Who, _bounded
from bridge.errors import BridgeError, KernelBusy, NotAudited, NotOurs, PolicyRefused, UsageError
from bridge.outputs import Error, Result, Stream
from bridge.policy import parse

Make = Callable[..., Audit]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir(mode=0o700)
    return directory / "audit.jsonl"


@pytest.fixture
def make(file: Path) -> Make:
    def made(code: str = "hash", who: Who | None = None) -> Audit:
        policy = parse(f"version: 1\naudit: {{file: {file}, code: {code}}}\n", origin="/etc/p.yaml")
        return Audit(policy, who or Who("mcp", "claude-code", "2.1"))

    return made


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in file.read_bytes().split(b"\n")[:-1]]


def test_a_line_tells_who_when_and_what(make: Make, file: Path) -> None:
    before = datetime.now(UTC)
    make().begin("execute", kernel={"name": "lab", "file": Path("/run/k.json"), "process": None}, execution=3)
    [line] = lines(file)
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs((moment - before).total_seconds()) < 5
    assert line.pop("action")
    assert line == {
        "version": 1,
        "event": "execute",
        "kernel": {"name": "lab", "file": "/run/k.json"},
        "execution": 3,
        "who": {
            "by": "mcp",
            "client": "claude-code",
            "client_version": "2.1",
            "user": "root",
            "uid": os.geteuid(),
            "pid": os.getpid(),
        },
        "policy": "/etc/p.yaml",
    }


def test_time_is_utc_with_milliseconds(make: Make, file: Path) -> None:
    make().begin("look")
    assert len(lines(file)[0]["time"]) == len("2026-11-26T13:14:03.871Z")
    assert lines(file)[0]["time"].endswith("Z")


def test_what_is_begun_has_an_end_that_is_told_once(make: Make, file: Path) -> None:
    audit = make()
    with audit.action("start", kernel={"name": "lab"}) as action:
        action.tell(image_id="sha256:1")
    action.end("failed")
    begun, ended = lines(file)
    assert begun["event"] == "start"
    assert (ended["event"], ended["of"], ended["outcome"]) == ("end", "start", "ok")
    assert (ended["image_id"], ended["kernel"]) == ("sha256:1", {"name": "lab"})
    assert begun["action"] == ended["action"]
    with audit.action("stop"):
        pass
    assert lines(file)[2]["action"] != begun["action"]


@pytest.mark.parametrize(
    ("error", "outcome", "name"),
    [
        (PolicyRefused("image: no (sandbox.images, line 3)"), "refused", "PolicyRefused"),
        (errors.LaunchError("no"), "failed", "LaunchError"),
        (RuntimeError("secret"), "failed", "RuntimeError"),
        (KeyboardInterrupt(), "cancelled", "KeyboardInterrupt"),
    ],
)
def test_what_failed_is_told_with_the_error(
    make: Make, file: Path, error: BaseException, outcome: str, name: str
) -> None:
    with pytest.raises(type(error)), make().action("start"):
        raise error
    ended = lines(file)[1]
    assert (ended["outcome"], ended["error"]) == (outcome, name)
    assert ended.get("reason") == (str(error) if isinstance(error, BridgeError) else None)


def test_an_error_is_told_once(make: Make, file: Path) -> None:
    audit, error = make(), PolicyRefused("no")
    audit.refused("start", error)
    audit.refused("start_sandbox", error)
    with pytest.raises(PolicyRefused), audit.action("stop"):
        raise error
    assert [(each["event"], each.get("of")) for each in lines(file)[:1]] == [("refused", "start")]
    assert [each["event"] for each in lines(file)] == ["refused", "stop", "end"]


@pytest.mark.parametrize("error", [KernelBusy, NotOurs, UsageError, errors.KernelError])
def test_words_that_quote_code_are_told_only_with_the_code(make: Make, file: Path, error: type[BridgeError]) -> None:
    make().refused("execute", error("It runs `token = 'abc'`"))
    make("none").refused("execute", error("It runs `token = 'abc'`"))
    assert "abc" not in file.read_text()
    assert {each["error"] for each in lines(file)} == {error.__name__}
    make("text").refused("execute", error("It runs `token = 'abc'`"))
    assert lines(file)[2]["reason"] == "It runs `token = 'abc'`"


def test_code_is_told_as_the_policy_chooses(make: Make) -> None:
    code = "password = 'ä'"
    told = {"sha256": hashlib.sha256(code.encode()).hexdigest(), "bytes": len(code.encode())}
    assert make().code(code) == {"code": told}
    assert make("none").code(code) == {}
    assert make("text").code(code) == {"code": {**told, "text": code}}


def test_the_hash_is_of_all_of_a_long_cell(make: Make, file: Path) -> None:
    code = "\x00" * (MAX_CODE * 3)
    audit = make("text")
    audit.begin("execute", **audit.code(code))
    told = lines(file)[0]["code"]
    assert told["sha256"] == hashlib.sha256(code.encode()).hexdigest()
    assert told["bytes"] == len(code)
    written = json.dumps(told["text"])[1:-1]
    assert MAX_CODE - 12 < len(written) <= MAX_CODE
    assert told["text"].endswith("…")
    assert told["text"].rstrip("…") == "\x00" * ((len(written) - 6) // 6)


HOSTILE = ["a\nb", 'a","event":"stop', "\u2028\u2029\x85", "\ud800", "\x00\x1b[31m", "x" * 100_000, "\u202egnp"]


@pytest.mark.parametrize("text", HOSTILE)
def test_untrusted_text_never_makes_another_line_or_field(make: Make, file: Path, text: str) -> None:
    audit = make("text", who=Who("mcp", text, text))
    audit.begin("execute", kernel={"name": text}, environment=[text] * 1000, **audit.code(text))
    raw = file.read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.isascii()
    assert len(raw) < 64 * 1024
    [line] = lines(file)
    assert line["event"] == "execute"
    json.dumps(line, ensure_ascii=False).encode("utf-8")  # no half of a surrogate pair


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abc"), inner)))
def test_whatever_is_told_is_one_bounded_line_that_reads_back(value: Any) -> None:
    line = json.dumps(_bounded({"told": value}, _BOUNDS))
    assert "\n" not in line
    json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8")


def test_long_text_is_cut_and_says_so() -> None:
    assert _bounded("x" * MAX_TEXT, {}) == "x" * MAX_TEXT
    assert _bounded("x" * (MAX_TEXT + 1), {}) == "x" * (MAX_TEXT - len("\\u2026")) + "…"


@given(st.text(), st.sampled_from(["x", "ä", "漢", "😀", "\x00", "\ud800", "\\", '"']), st.integers(12, 400))
def test_a_text_is_bounded_in_bytes_as_it_is_written(text: str, fill: str, most: int) -> None:
    cut = _bounded(text + fill * (most + 1), {}, most)
    assert most - 24 < len(json.dumps(cut)) - 2 <= most
    assert cut.endswith("…")
    assert (text + fill * (most + 1)).encode("utf-8", "backslashreplace").decode().startswith(cut[:-1])


FLOODING = ["😀" * 100_000, "\x00" * 100_000, "x" * 100_000, "\ud800" * 100_000]


@pytest.mark.parametrize("text", FLOODING, ids=["emoji", "NUL", "ASCII", "surrogates"])
def test_refusals_push_nothing_out_of_the_files_that_are_kept(make: Make, file: Path, text: str) -> None:
    audit = make("text")
    about = {"kernel": {"name": text}, "path": text, "execution": 10**4000, **audit.code(text)}
    audit.refused("get_file", errors.NoSuchKernel(text), **about)
    line = file.read_bytes()
    settings = parse("version: 1\n", origin="x").audit
    assert settings.max_size * (settings.keep + 1) / len(line) > 150_000


@pytest.mark.parametrize(
    "number", [10**5000, -(10**5000), float("inf"), float("nan")], ids=["big", "small", "inf", "nan"]
)
def test_a_number_that_is_made_up_is_told_as_text(make: Make, file: Path, number: float) -> None:
    def refuse(_: str) -> None:
        pytest.fail("no JSON")

    make().refused("start", UsageError("no"), cpus=number)
    line = json.loads(file.read_text(), parse_constant=refuse)
    assert isinstance(line["cpus"], str)
    assert len(line["cpus"]) <= MAX_TEXT


def test_a_name_of_a_file_that_is_not_unicode_is_told_readably() -> None:
    assert _bounded(Path(os.fsdecode(b"/data/\xff")), {}) == "/data/\\udcff"


@pytest.mark.parametrize(
    ("result", "outcome", "name"),
    [
        (Result(1, "ok", (Stream("stdout", "x"),)), "ok", None),
        (Result(1, "error", (Error("ValueError", "secret"),)), "error", "ValueError"),
        (Result(1, "error", (Error("KeyboardInterrupt", ""),)), "interrupted", "KeyboardInterrupt"),
        (Result(1, "error", (Error("secret is 42", ""),)), "error", None),
        (Result(1, "error", (Error("s" * 101, ""),)), "error", None),
        (Result(1, "error", (Error("s" * 100, ""),)), "error", "s" * 100),
        (Result(1, "lost"), "lost", None),
        (Result(1, "aborted"), "aborted", None),
        (None, "not sent", None),
    ],
)
def test_a_cells_end_tells_how_but_not_what_it_said(
    make: Make, file: Path, result: Result | None, outcome: str, name: str | None
) -> None:
    make().begin("execute").ended(result)
    ended = lines(file)[1]
    assert (ended["outcome"], ended.get("error")) == (outcome, name)
    assert "secret" not in file.read_text()


@pytest.mark.parametrize(
    ("event", "nothing"),
    [("execute", "Nothing was executed"), ("start", "Nothing was started"), ("attach", "Nothing was done")],
)
def test_what_cannot_be_written_is_refused_with_what_to_do(make: Make, file: Path, event: str, nothing: str) -> None:
    file.parent.rmdir()
    with pytest.raises(NotAudited) as caught, make().action(event):
        pytest.fail("it was done")
    told = str(caught.value)
    assert str(file) in told
    assert f"No such file or directory. {nothing}. For the user to do: make its directory: mkdir" in told
    assert caught.value.exit_code == 2


def test_what_ends_something_is_done_with_a_warning(make: Make, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.rmdir()
    done = []
    with caplog.at_level(logging.WARNING), make().action("stop", ending=True):
        done.append("stop")
    assert done == ["stop"]
    assert "stop is done all the same" in caplog.text
    assert "Nothing" not in caplog.text


def test_what_came_of_it_is_a_warning_where_it_cannot_be_written(
    make: Make, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), make().action("start"):
        file.unlink()
        file.parent.rmdir()
    assert str(file) in caplog.text


def test_without_a_file_nothing_is_told() -> None:
    audit = Audit(parse("version: 1\n", origin="x"), Who("mcp"))
    assert not audit.is_on
    with audit.action("start") as action:
        action.tell(image_id="1")
    audit.refused("start", PolicyRefused("no"))
