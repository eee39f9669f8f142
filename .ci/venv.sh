#!/usr/bin/env bash
# Makes .venv (or $KERNEL_BRIDGE_VENV) with the locked packages and this one. Debian keeps Python's venv in a package of its own: where that is
# missing and the user is root, it is installed, with a line that says so.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=${KERNEL_BRIDGE_VENV:-.venv}

say() { printf '%s\n' "$*" >&2; }

command -v "$python" >/dev/null || { say "There is no $python; install Python 3.11 or newer, or name one: make PYTHON=..."; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "$python is $("$python" -V 2>&1); kernel-bridge needs Python 3.11 or newer. Name one: make PYTHON=python3.13"; exit 2; }

if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Python's venv is missing: installing the distribution's package $package."
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >&2
  else
    say "Python's venv is missing; install it, e.g.: sudo apt install $package"; exit 2
  fi
fi

say "Making $venv with the locked packages (a minute the first time)."
if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
  say "$venv is there and no environment of Python's, so it is not replaced. Remove it, or name another: KERNEL_BRIDGE_VENV"; exit 2
fi
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
