// matmul.cu - C = A * B of square matrices of floats, as a load on the GPU beside which copies are measured. n is a multiple of 128.
//
// A block of 256 threads makes 128 x 128 of C, a thread 8 x 8 of them. tests/gpu/figures.py loads matmul.ptx, which clang makes of
// this without any toolkit (after a change, in this folder):
//   clang -x cuda --cuda-device-only --cuda-gpu-arch=sm_70 -nocudainc -nocudalib -Wno-unknown-cuda-version -O3 -ffp-contract=fast -S matmul.cu
#define DEVICE __attribute__((device))
#define SHARED __attribute__((shared))
#define KERNEL extern "C" __attribute__((global))

KERNEL void matmul(const float *a, const float *b, float *c, int n)
{
	static SHARED float sa[8][128], sb[8][128];
	const int t = __nvvm_read_ptx_sreg_tid_x(), tx = t % 16, ty = t / 16;
	const long row = (long)__nvvm_read_ptx_sreg_ctaid_y() * 128, col = (long)__nvvm_read_ptx_sreg_ctaid_x() * 128;
	float sum[8][8];

#pragma unroll
	for (int y = 0; y < 8; y++)
#pragma unroll
		for (int x = 0; x < 8; x++)
			sum[y][x] = 0;
	for (int k = 0; k < n; k += 8) {
		for (int i = 0; i < 4; i++) {
			const int at = t + i * 256;

			sa[at % 8][at / 8] = a[(row + at / 8) * n + k + at % 8];
			sb[at / 128][at % 128] = b[(long)(k + at / 128) * n + col + at % 128];
		}
		__nvvm_bar_sync(0);
#pragma unroll
		for (int j = 0; j < 8; j++) {
			float ra[8], rb[8];

#pragma unroll
			for (int i = 0; i < 8; i++) {
				ra[i] = sa[j][ty * 8 + i];
				rb[i] = sb[j][tx + i * 16];
			}
#pragma unroll
			for (int y = 0; y < 8; y++)
#pragma unroll
				for (int x = 0; x < 8; x++)
					sum[y][x] += ra[y] * rb[x];
		}
		__nvvm_bar_sync(0);
	}
#pragma unroll
	for (int y = 0; y < 8; y++)
#pragma unroll
		for (int x = 0; x < 8; x++)
			c[(row + ty * 8 + y) * n + col + tx + x * 16] = sum[y][x];
}
