"""The IDEs and other programs that start or join kernels: how each is found here, and how a kernel is picked in it.

The one rule: a program is one entry of the table, from its source or its own documentation; what it cannot do is said
as plainly as what it can.

VS Code           https://github.com/microsoft/vscode-jupyter (src/kernels/raw)
JupyterLab        https://jupyterlab.readthedocs.io/en/stable/user/documents_kernels.html
PyCharm           https://www.jetbrains.com/help/pycharm/configuring-jupyter-notebook.html
Zed               https://zed.dev/docs/repl
Spyder            https://docs.spyder-ide.org/current/panes/ipythonconsole.html
Positron          https://github.com/posit-dev/positron/pull/3220
emacs-jupyter     https://github.com/emacs-jupyter/jupyter
molten            https://github.com/benlubas/molten-nvim
Quarto            https://quarto.org/docs/computations/python.html
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from bridge.ide.installed import Installed
from bridge.policy.places import user_home


@dataclass(frozen=True)
class Ide:
    """One program in which a person works with kernels.

    In steps and limits stand `$spec` (what a picker shows), `$directory` (the kernelspec's name), `$kernel` (what our
    commands take) and `$file` (the connection file); a line whose word nobody knows is left out.
    """

    name: str
    """On our command line."""
    title: str
    commands: tuple[str, ...]
    """Any of them tells that it is here."""
    places: tuple[str, ...]
    """Any of these patterns, below the home directory unless it begins with `/`, tells it too."""
    steps: tuple[str, ...]
    limits: tuple[str, ...] = ()

    def found(self, environ: Mapping[str, str] = os.environ, python: str = sys.executable) -> str | None:
        """Return where it is on this machine, on PATH or beside this Python; None where it was not found."""
        path = os.pathsep.join([environ.get("PATH", os.defpath), str(Path(python).parent)])
        for command in self.commands:
            there = shutil.which(command, path=path)
            if there:
                return there
        for place in self.places:
            root = Path("/") if place.startswith("/") else user_home(environ)
            try:
                first = next(root.glob(place.lstrip("/")), None)
            except OSError:
                continue
            if first:
                return str(first)
        return None

    def told(self, words: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Return the steps and the limits, with the words put in."""
        return _told(self.steps, words), _told(self.limits, words)


ANY = {"spec": "Shared: NAME", "directory": "kernel-bridge-NAME", "kernel": "NAME", "file": "FILE"}
"""The words for no kernel in particular."""


def words_of(spec: Installed) -> dict[str, str]:
    """Return the words for one kernelspec; what does not hold for its kernel is not among them."""
    words = {"spec": spec.display_name, "directory": spec.directory.name}
    if spec.target.kernel:
        words["kernel"] = shlex.quote(spec.target.kernel)
    if spec.target.connection_file:
        words["file"] = shlex.quote(str(spec.target.connection_file))
    return words


def _told(lines: tuple[str, ...], words: Mapping[str, str]) -> list[str]:
    return [Template(each).substitute(words) for each in lines if set(Template(each).get_identifiers()) <= set(words)]


_CODE_STEPS = (
    "In a notebook: Select Kernel (top right) > Select Another Kernel… > Jupyter Kernel… > $spec.",
    "Not listed? Press the refresh button in that list.",
    "For the cells of a script (# %%): run one, then Select Kernel in the Interactive window that opens.",
)
_CODE_LIMITS = (
    "It needs the extension Jupyter (ms-toolsai.jupyter), and installs nothing into the kernel.",
    "When it joins it runs a few hidden lines in the kernel: Jedi off, %matplotlib inline, names of its own.",
    "Over SSH, in WSL or in a dev container, type `kernel-bridge ide install` there: it starts kernels there.",
)


def _code(name: str, title: str, command: str, folder: str, configuration: str, application: str) -> Ide:
    """Return one of the editors that are built from VS Code."""
    places = (
        f"{folder}/extensions",
        f"{folder}-server",
        f".config/{configuration}",
        f"Library/Application Support/{configuration}",
        f"/Applications/{application}.app",
        f"Applications/{application}.app",
    )
    return Ide(name, title, (command,), places, _CODE_STEPS, _CODE_LIMITS)


IDES = {
    each.name: each
    for each in (
        _code("vscode", "VS Code", "code", ".vscode", "Code", "Visual Studio Code"),
        _code(
            "vscode-insiders",
            "VS Code Insiders",
            "code-insiders",
            ".vscode-insiders",
            "Code - Insiders",
            "Visual Studio Code - Insiders",
        ),
        _code("vscodium", "VSCodium", "codium", ".vscode-oss", "VSCodium", "VSCodium"),
        _code("cursor", "Cursor", "cursor", ".cursor", "Cursor", "Cursor"),
        Ide(
            "jupyterlab",
            "JupyterLab, Notebook",
            ("jupyter-lab", "jupyter-notebook"),
            ("Library/Application Support/jupyterlab-desktop", ".config/jupyterlab-desktop"),
            (
                "New: the launcher shows $spec as a card of its own.",
                "In a notebook: click the kernel's name (top right) > $spec > Select.",
                "Not listed? Reload the page.",
            ),
        ),
        Ide(
            "pycharm",
            "PyCharm, DataSpell",
            ("pycharm", "pycharm.sh", "charm", "pycharm-professional", "dataspell", "dataspell.sh"),
            (
                ".config/JetBrains/PyCharm*",
                ".config/JetBrains/DataSpell*",
                "Library/Application Support/JetBrains/PyCharm*",
                "Library/Application Support/JetBrains/DataSpell*",
                "/Applications/PyCharm*.app",
                "/Applications/DataSpell*.app",
            ),
            (
                "Let it manage the server: Tools > Add Jupyter Connection… > IDE-Managed Server.",
                "In the notebook's toolbar open the list of kernels > $spec.",
                "Not listed? Stop that server and run a cell: it is started anew.",
            ),
            (
                "It needs the package jupyter in the project's interpreter, and an edition with notebooks.",
                "This is from its documentation and was not tried.",
            ),
        ),
        Ide(
            "zed",
            "Zed",
            ("zed", "zeditor"),
            (".config/zed", "/Applications/Zed.app", "Applications/Zed.app"),
            (
                "In the command palette: repl: refresh kernelspecs.",
                'In its settings: "jupyter": {"kernel_selections": {"python": "$directory"}}.',
                "Run a block or a # %% cell with repl: run.",
            ),
            ("Without that setting it takes the first kernelspec for Python that it finds, perhaps this one.",),
        ),
        Ide(
            "spyder",
            "Spyder",
            ("spyder", "spyder6"),
            (".config/spyder-py3", "Library/Spyder", "/Applications/Spyder*.app", ".local/spyder-*"),
            ("Consoles > Connect to an existing kernel… > Browse… > $file.",),
            (
                "It joins by the connection file only and shows no kernelspecs.",
                "It cannot interrupt or restart a kernel that it joined: kernel-bridge interrupt $kernel.",
                "Closing the console leaves the kernel alone.",
                "Variable Explorer and Plots stay empty unless spyder-kernels is what runs in the kernel.",
            ),
        ),
        Ide(
            "console",
            "Jupyter console",
            ("jupyter-console",),
            (),
            (
                "kernel-bridge attach $kernel",
                "jupyter console --kernel $directory",
                "jupyter console --existing $file",
            ),
            ("With --existing Ctrl-C interrupts nothing, and typing exit may end the kernel; Ctrl-D does not.",),
        ),
        Ide(
            "qtconsole",
            "Qt console",
            ("jupyter-qtconsole",),
            (),
            ("jupyter qtconsole --kernel $directory", "jupyter qtconsole --existing $file"),
            ("With --existing it neither interrupts nor restarts, and typing exit may end the kernel.",),
        ),
        Ide(
            "positron",
            "Positron",
            ("positron",),
            (".positron", ".config/Positron", "/Applications/Positron.app"),
            ("In its terminal: kernel-bridge attach $kernel",),
            (
                "Its consoles and notebooks take its own Python sessions only: no kernelspec, no connection file.",
                "Documents that Quarto renders take $directory.",
            ),
        ),
        Ide(
            "emacs",
            "Emacs (emacs-jupyter)",
            (),
            (
                ".emacs.d/elpa/jupyter-*",
                ".config/emacs/elpa/jupyter-*",
                ".emacs.d/straight/build/jupyter",
                ".config/emacs/.local/straight/build*/jupyter",
                ".emacs.d/.local/straight/build*/jupyter",
            ),
            (
                "M-x jupyter-run-repl RET $spec RET",
                "In Org: #+begin_src jupyter-python :session shared :kernel $directory",
                "By the file: M-x jupyter-connect-repl RET $file RET",
            ),
            ("By the file it can neither interrupt nor restart.",),
        ),
        Ide(
            "neovim",
            "Neovim (molten)",
            (),
            (
                ".local/share/nvim/lazy/molten-nvim",
                ".local/share/nvim/site/pack/*/*/molten-nvim",
                ".local/share/nvim/plugged/molten-nvim",
            ),
            (":MoltenInit $directory", "By the file: :MoltenInit $file"),
            (
                "By the file it can neither interrupt nor restart.",
                "It does not look whose output it gets: what the agent prints appears under your cell.",
            ),
        ),
        Ide(
            "quarto",
            "Quarto, papermill, nbconvert, nbclient",
            ("quarto", "papermill", "jupyter-nbconvert", "jupyter-execute"),
            ("/Applications/quarto",),
            (
                "Quarto, in the document's head: jupyter: $directory",
                "papermill in.ipynb out.ipynb --kernel $directory",
                "jupyter nbconvert --to notebook --execute --ExecutePreprocessor.kernel_name=$directory in.ipynb",
                "nbclient: NotebookClient(notebook, kernel_name='$directory').execute()",
            ),
            (
                "In a shared kernel a run sees the variables that are there and leaves its own.",
                "For a fresh sandbox at each run: kernel-bridge ide install, and kernel-bridge as the name.",
            ),
        ),
    )
}
