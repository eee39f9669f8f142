#!/usr/bin/env bash
# Makes sure of the sandbox image: one that was built from the files as they are now is used again.
set -eu
cd "$(dirname "$0")/.."
image=$1
venv=${KERNEL_BRIDGE_VENV:-.venv}

[ "${ENGINE:-}" != none ] || exit 0
# the engine that sandboxes will be started in, which need not be the docker command's own choice
DOCKER_HOST=$("$venv/bin/python" -c 'from bridge.launchers.docker import host; print(host.find().url)' 2>/dev/null) || exit 0
export DOCKER_HOST
docker info >/dev/null 2>&1 || exit 0  # .ci/engine.sh has said that there is no engine
digest=$(find images -type f ! -name '*.md' ! -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
mark=$venv/image-$digest
if [ -e "$mark" ] && docker image inspect "$image" >/dev/null 2>&1; then
  exit 0
fi
"$venv/bin/kernel-bridge" image build python
rm -f "$venv"/image-*
touch "$mark"
