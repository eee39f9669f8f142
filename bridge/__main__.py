"""The command's entry point: `kernel-bridge …` or `python -m bridge …`.

The one rule: start quickly. Collecting garbage while the libraries' thousands of classes are made costs an eighth of
the start and frees nothing, so it waits until they are there.
"""

import gc
import sys

gc.disable()


def main() -> None:
    """Run the command line and exit with its code."""
    from bridge.cli import run  # noqa: PLC0415 - after gc.disable

    sys.exit(run())


if __name__ == "__main__":
    main()
