"""A script whose cells are Python, whatever was run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bridge.journal import Journal
from bridge.journals import Journals
from bridge.notebooks.parts import parts
from bridge.notebooks.percent import percent, python


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("x = 1\nawait f()", "x = 1\nawait f()"),
        ("%matplotlib inline\nx = 1", "# %matplotlib inline\nx = 1"),
        ("!ls -l\nfiles = !ls\ny = %timeit -o f()", "# !ls -l\n# files = !ls\n# y = %timeit -o f()"),
        ("len?\n?len\nx.y??", "# len?\n# ?len\n# x.y??"),
        ("!echo a \\\n  b\nx = 1", "# !echo a \\\n#   b\nx = 1"),
        ("%%time\nx = 1", "# %%time\nx = 1"),
        ("%%bash\nls\n\necho $x", "# %%bash\n# ls\n#\n# echo $x"),
        ("%%writefile a.py\nx = 1", "# %%writefile a.py\n# x = 1"),
        ("if x:\n    !ls\n    y = 1", "if x:\n    # !ls\n    y = 1"),
        ("for x in y:\n    !ls", "# for x in y:\n#     !ls"),
        ("this is no python", "# this is no python"),
        ('s = """\n%not a magic\n"""\n%magic', 's = """\n%not a magic\n"""\n# %magic'),
        ("x = (5\n%3)\n%magic", "x = (5\n%3)\n# %magic"),
        ("", ""),
    ],
)
def test_what_is_no_python_becomes_a_comment(code: str, written: str) -> None:
    assert python(code) == written
    ast.parse(written.replace("await ", ""))


def test_a_long_text_full_of_signs_takes_no_long_time() -> None:
    text = 's = """\n' + "%not a magic\n" * 500 + '"""\n%magic'
    assert python(text) == text[:-6] + "# %magic"


def test_each_cell_says_who_ran_it_and_nothing_that_anybody_is_called_becomes_code(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    book = journal.book("lab\nraise SystemExit", fingerprint="f1", spec="python3\nraise SystemExit")
    for number, name in enumerate(("alice", "x\nraise SystemExit\r# %% [markdown]", "\u2028raise\x0cSystemExit")):
        code = "print(1)\r!ls\r\nx = '\ud800'\0"
        book.begin(kernel=f"p{number}", msg_id=f"m{number}", code=code, client="c", username=name)
    journals = Journals(tmp_path)
    [history] = journals.histories()
    text = "".join(percent(history, parts(history, journals.entries(history))))
    journal.close()
    assert "# %% alice, 20" in text
    assert text.count("restarted here") == 2
    found = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Name)]
    assert not [each for each in found if each.id == "SystemExit"]
    for line in text.split("\n"):
        assert not line.startswith(("raise", "!"))
    assert all(line.startswith("#") for line in text.split("\n") if "%%" in line or "Exit" in line)
    assert text.count("# %% [markdown]") == 1 + 3 + 2 + 3


def test_a_cell_whose_begin_nobody_saw_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    book = journal.book("lab", fingerprint="f1", spec="python3")
    for number, code in enumerate(("", "x = 1")):
        book.begin(kernel="p1", msg_id=f"m{number}", code=code, client="c", username="alice").end("ok", None)
    journals = Journals(tmp_path)
    [history] = journals.histories()
    text = "".join(percent(history, parts(history, journals.entries(history))))
    journal.close()
    said = "# *This cell began before a bridge was connected: its code and earlier output were not seen.*\n"
    assert text.count(said) == 1
    assert said in text[: text.index("# %% alice")]
