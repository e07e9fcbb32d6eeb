/* fetch.c - prefetches: asking who has what, loading in prefix order within the budgets, and ending in time.
 *
 * A job is first asking (all adapters, at once), then waiting for its turn, then running. What L1 has is locked while it asks, so
 * that the room it makes later is never made of what it wants. It ends when the run of locked objects reaches its limit: the first object that
 * is nowhere, failed, or for which there is no room.
 */
#include "daemon/base/clock.h"
#include "daemon/tier/tier_int.h"

#include <string.h>

static uint64_t ms(uint64_t v)
{
	return v * 1000000u;
}

static uint64_t deadline_of(const struct tier *t, const struct job *j)
{
	uint64_t total = t->c.load_timeout_ms ? j->start_ns + ms(t->c.load_timeout_ms) : UINT64_MAX;
	uint64_t stall = t->c.stall_ms ? j->progress_ns + ms(t->c.stall_ms) : UINT64_MAX;
	uint64_t least = total < stall ? total : stall;

	return least == UINT64_MAX ? j->start_ns + NO_LIMIT_NS : least;
}

/* Adapters that have not answered by then are left out: the time is needed for loading. */
static uint64_t ask_deadline_of(const struct tier *t, const struct job *j)
{
	return j->start_ns + (deadline_of(t, j) - j->start_ns) / 4;
}

static void expect_by(struct tier *t, uint64_t ns)
{
	if (ns < t->next_deadline_ns)
		t->next_deadline_ns = ns;
}

static void note_jobs(struct tier *t)
{
	put(&t->n.jobs_waiting, t->asking.n + t->waiting.n);
	put(&t->n.jobs_loading, t->running.n);
}

/* ---- the end ----------------------------------------------------------------------------------------------------------- */

/* Gives back the job's locks on objects [from, to). */
static void unlock_range(struct tier *t, struct job *j, uint32_t from, uint32_t to)
{
	uint16_t counts[BATCH];

	for (uint32_t i = 0; i < BATCH; i++)
		counts[i] = j->locks;
	for (uint32_t i = from; i < to; i++) {
		if (j->spot[i] == SPOT_LOADING)
			load_leave(t, j, i);
		else if (j->spot[i] != SPOT_L1 && j->spot[i] != SPOT_LOADED)
			j->objs[i] = 0;
		j->spot[i] = SPOT_NONE;
	}
	for (uint32_t i = from; i < to; i += BATCH)
		store_unlock(t->c.store, j->objs + i, counts, to - i < BATCH ? to - i : BATCH, clock_ms());
}

/* False when somebody has cancelled it: then nobody is to hear of it. */
static bool forget(struct tier *t, struct job *j)
{
	struct job **p = &t->by_id[j->id % JOBS_WAITING];
	bool cancelled;

	lk_lock(&t->lk);
	while (*p != j)
		p = &(*p)->id_next;
	*p = j->id_next;
	cancelled = j->cancelled;
	t->njobs--;
	lk_unlock(&t->lk);
	return !cancelled;
}

static void count_end(struct tier *t, const struct job *j, const struct tier_result *r)
{
	if (r->end == TIER_NO_ROOM) {
		add(&t->n.no_room, 1);
		tally(t, TIER_COUNT_NO_ROOM, j->names[(j->rank0 + r->objects) % j->world], 1);
	}
	if (r->end == TIER_LATE || r->end == TIER_CONTENDED)
		add(&t->n.late_jobs, 1);
}

/* A question that is still out comes back later and is then freed. */
static void drop_find(struct tier *t, struct job *j)
{
	if (!j->find)
		return;
	if (j->find->open)
		j->find->job = NULL;
	else
		find_free(t, j->find);
	j->find = NULL;
}

static void job_end(struct tier *t, struct job *j, enum tier_end end)
{
	struct tier_result r = {.objects = j->ready, .found = j->found, .end = end};
	bool taken = false;

	for (uint32_t i = 0; i < j->ready; i++)
		r.from_l2 += j->spot[i] == SPOT_LOADED;
	if (r.found < r.objects)
		r.found = r.objects;
	unlock_range(t, j, j->ready, j->held);
	if (j->list)
		job_list_remove(j);
	drop_find(t, j);
	note_jobs(t);
	if (forget(t, j)) {
		count_end(t, j, &r);
		taken = t->c.listener.loaded && t->c.listener.loaded(t->c.listener.ctx, j->id, &r, j->objs);
	}
	if (!taken)
		unlock_range(t, j, 0, j->ready);
	for (uint32_t i = 0; i < j->world; i++)
		store_ns_put(t->c.store, j->ns[i]);
	job_free(t, j);
}

/* Moves the end of the run; true when that ended the job. */
static bool advance(struct tier *t, struct job *j)
{
	while (j->ready < j->limit && (j->spot[j->ready] == SPOT_L1 || j->spot[j->ready] == SPOT_LOADED))
		j->ready++;
	if (j->ready < j->limit)
		return false;
	job_end(t, j, j->end);
	return true;
}

static void end_late(struct tier *t, struct job *j)
{
	/* Still asking: what L1 has is the result. */
	while (j->ready < j->held && (j->spot[j->ready] == SPOT_L1 || j->spot[j->ready] == SPOT_LOADED))
		j->ready++;
	job_end(t, j, j->ready < j->held && j->spot[j->ready] == SPOT_CONTENDED ? TIER_CONTENDED : TIER_LATE);
}

static void cut_at(struct job *j, uint32_t i, enum tier_end why)
{
	if (i >= j->limit)
		return;
	j->limit = i;
	j->end = why;
}

/* ---- asking ------------------------------------------------------------------------------------------------------------ */

/* The last answer is in, or no more are waited for. */
static void answered(struct tier *t, struct job *j, uint64_t now_ns)
{
	const struct find *f = j->find;
	uint32_t found = 0;

	for (uint32_t k = 0; k < f->n; k++) {
		for (uint32_t a = 0; a < t->c.nadapters && !j->source[f->at[k]]; a++) {
			uint64_t bytes = f->answered & 1u << a ? f->bytes[(size_t)a * f->n + k] : 0;
			if (bytes == bytes_of(j, f->at[k]) || bytes == L2_SOME_SIZE)
				j->source[f->at[k]] = (uint8_t)(a + 1);
		}
	}
	while (found < j->total && (j->spot[found] == SPOT_L1 || j->source[found]))
		found++;
	unlock_range(t, j, found, j->total);
	j->found = j->limit = j->held = found;
	add(&t->n.hit_objects, found);
	add(&t->n.not_found, j->total - found);
	tally_job(t, j, TIER_COUNT_HIT, 0, found);
	tally_job(t, j, TIER_COUNT_NOT_FOUND, found, j->total);
	drop_find(t, j);
	j->progress_ns = now_ns;
	job_list_remove(j);
	if (t->c.listener.found) {
		bool tell;
		lk_lock(&t->lk);
		tell = !j->cancelled;
		lk_unlock(&t->lk);
		if (tell)
			t->c.listener.found(t->c.listener.ctx, j->id, found);
	}
	if (!advance(t, j)) {
		job_list_add(&t->waiting, j);
		expect_by(t, deadline_of(t, j));
	}
	note_jobs(t);
}

static void find_done(struct l2_find *lf)
{
	const struct find *f = lf->owner;
	struct tier *t = f->t;

	lf->next = atomic_load_explicit(&t->done_finds, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&t->done_finds, &lf->next, lf, memory_order_seq_cst,
						      memory_order_relaxed))
		;
	tier_wake(t);
}

void fetch_answer(struct tier *t, struct l2_find *lf, uint64_t now_ns)
{
	struct find *f = lf->owner;

	f->answered |= 1u << (lf - f->f);
	if (--f->open)
		return;
	if (f->job)
		answered(t, f->job, now_ns);
	else
		find_free(t, f);
}

/* An adapter with too much of L1 in its hands gets no more of it. */
static bool is_askable(const struct tier *t, uint32_t a)
{
	return t->lane[a].quarantined <= t->c.max_load_bytes && t->lane[a].nquarantined <= t->nloads / 2;
}

static void ask(struct tier *t, struct job *j, uint64_t now_ns)
{
	struct find *f = j->find;
	uint32_t to[TIER_MAX_ADAPTERS], n = 0;

	j->held = j->total;
	store_lock_present(t->c.store, j->ns, j->world, j->hashes, j->rank0, j->total, j->locks, j->any_bytes,
			   now_ns / 1000000, j->objs);
	for (uint32_t i = 0; i < j->total; i++) {
		uint32_t name = j->names[(j->rank0 + i) % j->world];
		if (j->objs[i]) {
			j->spot[i] = SPOT_L1;
		} else if (name) {
			f->at[f->n] = i;
			f->keys[f->n++] = (struct seg_key){name, j->hashes[(j->rank0 + i) / j->world]};
		}
	}
	for (uint32_t a = 0; f->n && a < t->c.nadapters; a++) {
		if (is_askable(t, a))
			to[n++] = a;
	}
	job_list_add(&t->asking, j);
	expect_by(t, ask_deadline_of(t, j));
	if (!n) {
		answered(t, j, now_ns);
		return;
	}
	f->open = n;
	for (uint32_t k = 0; k < n; k++) {
		struct l2_find *lf = &f->f[to[k]];

		*lf = (struct l2_find){.keys = f->keys,
				       .bytes = f->bytes + (size_t)to[k] * f->n,
				       .n = f->n,
				       .done = find_done,
				       .owner = f};
		t->lane[to[k]].a->ops->find(t->lane[to[k]].a, lf);
	}
}

void fetch_take(struct tier *t, struct job *list, uint64_t now_ns)
{
	for (struct job *j = list, *next; j; j = next) {
		next = j->next;
		ask(t, j, now_ns);
	}
	note_jobs(t);
}

/* ---- loading ----------------------------------------------------------------------------------------------------------- */

void fetch_arrived(struct tier *t, struct job *j, uint32_t i, enum spot spot, uint64_t now_ns)
{
	j->spot[i] = (uint8_t)spot;
	j->load[i] = NULL;
	if (spot == SPOT_FAILED) {
		j->objs[i] = 0;
		cut_at(j, i, TIER_FAILED);
	} else {
		j->progress_ns = now_ns;
	}
	if (j->told)
		return;
	j->told = true;
	j->told_next = t->told;
	t->told = j;
}

void fetch_advance(struct tier *t)
{
	struct job *j;

	while ((j = t->told)) {
		t->told = j->told_next;
		j->told = false;
		advance(t, j);
	}
}

/* Gets object i, or notes why not. False: no budget for it now. */
static bool try_one(struct tier *t, struct job *j, uint32_t i, uint64_t now_ns)
{
	bool was = j->spot[i] == SPOT_CONTENDED;

	switch (load_try(t, j, i, now_ns)) {
	case TRY_NO_BUDGET:
		return false;
	case TRY_NO_ROOM:
		j->spot[i] = SPOT_NONE;
		cut_at(j, i, TIER_NO_ROOM);
		break;
	case TRY_CONTENDED:
		j->spot[i] = SPOT_CONTENDED;
		if (!was) {
			add(&t->n.contended, 1);
			tally(t, TIER_COUNT_CONTENDED, j->names[(j->rank0 + i) % j->world], 1);
		}
		j->contended += !was;
		return true;
	case TRY_TAKEN:
		break;
	}
	j->contended -= was;
	return true;
}

/* False when the budget is used up: younger jobs wait as well. */
static bool load_more(struct tier *t, struct job *j, uint64_t now_ns)
{
	bool budget = true;

	while (budget && j->next_at < j->limit) {
		if (j->spot[j->next_at] == SPOT_NONE)
			budget = try_one(t, j, j->next_at, now_ns);
		j->next_at += budget;
	}
	advance(t, j);
	return budget;
}

/* True when that ended the job. */
static bool retry_contended(struct tier *t, struct job *j, uint64_t now_ns)
{
	uint32_t left = j->contended;

	for (uint32_t i = j->ready; left && i < j->next_at && i < j->limit; i++) {
		if (j->spot[i] != SPOT_CONTENDED)
			continue;
		left--;
		if (!try_one(t, j, i, now_ns))
			break;
		if (j->spot[i] == SPOT_L1)
			j->progress_ns = now_ns;
	}
	return advance(t, j);
}

/* Jobs that got nothing for a while do not keep others from beginning. */
static void begin_jobs(struct tier *t, uint64_t now_ns)
{
	uint32_t busy = 0;

	if (!t->waiting.n)
		return;
	for (struct job *j = t->running.head; j; j = j->next)
		busy += now_ns < j->progress_ns + YIELD_NS;
	while (t->waiting.head && busy++ < t->c.max_jobs && t->running.n < 4 * t->c.max_jobs) {
		struct job *j = t->waiting.head;
		job_list_remove(j);
		job_list_add(&t->running, j);
	}
	note_jobs(t);
}

void fetch_pump(struct tier *t, uint64_t now_ns)
{
	bool retry = now_ns >= t->retry_ns;
	struct job *next;

	begin_jobs(t, now_ns);
	for (struct job *j = t->running.head; j; j = next) {
		next = j->next;
		if (retry && j->contended && retry_contended(t, j, now_ns))
			continue;
		if (!load_more(t, j, now_ns))
			break;
	}
	if (retry)
		t->retry_ns = now_ns + RETRY_NS;
}

/* ---- time and cancellation --------------------------------------------------------------------------------------------- */

static void each_job(struct tier *t, struct job_list *l, void (*visit)(struct tier *t, struct job *j, uint64_t now_ns),
		     uint64_t now_ns)
{
	struct job *next;

	for (struct job *j = l->head; j; j = next) {
		next = j->next;
		visit(t, j, now_ns);
	}
}

static void end_if_cancelled(struct tier *t, struct job *j, uint64_t now_ns)
{
	bool cancelled;

	(void)now_ns;
	lk_lock(&t->lk);
	cancelled = j->cancelled;
	lk_unlock(&t->lk);
	if (cancelled)
		end_late(t, j);
}

void fetch_cancelled(struct tier *t)
{
	each_job(t, &t->asking, end_if_cancelled, 0);
	each_job(t, &t->waiting, end_if_cancelled, 0);
	each_job(t, &t->running, end_if_cancelled, 0);
}

static void end_if_late(struct tier *t, struct job *j, uint64_t now_ns)
{
	bool asking = j->list == &t->asking;
	uint64_t by = asking ? ask_deadline_of(t, j) : deadline_of(t, j);

	if (now_ns < by)
		expect_by(t, by);
	else if (asking)
		answered(t, j, now_ns);
	else
		end_late(t, j);
}

void fetch_deadlines(struct tier *t, uint64_t now_ns)
{
	if (now_ns < t->next_deadline_ns)
		return;
	t->next_deadline_ns = UINT64_MAX;
	each_job(t, &t->asking, end_if_late, now_ns);
	each_job(t, &t->waiting, end_if_late, now_ns);
	each_job(t, &t->running, end_if_late, now_ns);
}

uint64_t fetch_next_ns(const struct tier *t, uint64_t now_ns)
{
	uint64_t next = t->next_deadline_ns;

	for (const struct job *j = t->running.head; j; j = j->next) {
		if (j->contended && t->retry_ns < next)
			next = t->retry_ns;
	}
	/* Somebody may have to yield. */
	if (t->waiting.n && now_ns + YIELD_NS / 4 < next)
		next = now_ns + YIELD_NS / 4;
	return next;
}

static void end_now(struct tier *t, struct job *j, uint64_t now_ns)
{
	(void)now_ns;
	end_late(t, j);
}

void fetch_end_all(struct tier *t)
{
	each_job(t, &t->asking, end_now, 0);
	each_job(t, &t->waiting, end_now, 0);
	each_job(t, &t->running, end_now, 0);
}
