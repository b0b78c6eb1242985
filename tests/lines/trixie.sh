#!/usr/bin/env bash
# Runs a command on Debian 13, in a copy of the checkout: tests/lines/trixie.sh make test
#
# For machines with an older system, where the newer line of TFX can't be imported. The system is
# installed once by debootstrap, below .tools/trixie. The copy in it is made anew each time; its
# environment and its demo stay. Everything is mounted in a namespace of the command's own, and all
# that it started ends with it: nothing is left behind, however it ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" -ne 0 ]; then
    echo "the tests of the newer line install a Debian 13 and change into it: run them as root" >&2
    exit 1
fi

suite=trixie
root=$PWD/.tools/trixie
copy=$root/checkout
# The compiler is for libraries that are published as source only.
packages=ca-certificates,g++,git,make,python3,python3-dev,python3-venv
certificates=/etc/ssl/certs/ca-certificates.crt
# What ends this script ends unshare, which would not heed SIGTERM, and that ends all within.
isolated="setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child"

# One command at a time: the next one replaces the copy of the checkout.
mkdir -p .tools
exec 9>.tools/trixie.lock
flock 9

if [ "$(cat "$root/packages" 2>/dev/null)" != "$packages" ]; then
    if ! command -v debootstrap >/dev/null; then
        apt-get update --quiet --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends debootstrap
    fi
    rm -rf "$root"
    mkdir -p "$root"
    $isolated --mount-proc debootstrap --variant=minbase --include="$packages" "$suite" "$root"
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
    root=$1 certificates=$2
    shift 2
    mount --make-rprivate /
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind -o ro /sys "$root/sys"
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
    mount --bind "$certificates" "$root$certificates"
    # Not by exec: as the first process of its namespace, bash reaps what others leave.
    chroot "$root" sh -c "cd /checkout && exec \"\$@\"" - "$@" || exit $?
' - "$root" "$certificates" "$@"
