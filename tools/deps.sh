#!/bin/bash
# Installs what is missing, by Debian package name, and nothing when all is there.
#
#   tools/deps.sh [--check] [build] [test] [lint] [fuzz] [bench] [lab]
#
# --check installs nothing and fails when something is missing. Without group names: build and test.
set -u

check_only=
[ "${1:-}" = --check ] && { check_only=yes; shift; }
groups=${*:-build test}
python=/usr/bin/python3
missing=()

have_pkg() { command -v pkg-config >/dev/null && pkg-config --exists "$1"; }
have_cmd() { command -v "$1" >/dev/null; }
have_module() { [ -x $python ] && $python -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }
need() { # package, test...
	local package=$1
	shift
	"$@" || missing+=("$package")
}

find_missing() {
	missing=()
	for group in $groups; do
		case $group in
		build)
			need gcc have_cmd "${CC:-gcc}"
			need pkg-config have_cmd pkg-config
			need libzmq3-dev have_pkg libzmq
			need libhwloc-dev have_pkg hwloc
			need libmicrohttpd-dev have_pkg libmicrohttpd
			need libjansson-dev have_pkg jansson
			need libssl-dev have_pkg libcrypto
			need libcurl4-openssl-dev have_pkg libcurl
			need liburing-dev have_pkg liburing
			need libhiredis-dev have_pkg hiredis
			need libblkid-dev have_pkg blkid
			;;
		test)
			need libcmocka-dev have_pkg cmocka
			need python3 test -x $python
			need python3-zmq have_module zmq
			need python3-msgpack have_module msgpack
			need python3-numpy have_module numpy
			need redis-server have_cmd redis-server
			need e2fsprogs have_sbin mkfs.ext4 # what a raw_block device must not be formatted over
			;;
		lint)
			need clang-format have_cmd clang-format
			need clang-tidy have_cmd clang-tidy
			need cppcheck have_cmd cppcheck
			need python3 test -x $python
			;;
		bench) # libraries ours is compared with
			need libglib2.0-dev have_pkg glib-2.0
			need libmsgpack-dev have_msgpack
			need fio have_cmd fio
			;;
		fuzz)
			need clang have_cmd clang
			need libclang-rt-dev have_fuzzer
			;;
		lab)
			need qemu-system-x86 have_cmd qemu-system-x86_64
			need linux-image-amd64 have_kernel
			need busybox-static have_static busybox
			need kmod have_sbin modprobe
			need iproute2 have_sbin rdma
			need numactl have_cmd numactl
			need e2fsprogs have_sbin mkfs.ext4
			need python3 test -x $python
			need ibverbs-utils have_cmd ibv_devinfo
			need ibverbs-providers have_file '/usr/lib/*/libibverbs/librxe*'
			;;
		*)
			echo "deps: unknown group $group" >&2
			exit 2
			;;
		esac
	done
}

have_msgpack() { have_pkg msgpackc || have_pkg msgpack || have_pkg msgpack-c; }

have_fuzzer() {
	local dir
	have_cmd clang && dir=$(clang -print-runtime-dir) && ls "$dir"/libclang_rt.fuzzer*.a "$dir"/../linux/libclang_rt.fuzzer*.a 2>/dev/null | grep -q .
}

have_file() { compgen -G "$1" >/dev/null; }
have_sbin() { PATH=$PATH:/usr/sbin:/sbin have_cmd "$1"; }
have_static() { have_cmd "$1" && ! head -c 4096 "$(command -v "$1")" | grep -q -a ld-linux; }
# The kernel image of a package, with its modules; it need not be the one that runs.
have_kernel() {
	local image
	for image in /boot/vmlinuz-*; do
		[ -r "$image" ] && [ -d "/lib/modules/${image#/boot/vmlinuz-}" ] && return
	done
	return 1
}

give_up() {
	echo "deps: $1" >&2
	echo "deps: as root, run: apt-get update && apt-get install ${missing[*]}" >&2
	exit 1
}

find_missing
[ ${#missing[@]} = 0 ] && exit 0
[ -n "$check_only" ] && give_up "missing: ${missing[*]} (\"make deps\" installs them)"
have_cmd apt-get || give_up "missing ${missing[*]}, and this is not a Debian system: install their counterparts"

as_root=
if [ "$(id -u)" != 0 ]; then
	have_cmd sudo || give_up "missing ${missing[*]}, and this user is not root and has no sudo"
	as_root="sudo env"
else
	as_root=env
fi

echo "deps: installing ${missing[*]}"
install=($as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
# The package lists of a fresh machine are empty or old: then update them once.
if ! "${install[@]}" >/dev/null 2>&1; then
	$as_root apt-get update -qq || give_up "apt-get update failed"
	"${install[@]}" >/dev/null || give_up "apt-get install failed"
fi
find_missing
[ ${#missing[@]} = 0 ] || give_up "installed, but still not found: ${missing[*]}"
