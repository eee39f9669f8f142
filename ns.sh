mount -t tmpfs none /run/docker 2>/dev/null
mount --bind /dev/null /run/docker.sock || exit 9
export HOME=/tmp/x/home KERNEL_BRIDGE_OWNER=review1 JUPYTER_RUNTIME_DIR=/tmp/x/rt PYTHONPATH=/tmp/rev
unset DOCKER_HOST
cd /tmp/rev
echo "--- engine.sh"; sh .ci/engine.sh; echo rc=$?
mkdir -p .venv/bin; ln -sf /work/main/.venv/bin/kernel-bridge .venv/bin/kernel-bridge
echo "--- image.sh"; bash .ci/image.sh kernel-bridge/python:3.13; echo rc=$?
echo "--- ls"; /work/main/.venv/bin/python -m bridge ls; echo rc=$?
echo "--- image build"; /work/main/.venv/bin/python -m bridge image build; echo rc=$?
echo "--- with only KERNEL_BRIDGE_DOCKER_HOST"; export KERNEL_BRIDGE_DOCKER_HOST=unix:///tmp/x/home/.colima/default/docker.sock; rm -rf $HOME/none; HOME=/tmp/x/nohome
sh .ci/engine.sh; echo rc=$?; bash -x .ci/image.sh kernel-bridge/python:3.13 2>&1 | tail -3; echo rc=$?
