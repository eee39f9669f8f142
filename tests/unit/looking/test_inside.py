"""The modules that are sent into kernels: what they may be made of."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from bridge import looking
from bridge.looking import files

INSIDE = Path(looking.__file__).with_name("inside")
MODULES = sorted(path for path in INSIDE.glob("*.py") if path.name != "__init__.py")
# What every ipykernel has imported before the first cell.
LOADED = {
    "__future__",
    "binascii",
    "collections.abc",
    "contextlib",
    "errno",
    "hashlib",
    "itertools",
    "json",
    "os",
    "os.path",
}
LOADED |= {"posix", "stat", "sys", "threading", "typing"}


def at_run_time(tree: ast.Module) -> set[str]:
    """Return what a module imports when it is executed."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_module_is_python_3_8_and_imports_only_what_a_kernel_has(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    assert at_run_time(tree) <= LOADED
    inner = [node for each in tree.body if not isinstance(each, ast.If) for node in ast.walk(each)]
    assert sum(isinstance(node, ast.Import | ast.ImportFrom) for node in inner) == len(
        [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    )


def test_no_two_modules_define_the_same_name_because_they_share_one_dictionary() -> None:
    seen: dict[str, str] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                assert name not in seen, f"{name} is in {path.stem} and in {seen.get(name)}"
                assert name not in {"annotations", "shell"}, "the future import and the expression use it"
                seen[name] = path.stem


def test_every_module_is_sent_with_all_that_it_imports_from_the_others() -> None:
    for sent in (
        looking._COMMON,
        (*looking._COMMON, "variables"),
        (*looking._COMMON, "names"),
        looking._OBJECTS,
        looking._EXCEPTIONS,
        files.FILES,
    ):
        for name in sent:
            for node in ast.walk(ast.parse((INSIDE / f"{name}.py").read_text())):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bridge.looking.inside."):
                    assert str(node.module).rpartition(".")[2] in sent, f"{name} needs {node.module}"


def test_names_of_the_users_own_making_are_looked_into_by_no_method_of_theirs() -> None:
    called = []

    class Names(dict[str, object]):
        def get(self, *_: object) -> object:
            called.append("get")
            return "ipykernel.kernelbase"

    class Name(str):
        __slots__ = ()

        def __eq__(self, _: object) -> bool:
            called.append("eq")
            return True

        __hash__ = str.__hash__

    known: dict[str, Any] = {}
    for path in MODULES:
        exec(path.read_text(), known)  # noqa: S102 - as a kernel has them
    asks = "def _input_request(look, parent, prompt):\n    return look()\n"
    header = {"header": {"msg_id": "m"}}
    for names in (Names(), {"__name__": Name("other")}):
        exec(asks, names)  # noqa: S102 - as a kernel has them
        assert names["_input_request"](known["question"], header, "who? ") == {}  # type: ignore[operator]
    assert called == []
    real: dict[str, Any] = {"__name__": "ipykernel.kernelbase"}
    exec(asks, real)  # noqa: S102 - as a kernel has them
    assert real["_input_request"](known["question"], header, "who? ")["prompt"] == "who? "
