/* session_forms.c - lookups of a name under which engines registered different layouts: which of them each rank means.
 *
 * Objects of another layout are other objects, so a wrong choice costs a miss at RETRIEVE, never wrong bytes.
 */
#include "daemon/core/session_int.h"

static store_ns find_ns(struct sessions *s, const struct session_lookup *l, const struct session_form *f, uint32_t rank)
{
	return store_ns_find(s->store, l->model, session_kv_rank(l->world_size, rank), 0, l->salt, f->layout);
}

/* How many of the first nchunks objects L1 has in that form. The number is a hint: nothing is held. */
static uint32_t hits_of(struct sessions *s, const struct session_lookup *l, const struct session_form *f, uint32_t rank,
			uint32_t nchunks)
{
	store_ns ns = find_ns(s, l, f, rank);

	return ns ? store_peek_prefix(s->store, &ns, 1, l->hashes, nchunks, f->object_bytes) : 0;
}

static bool is_below(struct sessions *s, const struct session_lookup *l, uint32_t form, uint32_t rank)
{
	return s->has_tier && session_below_has(s, l, &l->forms[form], rank, l->hashes);
}

static uint8_t choose(struct sessions *s, const struct session_lookup *l, uint32_t rank, uint32_t nchunks)
{
	uint32_t best = 0, most = 0;

	for (uint32_t i = 0; i < l->nown; i++) {
		if (hits_of(s, l, &l->forms[i], rank, 1) || is_below(s, l, i, rank))
			return (uint8_t)i;
	}
	for (uint32_t i = l->nown; i < l->nforms; i++) {
		uint32_t n = hits_of(s, l, &l->forms[i], rank, nchunks);

		if (n > most) {
			most = n;
			best = i;
		}
	}
	for (uint32_t i = l->nown; !most && i < l->nforms; i++) {
		if (is_below(s, l, i, rank))
			return (uint8_t)i;
	}
	return (uint8_t)best;
}

void session_choose(struct sessions *s, const struct session_lookup *l, uint32_t nchunks)
{
	for (uint32_t r = 0; r < l->world_size; r++) {
		const struct session_form *f;

		s->form[r] = nchunks ? choose(s, l, r, nchunks) : 0;
		f = &l->forms[s->form[r]];
		s->ns[r] = find_ns(s, l, f, r);
		if (s->ns[r])
			s->ns[r] = store_ns_get(s->store, l->model, session_kv_rank(l->world_size, r), 0, l->salt,
						f->layout);
	}
}
