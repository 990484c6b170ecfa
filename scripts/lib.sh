# shellcheck shell=bash disable=SC2034
# What the other scripts share: packages, the virtual environment, the engine, the base image, the images under images/.
# Sourced, not run. Every function looks first and changes something only where it must, so each script may be run
# again at any time, also after a reboot. What it changes, it says.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
BASE_IMAGE=debian:trixie-slim
BASE_SUITE=trixie
IMAGES=(base:13 python:3.13 node:20) # base first: the others are built on it; the tag is the version of what is in it

# Debian and Ubuntu packages, each list in this one place.
PACKAGES_RUN=(ca-certificates git)
# For the tests that need no engine: zstd's own program to compare with.
PACKAGES_UNIT=(ca-certificates git python3 python3-venv zstd)
# Only root may mount what it makes: a file system that shares blocks, 1 MB. (xfs does too, but its tools bring 12 MB along:
# that test runs where they are there.)
if [ "$(id -u)" = 0 ]; then PACKAGES_UNIT+=(btrfs-progs); fi
# For the others: a registry to pull from, a static busybox to make tiny images of; on Debian also a browser for the report's
# page (Ubuntu's is a snap: there the test skips, and says so).
# An sshd for engines behind ssh (3 MB), and what a rootless engine needs (24 MB).
PACKAGES_TEST=("${PACKAGES_UNIT[@]}" docker-registry busybox-static openssh-client openssh-server rootlesskit slirp4netns uidmap)
if grep -qs '^ID=debian$' /etc/os-release; then PACKAGES_TEST+=(chromium chromium-driver); fi
# Podman, the second engine (60 MB with what it recommends and a container needs): its tests want root and Debian's version.
if grep -qs '^ID=debian$' /etc/os-release && [ "$(id -u)" = 0 ]; then
  PACKAGES_TEST+=(podman runc catatonit netavark aardvark-dns nftables)
fi
PACKAGES_ENGINE=(docker.io docker-cli docker-buildx iptables)
PACKAGES_CLIENT=(docker-cli docker-buildx)
if grep -qs '^ID=ubuntu$' /etc/os-release; then # there the client is part of docker.io
  PACKAGES_ENGINE=(docker.io docker-buildx iptables)
  PACKAGES_CLIENT=(docker.io docker-buildx)
fi
# Where dockerd, iptables and mmdebstrap's helpers are, also for those whose PATH leaves it out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '==> %s\n' "$*" >&2; }

# die CODE LINE...: the reason, then what to do, one line each. Codes as loom's own: 2 the request, 3 the engine or an image.
die() {
  local code=$1
  shift
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit "$code"
}

is_root() { [ "$(id -u)" = 0 ]; }

# --- packages -----------------------------------------------------------------------------------------------------

# What counts is that a thing is there, not that apt brought it: other distributions and hand-made machines work too.
is_there() {
  case $1 in
    btrfs-progs) command -v mkfs.btrfs >/dev/null ;;
    catatonit | docker-registry | git | chromium | iptables | mmdebstrap | podman | rootlesskit | slirp4netns | zstd) command -v "$1" >/dev/null ;;
    openssh-client) command -v ssh >/dev/null ;;
    openssh-server) command -v sshd >/dev/null ;;
    uidmap) command -v newuidmap >/dev/null ;;
    ca-certificates) [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/ssl/cert.pem ] ;;
    python3 | python3-venv) [ -n "$(find_python)" ] ;;
    docker.io) command -v dockerd >/dev/null ;;
    docker-cli) command -v docker >/dev/null ;;
    docker-buildx) docker buildx version >/dev/null 2>&1 ;;
    *) [ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null)" = "install ok installed" ] ;;
  esac
}

is_known_to_apt() { [ -n "$(apt-cache show --no-all-versions "$1" 2>/dev/null)" ]; }

apt_update() {
  [ -z "${APT_UPDATED:-}" ] || return 0
  apt-get -q -o Acquire::Retries=3 update >/dev/null || say "apt-get update did not go through; going on with the lists there are"
  APT_UPDATED=1
}

# packages NAME...: what the named ones bring is there afterwards. A name that this release does not have is passed over:
# it is part of another package there (docker-cli), or what needs it says so itself.
packages() {
  local missing=() known=() name log
  for name in "$@"; do
    is_there "$name" || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  if ! command -v apt-get >/dev/null; then
    die 2 "missing on this machine, which has no apt-get to install it with: ${missing[*]}" \
      "Install what corresponds to these Debian packages, then run this again."
  fi
  is_root || die_for_packages "${missing[@]}"
  apt_update
  for name in "${missing[@]}"; do
    if is_known_to_apt "$name"; then known+=("$name"); fi
  done
  ((${#known[@]})) || return 0
  say "installing with apt-get: ${known[*]}"
  log=$(mktemp)
  if ! DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Acquire::Retries=3 install --no-install-recommends "${known[@]}" >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    die 2 "apt-get could not install ${known[*]} (whole output: $log)" "Look at the lines above, then run this again."
  fi
  rm -f "$log"
}

# packages_for_tests NAME...: as packages, but a server among them is not started: the tests start their own.
packages_for_tests() {
  local policy=/usr/sbin/policy-rc.d ours=
  if is_root && [ ! -e "$policy" ] && command -v apt-get >/dev/null; then
    ours=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  packages "$@"
  if [ -n "$ours" ]; then
    rm -f "$policy"
    trap - EXIT
  fi
}

die_for_packages() {
  die 2 "missing on this machine, and only root may install it: $*" \
    "Run:  sudo apt-get update && sudo apt-get install -y --no-install-recommends $*" \
    "then run this again as yourself."
}

# all_that_needs_root PACKAGE...: without root, everything that the set-up will want from root, asked for at once.
all_that_needs_root() {
  local missing=() name
  ! is_root && command -v apt-get >/dev/null || return 0
  for name in "$@" python3 python3-venv; do
    is_there "$name" || missing+=("$name")
  done
  if ! command -v docker >/dev/null; then
    missing+=("${PACKAGES_ENGINE[@]}")
  fi
  ((${#missing[@]})) || return 0
  if [[ " ${missing[*]} " == *" docker.io "* ]]; then
    die 2 "missing on this machine, and only root may install it: ${missing[*]}" \
      "Run:  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" \
      "      sudo usermod -aG docker $(id -un)" \
      "then log in again, and run this again as yourself."
  fi
  die_for_packages "${missing[@]}"
}

# --- the virtual environment --------------------------------------------------------------------------------------

# A Python of 3.11 or newer that can make virtual environments, or nothing.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# venv [EXTRA]: $VENV/bin/loom is this checkout's loom afterwards, with the named extra's packages (`dev`).
# The stamp keeps a second run quick and makes a changed pyproject.toml, or a moved checkout, install again.
venv() {
  local extra=${1:-} stamp=$VENV/.loom-setup python want
  want="$ROOT $(sha256sum <"$ROOT/pyproject.toml" | cut -d' ' -f1)"
  if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null && [ -f "$stamp" ]; then
    case $(cat "$stamp") in
      "$want" | "$want dev") [ -n "$extra" ] && [ "$(cat "$stamp")" = "$want" ] || return 0 ;;
    esac
    # What was once installed for development stays so.
    case $(cat "$stamp") in *" dev") extra=dev ;; esac
  fi
  if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    if [ -e "$VENV" ] && [ ! -f "$stamp" ] && [ -n "$(ls -A "$VENV")" ]; then
      die 2 "$VENV is there but has no working Python, and this script did not make it" \
        "Remove it, or name another place:  VENV=/some/where $0"
    fi
    python=$(find_python)
    if [ -z "$python" ]; then
      packages python3 python3-venv
      python=$(find_python)
    fi
    [ -n "$python" ] || die 2 "loom needs Python 3.11 or newer; this machine has $(python3 --version 2>&1)" \
      "Install one with its venv module and name it:  PYTHON=/path/to/python3 $0"
    say "making a virtual environment in $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
  fi
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || die 2 "$VENV has no pip" \
    "Add it with the tool that made the environment, or name another place:  VENV=/some/where $0"
  say "installing loom and what it needs into $VENV${extra:+ (also for development)}"
  (cd "$ROOT" && "$VENV/bin/python" -m pip install -q --disable-pip-version-check -e ".${extra:+[$extra]}" </dev/null) ||
    die 2 "pip could not install loom into $VENV; its own words are above" \
      "It needs PyPI or a mirror of it (PIP_INDEX_URL); a private network's certificates go into PIP_CERT."
  printf '%s\n' "$want${extra:+ $extra}" >"$stamp"
}

# --- the engine ---------------------------------------------------------------------------------------------------

# Where dockerd's output and process id go when there is no service manager to start it.
ENGINE_LOG=${ENGINE_LOG:-/var/log/loom-dockerd.log}
ENGINE_PIDFILE=${ENGINE_PIDFILE:-/run/loom-dockerd.pid}

engine_answers() { command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

engine_name() { docker version --format '{{.Server.Version}}' 2>/dev/null; }

# A socket may answer where no client is installed yet (a mounted one, say).
socket_answers() {
  [ -n "${DOCKER_HOST:-}" ] || [ -S /var/run/docker.sock ] || return 1
  timeout 20 "$VENV/bin/python" -c 'import docker; docker.from_env(timeout=10).ping()' 2>/dev/null
}

# engine: an engine answers afterwards. The one that answers is used; else the distribution's is installed and started.
engine() {
  if ! command -v docker >/dev/null && socket_answers; then
    packages "${PACKAGES_CLIENT[@]}"
  fi
  if engine_answers; then
    say "using the Docker engine that answers${DOCKER_HOST:+ at $DOCKER_HOST}: $(engine_name)"
    return
  fi
  if [ -n "${DOCKER_HOST:-}" ]; then
    die 3 "no engine answers at DOCKER_HOST=$DOCKER_HOST" "Start it, or unset DOCKER_HOST to use this machine's own."
  fi
  if ! is_root; then
    if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
      die 3 "a Docker engine's socket is there, but $(id -un) may not use it" \
        "Run:  sudo usermod -aG docker $(id -un)" "then log in again, and run this again."
    fi
    die 3 "no Docker engine answers, and only root may start one" \
      "Run:  sudo service docker start" "then run this again. (Or run this script with sudo: it installs and starts one.)"
  fi
  packages "${PACKAGES_ENGINE[@]}"
  command -v dockerd >/dev/null || die 3 "there is no dockerd on this machine" "Install a Docker engine, then run this again."
  start_engine
  say "the Docker engine answers: $(engine_name)"
}

start_engine() {
  local pid
  if [ -d /run/systemd/system ]; then
    say "starting the Docker engine with systemd (enabled for the next boot too)"
    systemctl enable --now docker.service >/dev/null 2>&1 || true
    wait_for_engine 60 && return
    journalctl -u docker.service -n 20 --no-pager >&2 || true
    die 3 "dockerd did not start; its last lines are above" "Look at:  journalctl -u docker.service"
  fi
  forget_dead_engine
  say "starting the Docker engine: dockerd, output in $ENGINE_LOG"
  # Its own session and no inherited descriptors: it outlives this script and holds none of its pipes open.
  setsid dockerd >"$ENGINE_LOG" 2>&1 </dev/null &
  pid=$!
  printf '%s\n' "$pid" >"$ENGINE_PIDFILE"
  disown "$pid"
  wait_for_engine 60 "$pid" && return
  grep -vE 'level=(info|debug)' "$ENGINE_LOG" | tail -n 10 >&2 || true
  kill "$pid" 2>/dev/null || true
  die 3 "dockerd did not start; its last lines are above, all of them in $ENGINE_LOG" \
    "It needs root's full rights on a kernel with overlay file systems, cgroups and iptables (in a container: --privileged)."
}

# dockerd refuses to start while its pid file names a living process, which after a restart may be anything.
forget_dead_engine() {
  local pid
  pid=$(cat /var/run/docker.pid 2>/dev/null) || return 0
  if [[ "$(readlink "/proc/$pid/exe")" == */dockerd* ]]; then
    die 3 "a dockerd is running (process $pid) but does not answer" "Look at its log; end it if it hangs, then run this again."
  fi
  rm -f /var/run/docker.pid
}

wait_for_engine() {
  local limit=$1 pid=${2:-} i
  for ((i = 0; i < limit * 2; i++)); do
    ! engine_answers || return 0
    [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.5
  done
  return 1
}

# --- images -------------------------------------------------------------------------------------------------------

# base_image: $BASE_IMAGE is there afterwards: pulled, or where no registry answers, made from the same Debian release.
base_image() {
  ! docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || return 0
  say "pulling $BASE_IMAGE"
  ! timeout "${PULL_TIMEOUT:-120}" docker pull -q "$BASE_IMAGE" >/dev/null 2>&1 </dev/null || return 0
  say "no registry gave $BASE_IMAGE; making it from Debian's packages with mmdebstrap"
  packages mmdebstrap debian-archive-keyring
  local mirror security log tree
  mirror=$(debian_mirror)
  security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
  log=$(mktemp)
  tree=$(mktemp --suffix=.tar)
  # As small as the image it stands in for: no documentation, no translations, and apt leaves no archives behind.
  if ! mmdebstrap --variant=minbase --quiet \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    "$BASE_SUITE" "$tree" \
    "deb [signed-by=$DEBIAN_KEYRING] $mirror $BASE_SUITE main" \
    "deb [signed-by=$DEBIAN_KEYRING] $mirror $BASE_SUITE-updates main" \
    "deb [signed-by=$DEBIAN_KEYRING] $security $BASE_SUITE-security main" \
    >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$tree"
    die 3 "$BASE_IMAGE could neither be pulled nor made (output of mmdebstrap: $log)" \
      "Give this machine a registry or a Debian mirror (DEBIAN_MIRROR=http://.../debian), then run this again."
  fi
  docker import --change 'CMD ["bash"]' --message "made with mmdebstrap from $mirror" "$tree" "$BASE_IMAGE" >/dev/null
  rm -f "$log" "$tree"
}

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror that this machine itself uses where it is a Debian, since a private network may have no other.
debian_mirror() {
  local found=
  if [ -n "${DEBIAN_MIRROR:-}" ]; then
    printf '%s\n' "$DEBIAN_MIRROR"
    return
  fi
  if grep -qs '^ID=debian$' /etc/os-release; then
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
      grep -E '^(deb|URIs:) ' | grep -oE 'https?://[^ ]+/debian/?( |$)' | tr -d ' ' | head -n 1 || true)
  fi
  printf '%s\n' "${found:-http://deb.debian.org/debian}"
}

# build_args: what a build needs to reach the network the way this machine does.
build_args() {
  local name
  BUILD_ARGS=()
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || BUILD_ARGS+=(--build-arg "$name")
  done
  # Certificates that this machine's administrator added: a private proxy's or mirror's. Public by nature.
  if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    BUILD_ARGS+=(--build-arg "EXTRA_CA=$(cat /usr/local/share/ca-certificates/*.crt)")
  fi
}

# build_image TAG DIRECTORY: quiet when it goes well, the whole output when not.
build_image() {
  local tag=$1 context=$2 log
  build_args
  log=$(mktemp)
  if docker image inspect "$tag" >/dev/null 2>&1; then
    say "building what changed in $tag"
  else
    say "building $tag from ${context#"$ROOT"/}"
  fi
  # A mirror that hiccups is no reason to stop: what was built before it did is not built again.
  if ! docker build "${BUILD_ARGS[@]}" -t "$tag" "$context" >"$log" 2>&1 </dev/null &&
    ! docker build "${BUILD_ARGS[@]}" -t "$tag" "$context" >"$log" 2>&1 </dev/null; then
    tail -n 40 "$log" >&2
    die 3 "$tag could not be built (whole output: $log)" "Look at the lines above; then run this again."
  fi
  rm -f "$log"
}

# build_images [NAME...]: those of images/ that are named, else all; a named one is built after what it is built on.
build_images() {
  local image name
  base_image
  for image in "${IMAGES[@]}"; do
    name=${image%:*}
    if (($#)) && [[ " $* " != *" $name "* ]]; then continue; fi
    build_image "loom/$name:latest" "$ROOT/images/$name"
    docker tag "loom/$name:latest" "loom/$image"
  done
}

# --- tests --------------------------------------------------------------------------------------------------------

unit_tests() {
  say "tests that need no engine"
  pytest_in_venv "$@" -- -m "not docker" -n "$(nproc)"
}

# One at a time: they measure, and what they do to the engine would show in each other's looks at it.
docker_tests() {
  say "tests with the engine"
  pytest_in_venv "$@" -- -m docker
}

# pytest_in_venv ARGUMENT... -- OUR_ARGUMENT...
pytest_in_venv() {
  local given=() status=0
  while [ "$1" != -- ]; do
    given+=("$1")
    shift
  done
  shift
  "$VENV/bin/python" -m pytest "$@" "${given[@]}" || status=$?
  # 5: nothing was selected. Fine where the caller selects (-k), a mistake where the suite should have run.
  if ((status == 5 && ${#given[@]})); then status=0; fi
  return "$status"
}
