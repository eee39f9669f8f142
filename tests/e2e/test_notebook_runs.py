"""papermill, nbclient and nbconvert for real: a notebook that runs in a sandbox equals its run on a host kernel."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.conftest import Command
from tests.e2e.provisioned import POLICY, SOON, containers, until, write_kernelspec
from tests.programs import piped

FORMAT: Any = nbformat
"""Which says of few of its functions what they take."""

PLOT = """\
import struct, zlib
from IPython.display import SVG, Image, display

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

rows = b"".join(b"\\0" + bytes((x * y) % 256 for x in range(64)) for y in range(64))
head = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
display(Image(data=png))
points = " ".join(f"{x},{60 - x * x / 60:.1f}" for x in range(0, 61, 5))
SVG(f'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60"><polyline points="{points}"/></svg>')
"""
WIDGET = """\
from comm import create_comm
state = {"_model_name": "IntSliderModel", "_model_module": "@jupyter-widgets/controls", "value": 3}
slider = create_comm(target_name="jupyter.widget", comm_id="slider", data={"state": state, "buffer_paths": []})
slider.send(data={"method": "update", "state": {"value": 4}, "buffer_paths": []})
"""
FAILURES = """\
def deeper(n):
    return 1 / n if n == 0 else deeper(n - 1)

try:
    deeper(2)
except ZeroDivisionError as error:
    raise ValueError("of a notebook") from error
"""
CELLS: list[tuple[str, list[str]]] = [
    ("count = 1\nname = 'nobody'", ["parameters"]),
    ("import sys\nprint(name * count)\nprint('to stderr', file=sys.stderr)\nprint('and back')", []),
    ("from pathlib import Path\nPath('data.csv').read_text()", []),
    (PLOT, []),
    ("shown = display({'text/plain': 'first'}, raw=True, display_id='one')\nNone", []),
    ("display({'text/plain': 'second', 'text/html': '<b>second</b>'}, raw=True, display_id='one', update=True)", []),
    ("from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('there')", []),
    (WIDGET, []),
    (FAILURES, ["raises-exception"]),
    ("await __import__('asyncio').sleep(0)\n'after the error'", []),
]


@pytest.fixture
def place(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of a notebook, and kernelspecs: `sandbox`, with it as workspace, and `host` without a sandbox."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "data.csv").write_text("1,2\n")
    (tmp_path / "policy.yaml").write_text(f"{POLICY}  mounts: [{{source: {directory}, mode: ro}}]\n")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    policy = str(tmp_path / "policy.yaml")
    write_kernelspec(tmp_path / "jupyter", "sandbox", policy=policy, sandbox={"workspace": "."})
    host = tmp_path / "jupyter" / "kernels" / "host"
    host.mkdir()
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (host / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "host", "language": "python"}))
    yield directory
    assert not containers()


def notebook(cells: list[tuple[str, list[str]]]) -> Any:
    new = FORMAT.v4
    made = new.new_notebook(cells=[new.new_markdown_cell("# A run")])
    for number, (source, tags) in enumerate(cells):
        made.cells.append(new.new_code_cell(source, id=f"cell-{number}", metadata={"tags": tags}))
    made.metadata["kernelspec"] = {"name": "host", "display_name": "host", "language": "python"}
    return made


def what_must_be_equal(ran: Any) -> dict[str, Any]:
    """Return a notebook without the only things that differ between two machines, or two runs on one."""
    content = json.loads(FORMAT.writes(ran))
    # which kernelspec, and that the image's Python is not the host's
    del content["metadata"]["kernelspec"]
    for of_version in ("version", "codemirror_mode", "pygments_lexer"):
        content["metadata"].get("language_info", {}).pop(of_version, None)
    content["metadata"].pop("papermill", None)  # when it ran, how long, and the paths of its files
    for cell in content["cells"]:
        cell["metadata"].pop("execution", None)  # when each message came
        cell["metadata"].pop("papermill", None)
        cell.pop("id")  # papermill's own cells have a new one each time
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                # where in the standard library of this Python
                output["traceback"] = [re.sub(r"File \S+?:\d+", "File …", each) for each in output["traceback"]]
    return dict(content)


def on_host_and_in_sandbox(run: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return what_must_be_equal(run("host")), what_must_be_equal(run("sandbox"))


def outputs(ran: dict[str, Any], number: int) -> list[Any]:
    found: list[Any] = [each["outputs"] for each in ran["cells"] if each["cell_type"] == "code"]
    return list(found[number])


def test_papermill_runs_a_notebook_with_plots_and_errors_as_on_the_host(place: Path) -> None:
    FORMAT.write(notebook(CELLS), place / "in.ipynb")

    def run(kernel: str) -> Any:
        out = place.parent / f"{kernel}.ipynb"
        options = ["-k", kernel, "-p", "name", "someone ", "-p", "count", "2", "--no-progress-bar"]
        command = [sys.executable, "-m", "papermill", str(place / "in.ipynb"), str(out), *options]
        ended = subprocess.run(
            [*command, "--cwd", str(place)], capture_output=True, text=True, timeout=SOON, check=False
        )
        # papermill runs all cells, and tells of an error that was expected too
        assert ended.returncode == 1, ended.stderr
        assert "ValueError: of a notebook" in ended.stderr
        return FORMAT.read(out, as_version=4)

    host, sandbox = on_host_and_in_sandbox(run)
    assert sandbox == host
    # that they do not agree on nothing
    assert "".join(outputs(sandbox, 2)[0]["text"]) == "someone someone \nand back\n"
    assert [next(iter(each["data"])) for each in outputs(sandbox, 4)] == ["image/png", "image/svg+xml"]
    assert outputs(sandbox, 9)[0]["ename"] == "ValueError"
    assert outputs(sandbox, 10)[0]["data"] == {"text/plain": ["'after the error'"]}


def test_papermill_stops_at_an_error_with_the_same_notebook(place: Path) -> None:
    FORMAT.write(notebook([CELLS[1], (FAILURES, []), CELLS[2]]), place / "in.ipynb")

    def run(kernel: str) -> Any:
        out = place.parent / f"{kernel}.ipynb"
        command = [sys.executable, "-m", "papermill", "-k", kernel, "--no-progress-bar", "--cwd", str(place)]
        ended = subprocess.run(
            [*command, str(place / "in.ipynb"), str(out)], capture_output=True, text=True, timeout=SOON, check=False
        )
        assert ended.returncode == 1
        assert "NameError: name 'name' is not defined" in ended.stderr
        return FORMAT.read(out, as_version=4)

    host, sandbox = on_host_and_in_sandbox(run)
    assert sandbox == host


def test_nbclient_runs_it_as_on_the_host_widgets_included(place: Path) -> None:
    def run(kernel: str) -> Any:
        made = notebook([*CELLS, ("1 / 0", []), ("'on'", [])])
        NotebookClient(
            made, kernel_name=kernel, allow_errors=True, timeout=SOON, resources={"metadata": {"path": str(place)}}
        ).execute()
        return made

    host, sandbox = on_host_and_in_sandbox(run)
    assert sandbox == host
    widgets = sandbox["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert widgets["slider"]["state"]["value"] == 4


def test_nbconvert_executes_it_as_on_the_host(place: Path) -> None:
    FORMAT.write(notebook(CELLS), place / "in.ipynb")

    def run(kernel: str) -> Any:
        options = ["--execute", "--to", "notebook", "--allow-errors", f"--ExecutePreprocessor.kernel_name={kernel}"]
        command = [sys.executable, "-m", "nbconvert", *options, f"--output-dir={place.parent}", "--output", kernel]
        ended = subprocess.run(
            [*command, str(place / "in.ipynb")], capture_output=True, text=True, timeout=SOON, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return FORMAT.read(place.parent / f"{kernel}.ipynb", as_version=4)

    host, sandbox = on_host_and_in_sandbox(run)
    assert sandbox == host


def test_a_kernel_that_dies_under_a_notebook_ends_its_run(place: Path) -> None:
    made = notebook([("import os; os._exit(1)", [])])
    with pytest.raises(RuntimeError, match="Kernel died"):
        NotebookClient(
            made, kernel_name="sandbox", timeout=SOON, resources={"metadata": {"path": str(place)}}
        ).execute()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_told_to_end_leaves_no_sandbox(place: Path, number: signal.Signals) -> None:
    FORMAT.write(notebook([("import time; time.sleep(600)", [])]), place / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "-k", "sandbox", "--no-progress-bar", "--log-output"]
    command += ["--cwd", str(place)]
    command += [str(place / "in.ipynb"), str(place.parent / "out.ipynb")]
    with piped(command, stderr=subprocess.PIPE) as running:
        assert running.stderr
        assert any("Executing Cell 2" in line for line in running.stderr)
        assert containers()
        running.send_signal(number)
        running.stderr.read()
    until(lambda: not containers(), "the sandbox is gone")


def test_a_notebook_joins_a_shared_kernel_and_leaves_it(
    place: Path, command: Command, request: pytest.FixtureRequest
) -> None:
    write_kernelspec(place.parent / "jupyter", "shared", kernel="theirs")
    assert command("up", "theirs").returncode == 0
    request.addfinalizer(lambda: command("stop", "theirs"))
    assert command("run", "theirs", "-c", "theirs = 41").returncode == 0
    made = notebook([("print(theirs)\nours = 1", [])])
    NotebookClient(made, kernel_name="shared", timeout=SOON).execute()
    assert made.cells[1].outputs[0].text == "41\n"
    assert command("run", "theirs", "-c", "print(ours)").stdout == "1\n"
    command("stop", "theirs")
    until(lambda: not containers(), "it was stopped")
