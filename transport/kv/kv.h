/* kv.h - paged KV caches of engines: recognising a layout, and copying between pages and chunk objects.
 *
 * Every known KV format (0 to 10 of the reference) is affine: the element (layer l, k, block b, token t, head h,
 * component d) lies at  base[l][k] + b*block_stride + t*token_stride + h*head_stride + d*element.  So a format is data,
 * recognised once at registration, and one gather/scatter serves all of them.
 *
 * The chunk object holds, per layer group, a contiguous [kv_size][layers][chunk tokens][heads*head size] array, groups one
 * after another without padding, whatever the engine's layout: an object stored by one layout is retrieved by another.
 *
 * Who owns what: a layout borrows the tensors' memory (mapped by transport/shm) and owns only its tables; it is immutable
 * after kv_layout_create, so any number of threads may copy through it. Copies never allocate and make no system call.
 * What can fail: creation (unknown shape, strides that overlap or leave the tensor, hints that contradict); copies do not
 * fail once kv_blocks_check has passed, but may be told by the shm fault guard that the memory vanished.
 * Source: shared protocol reference section 9.
 */
#ifndef TRANSPORT_KV_KV_H
#define TRANSPORT_KV_KV_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"

#include <stdbool.h>
#include <stdint.h>

#define KV_MAX_DIMS          8
#define KV_MAX_TENSORS       4096
#define KV_MAX_ENGINE_GROUPS 64

enum kv_format {
	KV_NB_NL_TWO_BS_NH_HS = 0,
	KV_NL_X_TWO_NB_BS_NH_HS = 1,
	KV_NL_X_NB_TWO_BS_NH_HS = 2,
	KV_NL_X_NB_BS_HS = 3,
	KV_TWO_X_NL_X_NBBS_NH_HS = 4,
	KV_NL_X_NBBS_ONE_HS = 5,
	KV_NL_X_TWO_NB_NH_BS_HS = 6,
	KV_NL_X_NB_TWO_NH_BS_HS = 7,
	KV_NB_NL_TWO_NH_BS_HS = 8,
	KV_TWO_X_NL_X_NB_BS_NH_HS = 9,
	KV_NL_X_NB_NH_BS_TWO_HS = 10,
	KV_FORMAT_COUNT
};
const char *kv_format_name(enum kv_format f); /* "NL_X_TWO_NB_BS_NH_HS" */

/* One engine tensor, already mapped and bounds-checked against its memory: [base, base+bytes) is what may be touched, and
 * element 0 is at base + offset. Strides in elements. */
struct kv_tensor {
	uint8_t *base;
	uint64_t bytes;
	uint64_t offset;       /* bytes from base to element (0, ..., 0) */
	uint32_t element_size; /* bytes */
	uint32_t dtype;        /* opaque to this module; equal dtypes group together */
	uint32_t ndim;
	uint64_t shape[KV_MAX_DIMS];
	int64_t stride[KV_MAX_DIMS];
};

struct kv_engine_group {
	const uint32_t *layer_indices;
	uint32_t nlayers;
	uint32_t tokens_per_block; /* 0 = as recognised */
	int64_t sw_size_tokens;    /* > 0: sliding window; null blocks are not written */
};

struct kv_layout_in {
	struct slice engine_type;      /* "vllm", "sglang", "trtllm", "mock", ... or empty (before D3) */
	struct slice hint_kv_layout;   /* "NHD", "HND", "LBNHC", "LBHNC" or empty */
	struct slice hint_list_layout; /* "k_v" or empty */
	uint32_t hint_num_kv_heads, hint_tokens_per_block, hint_head_dim; /* 0 = none */
	const struct kv_tensor *tensors;
	uint32_t ntensors;
	const struct kv_engine_group *groups; /* empty = one group with all layers */
	uint32_t ngroups;
	uint32_t chunk_tokens;
	bool has_null_block; /* block `null_block` of sliding-window groups means "no block" */
	uint32_t null_block;
};

struct kv_layout;

/* 0, -EINVAL (not understood; `why` says what was seen), -ERANGE (leaves its memory), -ENOMEM. `in` and what it points to
 * are not needed afterwards, but for the memory of the tensors. The fused [NB, BS, NH, 2*HS] reports format 10, too. The
 * rules for what the reference leaves open are at the top of recognise.c. */
int kv_layout_create(const struct kv_layout_in *in, struct kv_layout **out, struct why *why);
void kv_layout_destroy(struct kv_layout *l);

/* What one chunk object of this layout takes; the same for every layout of the same model shape. */
uint64_t kv_object_bytes(const struct kv_layout *l);

/* Facts for /status and for tests. */
struct kv_group_facts {
	enum kv_format format;
	uint32_t engine_group, kv_size, nlayers, num_heads, head_size, block_size, element_size, dtype;
	uint64_t num_blocks;
	uint64_t object_offset; /* bytes from the start of the object */
	const uint32_t *layers; /* nlayers layer indices */
};
uint32_t kv_layout_groups(const struct kv_layout *l);
void kv_layout_group(const struct kv_layout *l, uint32_t i, struct kv_group_facts *out);
uint32_t kv_layout_engine_groups(const struct kv_layout *l);
uint32_t kv_layout_block_size(const struct kv_layout *l, uint32_t engine_group); /* tokens per block */
uint32_t kv_layout_num_layers(const struct kv_layout *l);
const struct kv_tensor *kv_layout_tensor(const struct kv_layout *l, uint32_t i);

/* Where the bytes of a layer group lie, for doors that copy them by other means than the CPU. The bytes of token t of block b of a plane
 * are `rows` rows of `row_bytes`: row r at base + b*block_stride + t*token_stride + r*head_stride in the pages, one after another in the
 * object, where the planes lie one after another from object_offset on, each of chunk_tokens tokens. */
struct kv_plane {
	uint8_t *base; /* block 0, token 0, row 0 */
	uint64_t block_stride, token_stride, head_stride;
};
struct kv_group_copy {
	const struct kv_plane *planes; /* [kv_size][nlayers] */
	uint32_t nplanes, rows;
	uint64_t row_bytes, token_bytes; /* token_bytes = rows * row_bytes */
	bool whole_blocks; /* a block is one contiguous run of block_size * token_bytes in the pages, too */
	bool null_blocks;  /* blocks with the id `null_block` hold nothing and are not written */
	uint32_t null_block;
};
void kv_layout_group_copy(const struct kv_layout *l, uint32_t i, struct kv_group_copy *out);
uint32_t kv_layout_chunk_tokens(const struct kv_layout *l);

/* Block ids of one request, one list per engine group. */
struct kv_blocks {
	const uint32_t *ids;
	uint32_t n;
};

/* The lists must cover exactly `nchunks` chunks and stay below num_blocks. 0, -EINVAL (count), -ERANGE (id). */
int kv_blocks_check(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t ngroups, uint32_t nchunks,
		    struct why *why);

/* Chunk `j` of the range: pages -> object. `object` holds kv_object_bytes. Uses non-temporal stores for large runs. */
void kv_gather(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j, void *object);
/* Object -> pages; the first `skip_tokens` tokens of the chunk are not written (a multiple of the block size, floored to it
 * otherwise: their blocks belong to others). */
void kv_scatter(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j, uint32_t skip_tokens,
		const void *object);

/* memcpy with non-temporal stores and the widest vectors this CPU has, chosen once (kv_copy_name says which). */
void kv_copy(void *dst, const void *src, size_t n);
const char *kv_copy_name(void);

/* ---- with checksums (daemon/base/crc32c.h) ------------------------------------------------------------------------------- */

/* As kv_gather; sums[] receives the crc_blocks(kv_object_bytes) values of the object, computed while its bytes pass through the
 * CPU. */
void kv_gather_sums(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j, void *object,
		    uint32_t *sums);
/* As kv_copy; crc_blocks(n) values of what was copied. */
void kv_copy_sums(void *dst, const void *src, size_t n, uint32_t *sums);

#endif
