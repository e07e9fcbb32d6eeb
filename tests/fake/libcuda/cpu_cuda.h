/* cpu_cuda.h - the kernels of transport/cuda/kernels.cu as C functions, one call per GPU thread. Include this in one file:
 *
 *   void lmca_gather(struct kernel_args args, const struct cpu_thread *cpu);
 *   void lmca_scatter(struct kernel_args args, const struct cpu_thread *cpu);
 *
 * cpu_launch runs a whole grid, thread after thread: the kernels neither share memory nor wait for each other. Addresses are the
 * device's; `at` turns one into a pointer for an access of `bytes`, or returns NULL: the access is not made, and *fault is set to the
 * address (what a GPU calls CUDA_ERROR_ILLEGAL_ADDRESS). A word that is not aligned is a fault, too, as on a GPU.
 */
#ifndef TESTS_FAKE_LIBCUDA_CPU_CUDA_H
#define TESTS_FAKE_LIBCUDA_CPU_CUDA_H

#include "transport/cuda/kernel_abi.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct cpu_thread {
	unsigned block, blocks, thread, threads; /* blockIdx.x, gridDim.x, threadIdx.x, blockDim.x */
	void *(*at)(void *ctx, uint64_t address, uint32_t bytes, bool write);
	void *ctx;
	uint64_t *fault; /* 0: none yet */
};

#define LMCA_KERNELS_CPU
#define KERNEL(name) static void name(struct kernel_args args, const struct cpu_thread *cpu)
#define INLINE       static inline __attribute__((always_inline))

/* The kernels name no thread where they move words: it is this thread's. */
static _Thread_local const struct cpu_thread *cpu_now;
#define kernel_thread()  (cpu_now = cpu, cpu->block * cpu->threads + cpu->thread)
#define kernel_threads() (cpu->blocks * cpu->threads)

struct kernel_word;
static inline struct kernel_word load_word(kabi_u64 at, kabi_u32 n);
static inline void store_word(kabi_u64 at, struct kernel_word w, kabi_u32 n);

static inline void *cpu_at(uint64_t address, uint32_t bytes, bool write)
{
	void *p = address % bytes ? NULL : cpu_now->at(cpu_now->ctx, address, bytes, write);
	if (!p && !*cpu_now->fault)
		*cpu_now->fault = address;
	return p;
}

#include "transport/cuda/kernels.cu"

static inline struct kernel_word load_word(kabi_u64 at, kabi_u32 n)
{
	struct kernel_word w = {{0, 0, 0, 0}};
	const void *p = cpu_at(at, n, false);
	if (p)
		memcpy(&w, p, n);
	return w;
}

static inline void store_word(kabi_u64 at, struct kernel_word w, kabi_u32 n)
{
	void *p = cpu_at(at, n, true);
	if (p)
		memcpy(p, &w, n);
}

/* Returns the address of the first access that was refused, 0: none. */
static inline uint64_t cpu_launch(bool scatter, const struct kernel_args *args, unsigned blocks, unsigned threads,
				  void *(*at)(void *, uint64_t, uint32_t, bool), void *ctx)
{
	uint64_t fault = 0;
	struct cpu_thread cpu = {.blocks = blocks, .threads = threads, .at = at, .ctx = ctx, .fault = &fault};

	for (cpu.block = 0; cpu.block < blocks && !fault; cpu.block++) {
		for (cpu.thread = 0; cpu.thread < threads && !fault; cpu.thread++) {
			if (scatter)
				lmca_scatter(*args, &cpu);
			else
				lmca_gather(*args, &cpu);
		}
	}
	return fault;
}

#endif
