#!/usr/bin/env bash
# Runs a command on another Debian, in a copy of the checkout: tests/debian.sh trixie make test
#
#     trixie   Debian 13, for machines with an older system, where the newer line of TFX can't be
#              imported
#     arm64    Debian 12 for 64-bit ARM, emulated where this machine is none: a Cortex-A72 as in a
#              Raspberry Pi 4, or with QEMU_CPU=cortex-a76 as in a Raspberry Pi 5
#
# The system is installed once by debootstrap, below .tools. The copy in it is made anew each time; its
# environment and its demo stay. Everything is mounted in a namespace of the command's own, and all
# that it started ends with it: nothing is left behind, however it ends, but for the emulator, which
# the kernel is told of until it next starts.
set -euo pipefail
cd "$(dirname "$0")/.."

system=${1:-}
case $system in
    trixie)
        suite=trixie architecture=$(dpkg --print-architecture)
        # The compiler is for libraries that are published as source only.
        packages=ca-certificates,g++,git,make,python3,python3-dev,python3-venv
        ;;
    arm64)
        suite=bookworm architecture=arm64
        packages=ca-certificates,python3,python3-venv
        ;;
    *)
        echo "usage: tests/debian.sh trixie|arm64 COMMAND..." >&2
        exit 2
        ;;
esac
shift
if [ "$(id -u)" -ne 0 ]; then
    echo "the tests on another Debian install it and change into it: run them as root" >&2
    exit 1
fi

root=$PWD/.tools/$system
copy=$root/checkout
cpuinfo=
certificates=/etc/ssl/certs/ca-certificates.crt
# What ends this script ends unshare, which would not heed SIGTERM, and that ends all within.
isolated="setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child"

install_here() {
    apt-get update --quiet --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@"
}

# Has the kernel start programs for 64-bit ARM by QEMU, which it opens now: they find it in any root.
# QEMU shows them this machine's /proc/cpuinfo, which crashes the library that looks there for an ARM.
emulate_arm64() {
    local binfmt=/proc/sys/fs/binfmt_misc
    export QEMU_CPU=${QEMU_CPU:-cortex-a72}
    cpuinfo=$PWD/tests/arm64/$QEMU_CPU.cpuinfo
    command -v qemu-aarch64-static >/dev/null || install_here qemu-user-static binfmt-support
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
    [ -e $binfmt/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
}

# One command at a time: the next one replaces the copy of the checkout.
mkdir -p .tools
exec 9>".tools/$system.lock"
flock 9

if [ "$architecture" = arm64 ] && [ "$(dpkg --print-architecture)" != arm64 ]; then
    emulate_arm64
fi
if [ "$(cat "$root/packages" 2>/dev/null)" != "$packages" ]; then
    command -v debootstrap >/dev/null || install_here debootstrap
    rm -rf "$root"
    mkdir -p "$root"
    $isolated --mount-proc debootstrap --arch="$architecture" --variant=minbase \
        --include="$packages" "$suite" "$root"
    touch "$root/etc/resolv.conf"
    echo "$packages" >"$root/packages"
fi

mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name '.*' ! -name demo ! -name runs -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard |
    tar --null --files-from=- --ignore-failed-read --warning=no-failed-read --create |
    tar --extract --directory="$copy"

# What this machine trusts and asks for names, and its environment, which may name a package index
# or a proxy: lent to the command, and written nowhere.
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
unset PYTHON PYTHONPATH VIRTUAL_ENV MAKEFLAGS MAKELEVEL
$isolated bash -euc '
    root=$1 certificates=$2 cpuinfo=$3
    shift 3
    mount --make-rprivate /
    mount -t proc proc "$root/proc"
    [ -z "$cpuinfo" ] || mount --bind "$cpuinfo" "$root/proc/cpuinfo"
    mount --rbind /dev "$root/dev"
    mount --rbind -o ro /sys "$root/sys"
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
    mount --bind "$certificates" "$root$certificates"
    # Not by exec: as the first process of its namespace, bash reaps what others leave.
    chroot "$root" sh -c "cd /checkout && exec \"\$@\"" - "$@" || exit $?
' - "$root" "$certificates" "$cpuinfo" "$@"
