"""The fixture for tests of other projects: real pytest runs of small projects, with real sandboxes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.launchers.docker.host import find
from tests.e2e.conftest import Command
from tests.e2e.provisioned import POLICY, containers, until
from tests.programs import piped

# The bound of a whole run with a few sandboxes on a busy machine.
RUN = 180.0
USERS_TESTS = Path(__file__).with_name("users_tests.py")
NOTHING = "def test_nothing():\n    pass\n"
USE = "def test_use(sandbox_kernel):\n    raise AssertionError('it has begun')\n"
CONFIGURED = """\
[pytest]
addopts = --strict-markers --strict-config -p no:cacheprovider
filterwarnings = error
"""


def lines(*text: str) -> str:
    return "\n".join(text) + "\n"


class Project:
    """A project of somebody else, with a policy whose sandboxes are small."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.policy = root / "policy.yaml"
        self.policy.write_text(POLICY)
        self.state = root.parent / "state"
        self.environ = os.environ | {"KERNEL_BRIDGE_POLICY": str(self.policy), "XDG_STATE_HOME": str(self.state)}

    def write(self, tests: str, settings: str = "") -> None:
        (self.root / "pytest.ini").write_text(CONFIGURED + settings)
        (self.root / "test_it.py").write_text(tests)

    def command(self, *arguments: str, loaded: str = "bridge.testing") -> list[str]:
        """Our plugin is loaded once more where pytest finds it by itself, which must do no harm."""
        return [sys.executable, "-m", "pytest", "-p", loaded, "--rootdir", str(self.root), str(self.root), *arguments]

    def run(
        self, tests: str, *arguments: str, settings: str = "", loaded: str = "bridge.testing", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run its tests as its author does."""
        self.write(tests, settings)
        return subprocess.run(
            self.command(*arguments, loaded=loaded),
            cwd=self.root, env=self.environ | environ, capture_output=True, text=True, timeout=RUN, check=False,
        )  # fmt: skip

    def passes(self, tests: str, count: int, *arguments: str, settings: str = "") -> str:
        finished = self.run(tests, *arguments, settings=settings)
        assert f"{count} passed" in finished.stdout, finished.stdout + finished.stderr
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def fails(self, tests: str, *arguments: str, settings: str = "") -> str:
        """Run tests that must fail, and return what is shown: none of our own code, and no escape sequence."""
        finished = self.run(tests, *arguments, settings=settings)
        assert finished.returncode == pytest.ExitCode.TESTS_FAILED, finished.stdout + finished.stderr
        assert "/bridge/" not in finished.stdout, finished.stdout
        assert "\x1b" not in finished.stdout
        assert "During handling" not in finished.stdout
        return finished.stdout


@pytest.fixture
def project(tmp_path: Path, runtime: Path) -> Iterator[Project]:
    """A project, of whose runs nothing may be left."""
    root = tmp_path / "project"
    root.mkdir()
    project = Project(root)
    yield project
    assert not containers()
    assert not list(runtime.glob("kernel-bridge-*"))
    assert not project.state.exists()  # what tests print is none of the cells that `export` shows


# -- where it is not used, or cannot be


def test_a_run_that_does_not_use_it_looks_as_without_it(project: Project) -> None:
    using = project.run(NOTHING, "-v")
    without = project.run(NOTHING, "-v", "-p", "no:bridge.testing", "-p", "no:kernel-bridge")
    assert using.returncode == 0
    said = [[line for line in each.stdout.splitlines() if "plugins:" not in line] for each in (using, without)]
    assert [line.partition(" in ")[0] for line in said[0]] == [line.partition(" in ")[0] for line in said[1]]


@pytest.mark.parametrize("loaded", ["bridge.testing", "bridge.testing.plugin", "kernel-bridge", "no:nothing"])
@pytest.mark.parametrize("named", ["bridge.testing", "bridge.testing.plugin"])
@pytest.mark.parametrize("autoload", ["", "1"], ids=["found", "not found"])
def test_it_can_be_loaded_in_every_way_and_in_several_at_once(
    project: Project, loaded: str, autoload: str, named: str
) -> None:
    """By its entry point, by a module on the command line, by a conftest; whichever is first."""
    installed = project.root / "path" / "installed-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[pytest11]\nkernel-bridge = bridge.testing.plugin\n")
    (project.root / "conftest.py").write_text(f'pytest_plugins = ["{named}"]\n')
    path = os.pathsep.join(filter(None, (str(installed.parent), os.environ.get("PYTHONPATH"))))
    environ = {"PYTHONPATH": path} | ({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": autoload} if autoload else {})
    finished = project.run(NOTHING, "--fixtures", loaded=loaded, **environ)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("\nsandbox_kernel") == 1
    assert "RewriteWarning" not in finished.stdout + finished.stderr


def test_it_can_be_turned_off(project: Project) -> None:
    assert "fixture 'sandbox_kernel' not found" in project.run(USE, "-p", "no:kernel-bridge").stdout


def test_the_help_names_every_setting(project: Project) -> None:
    said = project.run(NOTHING, "--help").stdout
    for name in ("scope", "image", "policy", "workspace", "workspace_mode", "network", "engine", "start_timeout"):
        assert f"sandbox_kernel_{name} (string)" in said
    assert "@pytest.mark.sandbox_kernel(image=" in project.run(NOTHING, "--markers").stdout


def test_a_scope_that_is_none_ends_the_run_in_one_line(project: Project) -> None:
    finished = project.run(USE, settings="sandbox_kernel_scope = always\n")
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert finished.stderr.strip() == (
        "ERROR: sandbox_kernel_scope: 'always' is none; write one of function, class, module, package, session."
    )


def test_a_wrong_setting_is_one_clear_error(project: Project) -> None:
    said = project.fails(USE, settings="sandbox_kernel_network = open-wide\n")
    assert "sandbox_kernel_network: 'open-wide' is none; write isolated or none or open. Nothing was started.\n" in said
    assert "it has begun" not in said


def test_where_no_engine_answers_the_first_test_says_what_to_do_and_the_others_point_there(project: Project) -> None:
    tests = USE + USE.replace("test_use", "test_other")
    said = project.fails(tests, "-rN", settings="sandbox_kernel_engine = unix:///no/such.sock\n")
    assert "2 errors" in said
    first, other = said.split("ERROR at setup of test_other")
    assert "The container engine at /no/such.sock" in first
    assert "No sandbox, as in test_it.py::test_use: The container engine" in other


def test_an_image_that_is_not_there_says_what_to_type(project: Project) -> None:
    project.policy.write_text(POLICY.replace("3.13", "absent"))
    said = project.fails(USE)
    assert "The engine has no image kernel-bridge/python:absent. Nothing was started" in said
    assert "Type: kernel-bridge image build" in said


def test_what_the_policy_does_not_allow_is_refused_with_what_it_does(project: Project) -> None:
    tests = f"import pytest\n\n@pytest.mark.sandbox_kernel(image='python:3.13', workspace='.')\n{USE}"
    said = project.fails(tests)
    assert f"not allowed by the policy {project.policy}, so nothing was started" in said
    assert "image: docker.io/library/python:3.13 is not among the policy's; allowed are" in said
    assert "workspace: " in said


def test_a_marker_that_could_not_be_obeyed_is_refused(project: Project) -> None:
    tests = f"import pytest\n\n@pytest.mark.sandbox_kernel(image='a')\n{USE}"
    said = project.fails(tests, settings="sandbox_kernel_scope = session\n")
    assert "@pytest.mark.sandbox_kernel is for a kernel of one test, and sandbox_kernel_scope = session" in said
    assert "it has begun" not in said


def test_more_sandboxes_than_the_policy_allows_are_refused_with_what_runs(project: Project, command: Command) -> None:
    project.policy.write_text(f"{POLICY}  max_running: 1\n")
    assert command("up", "held", KERNEL_BRIDGE_POLICY=str(project.policy)).returncode == 0
    try:
        said = project.fails(USE)
    finally:
        command("stop", "held")
    assert "the policy allows 1 to run at the same time (max_running), and there are 1 already (held)" in said


def test_a_kernel_that_does_not_start_in_time_is_told_and_removed(project: Project) -> None:
    said = project.fails(f"import pytest\n\n@pytest.mark.sandbox_kernel(start_timeout=0.01)\n{USE}")
    assert "did not answer within 0.01 s" in said
    assert "sandbox_kernel_start_timeout gives it more time." in said
    assert "runtime" not in said


def test_a_kernel_that_does_not_start_in_time_under_a_runtime_of_the_policys_is_told_what_that_must_allow(
    project: Project,
) -> None:
    (project.root / "runtime.yaml").write_text("version: 1\nsandbox: {runtime: runc}\n")
    (project.root / "runtime.yaml").chmod(0o600)
    asked = "sandbox_kernel_policy = runtime.yaml\n"
    said = project.fails(f"import pytest\n\n@pytest.mark.sandbox_kernel(start_timeout=0.01)\n{USE}", settings=asked)
    assert "the policy's runtime runc" in said
    assert "--host-uds=all" in said


# -- what a test can do with it

THREE_LINES = """\
def test_the_answer(sandbox_kernel):
    cell = sandbox_kernel.run("6 * 7")
    assert cell.value == "42"
"""


def test_a_users_test_is_three_lines(project: Project) -> None:
    assert len(THREE_LINES.splitlines()) == 3
    project.passes(THREE_LINES, 1)


def test_everything_that_a_test_can_do_with_one_kernel_for_all(project: Project) -> None:
    project.passes(USERS_TESTS.read_text(), 15, settings="sandbox_kernel_scope = session\n")


def test_each_test_has_a_sandbox_of_its_own_and_one_ends_before_the_next_begins(project: Project) -> None:
    project.policy.write_text(f"{POLICY}  max_running: 1\n")
    project.passes(
        lines(
            "import pathlib, pytest",
            "@pytest.mark.parametrize('number', [1, 2])",
            "def test_it(sandbox_kernel, number):",
            "    assert sandbox_kernel.run('\"here\" in globals()').value == 'False'",
            "    sandbox_kernel.run('here = 1')",
            "    pathlib.Path(f'name.{sandbox_kernel.name}').touch()",
            "    assert sandbox_kernel.connection_file.exists()",
        ),
        2,
    )
    assert len(list(project.root.glob("name.*"))) == 2


def test_a_wider_scope_shares_one(project: Project) -> None:
    tests = lines(
        "import pytest",
        "@pytest.fixture(scope='session')",
        "def filled(sandbox_kernel):",
        "    sandbox_kernel.run('n = 0')",
        "    return sandbox_kernel",
        "def test_one(filled):",
        "    filled.run('n += 1')",
        "def test_other(sandbox_kernel, filled):",
        "    assert sandbox_kernel is filled",
        "    assert sandbox_kernel.run('n += 1; n').value == '2'",
    )
    project.passes(tests, 2, settings="sandbox_kernel_scope = session\n")
    assert "ScopeMismatch" in project.run(tests).stdout


def test_the_settings_and_the_marker_say_what_it_is_started_with(project: Project) -> None:
    (project.root / "data").mkdir()
    (project.root / "data").chmod(0o777)
    (project.root / "data" / "in.txt").write_text("given")
    (project.root / "wide.yaml").write_text(f"{POLICY}  mounts: [{{source: {project.root}, mode: rw}}]\n")
    project.passes(
        lines(
            "import pathlib, pytest",
            "DATA = pathlib.Path(__file__).parent / 'data'",
            "def test_the_settings(sandbox_kernel):",
            "    assert sandbox_kernel.run('open(\"in.txt\").read()').value == \"'given'\"",
            "    assert sandbox_kernel.run('open(\"out.txt\", \"w\")', check=False).error.ename == 'OSError'",
            "    assert sandbox_kernel.connection_file.read_text().count('tcp') == 1",
            "@pytest.mark.sandbox_kernel(workspace=DATA, workspace_mode='rw', network='none', memory='300MiB')",
            "def test_the_marker(sandbox_kernel):",
            '    sandbox_kernel.run(\'open("out.txt", "w").write("made")\')',
            "    assert (DATA / 'out.txt').read_text() == 'made'",
            "    assert sandbox_kernel.connection_file.read_text().count('ipc') == 1",
        ),
        2,
        settings="sandbox_kernel_policy = wide.yaml\nsandbox_kernel_workspace = data\n",
    )


# -- what a failure shows


def test_code_that_raises_shows_itself_its_output_and_the_kernels_traceback(project: Project) -> None:
    said = project.fails(
        lines(
            "def test_it(sandbox_kernel):",
            "    sandbox_kernel.run('''",
            "        def half(n):",
            "            return n / 0",
            "        print('so far')",
            "        half(2)",
            "    ''')",
        )
    )
    assert "CellExecutionError: ZeroDivisionError: division by zero" in said
    shown = [line.removeprefix("E").strip() for line in said.splitlines()]
    first = shown.index("The cell:")
    assert shown[first + 1 : first + 5] == ["def half(n):", "return n / 0", "print('so far')", "half(2)"]
    assert shown[shown.index("Its output:") + 1] == "so far"
    assert "----> 2     return n / 0" in shown
    assert "test_it.py:2: CellExecutionError" in said


def test_a_kernel_that_dies_is_told_with_why_and_the_next_cell_says_that_it_is_new(project: Project) -> None:
    said = project.fails(
        lines(
            "from bridge.testing import KernelDied",
            "import pytest",
            "def test_memory(sandbox_kernel):",
            '    sandbox_kernel.run(\'print("so far", flush=True); x = b"x" * (1 << 30)\')',
            "def test_exit(sandbox_kernel):",
            "    with pytest.raises(KernelDied, match='exit status 3'):",
            "        sandbox_kernel.run('import os; os._exit(3)')",
            "    cell = sandbox_kernel.run('1')",
            "    assert cell.value == '1'",
            "    assert 'all earlier variables are gone' in cell.notes[0]",
        )
    )
    assert "1 failed, 1 passed" in said
    assert "KernelDied: The kernel ended while the cell ran." in said
    assert "out of memory (the limit is 512 MiB)" in said
    assert "so far" in said


# -- nothing is left


def test_a_failing_test_leaves_nothing_to_the_next_one(project: Project) -> None:
    project.policy.write_text(f"{POLICY}  max_running: 1\n")
    assert "2 failed" in project.fails(USE + USE.replace("test_use", "test_other"))


AT_WORK = lines(
    "import os, pathlib",
    "def test_it(sandbox_kernel):",
    "    pathlib.Path('at-work').touch()",
    "    {}",
)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_run_that_is_ended_while_a_cell_runs_leaves_nothing(
    project: Project, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(AT_WORK.format("sandbox_kernel.run('while True: pass', timeout=600)"))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("KERNEL_BRIDGE_POLICY", str(project.policy))
    with piped(project.command(), stdout=subprocess.DEVNULL) as running:
        until((project.root / "at-work").exists, "the test runs")
        running.send_signal(number)
    assert running.returncode == code
    until(lambda: not containers(), "nothing is left")


def test_ctrl_c_while_a_sandbox_starts_leaves_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(AT_WORK.format("pass"))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("KERNEL_BRIDGE_POLICY", str(project.policy))
    with piped(project.command(), stdout=subprocess.PIPE) as running:
        until(containers, "a sandbox is being started")
        running.send_signal(signal.SIGINT)
        assert running.stdout
        said = running.stdout.read()
    assert running.returncode == pytest.ExitCode.INTERRUPTED, said
    assert not (project.root / "at-work").exists()
    assert not containers()


def test_a_sandbox_that_cannot_be_stopped_is_told_and_stopped_when_pytest_ends(project: Project) -> None:
    engine = project.root / "engine.sock"
    engine.symlink_to(find(None, os.environ).socket)
    (project.root / "conftest.py").write_text(
        lines("import pathlib", "def pytest_unconfigure():", "    pathlib.Path('away').rename('engine.sock')")
    )
    tests = lines(
        "import pathlib",
        "def test_it(sandbox_kernel):",
        "    pathlib.Path('engine.sock').rename('away')",
    )
    said = project.fails(tests, settings=f"sandbox_kernel_engine = unix://{engine}\n")
    assert "1 passed, 1 error" in said
    assert "could not be stopped: The container engine at" in said
    assert "It is tried again when pytest ends; by hand: kernel-bridge stop pytest-" in said


def test_a_test_that_ends_the_process_leaves_nothing(project: Project) -> None:
    assert project.run(AT_WORK.format("os._exit(3)")).returncode == 3
    until(lambda: not containers(), "nothing is left")


def test_each_of_several_workers_has_sandboxes_of_its_own(project: Project) -> None:
    tests = lines(
        "import os, pathlib, pytest",
        "@pytest.mark.parametrize('number', range(4))",
        "def test_it(sandbox_kernel, number):",
        "    cell = sandbox_kernel.run('n = globals().get(\"n\", 0) + 1; n')",
        "    worker = os.environ['PYTEST_XDIST_WORKER']",
        "    pathlib.Path(f'{worker}.{sandbox_kernel.name}.{number}').write_text(cell.value)",
    )
    # each worker runs all of them
    project.passes(tests, 8, "--dist=each", "--tx=2*popen", settings="sandbox_kernel_scope = session\n")
    wrote = sorted(project.root.glob("gw*"))
    assert len(wrote) == 8
    assert len({each.name.split(".")[1] for each in wrote}) == 2
    assert sorted(each.read_text() for each in wrote) == sorted("12341234")
