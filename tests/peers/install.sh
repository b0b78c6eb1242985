#!/usr/bin/env bash
# Installs the outside programs that the peer tests use, from Debian's packages.
set -euo pipefail

packages=()
command -v skopeo >/dev/null || packages+=(skopeo)
command -v chromium >/dev/null || packages+=(chromium)
command -v docker-registry >/dev/null || packages+=(docker-registry)
command -v htpasswd >/dev/null || packages+=(apache2-utils)
command -v kubectl >/dev/null || packages+=(kubernetes-client)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
command -v softhsm2-util >/dev/null || packages+=(softhsm2)
# With it tuf-conformance sets the client's clock.
[ -z "${TUF_CONFORMANCE:-}" ] || command -v faketime >/dev/null || packages+=(faketime)
# MediaPipe's wheel links to them.
for library in libegl1 libgles2; do
    dpkg --status "$library" >/dev/null 2>&1 || packages+=("$library")
done

if [ ${#packages[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "make test-peers needs Debian's ${packages[*]}: run it as root, or first" >&2
    echo "    sudo apt-get install --yes ${packages[*]}" >&2
    exit 1
fi
apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${packages[@]}"
