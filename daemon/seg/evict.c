/* evict.c - keeps clean segments at hand: which segment goes, what of it is written again, and when its space may be used. */
#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/mem.h"
#include "daemon/seg/seg_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MIN_CLEAN  4u
#define CLEAN_NS   2000000000u /* of writes at the present rate are kept clean */
#define SECOND_NS  1000000000u
#define JOBS       8u
#define BOUNCE     (SEG_MEMORY - SEG_BOUNCE_AT)
#define BATCH      64u /* entries or segments looked at in one hold of the lock */
#define NO_SEGMENT UINT32_MAX

/* EVICT_READERS: its objects are forgotten, those who read it still do. */
enum evict_step { EVICT_NONE, EVICT_COPY, EVICT_CARRY, EVICT_DURABLE, EVICT_READERS };

struct job {
	struct seg_op op;
	uint32_t sums[BOUNCE / CRC_BLOCK + 1];
};

struct evictor {
	struct seg *s;
	uint32_t *clean; /* ring of free segments, longest free first: what lies in them is overwritten in order */
	uint32_t first, nclean;
	bool *stale; /* by segment: free, but not discarded since */

	enum evict_step step;
	uint32_t victim, entry; /* next entry to look at */
	int uses, least;        /* of the records that are copied: in this pass, and in the last one */
	uint64_t budget, mark, bounce_used;
	struct job job[JOBS];
	uint32_t busy;

	struct seg_key keys[FORMAT_REMOVALS]; /* removals on their way to another segment */
	uint32_t nkeys;
	bool carrying, carried;
	bool let_go; /* there is no room for its removals */
	bool moved;  /* something of the victim lives elsewhere now */

	uint32_t hand; /* the segment that ages next */
	uint64_t rate, rate_ns, rate_bytes;

	struct disk_io discard;
	uint32_t discarding;
	uint64_t discard_ns;
};

/* ---- life ------------------------------------------------------------------------------------------------------------------ */

static void job_done(struct seg_op *op);

int evictor_create(struct seg *s)
{
	struct evictor *e = mem_calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	s->evictor = e;
	e->s = s;
	e->discarding = NO_SEGMENT;
	e->clean = mem_calloc(s->super.segments, sizeof(*e->clean));
	e->stale = mem_calloc(s->super.segments, sizeof(*e->stale));
	for (uint32_t i = 0; i < JOBS; i++)
		e->job[i].op = (struct seg_op){
			.store = s, .sums = e->job[i].sums, .done = job_done, .owner = e, .inner = true};
	return e->clean && e->stale ? 0 : -ENOMEM;
}

void evictor_destroy(struct evictor *e)
{
	if (!e)
		return;
	mem_free(e->clean);
	mem_free(e->stale);
	mem_free(e);
}

/* ---- clean segments ---------------------------------------------------------------------------------------------------------- */

static void add_clean(struct evictor *e, uint32_t id)
{
	check(e->nclean < e->s->super.segments);
	e->clean[(e->first + e->nclean++) % e->s->super.segments] = id;
	e->stale[id] = true;
}

static int by_generation(const void *a, const void *b, void *ctx)
{
	const struct segment *g = ctx;
	uint64_t x = g[*(const uint32_t *)a].generation, y = g[*(const uint32_t *)b].generation;

	return x < y ? -1 : x > y;
}

void evictor_start(struct seg *s)
{
	struct evictor *e = s->evictor;

	e->first = e->nclean = 0;
	for (uint32_t i = 0; i < s->super.segments; i++)
		if (s->segment[i].state == SEGMENT_FREE)
			add_clean(e, i);
	qsort_r(e->clean, e->nclean, sizeof(*e->clean), by_generation, s->segment);
	e->rate_ns = disk_now(s->disk);
}

void evictor_reset(struct seg *s)
{
	struct evictor *e = s->evictor;

	e->step = EVICT_NONE;
	e->nkeys = 0;
	for (uint32_t i = 0; i < s->super.segments; i++) {
		seg_set_state(s, i, SEGMENT_FREE);
		s->segment[i].suspect = false;
		s->segment[i].bad = 0;
	}
	lk_lock(&s->lk);
	s->n.suspect_segments = 0;
	lk_unlock(&s->lk);
	evictor_start(s);
}

void evictor_free(struct seg *s, uint32_t segment)
{
	struct segment *g = &s->segment[segment];

	if (g->suspect)
		seg_count(s, &s->n.suspect_segments, (uint64_t)-1);
	g->suspect = false;
	g->bad = 0;
	seg_set_state(s, segment, SEGMENT_FREE);
	add_clean(s->evictor, segment);
}

static uint32_t clean_at(const struct evictor *e, uint32_t i)
{
	return e->clean[(e->first + i) % e->s->super.segments];
}

uint32_t evictor_take(struct seg *s)
{
	struct evictor *e = s->evictor;
	uint32_t at = 0, id;

	/* A segment that a clear emptied may still be read. */
	while (at < e->nclean && (s->segment[clean_at(e, at)].readers || clean_at(e, at) == e->discarding))
		at++;
	if (at == e->nclean)
		return NO_SEGMENT;
	id = clean_at(e, at);
	for (; at; at--)
		e->clean[(e->first + at) % s->super.segments] = clean_at(e, at - 1);
	e->first = (e->first + 1) % s->super.segments;
	e->nclean--;
	return id;
}

/* Small stores have no room for a reserve: one segment in ten, at least one. */
static bool short_of_clean(struct evictor *e)
{
	struct seg *s = e->s;
	uint64_t want = e->rate * (CLEAN_NS / SECOND_NS) / s->super.segment_bytes + 1, most = s->super.segments / 10;

	want = want < MIN_CLEAN ? MIN_CLEAN : want;
	most = most ? most : 1;
	return e->nclean < (want < most ? want : most) || writer_in_need(s) || s->ix.used > s->ix.max - s->ix.max / 64;
}

static void measure_rate(struct evictor *e)
{
	struct seg *s = e->s;
	uint64_t now = disk_now(s->disk), ns = now - e->rate_ns;

	if (ns < SECOND_NS)
		return;
	e->rate = (e->rate + (s->n.written_bytes - e->rate_bytes) / (ns / SECOND_NS)) / 2;
	e->rate_ns = now;
	e->rate_bytes = s->n.written_bytes;
}

/* ---- which one goes ------------------------------------------------------------------------------------------------------------ */

/* The lowest generation that was given to a segment of this store and is still on it. */
static uint64_t oldest_of(const struct seg *s)
{
	uint64_t oldest = UINT64_MAX;

	for (uint32_t i = 0; i < s->super.segments; i++) {
		uint64_t g = s->segment[i].generation;

		oldest = g && g < oldest ? g : oldest; /* 0: never used */
	}
	return oldest;
}

/* 1: its records are the newest, 0: as many were written since as there are. */
static double youth(const struct seg *s, const struct segment *g)
{
	double age = (double)(s->sequence - g->sequence) / ((double)s->ix.used + 1);

	return age < 1 ? 1 - age : 0;
}

/* Live bytes. Those of the youngest segment count eight times, since what was just written is wanted most, also if its segment is hardly
 * filled; every use since the last pass counts like half of that. In 32nds of a segment, so that small differences do not
 * outweigh age. */
static uint64_t worth(const struct seg *s, const struct segment *g)
{
	double bytes = (double)g->live_bytes * (1 + 7 * youth(s, g)) + 4 * (double)g->heat;

	if (g->suspect || !g->live)
		return 0;
	return 1 + (uint64_t)(bytes * 32 / (double)s->super.segment_bytes);
}

/* Records that a removal is about may still be in any segment that was begun before it and not been used again. What is
 * in a free one counts: it is on the medium until somebody writes over it. */
static bool must_carry(const struct segment *g, uint64_t oldest)
{
	return g->removed && g->generation > oldest;
}

/* For the records that carry its removals (of an open segment generously: others write to it, too), and for their entries, while the old
 * ones are still there. */
static bool carry_room(const struct evictor *e, const struct segment *g)
{
	uint64_t bytes = (g->removed / FORMAT_REMOVALS + 1) * 8ull * FORMAT_BLOCK;

	return (e->nclean || bytes <= writer_room(e->s)) && (uint64_t)e->s->ix.used + g->removed + JOBS <= e->s->ix.max;
}

static uint32_t choose(struct evictor *e, bool carry)
{
	struct seg *s = e->s;
	uint64_t oldest = oldest_of(s);
	uint32_t best = NO_SEGMENT;
	uint64_t best_worth = 0;

	for (uint32_t from = 0; from < s->super.segments; from += BATCH) {
		lk_lock(&s->lk);
		for (uint32_t i = from; i < from + BATCH && i < s->super.segments; i++) {
			const struct segment *g = &s->segment[i];
			uint64_t w;

			/* With no room to carry anything to, only what needs none can go. */
			if (g->state != SEGMENT_SEALED || (carry && must_carry(g, oldest) && !carry_room(e, g)))
				continue;
			w = worth(s, g);
			if (best != NO_SEGMENT &&
			    (w > best_worth || (w == best_worth && g->generation > s->segment[best].generation)))
				continue;
			best = i;
			best_worth = w;
		}
		lk_unlock(&s->lk);
	}
	return best;
}

/* ---- records that were used are written again ------------------------------------------------------------------------------------ */

static void job_done(struct seg_op *op)
{
	struct evictor *e = op->owner;

	if (op->kind == SEG_READ && !op->result && !e->s->closing) {
		op->kind = SEG_WRITE;
		writer_again(e->s, op);
	} else {
		e->busy--;
	}
}

/* The next entry of the victim that this pass copies and that fits. */
static bool next_record(struct evictor *e, struct seg_key *key, uint64_t *bytes)
{
	struct seg *s = e->s;
	bool found = false;

	while (e->entry && !found) {
		lk_lock(&s->lk);
		for (uint32_t i = 0; i < BATCH && e->entry && !found; i++) {
			const struct entry *x = &s->ix.e[e->entry];
			uint64_t record = format_record_bytes(x->bytes);

			found = !x->flags && x->uses == e->uses && record <= e->budget && record <= BOUNCE;
			if (found && e->bounce_used + record > BOUNCE) {
				lk_unlock(&s->lk);
				return false; /* in the next batch */
			}
			if (found) {
				*key = (struct seg_key){.name = x->name};
				memcpy(key->hash.b, x->hash, STORE_HASH_BYTES);
				*bytes = x->bytes;
			}
			e->entry = x->next;
		}
		lk_unlock(&s->lk);
	}
	return found;
}

static void copy_batch(struct evictor *e)
{
	struct seg *s = e->s;
	struct seg_key key;
	uint64_t bytes, record;

	e->bounce_used = 0;
	while (e->busy < JOBS && next_record(e, &key, &bytes)) {
		struct seg_op *op = &e->job[e->busy++].op;

		record = format_record_bytes(bytes);
		op->kind = SEG_READ;
		op->key = key;
		op->bytes = bytes;
		op->mem = (uint8_t *)s->conf.memory + SEG_BOUNCE_AT + e->bounce_used;
		e->bounce_used += record;
		e->budget -= record;
		seg_read(s, op);
	}
}

static void copy_step(struct evictor *e)
{
	struct seg *s = e->s;

	if (e->busy)
		return;
	/* Whoever waits for room goes first. */
	if (writer_in_need(s) && !e->nclean)
		e->uses = e->least - 1;
	while (e->uses >= e->least) {
		copy_batch(e);
		if (e->busy)
			return;
		e->uses--;
		e->entry = s->segment[e->victim].first;
	}
	e->step = EVICT_CARRY;
	e->entry = s->segment[e->victim].first;
}

/* ---- removals move on ------------------------------------------------------------------------------------------------------------ */

/* Time passes before a removal can be written: by then its key may be in use again, and a new removal would take the new object. False:
 * a write of one of them is under way, and how it ends decides. */
static bool still_removed(struct evictor *e)
{
	struct seg *s = e->s;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < e->nkeys; i++)
		if (writer_has(s, &e->keys[i]))
			return false;
	for (uint32_t i = 0; i < e->nkeys; i++)
		if (!seg_index_find(&s->ix, &e->keys[i]))
			e->keys[kept++] = e->keys[i];
	e->nkeys = kept;
	return true;
}

/* False: a write of the next one's key is under way. */
static bool collect_removals(struct evictor *e)
{
	struct seg *s = e->s;

	for (; e->entry && e->nkeys < FORMAT_REMOVALS; e->entry = s->ix.e[e->entry].next) {
		const struct entry *x = &s->ix.e[e->entry];
		struct seg_key *key = &e->keys[e->nkeys];

		if (!(x->flags & ENTRY_REMOVED))
			continue;
		*key = (struct seg_key){.name = x->name};
		memcpy(key->hash.b, x->hash, STORE_HASH_BYTES);
		if (writer_has(s, key))
			return e->nkeys != 0;
		e->nkeys++;
	}
	return true;
}

void evictor_carried(struct seg *s, int result)
{
	struct evictor *e = s->evictor;

	e->carrying = false;
	if (!result)
		e->nkeys = 0; /* else once more */
}

static void carry_step(struct evictor *e)
{
	struct seg *s = e->s;
	struct segment *g = &s->segment[e->victim];
	uint64_t oldest = oldest_of(s);

	if (e->carrying || writer_failing(s) || !still_removed(e))
		return; /* on a device that fails everything, trying at once again would never rest */
	if (!e->nkeys && must_carry(g, oldest) && !e->let_go && !collect_removals(e))
		return;
	if (e->nkeys) {
		e->carrying = writer_carry(s, e->keys, e->nkeys);
		e->carried = e->carried || e->carrying;
		if (!e->carrying && !carry_room(e, g) && writer_in_need(s) && !e->carried) {
			e->nkeys = 0; /* no room for them: another segment has to go first */
			e->step = EVICT_NONE;
			seg_set_state(s, e->victim, SEGMENT_SEALED);
		}
		return;
	}
	e->mark = writer_written(s);
	e->step = EVICT_DURABLE;
}

/* ---- freeing ------------------------------------------------------------------------------------------------------------------- */

static void begin(struct evictor *e)
{
	struct seg *s = e->s;
	uint32_t id = choose(e, true);
	struct segment *g;

	/* An index full of removals would stay full: rather is something back after the next start. */
	e->let_go = id == NO_SEGMENT && e->nclean && writer_in_need(s);
	if (e->let_go)
		id = choose(e, false);
	if (id == NO_SEGMENT)
		return;
	g = &s->segment[id];
	e->budget = (uint64_t)(s->conf.readmit * (double)s->super.segment_bytes);
	lk_lock(&s->lk);
	/* Little in a young segment (a restart leaves such): all of it moves on. */
	e->least = g->live_bytes <= e->budget && youth(s, g) > 0.5 ? 0 : 1;
	e->uses = g->heat ? 3 : 0;
	if (g->suspect || !g->live || !e->budget)
		e->least = e->uses + 1;
	lk_unlock(&s->lk);
	seg_set_state(s, id, SEGMENT_FREEING);
	e->victim = id;
	e->entry = g->first;
	e->nkeys = 0;
	/* Nothing of it may be overwritten before what took its place is durable. */
	e->moved = e->uses >= e->least || g->removed;
	e->carried = false;
	e->step = EVICT_COPY;
}

static void forget(struct evictor *e)
{
	struct seg *s = e->s;
	uint64_t before = s->n.object_bytes;
	uint32_t objects = seg_forget_segment(s, e->victim);

	lk_lock(&s->lk);
	s->n.evicted_objects += objects;
	s->n.evicted_bytes += before - s->n.object_bytes;
	s->n.evicted_segments++;
	lk_unlock(&s->lk);
	e->step = EVICT_READERS;
}

/* One segment grows older with each that goes: `uses` then tells of about the last turn over. */
static void age_one(struct evictor *e)
{
	struct seg *s = e->s;

	for (uint32_t i = 0; i < s->super.segments; i++) {
		e->hand = (e->hand + 1) % s->super.segments;
		if (s->segment[e->hand].state == SEGMENT_SEALED) {
			seg_age_segment(s, e->hand);
			return;
		}
	}
}

static void advance(struct evictor *e)
{
	struct seg *s = e->s;

	if (e->step == EVICT_NONE && short_of_clean(e))
		begin(e);
	if (e->step == EVICT_COPY)
		copy_step(e);
	if (e->step == EVICT_CARRY)
		carry_step(e);
	if (e->step == EVICT_DURABLE && (!e->moved || writer_durable(s, e->mark)))
		forget(e);
	if (e->step == EVICT_READERS && !s->segment[e->victim].readers) {
		e->step = EVICT_NONE;
		evictor_free(s, e->victim);
		age_one(e);
	}
}

/* ---- discard ------------------------------------------------------------------------------------------------------------------- */

static void discard_done(struct disk_io *io)
{
	struct evictor *e = io->owner;

	if (!io->result)
		seg_count(e->s, &e->s->n.discarded_bytes, io->bytes);
	e->stale[e->discarding] = false;
	e->discarding = NO_SEGMENT;
}

/* Of what is used again last, at most one a second. */
static void discard_step(struct evictor *e)
{
	struct seg *s = e->s;
	const struct disk_facts *f = disk_facts(s->disk);
	uint64_t now = disk_now(s->disk);
	uint32_t i = e->nclean;

	if (!s->conf.discard || !f->block || !f->can_discard || e->discarding != NO_SEGMENT ||
	    now - e->discard_ns < SECOND_NS || writer_in_need(s))
		return;
	while (i && (!e->stale[clean_at(e, i - 1)] || s->segment[clean_at(e, i - 1)].readers))
		i--;
	if (!i)
		return;
	e->discarding = clean_at(e, i - 1);
	e->discard_ns = now;
	e->discard = (struct disk_io){.op = DISK_DISCARD,
				      .offset = format_segment_at(&s->super, e->discarding),
				      .bytes = s->super.segment_bytes,
				      .done = discard_done,
				      .owner = e};
	disk_submit(s->disk, &e->discard);
}

void evictor_step(struct seg *s)
{
	struct evictor *e = s->evictor;

	if (!s->recovered || writer_clearing(s) || s->read_only)
		return;
	if (s->closing && !writer_in_need(s) && !e->busy && !e->carrying)
		return;
	measure_rate(e);
	advance(e);
	discard_step(e);
}

bool evictor_idle(const struct seg *s)
{
	const struct evictor *e = s->evictor;

	return !e->busy && !e->carrying && e->discarding == NO_SEGMENT;
}

void evictor_check(struct seg *s)
{
	const struct evictor *e = s->evictor;

	check(e->nclean == s->n.free_segments);
	for (uint32_t i = 0; i < e->nclean; i++)
		check(s->segment[clean_at(e, i)].state == SEGMENT_FREE);
	check(e->step == EVICT_NONE || s->segment[e->victim].state == SEGMENT_FREEING);
	check(e->busy <= JOBS && e->nkeys <= FORMAT_REMOVALS);
}
