/* kernel_abi.h - what host and device agree on: the arguments of the kernels in kernels.cu. Plain types only: compiled by gcc, by clang and nvcc
 * for the GPU, and for the CPU by the test driver.
 *
 * Both kernels move chunk objects between pages and staging memory. One launch: the chunks of one batch, one layer group. Any number of
 * thread blocks will do (KERNEL_THREADS threads each); fewer leave more of the GPU to the engine. A warp moves a piece of a block at a
 * time, so pieces are what a launch counts: chunks * planes * blocks per chunk * pieces per block, which must stay below 2^31. */
#ifndef TRANSPORT_CUDA_KERNEL_ABI_H
#define TRANSPORT_CUDA_KERNEL_ABI_H

typedef unsigned int kabi_u32;
typedef unsigned long long kabi_u64;

/* As struct kv_plane. Layers of one group may differ in their strides. */
struct kernel_plane {
	kabi_u64 base, block_stride, token_stride, head_stride;
};

/* Addresses are the device's. Strides in bytes. Rows: `rows` per token of `row_bytes` each, as struct kv_group_copy. */
struct kernel_args {
	kabi_u64 plane;         /* of struct kernel_plane [planes] */
	kabi_u64 ids;           /* of kabi_u32 [chunks * blocks per chunk]: block ids, this batch's first chunk first */
	kabi_u64 object;        /* staging: this group's part of the first chunk */
	kabi_u64 object_stride; /* from chunk to chunk in staging */
	kabi_u64 row_bytes;
	kabi_u32 rows;
	kabi_u32 planes; /* kv_size * layers */
	kabi_u32 chunks, chunk_tokens, block_tokens;
	kabi_u32 skip_tokens; /* scatter: of the batch's first tokens, not written (whole blocks of them) */
	kabi_u32
		null_block; /* blocks with this id: scatter does not write them, gather gives zeros; 0xffffffff: none */
	kabi_u32 word;      /* bytes moved at once: 16, 8, 4, 2 or 1; divides all strides, row_bytes and addresses */
};

#define KERNEL_GATHER      "lmca_gather"
#define KERNEL_SCATTER     "lmca_scatter"

#define KERNEL_THREADS     512u
#define KERNEL_PIECE_WORDS 256u /* 32 lanes, 8 words each */
#define KERNEL_NO_NULL     0xffffffffu

#endif
