/* fault.c - another adapter with errors, delays and hangs on demand, decided by a seed. */
#include "daemon/l2/l2_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PENDING 4096u /* operations at once; beyond it stores and loads get -EBUSY */

enum fault_kind { FAULT_LOAD, FAULT_STORE, FAULT_REMOVE, FAULT_CLEAR, FAULT_FLUSH };

/* The caller's io is handed on; this keeps what has to be put back before its done. */
struct pending {
	struct fault *f;
	void (*done)(struct l2_io *io);
	void *owner;
	struct pending *next;
	enum fault_kind kind;
	uint32_t flip; /* corrupt: 1 + bit to turn over, by the object's size */
	int fail;      /* answer to give instead of asking the adapter below */
};

struct fault {
	struct l2 l2;
	struct l2 *inner;
	struct l2_delay *line;
	struct lk lk; /* LK_L2: random, free list, counters */
	uint64_t random;
	double load_error, store_error, corrupt, latency, hang;
	uint64_t latency_ns, hang_ns;
	struct pending *unused;
	uint32_t in_use;
	uint64_t errors, corrupted, delayed, hung, busy;
	struct pending pending[PENDING];
};

static struct fault *of(struct l2 *a)
{
	return (struct fault *)a;
}

/* splitmix64 (Vigna); the lock is held. */
static uint64_t dice(struct fault *f)
{
	uint64_t z = f->random += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static bool strikes(struct fault *f, double probability)
{
	return (double)(dice(f) >> 11) < probability * 0x1p53;
}

/* ---- the way back ------------------------------------------------------------------------------------------------------- */

static void finish(struct fault *f, struct pending *p, struct l2_io *io)
{
	io->done = p->done;
	io->owner = p->owner;
	lk_lock(&f->lk);
	p->next = f->unused;
	f->unused = p;
	f->in_use--;
	lk_unlock(&f->lk);
	io->done(io);
}

/* Turns a bit over and looks at the result as a reader of a bad medium would: by the checksums. */
static int damage(struct l2_io *io, uint32_t flip)
{
	uint64_t bit = flip % (io->bytes * 8), block = bit / 8 / CRC_BLOCK;
	uint64_t n = io->bytes - block * CRC_BLOCK;
	uint8_t *p = (uint8_t *)io->mem + block * CRC_BLOCK;
	((uint8_t *)io->mem)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	return crc32c(0, p, n < CRC_BLOCK ? n : CRC_BLOCK) == io->sums[block] ? 0 : -EILSEQ;
}

static void returned(struct l2_io *io)
{
	struct pending *p = io->owner;
	if (io->result == 0 && p->kind == FAULT_LOAD && p->flip && io->bytes)
		io->result = damage(io, p->flip - 1);
	finish(p->f, p, io);
}

/* ---- the way in ------------------------------------------------------------------------------------------------------------ */

static void hand_on(struct fault *f, struct pending *p, struct l2_io *io)
{
	const struct l2_ops *ops = f->inner->ops;
	if (p->fail) {
		io->result = p->fail;
		finish(f, p, io);
		return;
	}
	switch (p->kind) {
	case FAULT_LOAD:
		ops->load(f->inner, io);
		break;
	case FAULT_STORE:
		ops->store(f->inner, io);
		break;
	case FAULT_REMOVE:
		ops->remove(f->inner, io);
		break;
	case FAULT_CLEAR:
		ops->clear(f->inner, io);
		break;
	case FAULT_FLUSH:
		ops->flush(f->inner, io);
		break;
	}
}

static void due(void *ctx, struct l2_io *io, bool cancelled)
{
	struct pending *p = io->owner;
	if (io->priv[1]) {
		io->result = cancelled ? -ECANCELED : -EBUSY;
		io->done(io);
		return;
	}
	if (cancelled)
		p->fail = -ECANCELED;
	hand_on(ctx, p, io);
}

/* What shall happen to it; the lock is held. Returns when it goes on: 0 at once. The dice fall as often for every operation, so that one
 * fault does not change where later ones strike. */
static uint64_t decide(struct fault *f, struct pending *p)
{
	bool error = strikes(f, p->kind == FAULT_LOAD ? f->load_error : p->kind == FAULT_STORE ? f->store_error : 0);
	bool flip = strikes(f, p->kind == FAULT_LOAD ? f->corrupt : 0);
	uint32_t bit = (uint32_t)(dice(f) >> 33) + 1;
	bool late = strikes(f, f->latency), hung = strikes(f, f->hang);
	p->fail = error ? -EIO : 0;
	p->flip = flip && !error ? bit : 0;
	f->errors += error;
	f->corrupted += flip && !error;
	f->delayed += late && !hung;
	f->hung += hung;
	if (hung)
		return f->hang_ns ? clock_ns() + f->hang_ns : UINT64_MAX;
	return late ? clock_ns() + f->latency_ns : 0;
}

static void put(struct l2 *a, struct l2_io *io, enum fault_kind kind)
{
	struct fault *f = of(a);
	uint64_t at = 0;
	lk_lock(&f->lk);
	struct pending *p = f->unused;
	if (p) {
		f->unused = p->next;
		f->in_use++;
		*p = (struct pending){.f = f, .done = io->done, .owner = io->owner, .kind = kind};
		at = decide(f, p);
	} else {
		f->busy++;
	}
	lk_unlock(&f->lk);
	if (!p) {
		io->priv[1] = f; /* no record: owner and done stay the caller's */
		l2_delay_put(f->line, io, 0);
		return;
	}
	io->priv[1] = NULL;
	io->done = returned;
	io->owner = p;
	/* A failure is told by a thread of ours, never from inside the caller's call. */
	if (at || p->fail)
		l2_delay_put(f->line, io, at);
	else
		hand_on(f, p, io);
}

static void fault_load(struct l2 *a, struct l2_io *io)
{
	put(a, io, FAULT_LOAD);
}

static void fault_store(struct l2 *a, struct l2_io *io)
{
	put(a, io, FAULT_STORE);
}

static void fault_remove(struct l2 *a, struct l2_io *io)
{
	put(a, io, FAULT_REMOVE);
}

static void fault_clear(struct l2 *a, struct l2_io *io)
{
	put(a, io, FAULT_CLEAR);
}

static void fault_flush(struct l2 *a, struct l2_io *io)
{
	put(a, io, FAULT_FLUSH);
}

/* ---- what only passes through --------------------------------------------------------------------------------------------- */

static void fault_find(struct l2 *a, struct l2_find *f)
{
	of(a)->inner->ops->find(of(a)->inner, f);
}

static uint32_t fault_list(struct l2 *a, uint64_t *cursor, struct l2_list_entry *out, uint32_t max)
{
	struct l2 *inner = of(a)->inner;
	if (inner->ops->list)
		return inner->ops->list(inner, cursor, out, max);
	*cursor = 0;
	return 0;
}

static void fault_stats(struct l2 *a, struct l2_stats *out)
{
	of(a)->inner->ops->stats(of(a)->inner, out);
}

static json_t *fault_describe(struct l2 *a)
{
	struct fault *f = of(a);
	json_t *inner = f->inner->ops->describe ? f->inner->ops->describe(f->inner) : NULL;
	lk_lock(&f->lk);
	json_t *out =
		json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "wraps", f->inner->ops->type, "errors",
			  (json_int_t)f->errors, "corrupted", (json_int_t)f->corrupted, "delayed",
			  (json_int_t)f->delayed, "hung", (json_int_t)f->hung, "in_flight", (json_int_t)f->in_use);
	lk_unlock(&f->lk);
	if (inner && out)
		json_object_set(out, "adapter", inner);
	json_decref(inner);
	return out;
}

/* First the ones held here, since they use the adapter below when they are let go in time. */
static void fault_close(struct l2 *a, uint32_t wait_ms)
{
	struct fault *f = of(a);
	uint64_t start = clock_ms();
	while (clock_ms() - start < wait_ms) {
		lk_lock(&f->lk);
		bool idle = f->in_use == 0;
		lk_unlock(&f->lk);
		if (idle)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	l2_delay_stop(f->line);
	uint64_t spent = clock_ms() - start;
	f->inner->ops->close(f->inner, spent < wait_ms ? (uint32_t)(wait_ms - spent) : 0);
	lk_destroy(&f->lk);
	mem_free(f);
}

/* As local as what it wraps. */
#define FAULT_OPS(is_local)                                                                                 \
	{                                                                                                   \
		.type = "fault_inject", .local = (is_local), .find = fault_find, .load = fault_load,        \
		.store = fault_store, .remove = fault_remove, .clear = fault_clear, .flush = fault_flush,   \
		.list = fault_list, .stats = fault_stats, .describe = fault_describe, .close = fault_close, \
	}
static const struct l2_ops fault_ops[2] = {FAULT_OPS(false), FAULT_OPS(true)};

int l2_fault_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why)
{
	struct fault *f = mem_calloc(1, sizeof(*f));
	if (!f)
		return why_set(why, -ENOMEM, "out of memory");
	int rc = l2_create(c->inner, env, &f->inner, why);
	if (rc) {
		mem_free(f);
		return rc;
	}
	f->l2.ops = &fault_ops[f->inner->ops->local];
	f->random = (uint64_t)l2_conf_int(c, "seed");
	f->load_error = l2_conf_real(c, "load_error");
	f->store_error = l2_conf_real(c, "store_error");
	f->corrupt = l2_conf_real(c, "corrupt");
	f->latency = l2_conf_real(c, "latency");
	f->hang = l2_conf_real(c, "hang");
	f->latency_ns = (uint64_t)(l2_conf_real(c, "latency_ms") * 1e6);
	f->hang_ns = (uint64_t)(l2_conf_real(c, "hang_ms") * 1e6);
	for (uint32_t i = 0; i < PENDING; i++) {
		f->pending[i].next = f->unused;
		f->unused = &f->pending[i];
	}
	lk_init(&f->lk, LK_L2);
	rc = l2_delay_start(env, "lmca-fault", due, f, &f->line, why);
	if (rc) {
		f->inner->ops->close(f->inner, 0);
		lk_destroy(&f->lk);
		mem_free(f);
		return rc;
	}
	*out = &f->l2;
	return 0;
}
