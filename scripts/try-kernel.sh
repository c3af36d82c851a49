#!/usr/bin/env bash
# Boots another kernel in a virtual machine and tries this checkout's agent there, with real traffic.
#
#   scripts/try-kernel.sh VERSION|DEB [SUITE]
#
#   VERSION   such as 6.12 or 6.12.107: the newest of Debian's cloud kernels whose version begins so
#   DEB       a kernel package that you have
#   SUITE     the Debian suite to look for VERSION in, such as trixie or bookworm-backports, at the mirror that
#             this machine's sources name; without it, what apt-get knows already. Nothing is installed, and the
#             machine's own apt sources are left as they are.
#
# Loads each BPF object with bpftool, which shows the verifier's words if one is refused; then runs `check`,
# `accelerate selftest`, `run` and, meanwhile, HTTP and MySQL requests over TCP. Exits 0 if all objects loaded, the
# self-test redirected connections (whatever it found of them) and the agent saw all the requests, 3 if the kernel can't
# run it and `check` and `run` both said so in one sentence and exit 1, 1 otherwise.
#
# Needs Debian on x86-64, `./run.sh` or `./test.sh` done once, and the packages qemu-system-x86, busybox-static,
# bpftool and cpio. Emulated, a try takes two minutes.
#
# VENV: the environment whose packages are taken, default .venv. ACCEL: kvm is faster where it works, default tcg.
# TRY_SECONDS: time limit of the machine, default 600.
set -euo pipefail
shopt -s nullglob

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=${VENV:-$ROOT/.venv}
ACCEL=${ACCEL:-tcg}
TRY_SECONDS=${TRY_SECONDS:-600}
# Debian has bpftool in sbin, which is not on everybody's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '[try-kernel] %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# --- the kernel ---------------------------------------------------------------------------------------

# use_suite SUITE: has apt work in a directory of its own that knows only SUITE.
use_suite() {
    local uri keys=(/usr/share/keyrings/debian-archive-keyring.[gp]*)
    # shellcheck disable=SC2016  # the variable is apt's
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' \
        | grep -v -- -security | head -n 1) || true
    [[ $uri ]] || die "this machine has no source of Debian packages to take the mirror from: name a DEB instead"
    mkdir -p "$WORK"/apt/{lists,cache/archives}/partial
    echo "deb ${keys[0]:+[signed-by=${keys[0]}] }$uri $1 main" >"$WORK/apt/sources.list"
    # No sandbox user: it could not write here.
    cat >"$WORK/apt/apt.conf" <<END
Dir::Etc::SourceList "$WORK/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$WORK/apt/lists";
Dir::State::Status "/dev/null";
Dir::Cache "$WORK/apt/cache";
APT::Sandbox::User "";
END
    export APT_CONFIG=$WORK/apt/apt.conf
    say "reading the package lists of $1"
    apt-get -qq update
}

# fetch VERSION: prints the path of the package, downloaded.
fetch() {
    local package
    package=$(apt-cache pkgnames "linux-image-$1" | grep -E "^linux-image-${1//./\\.}[.+-].*-cloud-amd64\$" \
        | sort --version-sort | tail -n 1) || true
    [[ $package ]] || die "apt knows no cloud kernel of version $1; name a suite, or run apt-get update"
    # Since Linux 6.19 the file is in a package of its own, on which the one named image depends.
    if apt-cache show "${package/image/binary}" >/dev/null 2>&1; then package=${package/image/binary}; fi
    say "downloading $package"
    (cd "$WORK" && apt-get -qq -o APT::Sandbox::User= download "$package") || die "$package could not be downloaded"
    echo "$WORK/$package"_*.deb
}

# --- the root file system -----------------------------------------------------------------------------

# put_python: copies Python, the agent and what it imports; prints the source of each file.
put_python() {
    "$VENV/bin/python" -I - "$ROOT" "$TREE" <<'END'
import importlib.metadata, os, re, shutil, sys, sysconfig
from pathlib import Path

def put(source, target):
    if os.path.isfile(source):
        os.makedirs(os.path.dirname(sys.argv[2] + target), exist_ok=True)
        shutil.copy2(source, sys.argv[2] + target)
        print(source)

left_out = {"test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages",
            "dist-packages", "pydoc_data"}
stdlib = sysconfig.get_path("stdlib")
for folder, folders, files in os.walk(stdlib):
    folders[:] = [name for name in folders if name not in left_out and not name.startswith("config-")]
    for name in files:
        put(f"{folder}/{name}", f"{folder}/{name}")
put(os.path.realpath(sys.executable), os.path.realpath(sys.executable))

wanted, done = ["masdeepflow"], set()
while wanted:
    name = wanted.pop()
    if name in done:
        continue
    done.add(name)
    dist = importlib.metadata.distribution(name)
    wanted += [re.match(r"[\w.-]+", line)[0] for line in dist.requires or () if "extra ==" not in line]
    for file in dist.files or () if name != "masdeepflow" else ():
        if ".." not in file.parts and not left_out & set(file.parts):
            put(dist.locate_file(file), f"/agent/{file}")

source = Path(sys.argv[1], "src")
for file in sorted(source.rglob("*")):
    if file.is_file() and "__pycache__" not in file.parts:
        put(file, f"/agent/{file.relative_to(source)}")
END
}

# put FILE TARGET: copies FILE, following links.
put() {
    mkdir -p "$TREE${2%/*}"
    cp --dereference --preserve=timestamps,mode "$1" "$TREE$2"
}

# libraries_of: prints the shared libraries that the files named on stdin are linked with.
libraries_of() {
    xargs --delimiter='\n' ldd 2>/dev/null | sed -nE 's/^\t(.* => )?(\/[^ ]+) \(0x.*/\2/p' | sort --unique
}

build_tree() {
    local library target
    mkdir -p "$TREE"/{dev,etc,proc,sys,tmp,root,agent,usr/bin,usr/sbin,usr/lib,usr/lib64}
    for target in bin sbin lib lib64; do ln -s "usr/$target" "$TREE/$target"; done

    put "$(command -v busybox)" /usr/bin/busybox
    put "$(command -v bpftool)" /usr/sbin/bpftool
    # Found by name when it runs, so ldd doesn't tell.
    library=$(ldconfig -p | sed -nE 's/^\tlibbpf\.so\.[01] .* => //p' | sort | tail -n 1)
    [[ $library ]] || die "libbpf is missing: install libbpf1"
    put "$library" "$library"

    put_python >"$WORK/files"
    {
        echo "$TREE/usr/sbin/bpftool"
        echo "$TREE$library"
        grep -E '\.so(\.|$)|/python[0-9.]*$' "$WORK/files"
    } | libraries_of >"$WORK/libraries"
    while read -r library; do
        # What a wheel brings itself lies in its place already.
        if [[ $library != "$VENV"/* ]]; then put "$library" "$library"; fi
    done <"$WORK/libraries"

    guest "$(readlink -f "$VENV/bin/python")" >"$TREE/init"
    chmod 755 "$TREE/init"
}

# guest PYTHON: prints what the machine runs.
guest() {
    printf '#!/usr/bin/busybox sh\nPYTHON=%s\n' "$1"
    cat <<'END'
/usr/bin/busybox mount -t proc proc /proc
/usr/bin/busybox --install -s /usr/bin
export PATH=/usr/bin:/usr/sbin HOME=/root PYTHONPATH=/agent PYTHONUNBUFFERED=1
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
ip link set lo up
# Serial lines are told to end with both.
stty -onlcr 2>/dev/null
failed=0
refused=

say() { echo "[guest] $*"; }
fail() {
    failed=1
    say "FAILED: $*"
}
masdeepflow() { "$PYTHON" -c 'from masdeepflow.cli import main; main()' "$@"; }
traffic_gen() { "$PYTHON" -c 'from masdeepflow.traffic_gen.cli import main; main(prog_name="traffic_gen")' "$@"; }
client() { traffic_gen "$@" >/tmp/client 2>&1 || fail "$1: $(cat /tmp/client)"; }
# saw PROTOCOL WORDS: how many lines of the log have both: one of the client and one of the server for each request.
saw() { grep "\"$1\"" /tmp/log | grep -c -- "$2"; }
# listens PORT: waits for a server; emulated, Python needs its time to start.
listens() {
    for _ in $(seq 60); do
        if grep -q ":$(printf %04X "$1") 00000000:0000 0A" /proc/net/tcp; then return 0; fi
        sleep 1
    done
    return 1
}
expect() { if [ "$2" -ge "$3" ]; then say "ok: $2 $1"; else fail "$2 $1, of $3"; fi; }

say "$(uname -srm), $(nproc) CPUs"
for object in /agent/masdeepflow/bpf/*.bpf.o; do
    name=${object##*/} # and no dots: the BPF file system has none
    name=${name%%.*}
    if bpftool prog loadall "$object" "/sys/fs/bpf/$name" >/tmp/load 2>&1; then
        say "$name: all $(ls "/sys/fs/bpf/$name" | wc -l) programs load"
    else
        refused="$refused $name"
        say "$name: refused"
        tail -n 60 /tmp/load
    fi
    rm -rf "/sys/fs/bpf/$name"
done

say "masdeepflow check"
masdeepflow check 2>&1
checked=$?
say "check: exit $checked"

if [ "$checked" != 0 ]; then
    say "masdeepflow run"
    masdeepflow run --duration 5 --log json --listen off >/tmp/log 2>/tmp/errors
    ran=$?
    cat /tmp/log /tmp/errors
    say "run: exit $ran, $(cat /tmp/log /tmp/errors | wc -l) lines"
    if [ "$checked" = 1 ] && [ "$ran" = 1 ] && [ "$(cat /tmp/log /tmp/errors | wc -l)" = 1 ]; then
        failed=3
    else
        fail "no one sentence and exit 1"
    fi
else
    [ -z "$refused" ] || fail "refused:$refused"
    say "masdeepflow accelerate selftest"
    # It may well say no, of a kernel's sockets or of how slow they are in here.
    masdeepflow accelerate selftest >/tmp/selftest 2>&1
    selftested=$?
    grep -v ' same$' /tmp/selftest
    say "accelerate selftest: exit $selftested, $(grep -c ' same$' /tmp/selftest) behaviours are the same"
    grep -q ' same$' /tmp/selftest || fail "nothing was redirected"
    traffic_gen http-server >/tmp/http-server 2>&1 &
    traffic_gen mysql-server --delay-ms 20 >/tmp/mysql-server 2>&1 &
    for port in 8000 3306; do
        listens "$port" || fail "nothing listens on port $port"
    done
    # A connection that is older than the agent.
    (until [ -e /tmp/ready ]; do sleep 1; done
     printf 'GET /old HTTP/1.1\r\nHost: guest\r\n\r\n'
     sleep 3) | nc 127.0.0.1 8000 >/tmp/old 2>&1 &
    sleep 1
    say "masdeepflow run"
    masdeepflow run --duration 60 --log json --listen 127.0.0.1:9419 >/tmp/log 2>/tmp/errors &
    agent=$!
    for _ in $(seq 40); do
        wget -q -O /dev/null http://127.0.0.1:9419/healthz 2>/dev/null && break
        sleep 1
    done
    touch /tmp/ready
    client http-client --count 5 --path /separate
    client http-client --count 20 --keepalive --path /kept
    for n in 1 2 3; do
        client mysql-client --query "SELECT $n FROM t"
    done
    wget -q -O /tmp/metrics http://127.0.0.1:9419/metrics || fail "no metrics"
    wait "$agent"
    ran=$?
    say "run: exit $ran"
    [ "$ran" = 0 ] || fail "exit $ran"
    cat /tmp/errors
    head -n 2 /tmp/log
    grep -m 2 -i mysql /tmp/log
    expect "lines of /separate" "$(saw http /separate)" 10
    expect "of them named at both ends" "$(grep '/separate' /tmp/log | grep '"process.command_line":' \
        | grep -c '"peer.process.pid":')" 10
    expect "lines of /kept" "$(saw http /kept)" 40
    expect "lines of /old" "$(saw http /old)" 2
    expect "lines of MySQL statements" "$(saw mysql 'SELECT [123] FROM t')" 6
    expect "metrics" "$(grep -c '^masdeepflow' /tmp/metrics)" 1
fi

say "kernel's complaints: $(dmesg | grep -ciE 'warning|bug:|oops|call trace')"
dmesg | grep -iE -A 20 'warning:|bug:|oops|call trace' | head -n 60
say "result $failed"
poweroff -f
END
}

# --- all together -------------------------------------------------------------------------------------

(($# == 1 || $# == 2)) || die "usage: scripts/try-kernel.sh VERSION|DEB [SUITE]"
[[ $(uname -m) == x86_64 ]] || die "this script knows x86-64 only"
for tool in qemu-system-x86_64 busybox bpftool cpio dpkg-deb apt-get ldd; do
    command -v "$tool" >/dev/null || die "$tool is missing"
done
[[ -x $VENV/bin/python ]] || die "there is no $VENV: run ./run.sh or ./test.sh first, or set VENV"
objects=("$ROOT"/src/masdeepflow/bpf/agent-*.bpf.o)
((${#objects[@]})) || die "the BPF objects are missing: make -C bpf"

WORK=$(mktemp --directory --tmpdir try-kernel-XXXXXX)
TREE=$WORK/tree
trap 'rm -rf "$WORK"' EXIT

deb=$1
if [[ ! -f $deb ]]; then
    if (($# == 2)); then use_suite "$2"; fi
    deb=$(fetch "$1")
fi
mkdir "$WORK/package"
dpkg-deb --extract "$deb" "$WORK/package"
kernels=("$WORK"/package/boot/vmlinuz-* "$WORK"/package/usr/lib/modules/*/vmlinuz)
((${#kernels[@]} == 1)) || die "$deb has no kernel"

say "building the root file system"
build_tree
(cd "$TREE" && find . -print0 | cpio --quiet --null --create --format=newc --owner=0:0) >"$WORK/initrd"

say "booting the kernel of ${deb##*/}"
# The oldest CPU that NumPy accepts. Emulated by QEMU 7.2, Linux 6.12 crashed as it started, with broken flags after
# cmpxchg16b, so the kernel is told not to use that (141, CX16). Without it Linux 6.19 and newer allocate nothing for BPF
# programs' local storage (kmalloc_nolock), but from caches with checks.
timeout "$TRY_SECONDS" qemu-system-x86_64 -accel "$ACCEL" -cpu Nehalem,+rdrand -smp 2 -m 2048 -nodefaults -no-reboot \
    -display none -serial stdio -kernel "${kernels[0]}" -initrd "$WORK/initrd" \
    -append "console=ttyS0 clearcpuid=141 slab_debug=F,kmalloc* quiet panic=-1 rdinit=/init" </dev/null \
    | sed --unbuffered 's|\r$||' | tee "$WORK/output" \
    || say "the machine did not end by itself within $TRY_SECONDS s"
result=$(sed -n 's/^\[guest\] result //p' "$WORK/output")
exit "${result:-1}"
