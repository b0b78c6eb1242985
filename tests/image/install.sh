#!/usr/bin/env bash
# Installs what the image test needs, from Debian's packages.
set -euo pipefail

packages=()
command -v buildah >/dev/null || packages+=(buildah)
command -v debootstrap >/dev/null || packages+=(debootstrap)

if [ ${#packages[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "make test-image needs Debian's ${packages[*]}: run it as root, or first" >&2
    echo "    sudo apt-get install --yes ${packages[*]}" >&2
    exit 1
fi
apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${packages[@]}"
