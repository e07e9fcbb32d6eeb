/* kv_int.h - what recognise.c tells layout.c, and what layout.c prepares for copy.c. */
#ifndef TRANSPORT_KV_KV_INT_H
#define TRANSPORT_KV_KV_INT_H

#include "transport/kv/kv.h"

/* A tensor in physical order: dimensions by descending stride, all extents proven to lie inside its memory. */
struct norm {
	uint32_t ndim;
	uint32_t from[KV_MAX_DIMS]; /* the dimension of the client's view that ended up here */
	uint64_t shape[KV_MAX_DIMS];
	uint64_t stride[KV_MAX_DIMS]; /* bytes */
	uint8_t *first;               /* element (0, ..., 0) */
};

/* How the tensors of a registration belong together. */
enum arrangement {
	ARR_PER_LAYER,   /* one tensor per layer */
	ARR_LISTS_K_V,   /* all K, then all V */
	ARR_LIST_LATENT, /* one flat tensor per layer, no V */
	ARR_CROSS_LAYER, /* one tensor for everything */
};

/* One layer, recognised. Strides in bytes. */
struct layer_form {
	enum kv_format format;
	uint32_t kv_size, num_heads, head_size, block_size;
	uint32_t dtype, element_size;
	uint64_t num_blocks;
	uint8_t *base[2]; /* block 0, token 0, head 0 of K and of V */
	uint64_t block_stride, token_stride, head_stride;
};

int kv_normalise(const struct kv_tensor *t, uint32_t index, struct norm *out, struct why *why);

/* Decides the arrangement and from it the number of layers. */
int kv_arrange(const struct kv_layout_in *in, const struct norm *norm, enum arrangement *arr, uint32_t *nlayers,
	       struct why *why);

/* Layer `layer`; `tokens_per_block` as its engine group states it, 0 = not stated. */
int kv_recognise(const struct kv_layout_in *in, const struct norm *norm, enum arrangement arr, uint32_t layer,
		 uint32_t nlayers, uint32_t tokens_per_block, struct layer_form *out, struct why *why);

/* ---- copying --------------------------------------------------------------------------------------------------------- */

enum span_kind {
	SPAN_BLOCK, /* a whole block is contiguous on both sides */
	SPAN_ROWS,  /* rows of `row_bytes`, `rows` per token: whole tokens (1 row) or single heads */
};

struct layer_group {
	struct kv_group_facts facts;
	enum span_kind span;
	uint32_t rows;
	uint64_t row_bytes;
	uint64_t token_bytes; /* rows * row_bytes: one token in the object */
	bool null_blocks;
	uint32_t null_block;
	struct kv_plane *planes; /* [kv_size][nlayers] */
};

struct engine_group {
	uint32_t block_size;
	uint64_t num_blocks; /* of the layer that has the fewest; 0 = no layers */
	bool null_blocks;
};

struct stream_ops;

struct kv_layout {
	uint32_t nlayers, ngroups, nengine, ntensors, chunk_tokens, null_block;
	uint64_t object_bytes;
	const struct stream_ops *ops;
	struct layer_group *groups;
	struct engine_group *engine;
	struct kv_plane *planes; /* of all groups, one after another */
	uint32_t *layers;        /* layer indices of all groups */
	struct kv_tensor *tensors;
};

/* Rows of one block: `outer` times `inner` rows of `row` bytes, the inner loop running fastest. Strides in bytes. */
struct row_copy {
	uint8_t *dst;
	const uint8_t *src, *next; /* `next`: the source of the block after this one, same strides */
	uint64_t dst_outer, dst_inner, src_outer, src_inner;
	uint32_t outer, inner;
	uint64_t row;
};

/* Copies with non-temporal stores where runs are long enough; the caller fences once at its end. */
struct stream_ops {
	const char *name;
	/* `next`: what will be read after these bytes; prefetched, so any address will do. */
	void (*copy)(void *dst, const void *src, uint64_t n, const void *next);
	void (*rows)(const struct row_copy *r);
	void (*fence)(void);
};

/* The widest set this CPU has; the same answer every time. */
const struct stream_ops *kv_stream_ops(void);

/* The same with the checksum: continues the raw register (daemon/base/crc32c_kernels.h) over the bytes copied. The caller fences. */
typedef uint32_t kv_sums_fn(uint32_t raw, void *dst, const void *src, uint64_t n, const void *next);
kv_sums_fn *kv_sums_copy(void);

/* Bytes of an object that are written one after another, and the checksums of the sub-blocks they fall into. A sub-block may
 * belong to several of these (K ends in it and V begins): each adds its part, in any order. */
struct sums {
	kv_sums_fn *copy;
	uint8_t *object;
	uint64_t bytes, at, from; /* of the object; written next; where the register began */
	uint32_t raw;
	uint32_t *out; /* zeroed by the caller before the first of them begins */
};
void kv_sums_begin(struct sums *s, void *object, uint64_t bytes, uint64_t at, uint32_t *out);
/* Copies n bytes to d, which is where this part has come to. */
void kv_sums_add(struct sums *s, uint8_t *d, const uint8_t *src, uint64_t n, const uint8_t *next);
/* n bytes at d are there already. */
void kv_sums_skip(struct sums *s, const uint8_t *d, uint64_t n);
/* Rows whose targets adjoin. */
void kv_sums_rows(struct sums *s, const struct row_copy *r);
void kv_sums_end(struct sums *s);

#endif
