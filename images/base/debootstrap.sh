#!/bin/sh
# Makes a base image out of Debian's own packages, for where no container registry answers, and imports it into the
# engine: a minimal Debian with its Python, much like python:slim. The one rule: whatever happens, the working
# directory is removed.
#
#   debootstrap.sh [SUITE [TAG]]            default: trixie kernel-bridge/base:SUITE
#
# Needs root, debootstrap and a docker command that reaches an engine.
#   DEBIAN_MIRROR   where the packages come from; default: debootstrap's own
#   TMPDIR          where the tree is put together; needs about 500 MB, and a file system that allows devices and programs
set -eu
umask 022

SUITE=${1:-trixie}
TAG=${2:-kernel-bridge/base:$SUITE}
# venv: the kernel lives in one, and people make their own. tzdata: a time zone by its name. netbase: /etc/services.
PACKAGES=python3,python3-venv,ca-certificates,netbase,tzdata

say() { printf 'base image: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "making it from Debian packages needs root; run it as root, or pull a public Python image instead"
command -v debootstrap >/dev/null || fail "debootstrap is not installed; type: apt-get install debootstrap"
command -v docker >/dev/null || fail "there is no docker command; type: apt-get install docker.io"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/kernel-bridge-base.XXXXXX")
ROOT=$WORK/root
# debootstrap mounts proc and sys into the tree; an interrupted one leaves them there, and rm must not walk into them.
clean() {
  for mounted in proc sys dev/pts dev/shm dev; do
    if mountpoint -q "$ROOT/$mounted" 2>/dev/null; then umount -l "$ROOT/$mounted" || true; fi
  done
  rm -rf --one-file-system "$WORK"
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say "Debian $SUITE with its Python, from packages (about a minute)"
set -- --variant=minbase --include="$PACKAGES" "$SUITE" "$ROOT"
[ -z "${DEBIAN_MIRROR:-}" ] || set -- "$@" "$DEBIAN_MIRROR"
if ! debootstrap "$@" >"$WORK/log" 2>&1; then
  tail -n 20 "$WORK/log" >&2
  fail "debootstrap failed; its last lines are above. Set DEBIAN_MIRROR if this machine has a mirror of its own"
fi

# The same things that Debian's slim images leave out; copyright files stay.
say "removing caches, documentation and translations"
find "$ROOT/usr/share/doc" -mindepth 2 ! -name copyright ! -type d -delete
find "$ROOT/usr/share/doc" -mindepth 1 -type d -empty -delete
rm -rf "$ROOT"/usr/share/man/* "$ROOT"/usr/share/info/* "$ROOT"/usr/share/lintian "$ROOT"/usr/share/linda \
  "$ROOT"/var/cache/apt/* "$ROOT"/var/cache/debconf/*-old "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/log/* \
  "$ROOT"/var/cache/ldconfig/* "$ROOT"/debootstrap "$ROOT"/tmp/* "$ROOT"/run/*
find "$ROOT/usr/share/locale" -mindepth 1 -maxdepth 1 ! -name locale.alias -exec rm -rf {} +
# This machine's name and resolver are not the image's business, and a mirror of its own is not either.
: >"$ROOT/etc/resolv.conf"
: >"$ROOT/etc/machine-id"
rm -f "$ROOT/etc/hostname"
[ -z "${DEBIAN_MIRROR:-}" ] || : >"$ROOT/etc/apt/sources.list"

say "importing it into the engine as $TAG"
tar -C "$ROOT" --numeric-owner -c . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
  --change 'CMD ["python3"]' \
  --change 'LABEL io.kernel-bridge.base=1' \
  - "$TAG" >"$WORK/id" || fail "the engine did not take the image; is it running? (docker info)"
say "done: $TAG $(cut -c 1-19 "$WORK/id")"
