#!/bin/sh
# Run once in a new dev container: the package, the shared kernel in the pickers, and the agent's way to it.
set -eu
cd "$(dirname "$0")/.."
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch "$KERNEL_BRIDGE_VENV/ready" # what `make` asks for
kernel-bridge ide install "$KERNEL_NAME"
kernel-bridge client add claude -- --kernel "$KERNEL_NAME"
