/* raw.c - the raw_block adapter: which device an operation goes to, and what is told about them. */
#include "daemon/l2/raw_int.h"

#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define AT_ONCE 256u /* keys asked of a device under one lock */

static struct raw *of(struct l2 *a)
{
	return (struct raw *)a;
}

/* ---- who has it ---------------------------------------------------------------------------------------------------------- */

/* Sizes of what the device has, 0 for the rest and for all of a device that is not asked. */
static void ask(struct raw_device *d, const struct seg_key *keys, uint32_t n, uint64_t *bytes)
{
	memset(bytes, 0, n * sizeof(*bytes));
	if (!atomic_load_explicit(&d->reads, memory_order_relaxed))
		return;
	lk_lock(&d->lk);
	if (d->seg)
		seg_find(d->seg, keys, n, bytes);
	lk_unlock(&d->lk);
}

static void raw_find(struct l2 *a, struct l2_find *f)
{
	struct raw *r = of(a);
	uint64_t have[AT_ONCE];
	for (uint32_t at = 0; at < f->n; at += AT_ONCE) {
		uint32_t n = f->n - at < AT_ONCE ? f->n - at : AT_ONCE;
		memset(f->bytes + at, 0, n * sizeof(*f->bytes));
		for (uint32_t i = 0; i < r->ndevices; i++) {
			ask(&r->device[i], f->keys + at, n, have);
			for (uint32_t k = 0; k < n; k++)
				if (have[k])
					f->bytes[at + k] = have[k];
		}
	}
	f->done(f);
}

/* The device that has the key, or NULL. */
static struct raw_device *holder(struct raw *r, const struct seg_key *key)
{
	uint64_t bytes;
	for (uint32_t i = 0; i < r->ndevices; i++) {
		ask(&r->device[i], key, 1, &bytes);
		if (bytes)
			return &r->device[i];
	}
	return NULL;
}

/* ---- operations --------------------------------------------------------------------------------------------------------------- */

static void submit(struct raw_device *d, struct l2_io *io, enum seg_op_kind kind, int result)
{
	io->submitted_ns = clock_ns();
	io->result = result;
	io->op.kind = kind;
	raw_push(d, io);
}

/* What nobody has is answered by a device's thread, too, with -ENOENT: by one that works, if any. */
static void raw_load(struct l2 *a, struct l2_io *io)
{
	struct raw *r = of(a);
	struct raw_device *d = holder(r, &io->key);
	for (uint32_t i = 0; !d && i < r->ndevices; i++)
		if (atomic_load_explicit(&r->device[i].reads, memory_order_relaxed))
			d = &r->device[i];
	submit(d ? d : &r->device[0], io, SEG_READ, 0);
}

/* Round-robin over the devices that take writes, so that consecutive objects of a prompt lie on different ones. One that is full of
 * waiting stores is passed over. */
static struct raw_device *next_for_store(struct raw *r, uint64_t bytes)
{
	uint32_t n = r->ndevices, turn = atomic_fetch_add_explicit(&r->turn, 1, memory_order_relaxed);
	check(n);
	for (uint32_t i = 0; i < n; i++) {
		struct raw_device *d = &r->device[(turn + i) % n];
		if (atomic_load_explicit(&d->writes, memory_order_relaxed) &&
		    atomic_load_explicit(&d->queued_bytes, memory_order_relaxed) + bytes <= r->queue_bytes)
			return d;
	}
	return &r->device[turn % n];
}

static void raw_store(struct l2 *a, struct l2_io *io)
{
	struct raw *r = of(a);
	struct raw_device *d = holder(r, &io->key); /* it will say -EEXIST */
	submit(d ? d : next_for_store(r, io->bytes), io, SEG_WRITE, 0);
}

/* Those that visit all devices. A thread of one of them answers also when none works. */
static void visit(struct raw *r, struct l2_io *io, enum seg_op_kind kind, int result)
{
	io->op.kind = kind;
	io->result = result;
	struct raw_device *d = raw_next(r, 0, io);
	submit(d ? d : &r->device[0], io, kind, io->result);
}

static void raw_remove(struct l2 *a, struct l2_io *io)
{
	visit(of(a), io, SEG_REMOVE, -ENOENT);
}

static void raw_clear(struct l2 *a, struct l2_io *io)
{
	visit(of(a), io, SEG_CLEAR, 0);
}

static void raw_flush(struct l2 *a, struct l2_io *io)
{
	visit(of(a), io, SEG_FLUSH, 0);
}

/* The device's number stands in the upper byte of the cursor, from 1. A store's own cursors are far smaller. */
static uint32_t raw_list(struct l2 *a, uint64_t *cursor, struct l2_list_entry *out, uint32_t max)
{
	struct raw *r = of(a);
	struct seg_key keys[AT_ONCE];
	uint64_t bytes[AT_ONCE], inner = *cursor & ((1ull << 56) - 1);
	uint32_t i = *cursor ? (uint32_t)(*cursor >> 56) - 1 : 0, told = 0;
	while (i < r->ndevices && told < max) {
		struct raw_device *d = &r->device[i];
		uint32_t n = max - told < AT_ONCE ? max - told : AT_ONCE;
		lk_lock(&d->lk);
		if (d->seg)
			n = seg_list(d->seg, &inner, keys, bytes, n);
		else
			n = 0, inner = 0;
		lk_unlock(&d->lk);
		for (uint32_t k = 0; k < n; k++)
			out[told++] = (struct l2_list_entry){keys[k], bytes[k]};
		i += inner == 0;
	}
	*cursor = i < r->ndevices ? (uint64_t)(i + 1) << 56 | inner : 0;
	return told;
}

/* ---- figures ------------------------------------------------------------------------------------------------------------------------ */

static bool stats_of(struct raw_device *d, struct seg_stats *n)
{
	lk_lock(&d->lk);
	bool here = d->seg != NULL;
	if (here)
		seg_stats(d->seg, n);
	lk_unlock(&d->lk);
	return here;
}

static void add(struct l2_stats *to, const struct seg_stats *n)
{
	to->objects += n->objects;
	to->used_bytes += n->used_bytes;
	to->capacity_bytes += n->capacity_bytes;
	to->loads += n->reads;
	to->load_bytes += n->read_bytes;
	to->load_misses += n->read_misses;
	to->load_errors += n->read_errors;
	to->bad_checksums += n->bad_checksums;
	to->stores += n->writes;
	to->store_bytes += n->written_bytes;
	to->store_errors += n->write_errors;
	to->present += n->present;
	to->removed += n->removed;
	to->evicted_objects += n->evicted_objects;
	to->evicted_bytes += n->evicted_bytes;
}

static void raw_stats(struct l2 *a, struct l2_stats *out)
{
	struct raw *r = of(a);
	uint32_t bad = 0, recovering = 0;
	uint64_t segments = 0, recovered = 0;
	enum breaker_cause cause = BREAKER_NONE;
	*out = (struct l2_stats){.healthy = true};
	for (uint32_t i = 0; i < r->ndevices; i++) {
		struct raw_device *d = &r->device[i];
		struct seg_stats n;
		lk_lock(&d->lk);
		enum breaker_cause c = d->view.breaker.cause;
		lk_unlock(&d->lk);
		if (c != BREAKER_NONE) {
			cause = c;
			bad++;
		}
		if (stats_of(d, &n)) {
			add(out, &n);
			recovering += !n.recovered;
			segments += n.recovered ? 0 : n.segments;
			recovered += n.recovered ? 0 : n.recovered_segments;
		}
		out->dropped += atomic_load(&d->dropped);
		out->in_flight_loads += atomic_load(&d->in_flight_loads);
		out->in_flight_stores += atomic_load(&d->in_flight_stores);
		out->queued += atomic_load(&d->queued);
	}
	out->healthy = bad == 0;
	if (bad)
		snprintf(out->state, sizeof(out->state), "%u of %u devices out of use: %s", bad, r->ndevices,
			 breaker_cause_text(cause));
	else if (recovering)
		snprintf(out->state, sizeof(out->state), "recovering, %llu of %llu segments",
			 (unsigned long long)recovered, (unsigned long long)segments);
	else
		memcpy(out->state, "ok", 3);
}

static json_t *describe_health(const struct raw_view *v)
{
	const struct breaker *b = &v->breaker;
	bool waits = b->state != BREAKER_CLOSED && b->retry_ns > v->now_ns;
	return json_pack("{s:s, s:s, s:b, s:b, s:f, s:f, s:I, s:f, s:f, s:s*}", "state", breaker_state_name(b->state),
			 "cause", breaker_cause_text(b->cause), "reads", b->reads, "writes", b->writes, "since_seconds",
			 (double)(v->now_ns - b->since_ns) / 1e9, "retry_in_seconds",
			 waits ? (double)(b->retry_ns - v->now_ns) / 1e9 : 0.0, "trips", (json_int_t)b->trips,
			 "read_p99_ms", (double)b->p99_ns / 1e6, "read_p99_usual_ms", (double)b->usual_ns / 1e6,
			 "last_error", v->last_error ? strerrordesc_np(-v->last_error) : NULL);
}

static json_t *describe_store(const struct seg_stats *n)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f}", "stored_object_count",
			 (json_int_t)n->objects, "current_size_bytes", (json_int_t)n->used_bytes, "max_capacity_bytes",
			 (json_int_t)n->capacity_bytes, "segments", (json_int_t)n->segments, "free_segments",
			 (json_int_t)n->free_segments, "suspect_segments", (json_int_t)n->suspect_segments,
			 "bad_checksums", (json_int_t)n->bad_checksums, "index_bytes", (json_int_t)n->index_bytes,
			 "recovered", n->recovered, "recovery_seconds", (double)n->recovery_ns / 1e9);
}

static json_t *describe_disk(struct raw_device *d)
{
	struct disk_stats n = {0};
	lk_lock(&d->lk);
	if (d->seg)
		disk_stats(seg_disk(d->seg), &n);
	lk_unlock(&d->lk);
	json_t *out = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "in_flight_bytes",
				(json_int_t)n.in_flight_bytes, "window_bytes", (json_int_t)n.window_bytes,
				"fixed_bytes", (json_int_t)n.fixed_bytes, "loose_bytes", (json_int_t)n.loose_bytes,
				"sub_ios", (json_int_t)n.sub_ios, "submit_calls", (json_int_t)n.submit_calls, "errors",
				(json_int_t)n.errors, "retries", (json_int_t)n.retries, "oldest_seconds",
				(double)n.oldest_ns / 1e9);
	if (out && n.traced) {
		json_object_set_new(out, "punts", json_integer((json_int_t)n.punts));
		json_object_set_new(out, "splits", json_integer((json_int_t)n.splits));
	}
	return out;
}

static json_t *describe_device(struct raw_device *d)
{
	struct seg_stats n;
	struct raw_view v;
	lk_lock(&d->lk);
	v = d->view;
	lk_unlock(&d->lk);
	json_t *out = json_pack("{s:s, s:s, s:s*, s:s*, s:b, s:o*, s:o*}", "path", d->path, "engine", v.engine, "model",
				v.facts.model[0] ? v.facts.model : NULL, "serial",
				v.facts.serial[0] ? v.facts.serial : NULL, "volatile_cache", v.facts.volatile_cache,
				"breaker", describe_health(&v), "disk", describe_disk(d));
	if (out && node_known(v.facts.node))
		json_object_set_new(out, "numa_node", json_integer(v.facts.node.os));
	if (out && stats_of(d, &n))
		json_object_update_new(out, describe_store(&n));
	return out;
}

static json_t *raw_describe(struct l2 *a)
{
	struct raw *r = of(a);
	json_t *list = json_array();
	for (uint32_t i = 0; i < r->ndevices; i++)
		json_array_append_new(list, describe_device(&r->device[i]));
	return json_pack("{s:s, s:b, s:o*}", "backend", "segments", "verify", r->verify, "devices", list);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------------------- */

static void raw_close(struct l2 *a, uint32_t wait_ms)
{
	struct raw *r = of(a);
	atomic_store(&r->close_ms, wait_ms);
	for (uint32_t i = 0; i < r->ndevices; i++) {
		atomic_store(&r->device[i].stop, true);
		if (r->device[i].started)
			raw_wake(&r->device[i]);
	}
	for (uint32_t i = 0; i < r->ndevices; i++)
		if (r->device[i].started)
			pthread_join(r->device[i].thread, NULL);
	raw_free(r);
}

const struct l2_ops raw_ops = {
	.type = "raw_block",
	.local = true,
	.find = raw_find,
	.load = raw_load,
	.store = raw_store,
	.remove = raw_remove,
	.clear = raw_clear,
	.flush = raw_flush,
	.list = raw_list,
	.stats = raw_stats,
	.describe = raw_describe,
	.close = raw_close,
};
