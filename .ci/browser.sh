#!/bin/sh
# Makes sure of a Chromium for `make test`, which opens JupyterLab in it.
#
#   exit 0   one is there; or none can be had here, as a line says, and the tests that need one will fail
#
# The one rule: one that is there is used as it is. Only where there is none, on Debian or Ubuntu, as root, the
# distribution's own is installed, and a line says so.
#
# For tests: BROWSER_NAMES, BROWSER_OS_RELEASE   other commands and another place
set -eu

NAMES=${BROWSER_NAMES:-chromium chromium-browser google-chrome google-chrome-stable} # as in tests/e2e/browser.py
OS_RELEASE=${BROWSER_OS_RELEASE:-/etc/os-release}

say() { printf 'browser: %s\n' "$*" >&2; }
give_up() {
  say "$*"
  say "going on without one, so the tests that open JupyterLab will fail"
  exit 0
}
is_debian() { [ -r "$OS_RELEASE" ] && grep -Eqx 'ID="?(debian|ubuntu)"?' "$OS_RELEASE"; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >&2; }
use() { # fails where none runs; Ubuntu's command may only say that a snap is to be installed
  for name in $NAMES; do
    if version=$("$name" --version 2>/dev/null); then
      say "using $version ($(command -v "$name"))"
      return 0
    fi
  done
  return 1
}

if use; then exit 0; fi
is_debian || give_up "there is no Chromium, and this is neither Debian nor Ubuntu, where it would be installed. Install one"
[ "$(id -u)" = 0 ] || give_up "there is no Chromium, and installing one needs root. Install it: sudo apt install chromium"
say "there is none: installing the distribution's own with apt-get (chromium)"
{ apt update && apt install --no-install-recommends chromium; } || give_up "that failed. Install a Chromium and try again"
use || give_up "that gave no command that runs, as on Ubuntu, where it is a snap. Install a Chromium or Chrome that does"
