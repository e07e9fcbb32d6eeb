/* kvmodel.h - the KV cache of an engine, as the bench pretends to have one: real model shapes, every layout, and a
 * pattern that makes each byte checkable.
 *
 * The address arithmetic here is written on purpose without transport/kv: the bench checks the daemon's copies
 * against an independent reading of the same table. Source: shared protocol reference, sections 9.2 to 9.4.
 *
 * Pattern: each (token, rank, layer, k, head) has a 64-bit seed made from the hash of all tokens up to that one; its
 * head_size elements hold the words seed + i * odd. So a byte at a wrong place, of another prompt or of another rank is found.
 * Threads: any (places are constant once made).
 */
#ifndef TOOLS_KVMODEL_H
#define TOOLS_KVMODEL_H

#include "daemon/base/why.h"
#include "transport/kv/kv.h"
#include "transport/pickle/pickle.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KM_OBJECT      KV_FORMAT_COUNT /* [kv_size][layers][tokens][heads*head size]: chunk objects and slots */
#define KM_MAX_TENSORS 256
#define KM_GROUPS      2 /* of a hybrid model: the layers with a window, then the others */

struct km_model {
	const char *name;      /* on the command line */
	const char *full_name; /* as an engine registers it */
	uint32_t layers, kv_size, heads /* per rank */, head_size, block_tokens;
	uint32_t world_size; /* shards */
	uint32_t workers;    /* processes that register; more than shards with MLA */
	uint32_t tp_size;    /* what LOOKUP carries */
	enum pk_dtype dtype;
	uint32_t window; /* tokens; > 0: layers 0, 2, 4 ... see no more than that, and have block ids of their own */
};

extern const struct km_model km_models[];
extern const uint32_t km_nmodels;
/* NULL when there is none of that name; km_model_names: "llama-3.1-8b, ...". */
const struct km_model *km_model_find(const char *name);
void km_model_names(char *buf, size_t cap);

/* How format `f` is registered. */
struct km_format {
	const char *list;  /* dimensions that number the tensors: "", "L" or "KL" */
	const char *shape; /* of one tensor: letters K L B t h d, '.' between dimensions, '1' a dimension of one */
	const char *engine_type, *kv_layout, *kv_list_layout;
	bool size_hints; /* the engine says heads, block size and head size */
	bool mla;
};
/* NULL for a number without a format. */
const struct km_format *km_format(uint32_t f);

struct km_place {
	const struct km_model *model;
	uint32_t format, block_tokens, ntensors, ndim;
	uint64_t num_blocks, tensor_bytes;
	uint64_t shape[PK_MAX_DIMS];
	uint32_t tensor_k, tensor_l;                                        /* tensor = k*tensor_k + l*tensor_l */
	uint64_t stride_k, stride_l, stride_b, stride_t, stride_h, element; /* bytes */
	uint32_t layer_first, layer_step; /* what the functions below touch; all of them */
};

/* -EINVAL when the format does not fit the model (MLA against K and V). */
int km_place_init(struct km_place *p, const struct km_model *m, uint32_t format, uint32_t block_tokens,
		  uint64_t num_blocks, struct why *why);
uint64_t km_chunk_bytes(const struct km_model *m, uint32_t chunk_tokens); /* one chunk object of one rank */
/* Of engines that have a tensor per layer (vLLM's) and a hybrid model: KM_GROUPS. Else 1. */
uint32_t km_groups(const struct km_model *m, uint32_t format);
/* The same memory, but only the layers of that group. */
struct km_place km_group(const struct km_place *p, uint32_t group);

/* chain[i] = hash of tokens 0..i. */
void km_chain(const uint32_t *ids, uint32_t count, uint64_t *chain);

/* Block `block` of the tensors at `bases`; `chain` points to the entry of the block's first token. */
void km_write(const struct km_place *p, uint8_t *const *bases, uint64_t block, const uint64_t *chain, uint32_t rank);
/* How many (token, layer, k, head) runs are wrong. */
uint64_t km_check(const struct km_place *p, uint8_t *const *bases, uint64_t block, const uint64_t *chain,
		  uint32_t rank);
/* Fills the block with KM_POISON, and counts runs that are not. */
void km_poison(const struct km_place *p, uint8_t *const *bases, uint64_t block);
uint64_t km_check_poison(const struct km_place *p, uint8_t *const *bases, uint64_t block);

#endif
