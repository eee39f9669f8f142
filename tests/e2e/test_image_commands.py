"""`kernel-bridge image`: images are built, listed and started for real, and what goes wrong is one sentence."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from bridge.launchers.docker import build as building
from bridge.launchers.docker.command import builder
from bridge.launchers.docker.image import DOCKERFILE, TAGS
from tests import images

ROOT = Path(__file__).parents[2]
# A build downloads a hundred megabytes on a machine that has none of it yet.
BUILD = 600.0
SOON = 60.0

Command = Callable[..., subprocess.CompletedProcess[str]]
PYTHON = TAGS["python"]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="module", name="python_image")
def _python_image() -> str:
    return images.python_image()


@pytest.fixture(scope="module")
def made(engine: docker.DockerClient) -> Iterator[Callable[[], str]]:
    """Give names for images, which are removed in the end."""
    names: list[str] = []

    def name() -> str:
        names.append(f"kernel-bridge/python:test-{uuid.uuid4().hex[:8]}")
        return names[-1]

    yield name
    for each in names:
        with suppress(docker.errors.ImageNotFound):
            engine.images.remove(each, force=True)


@pytest.fixture(scope="module")
def dockerfile(python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Build a Dockerfile's text as a person would, with one more file beside it."""

    def build(text: str, tag: str, certificates: bytes = b"") -> str:
        directory = tmp_path_factory.mktemp("dockerfile")
        (directory / "Dockerfile").write_text(text)
        (directory / "certificates").write_bytes(certificates)
        subprocess.run(
            [anyio.run(builder, os.environ), "build", "--quiet", f"--tag={tag}", str(directory)],
            env=os.environ | {"DOCKER_BUILDKIT": "1"}, capture_output=True, timeout=BUILD, check=True,
        )  # fmt: skip
        return tag

    return build


@pytest.fixture(scope="module")
def project(
    command: Command, python_image: str, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    """A project whose packages were built into an image, and what the command said."""
    name = f"Test {uuid.uuid4().hex[:8]}"
    file = tmp_path_factory.mktemp("project") / "pyproject.toml"
    file.write_text(
        f'[project]\nname = "{name}"\nversion = "1"\ndependencies = ["humanize>=4", "six ; python_version > \'3\'"]\n'
        '[project.optional-dependencies]\nalign = ["wcwidth", "tabulate"]\n'
    )
    built = command("image", "build", "--requirements", str(file), "--extra", "align")
    assert built.returncode == 0, built.stderr
    yield f"{PYTHON}-{name.lower().replace(' ', '-')}", built
    engine.images.remove(built.stdout.strip(), force=True)


def run_in(command: Command, image: str, code: str) -> str:
    """Start a sandbox from an image, run code in it, and stop it."""
    started = command("up", "built", "--image", image)
    assert started.returncode == 0, started.stderr
    try:
        ran = command("run", "built", "-c", code)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout
    finally:
        command("stop", "built")


def test_a_projects_packages_are_built_into_an_image_of_its_name(project: tuple[str, Any]) -> None:
    tag, built = project
    assert built.stdout == f"{tag}\n"
    assert built.stderr.endswith(f"Start a sandbox from it: kernel-bridge up --image {tag}\n")


VERSIONS = """
import importlib.metadata, json, pathlib
installed = importlib.metadata.distributions(path=["/opt/kernel/lib/python3.13/site-packages"])
print(json.dumps({each.name: each.version for each in installed}))
"""
PACKAGES = """
import humanize, six, tabulate, wcwidth
print([each.__name__ for each in (humanize, six, tabulate, wcwidth) if not pathlib.Path(each.__cached__).exists()])
print(humanize.intcomma(1234567), tabulate.__file__.startswith("/opt/kernel/lib/"))
"""


@pytest.mark.usefixtures("runtime")
def test_a_sandbox_of_it_has_the_packages_compiled_and_the_kernels_own_as_they_were(
    command: Command, project: tuple[str, Any]
) -> None:
    before = json.loads(run_in(command, PYTHON, VERSIONS))
    versions, uncompiled, used = run_in(command, project[0], VERSIONS + PACKAGES).splitlines()
    after = json.loads(versions)
    assert before.items() < after.items()
    assert after.keys() - before.keys() == {"humanize", "six", "tabulate"}
    assert uncompiled == "[]"
    assert used == "1,234,567 True"


LEFT_BEHIND = (
    "find /mnt /run /tmp /root /home /opt -name '*requirements*' -o -name '*.conf'; ls -A /mnt /run /tmp /root"
)
AS_ROOT: dict[str, Any] = {"user": "0", "network_mode": "none", "remove": True}


def test_the_build_left_no_trace_of_this_machine_and_one_layer_of_what_is_new(
    engine: docker.DockerClient, project: tuple[str, Any]
) -> None:
    image = engine.images.get(project[0])
    told = json.dumps([image.history(), image.attrs])
    assert "ca-certificates" not in told
    assert str(ROOT) not in told
    (added,) = [each["Size"] for each in image.history() if "compileall -qq" in each["CreatedBy"]]
    assert 0 < added < 20 * 2**20
    below, above = (engine.containers.run(each, ["sh", "-c", LEFT_BEHIND], **AS_ROOT) for each in (PYTHON, project[0]))
    assert above == below


def test_packages_that_would_break_the_kernel_are_refused_in_pips_words(
    command: Command, python_image: str, tmp_path: Path, made: Callable[[], str], engine: docker.DockerClient
) -> None:
    (tmp_path / "requirements.txt").write_text("humanize\nipython<8\n")
    tag = made()
    built = command("image", "build", "--requirements", str(tmp_path / "requirements.txt"), "--tag", tag)
    assert (built.returncode, built.stdout) == (3, "")
    sentence = built.stderr.splitlines()[-1]
    assert sentence.startswith("kernel-bridge: The packages of ")
    assert f"The image {tag} was not built; what was there before is unchanged." in sentence
    assert "pip said: Cannot install ipython<8" in sentence
    assert "The user requested (constraint) ipython==" in sentence
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get(tag)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--requirements", "none.txt"], "none.txt cannot be read: No such file"),
        (["--requirements", "."], ". is a directory"),
        (["--requirements", "empty.txt"], "names no package"),
        (["--requirements", "path.txt"], "line 2: -e is a directory of this machine"),
        (["--requirements", "bad.toml"], "is not valid TOML"),
        (["--requirements", "dynamic.toml"], "dynamic"),
        (["--requirements", "empty.txt", "--extra", "x"], "Only a pyproject.toml has extras"),
        (["--requirements", "good.txt", "--tag", PYTHON], "others are built on"),
        (["--requirements", "good.txt", "--base", "x:1"], "python or scipy"),
        (["--extra", "x"], "together with --requirements"),
        (["none"], "There is no image 'none'; there is: python, scipy."),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_built(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty.txt").write_text("# later\n")
    (tmp_path / "good.txt").write_text("six\n")
    (tmp_path / "path.txt").write_text("six\n-e .\n")
    (tmp_path / "bad.toml").write_text("[project\n")
    (tmp_path / "dynamic.toml").write_text('[project]\nname = "x"\ndynamic = ["dependencies"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    built = command("image", "build", *arguments, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert (built.returncode, built.stdout) == (2, "")
    assert said in built.stderr
    assert "Traceback" not in built.stderr
    assert not re.search("^building ", built.stderr, re.MULTILINE)


PLOT = """
import matplotlib.pyplot as plt, numpy as np, pandas as pd
frame = pd.DataFrame(
    {"x": np.arange(100), "y": np.linalg.eigvalsh(np.diag(np.arange(100.0)))},
    index=pd.date_range("2026-01-01", periods=100, tz="Europe/Berlin"),
)
axes = frame.plot(title=r"Σ $\\alpha^2$ größe")
plt.savefig("plot.pdf")
print(frame.y.sum(), frame.to_csv().count("\\n"), __import__("os").path.getsize("plot.pdf") > 1000)
"""


@pytest.mark.anyio
async def test_the_agent_plots_data_in_a_sandbox_of_the_image_for_data_analysis(connect: Any) -> None:
    await building.build("scipy", building.How(print))
    async with connect() as agent:
        await agent.call("start_sandbox", name="plots", image=TAGS["scipy"])
        try:
            result = await agent.client.call_tool("execute_code", {"code": PLOT})
            assert not result.is_error, agent.text(result)
            assert "4950.0 101 True" in agent.text(result)
            assert "font" not in agent.text(result).lower()
            (plot,) = agent.images(result)
            assert plot.mime_type == "image/png"
            assert base64.b64decode(plot.data).startswith(b"\x89PNG")
        finally:
            await agent.client.call_tool("stop_sandbox", {"kernel": "plots"})


UNCOMPILED = """
import numpy, pandas, matplotlib.pyplot, pathlib, sys
ours = [each for each in sys.modules.values() if getattr(each, "__cached__", None) and each.__file__.endswith(".py")]
print(len(ours) > 100, [each.__name__ for each in ours if not pathlib.Path(each.__cached__).exists()])
"""


def test_the_image_for_data_analysis_is_built_by_its_name_on_top_of_the_other(
    command: Command, engine: docker.DockerClient, python_image: str
) -> None:
    built = command("image", "build", "scipy")
    assert (built.returncode, built.stdout) == (0, "kernel-bridge/scipy:3.13\n"), built.stderr
    python = ["/opt/kernel/bin/python", "-B", "-c", UNCOMPILED]
    assert engine.containers.run(TAGS["scipy"], python, environment={"HOME": "/tmp"}, **AS_ROOT) == b"True []\n"


@pytest.mark.usefixtures("runtime")
def test_the_documented_dockerfile_makes_an_image_that_sandboxes_start_from(
    command: Command, dockerfile: Callable[..., str], made: Callable[[], str], tmp_path: Path
) -> None:
    text = re.search(r"```dockerfile\n(.+?)```", (ROOT / "images" / "README.md").read_text(), re.DOTALL)
    assert text
    assert text[1] == DOCKERFILE
    below = made()
    # where a proxy inspects TLS on the way to the index, its certificates are below; elsewhere the file is empty
    named = [os.environ[each] for each in building.CA_VARIABLES if os.environ.get(each)]
    certificates = Path(named[0]).read_bytes() if named else b""
    trusting = "COPY --chmod=0644 certificates /etc/\nENV PIP_CERT=/etc/certificates\n" if named else ""
    dockerfile(f"FROM {PYTHON}\n{trusting}", below, certificates)
    tag = dockerfile(text[1].replace(f"FROM {PYTHON}", f"FROM {below}"), made())
    told = run_in(command, tag, "import numpy, os; print(numpy.__file__.startswith('/opt/kernel/'), os.getuid() != 0)")
    assert told == "True True\n"


def test_two_lines_cannot_change_what_the_kernel_runs_on_without_a_word(
    dockerfile: Callable[..., str], made: Callable[[], str]
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        # no index is needed to see that it is not allowed
        dockerfile(f"FROM {PYTHON}\nRUN pip install --no-index 'ipykernel<7'\n", made())
    assert b"ipykernel" in failed.value.stderr
    assert b"constraint" in failed.value.stderr


def test_two_lines_are_enough_on_every_image_that_the_command_builds(
    dockerfile: Callable[..., str], made: Callable[[], str], project: tuple[str, Any], engine: docker.DockerClient
) -> None:
    anyio.run(building.build, "scipy", building.How(print))
    for below in (PYTHON, TAGS["scipy"], project[0]):
        assert engine.images.get(below).attrs["Config"]["User"] == "65532:65532"
        dockerfile(f"FROM {below}\nRUN touch /opt/kernel/lib/written\n", made())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"FROM {PYTHON}\nLABEL io.kernel-bridge.image=0\n", "it has no label io.kernel-bridge.image=4"),
        ("FROM scratch\nCOPY Dockerfile /\nLABEL io.kernel-bridge.image=4\n", "but not the programs"),
        (f"FROM {PYTHON}\nUSER 0\nRUN rm -r /opt/kernel-bridge\n", "but not the programs"),
    ],
    ids=["without the label", "with nothing but the label", "without the supervisor"],
)
def test_an_image_that_was_not_made_for_sandboxes_is_refused_with_a_dockerfile_to_paste(
    command: Command, dockerfile: Callable[..., str], made: Callable[[], str], runtime: Path, text: str, said: str
) -> None:
    tag = dockerfile(text, made())
    started = command("up", "refused", "--image", tag)
    assert (started.returncode, started.stdout) == (3, "")
    assert said in started.stderr
    assert started.stderr.endswith(f":\n{DOCKERFILE}")
    assert "OCI" not in started.stderr
    assert command("ls", "--json").stdout.count('"name"') == 0
    assert not list(runtime.iterdir())


def test_the_images_are_listed_with_what_the_policy_in_force_says_of_each(
    command: Command, project: tuple[str, Any], tmp_path: Path, engine: docker.DockerClient
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nsandbox: {images: [{repository: kernel-bridge/python, tags: ['3.13']}]}\n")
    listed = command("image", "ls")
    assert listed.returncode == 0
    (line,) = [each for each in listed.stdout.splitlines() if each.startswith(project[0])]
    id_ = str(engine.images.get(project[0]).id)
    assert re.fullmatch(rf"\S+ +{id_[7:19]} +\d+MiB  \d{{4}}-\d\d-\d\d  allowed", line)
    told = json.loads(command("image", "ls", "--json", "--policy", str(policy)).stdout)
    allowed = {each["reference"]: each["allowed"] for each in told["images"]}
    assert (allowed[PYTHON], allowed[project[0]]) == (True, False)
    assert "kernel-bridge/base:trixie" not in allowed
    (row,) = [each for each in told["images"] if each["reference"] == project[0]]
    assert row["id"] == id_
    assert row["bytes"] == engine.images.get(project[0]).attrs["Size"]
    line = next(
        each for each in command("image", "ls", "--policy", str(policy)).stdout.splitlines() if project[0] in each
    )
    assert line.endswith("not allowed by the policy")


@pytest.mark.parametrize("subcommand", ["build", "ls"])
def test_an_engine_that_is_not_there_is_one_sentence(command: Command, tmp_path: Path, subcommand: str) -> None:
    done = command("image", subcommand, KERNEL_BRIDGE_DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 3
    assert f"{tmp_path}/none.sock" in done.stderr
    assert "$KERNEL_BRIDGE_DOCKER_HOST" in done.stderr
    assert "Traceback" not in done.stderr
    done = command("image", subcommand, "--engine", "tcp://127.0.0.1:1")
    assert done.returncode == 3
    assert "Remote engines are not supported" in done.stderr


class Terminal:
    """A command with its standard error on a terminal of 60 columns."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bridge", *arguments],
            stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True, env=os.environ | {"TERM": "xterm"},
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"it ended without {text!r}: {self.shown}"

    def rest(self) -> tuple[int, str]:
        """Read to the end and return the exit code and standard output."""
        while self._read():
            pass
        out, _ = self.process.communicate(timeout=SOON)
        os.close(self._master)
        return self.process.returncode, out

    def lines(self) -> list[str]:
        """What is left on the screen: of what was written over, only the last."""
        return [each.rsplit("\r\x1b[K", 1)[-1].rstrip("\r") for each in self.shown.split("\n")]

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], BUILD)
        assert ready, f"nothing came for {BUILD} s after: {self.shown}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += data.decode()
        return bool(data)


@pytest.mark.usefixtures("image_tag", "python_image")
def test_on_a_terminal_a_build_is_one_line_that_lives() -> None:
    terminal = Terminal("image", "build")
    assert terminal.rest() == (0, f"{PYTHON}\n")
    assert re.search(r"\r\x1b\[K0:0\d  \[\S.*\d/\d\]", terminal.shown), "time and step"
    assert all(len(each) < 60 for each in re.findall(r"\r\x1b\[K(\d+:\d\d[^\r\n]*)", terminal.shown))
    left = terminal.lines()
    assert not [each for each in left if each.startswith("#") or re.match(r"\d+:\d\d ", each)]
    assert f"building {PYTHON} from" in "\n".join(left)
    assert f"Start a sandbox from it: kernel-bridge up --image {PYTHON}" in left


def test_on_a_terminal_a_build_that_fails_leaves_its_last_lines(
    python_image: str, made: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("ipython<8\n")
    terminal = Terminal("image", "build", "--requirements", str(tmp_path / "requirements.txt"), "--tag", made())
    assert terminal.rest() == (3, "")
    assert re.search(r"#\d+ \d+\.\d+ ERROR: Cannot install ipython<8", "\n".join(terminal.lines()))
    assert "kernel-bridge: The packages of " in terminal.lines()[-2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_build_that_is_interrupted_ends_with_all_that_it_started(
    dockerfile: Callable[..., str], made: Callable[[], str], engine: docker.DockerClient, number: int, code: int
) -> None:
    slow = dockerfile(f"FROM {PYTHON}\nONBUILD RUN echo it-has-{number}-begun && exec sleep 1000\n", made())
    tag = made()
    terminal = Terminal("image", "build", "--base", slow, "--tag", tag)
    terminal.read_until(f"  it-has-{number}-begun")
    children = [
        int(child)
        for task in Path(f"/proc/{terminal.process.pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    assert children
    terminal.process.send_signal(number)
    assert terminal.rest() == (code, "")
    assert not [each for each in children if Path(f"/proc/{each}").exists()]
    assert "Traceback" not in terminal.shown
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get(tag)
