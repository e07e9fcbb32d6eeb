/* kernel_device.h - what kernels.cu needs from its compiler, for each of the three ways it is compiled.
 *
 * clang in CUDA mode without any toolkit (-nocudainc -nocudalib): the qualifiers and thread indices are declared here.
 * nvcc: they are built in.  The CPU: whoever includes kernels.cu defines LMCA_KERNELS_CPU and includes a header of his own first, which
 * defines KERNEL, INLINE, kernel_thread, kernel_threads, load_word and store_word (tests/fake/libcuda/cpu_cuda.h).
 */
#ifndef TRANSPORT_CUDA_KERNEL_DEVICE_H
#define TRANSPORT_CUDA_KERNEL_DEVICE_H

#include "transport/cuda/kernel_abi.h"

/* What one thread moves at once: `word` bytes of it are meant. */
struct kernel_word {
	kabi_u32 v[4];
};

#ifdef LMCA_KERNELS_CPU
#define UNROLL
#elif defined(__CUDA__) || defined(__NVCC__)

#ifdef __NVCC__
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(KERNEL_THREADS) name(struct kernel_args args)
#define INLINE       static __device__ __forceinline__
#define THREAD_IN    threadIdx.x
#define THREADS_IN   blockDim.x
#define BLOCK_IN     blockIdx.x
#define BLOCKS_IN    gridDim.x
#else
#define KERNEL(name)                                                                                 \
	extern "C" __attribute__((global)) __attribute__((launch_bounds(KERNEL_THREADS))) void name( \
		struct kernel_args args)
#define INLINE     static __attribute__((device)) __attribute__((always_inline)) inline
#define THREAD_IN  __nvvm_read_ptx_sreg_tid_x()
#define THREADS_IN __nvvm_read_ptx_sreg_ntid_x()
#define BLOCK_IN   __nvvm_read_ptx_sreg_ctaid_x()
#define BLOCKS_IN  __nvvm_read_ptx_sreg_nctaid_x()
#endif

#define UNROLL _Pragma("unroll")

INLINE kabi_u32 kernel_thread(void)
{
	return (kabi_u32)BLOCK_IN * (kabi_u32)THREADS_IN + (kabi_u32)THREAD_IN;
}

INLINE kabi_u32 kernel_threads(void)
{
	return (kabi_u32)BLOCKS_IN * (kabi_u32)THREADS_IN;
}

/* Every byte passes once: .cs asks the caches to give it up first, so that the engine's data stays there. `n` is a constant where these
 * are used, so one branch is left of each. */
INLINE struct kernel_word load_word(kabi_u64 at, kabi_u32 n)
{
	struct kernel_word w = {{0, 0, 0, 0}};
	unsigned short h = 0;

	if (n == 16)
		asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
			     : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3])
			     : "l"(at));
	else if (n == 8)
		asm volatile("ld.global.cs.v2.u32 {%0, %1}, [%2];" : "=r"(w.v[0]), "=r"(w.v[1]) : "l"(at));
	else if (n == 4)
		asm volatile("ld.global.cs.u32 %0, [%1];" : "=r"(w.v[0]) : "l"(at));
	else if (n == 2)
		asm volatile("ld.global.cs.u16 %0, [%1];" : "=h"(h) : "l"(at));
	else
		asm volatile("ld.global.cs.u8 %0, [%1];" : "=h"(h) : "l"(at));
	if (n < 4)
		w.v[0] = h;
	return w;
}

INLINE void store_word(kabi_u64 at, struct kernel_word w, kabi_u32 n)
{
	unsigned short h = (unsigned short)w.v[0];

	if (n == 16)
		asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};"
			     :
			     : "l"(at), "r"(w.v[0]), "r"(w.v[1]), "r"(w.v[2]), "r"(w.v[3])
			     : "memory");
	else if (n == 8)
		asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};" : : "l"(at), "r"(w.v[0]), "r"(w.v[1]) : "memory");
	else if (n == 4)
		asm volatile("st.global.cs.u32 [%0], %1;" : : "l"(at), "r"(w.v[0]) : "memory");
	else if (n == 2)
		asm volatile("st.global.cs.u16 [%0], %1;" : : "l"(at), "h"(h) : "memory");
	else
		asm volatile("st.global.cs.u8 [%0], %1;" : : "l"(at), "h"(h) : "memory");
}

#endif
#endif
