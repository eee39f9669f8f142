#!/bin/sh
# Makes sure of a container engine for `make demo` and `make test`.
#
#   exit 0   an engine answers; or none can be had here and the caller goes on without one, as a line says
#   exit 3   none answers although one was named or is there, or none can be had and ENGINE=required; a line says what to do
#
# The one rule: what somebody set up is never replaced. An engine that answers is used as it is. Where DOCKER_HOST or a
# docker context names another, or a socket is there and refuses, nothing is installed. Only where there is no sign of
# an engine, on Debian or Ubuntu, as root, the distribution's own is installed, and a line says so.
#
# Settings:  ENGINE=none | required   do not look for one | do not go on without one
#            ENGINE_LOG               where an engine started here writes its log
# For tests: ENGINE_SOCKET, ENGINE_RUN, ENGINE_DOCKERD, ENGINE_OS_RELEASE   other places and another dockerd command
set -eu

SOCKET=${ENGINE_SOCKET:-/var/run/docker.sock}
RUN=${ENGINE_RUN:-/var/run}
LOG=${ENGINE_LOG:-/var/log/kernel-bridge-dockerd.log}
DOCKERD=${ENGINE_DOCKERD:-dockerd}
OS_RELEASE=${ENGINE_OS_RELEASE:-/etc/os-release}
START_SECONDS=60

KERNEL_IMAGE=kernel-bridge/python:3.13
PUBLIC_BASE=python:3.13-slim-trixie
DEBIAN_BASE=kernel-bridge/base:trixie

say() { printf 'engine: %s\n' "$*" >&2; }
fail() { say "$*"; exit 3; }
give_up() { # where no engine can be had, which is no mistake of anybody's
  [ "${ENGINE:-}" != required ] || fail "$*"
  say "$*"
  say "going on without one, so nothing is isolated"
  exit 0
}
has() { command -v "$1" >/dev/null 2>&1; }
bounded() { # SECONDS COMMAND...; not every system has timeout(1)
  if has timeout; then timeout -k 5 "$@"; else shift; "$@"; fi
}
is_root() { [ "$(id -u)" = 0 ]; }
is_debian() { [ -r "$OS_RELEASE" ] && grep -Eqx 'ID="?(debian|ubuntu)"?' "$OS_RELEASE"; }
is_installed() { [ "$(dpkg-query -W -f '${Status}' "$1" 2>/dev/null)" = 'install ok installed' ]; }
lives() { # PID PROGRAM; one that has ended but was not collected by its parent yet does not live
  grep -qsx "$2" "/proc/$1/comm" && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"
}
is_running() { # PROGRAM; procps may not be there
  for process in $(grep -lsx "$1" /proc/[0-9]*/comm 2>/dev/null); do
    process=${process#/proc/}
    if lives "${process%/comm}" "$1"; then return 0; fi
  done
  return 1
}
version() { # [HOST]: what the engine there says it is; fails where none answers
  has docker && bounded 20 docker ${1:+--host "$1"} version --format '{{.Server.Version}}' 2>/dev/null
}
apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >&2; }

# Where to look: what the caller named, else the docker command's context, else the usual sockets.
usual_sockets() { # the same as in bridge/launchers/docker/host.py
  runtime=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
  printf '%s\n' "$SOCKET" "$runtime/docker.sock"
  if [ -n "${HOME:-}" ]; then
    for place in .docker/run .docker/desktop .colima/default .orbstack/run .rd; do
      printf '%s\n' "$HOME/$place/docker.sock"
    done
  fi
  printf '%s\n' "$runtime/podman/podman.sock" /run/podman/podman.sock
}

use_named() { # HOST WHERE-FROM
  found=$(version "$1") || fail "$2 names an engine that does not answer ($1). Start that engine, or unset it to use one here"
  say "using Docker $found at $1 ($2)"
}

use_usual() { # fails where none of them answers
  while read -r socket; do
    if [ -S "$socket" ] && found=$(version "unix://$socket"); then
      say "using Docker $found at unix://$socket"
      return 0
    fi
  done <<SOCKETS
$(usual_sockets)
SOCKETS
  return 1
}

refusing_socket() { # prints the first socket that is there; fails where there is none
  while read -r socket; do
    if [ -S "$socket" ]; then printf '%s\n' "$socket"; return 0; fi
  done <<SOCKETS
$(usual_sockets)
SOCKETS
  return 1
}

install_engine() {
  say "there is none: installing the distribution's own with apt-get (docker.io, iptables, debootstrap; ENGINE=none: not)"
  apt update || give_up "apt-get update failed, so nothing was installed. Install a container engine and try again"
  # Since Debian 13 and Ubuntu 24.04 the command line and its build plugin are packages of their own.
  set -- docker.io iptables debootstrap
  for package in docker-cli docker-buildx; do
    if apt-cache show "$package" >/dev/null 2>&1; then set -- "$@" "$package"; fi
  done
  apt install --no-install-recommends "$@" || give_up "apt-get install failed. Install a container engine and try again"
}

# What an engine that ended without tidying up leaves behind can keep the next one from starting: a file with a process
# number that some other program has by now, and the socket of a containerd that is no more.
clear_leftovers() {
  for leftover in "docker.pid dockerd" "docker/containerd/containerd.pid containerd"; do
    file=$RUN/${leftover%% *} program=${leftover##* }
    [ -f "$file" ] || continue
    if ! lives "$(cat "$file")" "$program"; then
      say "removing $file, left behind by an engine that has ended"
      rm -f "$file"
    fi
  done
  if [ -S "$RUN/containerd/containerd.sock" ] && ! is_running containerd; then
    say "removing $RUN/containerd/containerd.sock, left behind by a containerd that has ended"
    rm -f "$RUN/containerd/containerd.sock"
  fi
}

start_engine() {
  clear_leftovers
  if [ -d /run/systemd/system ] && [ -z "${ENGINE_DOCKERD:-}" ]; then
    bounded "$START_SECONDS" systemctl start docker ||
      give_up "systemctl start docker failed; see: journalctl -u docker"
  else
    say "starting dockerd in the background, its log is $LOG"
    # It outlives this session, in whose own directory its shim would go on to put the files of each exec.
    # shellcheck disable=SC2086  # the command may have arguments
    setsid env -u XDG_RUNTIME_DIR -u TMPDIR $DOCKERD >"$LOG" 2>&1 </dev/null &
    started=$!
  fi
  await_engine
}

await_engine() {
  waited=0
  until found=$(version "unix://$SOCKET"); do
    if [ -n "${started:-}" ] && ! kill -0 "$started" 2>/dev/null; then
      tail -n 5 "$LOG" >&2
      give_up "dockerd ended at once; its last lines are above, the rest is in $LOG"
    fi
    [ "$waited" -lt "$START_SECONDS" ] ||
      give_up "it does not answer after $START_SECONDS seconds; see $LOG or journalctl -u docker"
    sleep 1
    waited=$((waited + 1))
  done
  say "using Docker $found at unix://$SOCKET, which has just started"
}

# No registry may answer here; then the image's base is made with debootstrap. Asked only where it would be needed.
prepare_base() {
  if has debootstrap || ! is_root || ! is_debian; then return 0; fi
  for image in "$KERNEL_IMAGE" "$PUBLIC_BASE" "$DEBIAN_BASE"; do
    if docker image inspect "$image" >/dev/null 2>&1; then return 0; fi
  done
  say "asking a registry for $PUBLIC_BASE"
  if bounded 300 docker pull -q "$PUBLIC_BASE" >/dev/null 2>&1; then return 0; fi
  say "none gave it: installing debootstrap with apt-get, to make a base of the distribution's packages"
  { apt update && apt install --no-install-recommends debootstrap; } ||
    say "that failed; building the image will say what is missing"
}

main() {
  if [ "${ENGINE:-}" = none ]; then
    say "ENGINE=none: going on without one, so nothing is isolated"
    return 0
  fi
  named=${KERNEL_BRIDGE_DOCKER_HOST:-${DOCKER_HOST:-}}
  context=$(docker context inspect --format '{{.Name}} {{.Endpoints.docker.Host}}' 2>/dev/null) || context=default
  if [ -n "$named" ]; then
    use_named "$named" DOCKER_HOST
    export DOCKER_HOST="$named"
    prepare_base
  elif [ "${context%% *}" != default ] && [ -z "${ENGINE_SOCKET:-}" ]; then
    use_named "${context##* }" "the docker context ${context%% *}"
  elif use_usual; then
    prepare_base
  elif socket=$(refusing_socket); then
    has docker || give_up "$socket is there, but no docker command to use it with. Install the docker command line and try again"
    is_root || give_up "$socket is there but does not let $(id -un) in. Start the engine, or ask to be put into the group docker"
    if [ "$socket" = "$SOCKET" ] && is_running dockerd; then
      say "$socket is there and dockerd runs, but it does not answer yet: waiting"
      until version "unix://$SOCKET" >/dev/null || ! is_running dockerd; do
        [ "${waited:=0}" -lt "$START_SECONDS" ] || break
        sleep 1
        waited=$((waited + 1))
      done
    fi
    if found=$(version "unix://$SOCKET") && [ "$socket" = "$SOCKET" ]; then
      say "using Docker $found at unix://$SOCKET"
    elif [ "$socket" = "$SOCKET" ] && is_running dockerd; then
      give_up "dockerd runs but does not answer at $SOCKET after $START_SECONDS seconds; see its log or journalctl -u docker"
    elif [ "$socket" = "$SOCKET" ] && is_installed docker.io; then
      say "$socket is left over from an engine that has ended: starting it again"
      start_engine
    else
      give_up "$socket is there but nothing answers. Start the engine it belongs to; another one is not installed beside it"
    fi
    prepare_base
  elif ! is_root; then
    give_up "there is none, and installing one needs root. Install and start Docker, or run this as root"
  elif has "${DOCKERD%% *}"; then
    say "there is one, but it does not run"
    start_engine
    prepare_base
  elif is_debian && has apt-get; then
    install_engine
    if ! use_usual; then start_engine; fi
    prepare_base
  else
    give_up "there is none, and this is neither Debian nor Ubuntu, where it would be installed. Install and start Docker"
  fi
}

main
