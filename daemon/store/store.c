#include "daemon/store/store.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/store/store_int.h"
#include "daemon/store/varray_int.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

/* ---- create ---------------------------------------------------------------------------------------------------- */

static int check_conf(const struct store_conf *c, struct why *why)
{
	if (c->align < 4096 || (c->align & (c->align - 1)))
		return why_set(why, -EINVAL, "slot alignment %u is not a power of two of at least 4096", c->align);
	if (!(c->trigger_watermark > 0 && c->trigger_watermark <= 1))
		return why_set(why, -EINVAL, "eviction watermark %g is not in (0, 1]", c->trigger_watermark);
	if (!(c->eviction_ratio > 0 && c->eviction_ratio <= 1))
		return why_set(why, -EINVAL, "eviction ratio %g is not in (0, 1]", c->eviction_ratio);
	if (!(c->sample_rate >= 0 && c->sample_rate <= 1))
		return why_set(why, -EINVAL, "sample rate %g is not in [0, 1]", c->sample_rate);
	if ((arena_bytes(c->arena) / c->align) >> 32)
		return why_set(why, -EINVAL,
			       "%llu bytes are more than 2^32 slots of %u bytes: raise the slot alignment",
			       (unsigned long long)arena_bytes(c->arena), c->align);
	return 0;
}

/* One more than can have a slot, so that room is always what runs out first, unless the operator set a limit. */
static uint32_t object_limit(const struct store_conf *c)
{
	uint64_t n = arena_bytes(c->arena) / c->align + 1;

	if (c->max_objects && c->max_objects < n)
		n = c->max_objects;
	if (n > OBJ_MAX_ID - ARENA_MAX_RANGES - 2)
		n = OBJ_MAX_ID - ARENA_MAX_RANGES - 2;
	return (uint32_t)n;
}

/* Whole slots only, also where a range does not begin or end at a multiple of the alignment. */
static void plan_ranges(struct store *s)
{
	uint64_t align = units_bytes(s, 1);

	for (uint32_t i = 0; i < arena_nranges(s->arena); i++) {
		const struct arena_range *r = arena_range(s->arena, i);
		uint64_t start = (r->start + align - 1) / align, end = (r->start + r->bytes) / align;
		uint32_t units = end > start ? (uint32_t)(end - start) : 0;
		slots_range(&s->slots, i, (uint32_t)start, units, r->node);
		s->total_units += units;
	}
}

/* Insertion sort: at most 64 ranges, once. */
static void order_ranges(struct store *s, const uint32_t *distance)
{
	uint32_t n = s->slots.nranges;

	for (uint32_t i = 0; i < n; i++) {
		uint8_t *near = s->near[i];
		uint32_t count = 0;

		near[count++] = (uint8_t)i;
		for (uint32_t j = 0; j < n; j++) {
			uint32_t at = count;
			if (j == i)
				continue;
			/* unknown is 0, and less one the largest number */
			for (; distance && at > 1 && distance[i * n + near[at - 1]] - 1 > distance[i * n + j] - 1; at--)
				near[at] = near[at - 1];
			near[at] = (uint8_t)j;
			count++;
		}
	}
}

void store_adopt_committed(struct store *s, uint32_t i)
{
	const struct arena_range *r = arena_range(s->arena, i);
	uint64_t end = (r->start + arena_committed(s->arena, i)) >> s->align_shift;
	uint64_t start = s->slots.range[i].start;

	if (end > start)
		slots_grow(&s->slots, i, (uint32_t)(end - start));
}

static int create_parts(struct store *s, const struct store_conf *conf)
{
	uint32_t max = object_limit(conf);
	int err = index_create(&s->ix, max);

	if (!err)
		err = slots_create(&s->slots, max, arena_nranges(s->arena));
	if (!err)
		err = names_create(&s->names);
	if (!err)
		err = samples_create(&s->samples, conf->sample_rate, max);
	if (!err)
		err = store_sums_create(s);
	if (!err && !(s->heap = varray_map(NAMES_MAX_SALTS, sizeof(*s->heap))))
		err = -ENOMEM;
	return err;
}

int store_create(const struct store_conf *conf, struct store **out, struct why *why)
{
	int err = check_conf(conf, why);
	struct store *s;

	if (err)
		return err;
	s = mem_calloc(1, sizeof(*s));
	if (!s)
		return why_set(why, -ENOMEM, "no memory for the store");
	lk_init(&s->lk, LK_STORE);
	s->arena = conf->arena;
	s->base = arena_base(conf->arena);
	s->align_shift = (uint32_t)__builtin_ctz(conf->align);
	s->policy = conf->policy;
	s->spill = conf->spill;
	s->watermark = conf->trigger_watermark;
	s->ratio = conf->eviction_ratio;
	s->observer = conf->observer;
	err = create_parts(s, conf);
	if (err) {
		store_destroy(s);
		return why_set(why, err,
			       "no address space for an index of %u objects (vm.overcommit_memory=2 or a limit on "
			       "address space?): %s",
			       object_limit(conf), strerror(-err));
	}
	plan_ranges(s);
	order_ranges(s, conf->distance);
	for (uint32_t i = 0; i < s->slots.nranges; i++)
		store_adopt_committed(s, i);
	*out = s;
	return 0;
}

void store_destroy(struct store *s)
{
	if (!s)
		return;
	varray_unmap(s->heap, NAMES_MAX_SALTS, sizeof(*s->heap));
	store_sums_destroy(s);
	samples_destroy(&s->samples);
	names_destroy(&s->names);
	slots_destroy(&s->slots);
	index_destroy(&s->ix);
	lk_destroy(&s->lk);
	mem_free(s);
}

void store_breathe(struct store *s)
{
	lk_unlock(&s->lk);
	sched_yield();
	lk_lock(&s->lk);
}

/* ---- namespaces ------------------------------------------------------------------------------------------------ */

store_ns store_ns_get(struct store *s, struct slice model, uint32_t kv_rank, uint32_t object_group, struct slice salt,
		      const uint8_t *layout)
{
	store_ns ns;

	lk_lock(&s->lk);
	ns = names_ns(&s->names, model, kv_rank, object_group, salt, layout, true);
	if (ns)
		s->names.ns[ns].refs++;
	lk_unlock(&s->lk);
	return ns;
}

store_ns store_ns_find(struct store *s, struct slice model, uint32_t kv_rank, uint32_t object_group, struct slice salt,
		       const uint8_t *layout)
{
	store_ns ns;

	lk_lock(&s->lk);
	ns = names_ns(&s->names, model, kv_rank, object_group, salt, layout, false);
	lk_unlock(&s->lk);
	return ns;
}

uint32_t store_ns_layouts(struct store *s, struct slice model, uint32_t kv_rank, uint32_t object_group,
			  struct slice salt, store_ns *out, uint32_t max)
{
	uint32_t n = 0, at = 0;

	lk_lock(&s->lk);
	while (n < max && (at = names_next(&s->names, model, kv_rank, object_group, salt, at))) {
		s->names.ns[at].refs++;
		out[n++] = at;
	}
	lk_unlock(&s->lk);
	return n;
}

void store_ns_put(struct store *s, store_ns ns)
{
	if (!ns)
		return;
	lk_lock(&s->lk);
	check(s->names.ns[ns].refs > 0);
	s->names.ns[ns].refs--;
	names_ns_release(&s->names, ns);
	lk_unlock(&s->lk);
}

/* ---- room ------------------------------------------------------------------------------------------------------ */

/* Asks the arena for at least `units` more, without the lock: pages are populated meanwhile. False when it refuses. */
static bool grow_range(struct store *s, uint32_t i, uint32_t units)
{
	struct slot_range *r = &s->slots.range[i];
	uint64_t upto = (uint64_t)r->grown + units, bytes;
	int err;

	if (upto > r->units)
		upto = r->units;
	if (r->grow_failed || r->grown == r->units)
		return false;
	bytes = units_bytes(s, r->start + upto) - arena_range(s->arena, i)->start;
	lk_unlock(&s->lk);
	err = arena_commit(s->arena, i, bytes);
	lk_lock(&s->lk);
	r->grow_failed = err != 0;
	store_adopt_committed(s, i);
	return err == 0;
}

/* Of the ranges on `node` the one with most room; of all when no range is there. */
static uint32_t range_for(const struct store *s, node_id node)
{
	uint32_t best = STORE_ANY_RANGE;

	for (uint32_t i = 0; i < s->slots.nranges; i++) {
		const struct slot_range *r = &s->slots.range[i];
		uint64_t room = (uint64_t)r->free_units + (r->units - r->grown);
		if (node_known(node) && !node_same(r->node, node))
			continue;
		if (best == STORE_ANY_RANGE ||
		    room > (uint64_t)s->slots.range[best].free_units +
				    (s->slots.range[best].units - s->slots.range[best].grown))
			best = i;
	}
	return best == STORE_ANY_RANGE && node_known(node) ? range_for(s, NODE_UNKNOWN) : best;
}

/* Growing the range may let others in, who may take what it brought: hence a few tries. */
static uint32_t room_in(struct store *s, uint32_t i, uint32_t units)
{
	uint32_t block = slots_find(&s->slots, i, units);

	for (int tries = 0; !block && tries < 4 && units <= s->slots.range[i].units; tries++) {
		if (!grow_range(s, i, units))
			break;
		block = slots_find(&s->slots, i, units);
	}
	return block;
}

/* A free block of at least `units`: at home, else in the nearest range that has one, else by eviction. May drop the lock. */
static uint32_t find_room(struct store *s, node_id node, uint32_t units, uint64_t now_ms)
{
	uint32_t home = range_for(s, node), block = room_in(s, home, units);
	bool at_home = s->slots.nranges > 1 && node_same(s->slots.range[home].node, node);

	if (!block && at_home && s->spill == STORE_SPILL_EVICT)
		block = window_make(s, units, home, true, now_ms);
	for (uint32_t k = 1; !block && k < s->slots.nranges; k++)
		block = room_in(s, s->near[home][k], units);
	return block ? block : window_make(s, units, at_home ? home : STORE_ANY_RANGE, false, now_ms);
}

/* Where max_objects is the limit rather than bytes, the oldest object gives way. */
static bool have_record(struct store *s, uint64_t now_ms)
{
	return s->ix.used < s->ix.max_objects || evict_units(s, 1, now_ms) > 0;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

struct reservation {
	store_ns ns;
	uint32_t units, tail;
	node_id node;
	uint64_t now_ms;
};

static void fill_record(struct store *s, uint32_t id, const struct reservation *r, const struct store_hash *hash)
{
	struct obj *o = obj_at(s, id);
	struct ns *ns = &s->names.ns[r->ns];

	memcpy(o->hash, hash->b, sizeof(o->hash));
	o->units = r->units;
	o->tail = r->tail;
	o->ns = (uint16_t)(r->ns - 1);
	o->flags |= OBJ_KEYED;
	o->seq = ++s->seq;
	s->used_units += r->units;
	s->names.salt[ns->salt].used_bytes += units_bytes(s, r->units);
	ns->objects++;
	obj_tally(s, o, 1);
}

/* A present object of another size is in the way of this one for ever: nobody who asks for this size can hit it. */
static bool is_replaceable(const struct store *s, const struct reservation *r, uint32_t id)
{
	const struct obj *o = obj_at(s, id);

	return o->flags & OBJ_READABLE && (o->units != r->units || o->tail != r->tail);
}

/* Somebody wants to store what is there only for as long as it is locked: it stays. */
static uint32_t keep_present(struct store *s, uint32_t id)
{
	s->n.temporary -= (obj_at(s, id)->flags & OBJ_TEMP) != 0;
	obj_at(s, id)->flags &= ~(uint64_t)OBJ_TEMP;
	return 0;
}

/* The object, 0 when the key is present, or STORE_REFUSED. Finding room may drop the lock, so all else comes after. */
#define STORE_REFUSED UINT32_MAX
static uint32_t reserve_one(struct store *s, const struct reservation *r, const struct store_hash *hash, uint64_t mix)
{
	struct index_key key = {hash, r->ns};
	uint32_t old = index_find(&s->ix, &key, mix), block, id;

	if (old && !is_replaceable(s, r, old))
		return keep_present(s, old);
	block = have_record(s, r->now_ms) ? find_room(s, r->node, r->units, r->now_ms) : 0;
	if (!block)
		return STORE_REFUSED;
	old = index_find(&s->ix, &key, mix);
	if (old && !is_replaceable(s, r, old))
		return keep_present(s, old);
	id = index_take(&s->ix);
	if (!id)
		return STORE_REFUSED; /* others took the last record meanwhile */
	slots_take(&s->slots, block, r->units, id);
	if (old)
		obj_drop(s, old);
	fill_record(s, id, r, hash);
	store_sums_clear(s, id);
	index_insert(&s->ix, id, mix);
	if (node_known(r->node) && !node_same(s->slots.range[store_range_of(s, id)].node, r->node))
		s->n.spill_bytes += units_bytes(s, r->units);
	return id;
}

static void reserve_group(struct store *s, const struct reservation *r, const struct store_hash *hashes, uint32_t n,
			  store_obj *out, struct store_reserve_result *res)
{
	struct index_key keys[INDEX_GROUP];
	uint64_t mix[INDEX_GROUP];

	for (uint32_t i = 0; i < n; i++)
		keys[i] = (struct index_key){&hashes[i], r->ns};
	index_warm_group(&s->ix, keys, n, mix);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = reserve_one(s, r, &hashes[i], mix[i]);
		if (id == STORE_REFUSED) {
			res->refused = 1;
			return;
		}
		out[i] = id;
		res->reserved += id != 0;
		res->present += id == 0;
	}
}

struct store_reserve_result store_reserve(struct store *s, store_ns ns, const struct store_hash *hashes, uint32_t n,
					  uint64_t bytes, node_id node, uint64_t now_ms, store_obj *out)
{
	struct reservation r = {.ns = ns, .node = node, .now_ms = now_ms};
	struct store_reserve_result res = {0, 0, 0};
	uint64_t units = bytes ? ((bytes - 1) >> s->align_shift) + 1 : 0;

	memset(out, 0, n * sizeof(*out));
	lk_lock(&s->lk);
	if (!ns || units == 0 || units > s->total_units) {
		res.refused = n;
	} else {
		r.units = (uint32_t)units;
		r.tail = (uint32_t)(units_bytes(s, units) - bytes);
	}
	for (uint32_t at = 0, step; at < n && !res.refused; at += step) {
		step = n - at < INDEX_GROUP ? n - at : INDEX_GROUP;
		if (at && at % STORE_SLICE == 0)
			store_breathe(s);
		reserve_group(s, &r, hashes + at, step, out + at, &res);
	}
	res.refused = n - res.reserved - res.present;
	s->n.reserves += n;
	s->n.reserve_present += res.present;
	s->n.reserve_refused += res.refused;
	lk_unlock(&s->lk);
	return res;
}

uint32_t store_commit(struct store *s, const store_obj *objs, uint32_t n, uint64_t now_ms)
{
	uint32_t done = 0, seen = 0;

	lk_lock(&s->lk);
	/* Tail first, so that the head is the youngest. */
	for (uint32_t i = n; i-- > 0;) {
		if (!objs[i])
			continue;
		if (++seen % STORE_SLICE == 0)
			store_breathe(s);
		done += obj_commit(s, objs[i], now_ms);
	}
	s->n.commits += done;
	lk_unlock(&s->lk);
	return done;
}

void store_abort(struct store *s, const store_obj *objs, uint32_t n)
{
	uint32_t seen = 0;

	lk_lock(&s->lk);
	for (uint32_t i = 0; i < n; i++) {
		if (!objs[i])
			continue;
		if (++seen % STORE_SLICE == 0)
			store_breathe(s);
		check((obj_at(s, objs[i])->flags & (OBJ_USED | OBJ_READABLE)) == OBJ_USED);
		obj_free(s, objs[i]);
	}
	s->n.aborts += seen;
	lk_unlock(&s->lk);
}

void store_disown(struct store *s, const store_obj *objs, uint32_t n)
{
	lk_lock(&s->lk);
	for (uint32_t i = 0; i < n; i++) {
		if (!objs[i])
			continue;
		check((obj_at(s, objs[i])->flags & (OBJ_USED | OBJ_READABLE)) == OBJ_USED);
		if (obj_at(s, objs[i])->flags & OBJ_KEYED)
			obj_detach(s, objs[i]);
	}
	lk_unlock(&s->lk);
}

/* ---- the slot: constant while the caller owns the object, so no lock ----------------------------------------------- */

uint64_t store_offset(const struct store *s, store_obj o)
{
	return units_bytes(s, s->slots.used[o].off);
}

uint64_t store_bytes(const struct store *s, store_obj o)
{
	return units_bytes(s, obj_at(s, o)->units) - obj_at(s, o)->tail;
}

uint32_t store_range_of(const struct store *s, store_obj o)
{
	return s->slots.nranges == 1 ? 0 : slots_range_of(&s->slots, s->slots.used[o].off);
}

void *store_ptr(const struct store *s, store_obj o)
{
	return s->base + store_offset(s, o);
}
