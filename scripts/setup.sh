# shellcheck shell=bash
# What run.sh and test.sh share: set_up makes this checkout ready. To be sourced under `set -euo pipefail`.
#
# Safe to interrupt and to run twice at once: a lock keeps set-ups apart, and what is built is built
# aside and renamed into place when complete.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
STATE=$ROOT/.setup
VENV=$ROOT/.venv

# Tried in this order, so that the machine's own choice wins.
PYTHONS=(python3 python3.11 python3.12 python3.13 python3.14)
CLANGS=(clang clang-{14..22})
LLVM_STRIPS=(llvm-strip llvm-strip-{14..22})

# Servers and administration tools live there, and `su` leaves it out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '[set-up] %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

require_root() {
    ((EUID == 0)) || die "$1 needs root, to load eBPF programs and to install what is missing: sudo $1"
}

# quietly COMMAND...: its output goes to a log that is shown only if it fails. The lock is not passed on:
# a daemon that an installation starts would hold it for good.
quietly() {
    "$@" </dev/null >"$STATE/log" 2>&1 {LOCK}>&- && return
    tail -n 40 "$STATE/log" >&2
    return 1
}

take_lock() {
    mkdir -p "$STATE"
    exec {LOCK}>"$STATE/lock"
    flock --nonblock "$LOCK" && return
    say "waiting for another set-up of this checkout to finish"
    flock "$LOCK"
}

release_lock() { exec {LOCK}>&-; }

# --- distribution packages ----------------------------------------------------------------------------

# Packages to install, each as the names it may have, the preferred first: "nginx-light|nginx".
MISSING=()

# need PACKAGE TEST...: TEST looks for what the package provides, so a self-built tool counts too.
need() {
    local package=$1
    shift
    "$@" || MISSING+=("$package")
}

have() {
    local name
    for name; do
        if command -v "$name" >/dev/null; then return; fi
    done
    return 1
}

# Whether PHP has an extension.
php_has() { have php && php -m | grep -x "$1" >/dev/null; }

need_for_running() {
    need clang have "${CLANGS[@]}"
    need llvm have "${LLVM_STRIPS[@]}"
    need make have make
    # Brings the shared library of the same version with it.
    need libbpf-dev test -e /usr/include/bpf/bpf_helpers.h
}

# Each version of PostgreSQL's server has a directory of its own.
look_for_postgresql() {
    local found
    for found in /usr/lib/postgresql/*/bin; do
        [[ ! -d $found || :$PATH: == *:$found:* ]] || PATH=$PATH:$found
    done
}

need_for_testing() {
    need bind9-dnsutils\|dnsutils have dig
    # A second compiler of the BPF programs, the newest there is: the machine's own makes those of all other tests.
    need clang-22\|clang-21\|clang-20\|clang-19\|clang-18\|clang-17\|clang-16\|clang-15 have clang-{22..15}
    look_for_postgresql
    need beanstalkd have beanstalkd
    need bpftool\|linux-tools-generic have bpftool
    # Images for the containers of the tests are made of it: no registry is asked.
    need busybox-static have busybox
    need containerd have containerd
    need containernetworking-plugins test -e /usr/lib/cni/bridge -o -e /opt/cni/bin/bridge
    need curl have curl
    # Runs clients of PostgreSQL's and MariaDB's drivers for Java from their source.
    need default-jdk-headless have javac
    # Answers as late as it is told.
    need dnsdist have dnsdist
    need dnsmasq-base have dnsmasq
    need docker.io have dockerd
    need docker-cli\|docker.io have docker
    need git have git
    need iproute2 have ip
    need iptables have iptables
    # Name servers and clients that share nothing with BIND's, among them a C library that asks all servers at once.
    need knot have knotd
    need knot-dnsutils have kdig
    need knot-resolver have kresd
    # Sends batches of statements without waiting for replies.
    need libmariadb-java test -e /usr/share/java/mariadb-java-client.jar
    need libmemcached-tools have memcping
    # A client of NATS that shares nothing with nats-py.
    need libnats-dev test -e /usr/include/nats/nats.h
    need libpostgresql-jdbc-java test -e /usr/share/java/postgresql.jar
    need mariadb-client have mariadb
    need mariadb-server have mariadbd
    need memcached have memcached
    need musl-tools have musl-gcc
    # Makes the base of the image that the tests build.
    need mmdebstrap have mmdebstrap
    need nats-server have nats-server
    need nginx-light\|nginx have nginx
    need openssl have openssl
    # Brings psql and the library that psycopg uses; pgbench is part of the server.
    need postgresql-15\|postgresql-16\|postgresql-17\|postgresql have postgres
    # libmongoc's bindings: a client of MongoDB that shares nothing with pymongo.
    need php-cli have php
    # On libmemcached: many keys at once by the binary protocol.
    need php-memcached php_has memcached
    need php-mongodb php_has mongodb
    # Prepares, executes and closes each statement.
    need php-mysql php_has mysqli
    # Prepares a statement for each query, and deallocates it.
    need php-pgsql php_has pdo_pgsql
    need php-redis php_has redis
    need podman have podman
    need procps have ps
    need prometheus have prometheus
    need redis-server have redis-server
    need runc have runc
    need unbound have unbound
    need util-linux have nsenter
    need wrk have wrk
    # mysqlclient has no wheels: it is compiled against the MariaDB client library.
    need gcc have gcc
    need libmariadb-dev have mariadb_config
    need pkg-config\|pkgconf have pkg-config
}

apt_get() {
    # A machine that has just booted often holds the package lock for its own upgrades.
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -q -y \
        -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"
}

# available NAME|NAME...: prints the first name that this distribution has.
available() {
    local names name
    IFS='|' read -ra names <<<"$1"
    for name in "${names[@]}"; do
        if apt-cache show "$name" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    say "this distribution has no package ${1//|/ or }; the package lists may be out of date (apt-get update)"
    return 1
}

# Started by their installation, the servers that the tests use would hold the ports the tests need.
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="masdeepflow set-up: removed when it ends"

forbid_service_starts() {
    # One of ours is left over from a set-up that was killed; any other is the machine's and stays.
    if [[ -e $POLICY ]] && ! grep -q "$POLICY_MARK" "$POLICY"; then return; fi
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
    chmod 755 "$POLICY"
}

install_missing() {
    ((${#MISSING[@]})) || return 0
    have apt-get || die "missing, and there is no apt-get to install it: ${MISSING[*]}"
    say "reading the package lists"
    # One unreachable third-party source must not stop the rest.
    quietly apt_get update || say "some package lists could not be read; going on with those that could"

    local entry packages=()
    for entry in "${MISSING[@]}"; do
        packages+=("$(available "$entry")")
    done
    say "installing ${packages[*]}"
    # Finishes an installation that was interrupted; apt refuses to work until that is done.
    quietly env DEBIAN_FRONTEND=noninteractive dpkg --configure -a || true
    # In a subshell, so that the policy is lifted as soon as it is done, also when it fails.
    (
        forbid_service_starts
        quietly apt_get install --no-install-recommends "${packages[@]}"
    ) || die "the packages could not be installed (the reason is above)"
    MISSING=()
}

# --- Python environment -------------------------------------------------------------------------------

# find_python MODULE: prints the path of the first interpreter >= 3.11 that has MODULE.
find_python() {
    local name
    for name in "${PYTHONS[@]}"; do
        "$name" -I -c "
import sys, $1
sys.version_info >= (3, 11) or sys.exit(1)
print(sys.executable)" 2>/dev/null && return
    done
    return 1
}

python_version() { "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Debian packs the making of environments apart from the interpreter. With no interpreter to go by, the
# distribution's oldest that will do is taken, because all the locked packages have wheels for it.
need_python() {
    local scope=$1 python version headers
    if ! python=$(find_python ensurepip || find_python sys); then
        MISSING+=("python3.11-venv|python3.12-venv|python3.13-venv|python3-venv")
        [[ $scope == core ]] || MISSING+=("python3.11-dev|python3.12-dev|python3.13-dev|python3-dev")
        return
    fi
    version=$(python_version "$python")
    need "python$version-venv" "$python" -I -c 'import ensurepip' 2>/dev/null
    if [[ $scope == dev ]]; then
        headers=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("include"))')
        need "python$version-dev" test -e "$headers/Python.h"
    fi
}

# venv_facts VENV SCOPE: what decides whether VENV has what SCOPE (core or dev) needs, one fact a line.
# An environment made for dev has all facts of core.
venv_facts() {
    # Scripts hold absolute paths, so a checkout that moved needs a new environment.
    echo "checkout $ROOT"
    "$1/bin/python" -I -S -c 'import sys; print("python", sys.implementation.cache_tag)' || return
    checksum requirements/core.lock
    [[ $2 == core ]] || checksum requirements/dev.lock
}

project_facts() { checksum pyproject.toml src/masdeepflow/__init__.py; }

checksum() { (cd "$ROOT" && sha256sum "$@"); }

# holds STAMP FACTS: whether every line of FACTS is in the file STAMP.
holds() { [[ -f $1 ]] && ! grep --quiet --fixed-strings --line-regexp --invert-match --file="$1" <<<"$2"; }

venv_is_ready() {
    local facts
    facts=$(venv_facts "$VENV" "$1" 2>/dev/null) && holds "$VENV/masdeepflow.stamp" "$facts"
}

# pip_install VENV ARG...: -I keeps PYTHONPATH and the user's own packages out.
pip_install() {
    quietly "$1/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check "${@:2}"
}

install_project() {
    say "installing masdeepflow into .venv"
    # The build backend is in the lock file: nothing is fetched here.
    pip_install "$1" --no-deps --no-build-isolation --editable "$ROOT" \
        || die "masdeepflow could not be installed"
    project_facts >"$1/masdeepflow.project.tmp"
    mv "$1/masdeepflow.project.tmp" "$1/masdeepflow.project"
}

# lock_install VENV SCOPE: exactly the files named by hash in requirements/SCOPE.lock.
lock_install() {
    say "installing Python packages from requirements/$2.lock"
    pip_install "$1" --require-hashes --no-build-isolation --requirement "$ROOT/requirements/$2.lock" \
        || die "the Python packages of requirements/$2.lock could not be installed (the reason is above)"
}

build_venv() {
    local scope=$1 python new
    python=$(find_python ensurepip) || die "no Python 3.11 or newer with its venv module was found; install one"
    say "making .venv with $python"
    new=$(mktemp --directory "$STATE/venv-XXXXXX")
    chmod 755 "$new"
    quietly "$python" -I -m venv "$new" || die "the virtual environment could not be made"
    lock_install "$new" core
    # Second, because mysqlclient is built with the backend that the first brings.
    [[ $scope == core ]] || lock_install "$new" dev
    install_project "$new"
    venv_facts "$new" "$scope" >"$new/masdeepflow.stamp"
    activate_venv "$new"
}

# .venv is a symbolic link, so that a new environment takes the place of the old one in a single step.
activate_venv() {
    [[ -L $VENV ]] || rm -rf "$VENV"
    ln -sfn "${1#"$ROOT/"}" "$STATE/venv"
    mv -T "$STATE/venv" "$VENV"
    # An interrupted pip may still be writing to one of these; the next set-up that builds clears it away.
    find "$STATE" -maxdepth 1 -name 'venv-*' ! -name "${1##*/}" -exec rm -rf {} + 2>/dev/null || true
}

# --- all together -------------------------------------------------------------------------------------

# build_bpf SCOPE: what a compiler newer than the ones tried warns of stops the tests only.
build_bpf() {
    local flags=()
    [[ $1 != core ]] || flags=(WERROR=)
    make --silent --question -C "$ROOT/bpf" 2>/dev/null && return
    say "compiling the BPF objects"
    quietly make --no-print-directory --output-sync -C "$ROOT/bpf" -j"$(nproc)" "${flags[@]}" \
        || die "the BPF objects could not be compiled (the reason is above)"
}

# set_up SCOPE: core is what `masdeepflow run` needs, dev adds what the tests need.
set_up() {
    local scope=$1 venv_ready=
    umask 022
    take_lock
    need_for_running
    [[ $scope == core ]] || need_for_testing
    if venv_is_ready "$scope"; then venv_ready=yes; else need_python "$scope"; fi
    install_missing
    look_for_postgresql
    [[ $venv_ready ]] || build_venv "$scope"
    holds "$VENV/masdeepflow.project" "$(project_facts)" || install_project "$VENV"
    build_bpf "$scope"
    release_lock
}
