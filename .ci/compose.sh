#!/bin/sh
# Makes sure of `docker compose` for `make test`, which starts compose.yaml and the dev container.
#
#   exit 0   it is there; or it cannot be had here, as a line says, and the tests that need it will fail
#
# The one rule: one that is there is used as it is. Only where there is none, on Debian or Ubuntu, as root, the
# distribution's own is installed, and a line says so. Debian 12 has only the first version, which is another program:
# there the package of Debian 13 is taken, which needs nothing else of that release.
set -eu

say() { printf 'compose: %s\n' "$*" >&2; }
give_up() {
  say "$*"
  say "going on without it, so the tests that need it will fail"
  exit 0
}
apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >&2; }
use() {
  version=$(docker compose version --short 2>/dev/null) || return 1
  say "using docker compose $version"
}
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p'; }

install_newer() { # Debian 13's package, looked for beside the machine's own sources and leaving no trace in them
  codename=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" 'Origin: Debian' | head -n 1)
  [ -n "$mirror" ] || return 1
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  : >"$work/status"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" >"$work/sources.list"
  set -- -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$work/lists" \
    -o "Dir::Cache=$work/cache" -o "Dir::State::status=$work/status" -o APT::Sandbox::User=root
  apt "$@" update || return 1
  (cd "$work" && apt "$@" download docker-compose) || return 1
  apt install --no-install-recommends "$work"/docker-compose_*.deb
}

if use; then exit 0; fi
grep -Eqx 'ID="?(debian|ubuntu)"?' /etc/os-release 2>/dev/null ||
  give_up "there is none, and this is neither Debian nor Ubuntu, where it would be installed. Install docker compose"
[ "$(id -u)" = 0 ] || give_up "there is none, and installing it needs root. Install docker compose"
say "there is none: installing the distribution's own with apt-get"
apt update || give_up "apt-get update failed. Install docker compose and try again"
if [ -n "$(candidate docker-compose-v2)" ]; then # Ubuntu
  apt install --no-install-recommends docker-compose-v2 || give_up "that failed. Install docker compose and try again"
else
  case $(candidate docker-compose) in
    [2-9]*) apt install --no-install-recommends docker-compose || give_up "that failed. Install docker compose and try again" ;;
    *) install_newer || give_up "Debian 13's package cannot be had. Install docker compose and try again" ;;
  esac
fi
use || give_up "that gave no command that runs. Install docker compose and try again"
