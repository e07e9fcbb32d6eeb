/* request_equal.h - are two decoded requests the same? Shared by the fuzz target and the mutation test. */
#ifndef TESTS_FUZZ_REQUEST_EQUAL_H
#define TESTS_FUZZ_REQUEST_EQUAL_H

#include "transport/wire/wire.h"

static inline bool same_u32s(const uint32_t *a, const uint32_t *b, uint32_t n)
{
	return n == 0 || memcmp(a, b, n * sizeof(*a)) == 0;
}

/* The bytes of the ids may differ (a re-encoded key is compact), the ids may not. */
static inline bool same_key(const struct wire_key *a, const struct wire_key *b)
{
	return slice_eq(a->model, b->model) && a->world_size == b->world_size && a->worker_id == b->worker_id &&
	       a->tokens.count == b->tokens.count && a->tokens.skipped == b->tokens.skipped &&
	       a->tokens.nmarks == b->tokens.nmarks && same_u32s(a->tokens.ids, b->tokens.ids, a->tokens.count) &&
	       a->start == b->start && a->end == b->end && slice_eq(a->request_id, b->request_id) &&
	       slice_eq(a->salt, b->salt) && a->has_salt == b->has_salt && a->has_readers == b->has_readers &&
	       a->num_kv_readers == b->num_kv_readers;
}

static inline bool same_blocks(const struct wire_req *a, const struct wire_req *b)
{
	if (a->nblock_groups != b->nblock_groups || a->flat_blocks != b->flat_blocks)
		return false;
	for (uint32_t i = 0; i < a->nblock_groups; i++) {
		if (a->blocks[i].n != b->blocks[i].n || !same_u32s(a->blocks[i].ids, b->blocks[i].ids, a->blocks[i].n))
			return false;
	}
	return true;
}

static inline bool same_hints(const struct wire_hints *a, const struct wire_hints *b)
{
	return slice_eq(a->kv_layout, b->kv_layout) && slice_eq(a->kv_list_layout, b->kv_list_layout) &&
	       a->num_kv_heads == b->num_kv_heads && a->tokens_per_block == b->tokens_per_block &&
	       a->head_dim == b->head_dim && a->logical_block_size == b->logical_block_size;
}

static inline bool same_groups(const struct wire_req *a, const struct wire_req *b)
{
	if (a->ngroups != b->ngroups || a->has_groups != b->has_groups)
		return false;
	for (uint32_t i = 0; i < a->ngroups; i++) {
		const struct wire_group_info *x = &a->groups[i], *y = &b->groups[i];

		if (x->engine_group_id != y->engine_group_id || x->nlayers != y->nlayers ||
		    x->tokens_per_block != y->tokens_per_block || x->sw_size_tokens != y->sw_size_tokens ||
		    !same_u32s(x->layer_indices, y->layer_indices, x->nlayers))
			return false;
	}
	return true;
}

static inline bool same_registration(const struct wire_req *a, const struct wire_req *b)
{
	if (a->nwrappers != b->nwrappers)
		return false;
	for (uint32_t i = 0; i < a->nwrappers; i++) {
		if (!slice_eq(a->wrappers[i], b->wrappers[i]))
			return false;
	}
	return slice_eq(a->model, b->model) && a->world_size == b->world_size &&
	       slice_eq(a->engine_type, b->engine_type) && same_hints(&a->hints, &b->hints) && same_groups(a, b) &&
	       a->ed.block_size == b->ed.block_size && a->ed.num_layers == b->ed.num_layers &&
	       a->ed.hidden_dim_size == b->ed.hidden_dim_size && slice_eq(a->ed.dtype, b->ed.dtype) &&
	       a->ed.use_mla == b->ed.use_mla;
}

static inline bool same_raw(const struct wire_req *a, const struct wire_req *b)
{
	return a->nrecords == b->nrecords && a->record_blocks == b->record_blocks &&
	       a->record_tokens == b->record_tokens && slice_eq(a->records, b->records) &&
	       slice_eq(a->matches, b->matches) && slice_eq(a->ranges, b->ranges) &&
	       slice_eq(a->object_keys, b->object_keys) && slice_eq(a->layouts, b->layouts) &&
	       a->nmatches == b->nmatches && a->nranges == b->nranges && a->nobject_keys == b->nobject_keys &&
	       a->rope.head_size == b->rope.head_size && a->rope.style == b->rope.style &&
	       slice_eq(a->rope.group_to_cache, b->rope.group_to_cache) &&
	       slice_eq(a->rope.group_rot, b->rope.group_rot);
}

static inline bool same_request(const struct wire_req *a, const struct wire_req *b)
{
	return a->op == b->op && a->dialect == b->dialect && a->has_key == b->has_key &&
	       a->has_instance == b->has_instance && same_key(&a->key, &b->key) && a->instance_id == b->instance_id &&
	       slice_eq(a->request_id, b->request_id) && a->job_id == b->job_id && a->tp_size == b->tp_size &&
	       a->skip_first_n_tokens == b->skip_first_n_tokens && a->offset == b->offset &&
	       memcmp(&a->timeout_seconds, &b->timeout_seconds, sizeof(double)) == 0 && slice_eq(a->event, b->event) &&
	       slice_eq(a->data, b->data) && same_blocks(a, b) && same_registration(a, b) && same_raw(a, b);
}

#endif
