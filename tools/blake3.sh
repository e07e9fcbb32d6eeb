#!/bin/bash
# Unpacks the official BLAKE3 C sources into a folder.
#
#   tools/blake3.sh FOLDER
#
# Debian 12 ships them inside librust-blake3-dev (a folder c/ in the crate); its Rust dependencies are not needed, so the
# package is downloaded and unpacked, not installed. Newer releases have libblake3-dev, which the Makefile prefers.
set -eu

out=$1
package=librust-blake3-dev
work=$(mktemp -d "${TMPDIR:-/tmp}/blake3.XXXXXX")
trap 'rm -rf "$work"' EXIT

download() { (cd "$work" && apt-get download -qq $package) >"$work/log" 2>&1; }

echo "blake3: unpacking the C sources from Debian's $package"
if ! download; then
	echo "blake3: updating the package lists"
	if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
	download || {
		cat "$work/log" >&2
		echo "blake3: cannot download $package. Install libblake3-dev, or put the C sources of BLAKE3 into $out" >&2
		exit 1
	}
fi
dpkg -x "$work"/$package*.deb "$work/unpacked"
source=$(dirname "$(find "$work/unpacked" -path '*/c/blake3.h' | head -n 1)")
[ -f "$source/blake3.c" ] || { echo "blake3: $package holds no C sources" >&2; exit 1; }
mkdir -p "$(dirname "$out")"
rm -rf "$out"
cp -r "$source" "$out"
touch "$out/blake3.h"
