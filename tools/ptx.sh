#!/bin/sh
# Device code from clang, without any CUDA toolkit: prints transport/cuda/kernels_ptx.inc, the PTX as a C string.
#
#   tools/ptx.sh            the .inc file       (`make ptx` writes it)
#   tools/ptx.sh --check    compares it with the one that is there; 77: no clang that translates the same way
#
# sm_70 and PTX 6.0: every GPU from Volta on, and every driver for CUDA 12 translates it. The version of clang is fixed, since another
# one writes other registers; CLANG names it.
set -eu
cd "$(dirname "$0")/.."
clang=${CLANG:-clang-14}
inc=transport/cuda/kernels_ptx.inc

command -v "$clang" >/dev/null || {
	echo "no $clang here: the device code is not translated anew"
	exit 77
}
"$clang" -print-targets | grep -q nvptx64 || {
	echo "$clang cannot translate for NVIDIA GPUs"
	exit 77
}

translate() {
	"$clang" -x cuda --cuda-device-only --cuda-gpu-arch=sm_70 --cuda-path=/nonexistent -nocudainc -nocudalib \
		-Xclang -target-feature -Xclang +ptx60 -Wall -Wextra -Werror -O3 -I. -S -o - transport/cuda/kernels.cu |
		sed -e 's,[[:space:]]*//.*,,' -e 's/^[[:space:]]*//' -e 's/[[:space:]][[:space:]]*/ /g' -e '/^$/d' \
			-e 's/.*/"&\\n"/'
}

out=$(mktemp)
trap 'rm -f "$out"' EXIT
translate >"$out"
[ -s "$out" ] || exit 1
if [ "${1:-}" = --check ]; then
	cmp "$out" "$inc"
else
	cat "$out"
fi
