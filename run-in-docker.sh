#!/usr/bin/env bash
# Builds the image and starts the agent in a container named masdeepflow-demo, in place of an older one.
#
#   ./run-in-docker.sh [ARGS of masdeepflow run]
#
# Settings, all from the environment:
#   CONTAINER_ENGINE  docker (the default) or podman
#   IMAGE             an image that is there already; without it one is built
#   BASE_IMAGE        what the image is built on, in place of the Dockerfile's choice
#   BUILDER_ROOT      a directory with the settings the build needs here: deploy/builder-root/README.md
#   BUILD_NETWORK     the network that the build uses, such as host
#   RUNTIME_SOCKETS   off: containers are named by id only, as the agent gets no runtime's socket
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
ENGINE=${CONTAINER_ENGINE:-docker}
BUILT=masdeepflow:demo
IMAGE=${IMAGE:-}
NAME=masdeepflow-demo

# Why each is needed: docs/deployment.md. The first two load programs; kernels or engines that do not know
# them have CAP_SYS_ADMIN instead.
LOADING=(BPF PERFMON)
NAMING=(SYS_PTRACE DAC_READ_SEARCH)
PRIORITY=(SYS_NICE)

say() { printf '[masdeepflow] %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# first_line TEXT: what an engine says first, as the reason in a sentence.
first_line() { sed -n '/[^ ]/{p;q}' <<<"$1"; }

require_engine() {
    case $ENGINE in
        docker | podman) ;;
        *) die "CONTAINER_ENGINE is docker or podman, not $ENGINE" ;;
    esac
    command -v "$ENGINE" >/dev/null \
        || die "$ENGINE is not installed: install the package docker.io, or podman and set CONTAINER_ENGINE=podman"
    [[ $ENGINE != podman || $EUID == 0 ]] \
        || die "Podman without root can't load eBPF programs: sudo CONTAINER_ENGINE=podman ./run-in-docker.sh"
    local answer
    answer=$("$ENGINE" info 2>&1 >/dev/null) \
        || die "$ENGINE doesn't answer: start its service or use sudo ($(first_line "${answer##*$'\n'}"))"
}

commit() {
    git -c safe.directory="$ROOT" -C "$ROOT" describe --always --dirty --abbrev=12 2>/dev/null || echo unknown
}

# Copied, so that what the machine adds to the build is never in the checkout.
make_context() {
    local context=$1
    (cd "$ROOT" && tar -c --exclude='__pycache__' --exclude='*.egg-info' --exclude='src/masdeepflow/bpf' \
        Dockerfile .dockerignore LICENSE bpf deploy/builder-root deploy/image pyproject.toml requirements/image.lock src) \
        | tar -x -C "$context"
    [[ -z ${BUILDER_ROOT:-} ]] || cp -rL "$BUILDER_ROOT/." "$context/deploy/builder-root/"
}

build() {
    IMAGE=$BUILT
    local arguments=(--tag "$IMAGE" --build-arg "COMMIT=$(commit)")
    [[ -z ${BASE_IMAGE:-} ]] || arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
    [[ -z ${BUILD_NETWORK:-} ]] || arguments+=(--network "$BUILD_NETWORK")
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    mkdir "$WORK/context"
    make_context "$WORK/context" || die "the files to build from could not be gathered (the reason is above)"
    say "building the image $IMAGE (some minutes the first time)"
    if ! "$ENGINE" build "${arguments[@]}" "$WORK/context" >"$WORK/log" 2>&1; then
        tail -n 40 "$WORK/log" >&2
        die "the image could not be built (the reason is above)"
    fi
}

# local_sockets: prints HOST_PATH:CONTAINER_PATH of the container runtimes' sockets there are.
local_sockets() {
    local socket=/run/docker.sock
    [[ ${RUNTIME_SOCKETS:-on} != off ]] || return 0
    case ${DOCKER_HOST:-} in
        "") ;;
        unix://*) socket=${DOCKER_HOST#unix://} ;;
        *) return 0 ;;
    esac
    [[ ! -S $socket ]] || echo "$socket:/run/docker.sock"
    for socket in /run/podman/podman.sock /run/containerd/containerd.sock /run/k3s/containerd/containerd.sock \
        /run/k0s/containerd.sock /run/crio/crio.sock; do
        [[ ! -S $socket ]] || echo "$socket:$socket"
    done
}

# What every container of the agent gets, whatever the capabilities that load its programs.
container_options() {
    local capability socket
    OPTIONS=(
        --pid host
        --network host
        --cgroupns host
        --userns host
        --read-only
        --tmpfs /tmp
        --security-opt no-new-privileges
        --security-opt apparmor=unconfined
        --security-opt label=disable
        --cap-drop ALL
    )
    for capability in "${NAMING[@]}" "${PRIORITY[@]}"; do OPTIONS+=(--cap-add "$capability"); done
    for socket in $(local_sockets); do OPTIONS+=(--volume "$socket:ro"); done
}

# Followed by `docker logs`, whatever the engine's own choice is; the size is bounded.
log_options() {
    if [[ $ENGINE == podman ]]; then
        LOG=(--log-driver k8s-file --log-opt max-size=64mb)
    else
        LOG=(--log-driver json-file --log-opt max-size=32m --log-opt max-file=2)
    fi
}

# start: whether the container starts with PRIVILEGES and the arguments in ARGUMENTS, and the probes are attached.
# REASON says why not.
start() {
    "$ENGINE" rm --force "$NAME" >/dev/null 2>&1 || true
    if ! REASON=$("$ENGINE" run --detach --name "$NAME" "${OPTIONS[@]}" "${PRIVILEGES[@]}" "${LOG[@]}" \
        "$IMAGE" run "${ARGUMENTS[@]}" 2>&1); then
        REASON=$(first_line "$REASON")
        return 1
    fi
    wait_ready
}

wait_ready() {
    local state log
    for _ in {1..150}; do
        # Before the log, so that the log of one that has ended is whole.
        state=$("$ENGINE" inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$NAME" 2>/dev/null) || true
        log=$("$ENGINE" logs "$NAME" 2>&1) || true
        if [[ $log == *"ready: hooks="* ]]; then return; fi
        case $state in
            *"ed 2") die "$(first_line "$log")" ;;
            exited* | stopped* | dead*) # stopped is what Podman calls it first
                REASON=$(first_line "$log")
                return 1
                ;;
        esac
        sleep 0.2
    done
    die "the agent is not ready after 30 s: see $ENGINE logs $NAME"
}

# From the least on, as no version number tells what an engine knows and its seccomp profile allows.
start_with_least() {
    local least=() capability
    for capability in "${LOADING[@]}"; do least+=(--cap-add "$capability"); done
    PRIVILEGES=("${least[@]}")
    start && return
    PRIVILEGES=("${least[@]}" --security-opt seccomp=unconfined)
    if start; then
        say "this engine's seccomp profile forbids bpf() to CAP_BPF: started without the profile"
        return
    fi
    PRIVILEGES=(--cap-add SYS_ADMIN)
    if start; then
        say "this engine does not know CAP_BPF: started with CAP_SYS_ADMIN in its place"
        return
    fi
    "$ENGINE" rm --force "$NAME" >/dev/null 2>&1 || true
    die "the agent does not start in a container here: $REASON"
}

explain() {
    cat <<END
The agent runs in the container $NAME, with ${PRIVILEGES[*]} ${NAMING[*]/#/--cap-add } ${PRIORITY[*]/#/--cap-add }.

  $ENGINE logs -f $NAME                                  the live log
  $ENGINE exec -d $NAME traffic_gen mysql-server         something to see: a server,
  $ENGINE exec $NAME traffic_gen mysql-client            and a client that asks it SELECT 1
  $ENGINE exec $NAME masdeepflow check                   what the agent finds on this host
  $ENGINE rm -f $NAME                                    ends it
END
}

require_engine
[[ $IMAGE ]] || build
container_options
log_options
ARGUMENTS=("$@")
start_with_least
explain
