# shellcheck shell=bash disable=SC2034
# Functions that the other scripts share: packages, the virtual environment, the engine, the base image, the images in images/.
# Source this file; do not run it. Each function looks first and changes only what is missing, so that each script can run
# again at any time, also after a reboot. Each change is printed.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
CONSTRAINTS=$ROOT/scripts/constraints.txt # the versions of all packages; scripts/lock updates them
BASE_IMAGE=debian:trixie-slim
BASE_SUITE=trixie
IMAGES=(base:13 python:3.13 node:20) # base first: the others are built on it; the tag is the version of what is in it

# Debian and Ubuntu packages, each list in this one place.
PACKAGES_RUN=(ca-certificates git)
# For the tests that need no engine: zstd's own program to compare with; what signs and reads attestations.
PACKAGES_UNIT=(ca-certificates git gpg gpg-agent jq openssh-client python3 python3-venv zstd)
# Only root may mount what it makes: a file system that shares blocks, 1 MB. (xfs does too, but its tools bring 12 MB along:
# that test runs where they are there.)
if [ "$(id -u)" = 0 ]; then PACKAGES_UNIT+=(btrfs-progs); fi
# For the others: a registry to pull from, a static busybox to make tiny images of; on Debian also a browser for the report's
# page (Ubuntu's is a snap: there the test skips, and says so).
# An sshd for engines behind ssh (3 MB), and what a rootless engine needs (24 MB).
PACKAGES_TEST=("${PACKAGES_UNIT[@]}" docker-registry busybox-static openssh-server rootlesskit slirp4netns uidmap)
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

# at_end COMMAND: run it when this shell ends, also by a signal; the last of several first.
at_end() {
  AT_END+=("$1")
  trap end_all EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
AT_END=()

end_all() {
  local i
  trap '' INT TERM # what follows is done once
  for ((i = ${#AT_END[@]} - 1; i >= 0; i--)); do eval "${AT_END[i]}" || true; done
}

# part NAME COMMAND...: print the name of a part of the work, do it, and note how long it took.
part() {
  local name=$1 begun=$SECONDS
  shift
  say "$name"
  "$@"
  TIMES+=("$(printf '%2d min %02d s  %s' $(((SECONDS - begun) / 60)) $(((SECONDS - begun) % 60)) "$name")")
}
TIMES=()

# print_times: print how long each part took.
print_times() {
  say "time taken:"
  printf '    %s\n' "${TIMES[@]}" >&2
}

# die CODE LINE...: print the reason, then what to do, one line each. Codes as loom's: 2 the request, 3 the engine or an image.
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

# A program counts however it was installed, so that other distributions and hand-made machines work too.
is_there() {
  case $1 in
    btrfs-progs) command -v mkfs.btrfs >/dev/null ;;
    catatonit | docker-registry | git | gpg | gpg-agent | jq | chromium | iptables | mmdebstrap | podman | rootlesskit | slirp4netns | zstd) command -v "$1" >/dev/null ;;
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
  apt-get -q -o Acquire::Retries=3 update >/dev/null || say "apt-get update failed; continuing with the package lists of this machine"
  APT_UPDATED=1
}

# packages NAME...: install the named packages that are missing. A name that this release does not have is left out: the
# program is part of another package there (docker-cli), or its user reports that it is missing.
packages() {
  local missing=() known=() name log
  for name in "$@"; do
    is_there "$name" || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  if ! command -v apt-get >/dev/null; then
    die 2 "these packages are missing, and this machine has no apt-get: ${missing[*]}" \
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

# packages_for_tests NAME...: the same, but start no server that comes with a package: the tests start their own.
packages_for_tests() {
  local policy=/usr/sbin/policy-rc.d ours=
  if is_root && [ ! -e "$policy" ] && command -v apt-get >/dev/null; then
    ours=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    at_end "rm -f '$policy'"
  fi
  packages "$@"
  [ -z "$ours" ] || rm -f "$policy"
}

die_for_packages() {
  die 2 "these packages are missing, and only root may install them: $*" \
    "Run:  sudo apt-get update && sudo apt-get install -y --no-install-recommends $*" \
    "then run this again as yourself."
}

# all_that_needs_root PACKAGE...: without root, name everything at once that root must install.
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
    die 2 "these packages are missing, and only root may install them: ${missing[*]}" \
      "Run:  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" \
      "      sudo usermod -aG docker $(id -un)" \
      "then log in again, and run this again as yourself."
  fi
  die_for_packages "${missing[@]}"
}

# --- the virtual environment --------------------------------------------------------------------------------------

# find_python: print a Python of 3.11 or newer that can make virtual environments, or nothing.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# venv [EXTRA]: install this checkout's loom as $VENV/bin/loom, with the packages of an extra (`dev`).
# The stamp makes a second run quick; changed requirements or a moved checkout install again.
venv() {
  local extra=${1:-} stamp=$VENV/.loom-setup python want
  want="$ROOT $(cat "$ROOT/pyproject.toml" "$CONSTRAINTS" | sha256sum | cut -d' ' -f1)"
  if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null && [ -f "$stamp" ]; then
    case $(cat "$stamp") in
      "$want" | "$want dev") [ -n "$extra" ] && [ "$(cat "$stamp")" = "$want" ] || return 0 ;;
    esac
    # An environment for development stays one.
    case $(cat "$stamp") in *" dev") extra=dev ;; esac
  fi
  if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    if [ -e "$VENV" ] && [ ! -f "$stamp" ] && [ -n "$(ls -A "$VENV")" ]; then
      die 2 "$VENV exists, has no working Python, and was not made by this script" \
        "Remove it, or name another directory:  VENV=/some/where $0"
    fi
    python=$(find_python)
    if [ -z "$python" ]; then
      packages python3 python3-venv
      python=$(find_python)
    fi
    [ -n "$python" ] || die 2 "loom needs Python 3.11 or newer; this machine has $(python3 --version 2>&1)" \
      "Install one with its venv module and name it:  PYTHON=/path/to/python3 $0"
    say "creating a virtual environment in $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
  fi
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || die 2 "$VENV has no pip" \
    "Add it with the tool that made the environment, or name another directory:  VENV=/some/where $0"
  say "installing loom and its dependencies into $VENV${extra:+, with the tools for development}"
  install_in_venv -e ".${extra:+[$extra]}" ||
    die 2 "pip could not install loom into $VENV; its output is above" \
      "pip needs PyPI or a mirror of it (PIP_INDEX_URL); PIP_CERT names the certificates of a private network."
  printf '%s\n' "$want${extra:+ $extra}" >"$stamp"
}

# uv takes a tenth of pip's time. Where only pip's configuration knows the way to the packages, pip serves.
install_in_venv() {
  local pip=("$VENV/bin/python" -m pip install -q --disable-pip-version-check -c "$CONSTRAINTS")
  (cd "$ROOT" && "${pip[@]}" uv && "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" --system-certs -c "$CONSTRAINTS" "$@") </dev/null ||
    (cd "$ROOT" && "${pip[@]}" "$@") </dev/null
}

# --- the engine ---------------------------------------------------------------------------------------------------

# Files for dockerd's output and process id, where no service manager starts it.
ENGINE_LOG=${ENGINE_LOG:-/var/log/loom-dockerd.log}
ENGINE_PIDFILE=${ENGINE_PIDFILE:-/run/loom-dockerd.pid}

engine_answers() { command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

engine_name() { docker version --format '{{.Server.Version}}' 2>/dev/null; }

# A socket, such as a mounted one, may answer although no client is installed yet.
socket_answers() {
  [ -n "${DOCKER_HOST:-}" ] || [ -S /var/run/docker.sock ] || return 1
  timeout 20 "$VENV/bin/python" -c 'import docker; docker.from_env(timeout=10).ping()' 2>/dev/null
}

# engine: make sure that an engine answers. Use the one that does; else install and start the distribution's.
engine() {
  if ! command -v docker >/dev/null && socket_answers; then
    packages "${PACKAGES_CLIENT[@]}"
  fi
  if engine_answers; then
    say "using the running Docker engine${DOCKER_HOST:+ at $DOCKER_HOST}: $(engine_name)"
    return
  fi
  if [ -n "${DOCKER_HOST:-}" ]; then
    die 3 "no engine answers at DOCKER_HOST=$DOCKER_HOST" "Start it, or unset DOCKER_HOST to use this machine's own."
  fi
  if ! is_root; then
    if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
      die 3 "$(id -un) has no permission to use the Docker engine's socket" \
        "Run:  sudo usermod -aG docker $(id -un)" "then log in again, and run this again."
    fi
    die 3 "no Docker engine answers, and only root may start one" \
      "Run:  sudo service docker start" "then run this again. (Or run this script with sudo: it installs and starts one.)"
  fi
  packages "${PACKAGES_ENGINE[@]}"
  command -v dockerd >/dev/null || die 3 "this machine has no dockerd" "Install a Docker engine, then run this again."
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
  # In its own session and without inherited descriptors, it outlives this script and keeps none of its pipes open.
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

# dockerd does not start while its pid file names a living process; after a restart, that may be any process.
forget_dead_engine() {
  local pid
  pid=$(cat /var/run/docker.pid 2>/dev/null) || return 0
  if [[ "$(readlink "/proc/$pid/exe")" == */dockerd* ]]; then
    die 3 "a dockerd is running (process $pid) but does not answer" "Read its log; stop it if it hangs, then run this again."
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

# base_image: pull $BASE_IMAGE if it is missing; where no registry answers, make it from the same Debian release.
base_image() {
  ! docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || return 0
  say "pulling $BASE_IMAGE"
  ! timeout "${PULL_TIMEOUT:-120}" docker pull -q "$BASE_IMAGE" >/dev/null 2>&1 </dev/null || return 0
  say "no registry served $BASE_IMAGE; making it from Debian's packages with mmdebstrap"
  packages mmdebstrap debian-archive-keyring
  local mirror security log tree
  mirror=$(debian_mirror)
  security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
  log=$(mktemp)
  tree=$(mktemp --suffix=.tar)
  # As small as the image that it replaces: no documentation and no translations.
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

# debian_mirror: print the mirror that this machine uses, if it is a Debian: a private network may have no other.
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

# build_args: set BUILD_ARGS to what a build needs to reach the network as this machine does.
build_args() {
  local name
  BUILD_ARGS=()
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || BUILD_ARGS+=(--build-arg "$name")
  done
  # Certificates that this machine's administrator added, such as a private proxy's. They are public.
  if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    BUILD_ARGS+=(--build-arg "EXTRA_CA=$(cat /usr/local/share/ca-certificates/*.crt)")
  fi
}

# build_image TAG DIRECTORY: build an image; print the output only if the build fails.
build_image() {
  local tag=$1 context=$2 log
  build_args
  log=$(mktemp)
  if docker image inspect "$tag" >/dev/null 2>&1; then
    say "building what changed in $tag"
  else
    say "building $tag from ${context#"$ROOT"/}"
  fi
  # Try again after a failure, most often of a mirror: the engine keeps the layers that are built.
  if ! docker build "${BUILD_ARGS[@]}" -t "$tag" "$context" >"$log" 2>&1 </dev/null &&
    ! docker build "${BUILD_ARGS[@]}" -t "$tag" "$context" >"$log" 2>&1 </dev/null; then
    tail -n 40 "$log" >&2
    die 3 "$tag could not be built (whole output: $log)" "Look at the lines above; then run this again."
  fi
  rm -f "$log"
}

# build_images [NAME...]: build the named images of images/, or all, in the order in which they depend on each other.
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

# set_up_for_tests: everything that the whole suite needs.
set_up_for_tests() {
  all_that_needs_root "${PACKAGES_TEST[@]}"
  part "packages of this machine" packages_for_tests "${PACKAGES_TEST[@]}"
  part "Python environment" venv dev
  part "container engine" engine
  part "images: base, python and node" build_images
  cd "$ROOT"
}

# set_up_for_chaos: an engine's programs, and what disturbs them. The engine itself is chaos' own.
set_up_for_chaos() {
  packages "${PACKAGES_UNIT[@]}" "${PACKAGES_ENGINE[@]}" busybox-static docker-registry faketime iproute2
  venv dev
}

# Each of these reads only the folders that have its tests (tests/unit/test_top_level.py): a worker needs seconds to read all.
# More at once than there are cores: many tests wait for a process.
unit_tests() {
  in_memory pytest_in_venv "$@" -- -m "not docker and not kubernetes" -n "$((2 * $(nproc)))" --dist worksteal \
    --ignore=tests/docker/run --ignore=tests/docker/registry --ignore=tests/kubernetes
}
# Those that compute, without the ones that wait or start many programs.
quick_tests() {
  in_memory pytest_in_venv "$@" -- -m "not slow and not docker and not kubernetes" -n "$(($(nproc) + 1))" --dist worksteal \
    --ignore=tests/docker --ignore=tests/kubernetes
}

# One at a time in an engine: they look at everything that is in it. Where root can start more engines, three at a time: tests
# that use an engine wait for it most of the time.
docker_tests() {
  local workers=() pid status=0
  other_machines $((${TEST_ENGINES:-3} - 1))
  if ((${#MACHINES[@]})); then
    export LOOM_TEST_PYTHON=$VENV/bin/python
    workers=(--dist loadfile --tx popen)
    for pid in "${MACHINES[@]}"; do
      workers+=(--tx "popen//python='$ROOT/tests/support/on_other_machine' $pid")
    done
  fi
  pytest_in_venv "$@" -- -m docker --ignore=tests/unit --ignore=tests/kubernetes "${workers[@]}" || status=$?
  end_other_machines
  return "$status"
}

MACHINES=()       # the process ids of their dockerds, of those that have the images
MACHINE_STARTS=() # the process ids of the shells that start them
MACHINE_PLACES=() # the directory of each that was started; `dockerd.pid` and `slirp.pid` are in it

# other_machines NUMBER: start that many engines, each in network and mount namespaces of its own, as if on another machine:
# programs there find it at the usual socket, with the base image and loom/base. Without them, tests run one after the other.
other_machines() {
  local number=$1 place i
  if ((number < 1)) || ! is_root || [ -n "${DOCKER_HOST:-}" ] || ! command -v dockerd unshare nsenter slirp4netns >/dev/null; then return 0; fi
  say "starting engines, so that $((number + 1)) tests run at a time: $number more"
  at_end end_other_machines
  for ((i = 0; i < number; i++)); do
    place=$(mktemp -d /var/tmp/loom-test-machine.XXXXXX)
    MACHINE_PLACES+=("$place")
    other_machine "$place" &
    MACHINE_STARTS+=($!)
  done
  for ((i = 0; i < number; i++)); do
    place=${MACHINE_PLACES[i]}
    if wait "${MACHINE_STARTS[i]}"; then
      MACHINES+=("$(cat "$place/dockerd.pid")")
    else
      say "an engine does not work ($(tail -n 1 "$place/log")): fewer tests run at a time"
    fi
  done
  MACHINE_STARTS=()
}

# other_machine PLACE: one of them. In the background of a script: what it starts has a session of its own.
other_machine() {
  local place=$1 pid memory=
  printf 'nameserver 10.0.2.3\n' >"$place/resolv.conf"
  # In memory, a container starts in two thirds of the time: an engine waits for the disk at each step. An engine that collects
  # no garbage until there is much of it takes 7 % less of the processor.
  mkdir "$place/data"
  if (($(available_memory) > 6000000)); then memory="mount -t tmpfs none '$place/data'"; fi
  setsid unshare --net --mount --propagation private sh -c "ip link set lo up
    mount --bind '$place/resolv.conf' /etc/resolv.conf
    $memory
    exec env GOGC=off GOMEMLIMIT=300MiB dockerd --data-root '$place/data' --exec-root '$place/exec' --pidfile '$place/pid' -H 'unix://$place/engine.sock'" \
    >"$place/log" 2>&1 </dev/null &
  pid=$!
  printf '%s\n' "$pid" >"$place/dockerd.pid"
  DOCKER_HOST=unix://$place/engine.sock wait_for_engine 60 "$pid" || return 1
  setsid slirp4netns --configure --mtu=65520 --disable-host-loopback "$pid" tap0 >"$place/slirp.log" 2>&1 </dev/null &
  printf '%s\n' "$!" >"$place/slirp.pid"
  nsenter --target "$pid" --mount mount --bind "$place/engine.sock" /var/run/docker.sock || return 1
  # Tests of the other images run where these were built (tests/conftest.py).
  docker save "$BASE_IMAGE" loom/base:latest | docker -H "unix://$place/engine.sock" load >/dev/null || return 1
}

end_other_machines() {
  local place pid i
  for pid in "${MACHINE_STARTS[@]}"; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" || true
  done
  for place in "${MACHINE_PLACES[@]}"; do
    pid=$(cat "$place/dockerd.pid" 2>/dev/null)
    kill "$pid" 2>/dev/null || true
    for ((i = 0; i < 60; i++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.5
    done
    kill -9 "$pid" 2>/dev/null || true
    [ ! -f "$place/slirp.pid" ] || kill "$(cat "$place/slirp.pid")" 2>/dev/null || true
    rm -rf "$place"
  done
  MACHINES=() MACHINE_STARTS=() MACHINE_PLACES=()
}

# Several at once: most of their time is the cluster's. Without one they skip.
kubernetes_tests() {
  local status=0 folders=(--ignore=tests/unit --ignore=tests/security --ignore=tests/docker/run --ignore=tests/docker/registry)
  pytest_in_venv "$@" -- -m "kubernetes and not disturbs" "${folders[@]}" -n 2 --dist worksteal || status=$?
  # Alone: it takes a node away from all others.
  pytest_in_venv "$@" -- -m "kubernetes and disturbs" "${folders[@]}" || status=$?
  return "$status"
}

# cluster: use the cluster of LOOM_TEST_KUBECONFIG, else start the one beside the checkout (LOOM_TEST_CLUSTER, a folder with `up`
# and `cluster`) if there is one, with two nodes that have $BASE_IMAGE; end_cluster ends it.
CLUSTER_TOOL=${LOOM_TEST_CLUSTER:-$ROOT/../shared/kubernetes}
cluster() {
  if [ -n "${LOOM_TEST_KUBECONFIG:-}" ]; then
    say "using the cluster of $LOOM_TEST_KUBECONFIG"
  elif is_root && [ -x "$CLUSTER_TOOL/up" ]; then
    CLUSTER_DIR=$(mktemp -d)
    mkdir -p "$CLUSTER_DIR/img"
    docker save -o "$CLUSTER_DIR/img/base.tar" "$BASE_IMAGE"
    say "starting the cluster beside the checkout, in $CLUSTER_DIR"
    if LOOM_TEST_KUBECONFIG=$("$CLUSTER_TOOL/up" "$CLUSTER_DIR" 2 | tail -n 1); then
      export LOOM_TEST_KUBECONFIG LOOM_TEST_CLUSTER_DIR=$CLUSTER_DIR LOOM_TEST_CLUSTER=$CLUSTER_TOOL
    else
      unset LOOM_TEST_KUBECONFIG
      say "it did not start: the tests that need a cluster skip"
      end_cluster
    fi
  else
    say "no cluster: the tests that need one skip (scripts/test-kubernetes says how to get one)"
  fi
}
end_cluster() {
  [ -n "${CLUSTER_DIR:-}" ] || return 0
  "$CLUSTER_TOOL/cluster" down --dir "$CLUSTER_DIR" >/dev/null 2>&1 || true
  rm -rf "$CLUSTER_DIR"
  CLUSTER_DIR=
}

available_memory() { awk '/^MemAvailable/ { print $2 }' /proc/meminfo; } # in KiB

# in_memory COMMAND...: run it with its temporary files in memory, where there is enough. Unit tests make and remove hundreds of
# thousands of files: they take half the time there. (Engines are not asked to mount from /dev.)
in_memory() {
  local place
  if [ -n "${TMPDIR:-}" ] || (($(df --output=avail /dev/shm 2>/dev/null | tail -n 1) < 6000000 || $(available_memory) < 6000000)); then
    "$@"
    return
  fi
  place=$(mktemp -d /dev/shm/loom.XXX) # short, for the paths of sockets
  chmod 1777 "$place"                  # as /tmp: some tests are other users
  at_end "rm -rf '$place'"
  TMPDIR=$place "$@"
}

# pytest_in_venv ARGUMENT... -- OUR_ARGUMENT...
# A test that fails is run once more. Both results are printed: one that passes then shows a race, of loom or its own, to be mended.
pytest_in_venv() {
  local given=() status=0
  while [ "$1" != -- ]; do
    given+=("$1")
    shift
  done
  shift
  "$VENV/bin/python" -m pytest --reruns=1 --only-rerun=. --rerun-show-tracebacks "$@" "${given[@]}" || status=$?
  # 5: no test was selected. That is fine if the caller selected (-k), and a mistake if the whole suite should run.
  if ((status == 5 && ${#given[@]})); then status=0; fi
  return "$status"
}
