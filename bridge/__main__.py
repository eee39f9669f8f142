"""The command's entry point: `kernel-bridge …` or `python -m bridge …`.

The one rule: start quickly. Collecting garbage while the libraries' thousands of classes are made costs an eighth of
the start and frees nothing, so it waits until they are there.
"""

import gc
import os
import sys
import threading

gc.disable()


def main() -> None:
    """Run the command line and exit with its code."""
    from bridge.cli import run  # noqa: PLC0415 - after gc.disable

    code = run()
    if threading.active_count() > 1:
        # a request to an engine that hangs: Python would wait for its thread, half a minute after the answer was given
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
