/* campaign.h - one seed of the crash campaign: its random load, and the model of what results mean. campaign_test.c has ends and
 * beginnings of lives, and the seeds.
 */
#ifndef TESTS_UNIT_DAEMON_SEG_CAMPAIGN_H
#define TESTS_UNIT_DAEMON_SEG_CAMPAIGN_H

#include "tests/unit/daemon/seg/world.h"

#define KEYS 256u

enum { MODE_CLEAN, MODE_MIXED, MODE_ONE, MODE_ERRORS, MODES };

struct key {
	uint32_t issued;       /* last version that a write was started with */
	uint32_t cur;          /* acknowledged, and not removed since; 0: none */
	uint32_t floor;        /* versions up to it can no longer be read in this life */
	uint32_t durable;      /* version that a flush made durable; 0: none */
	uint32_t durable_gone; /* versions up to it are removed, and that is durable */
	uint32_t cleared;      /* versions up to it are of an earlier epoch: nothing brings them back */
	uint32_t gone;         /* the same, not yet durable, and since when */
	uint64_t cur_at, gone_at;
	uint32_t clear_mark;   /* versions up to it are surely older than the clear that is under way */
	bool pending, writing; /* a removal or a write is under way; a write */
	bool doubt;            /* a recovery with read errors may have missed its removal, and the next one finds it */
	/* just before the end of a life */
	bool must;
	uint32_t must_version;
	uint64_t home; /* where the record was that the flush made durable; eviction may have copied it since */
	uint64_t at, bytes;
};

/* What happened, over all seeds: a campaign in which nothing happens proves nothing. */
struct totals {
	uint64_t lives, kills, cuts, closes, cut_in_recovery;
	uint64_t writes, reads, hits, removes, clears, flushes, evicted, readmitted;
	uint64_t kept, excused, old_again, strays, bad_sums, refused_opens;
	uint64_t injected[SIM_FAULTS], lost_writes, torn_writes;
};

struct campaign {
	struct world *w;
	struct key key[KEYS];
	struct seg_conf conf;
	struct disk_sim_conf disk;
	struct disk_sim_faults faults;
	uint64_t segment_bytes, clock; /* clock: acknowledgements so far */
	uint32_t nkeys, depth, sub_io_bytes, mode;
	bool small; /* an index that cannot hold all records of the medium: recovery may leave out some */
	bool clearing, power_lost, dead, uncounted, faulty_recovery;
	uint64_t missing;        /* after this recovery, with no fault to explain it */
	uint64_t evicted_before; /* in lives that ended during recovery */
	uint64_t balance;        /* objects found by recovery, plus written, minus removed */
	struct totals *t;
};

static struct campaign c;
static struct totals totals;
static bool trace; /* LMCA_CAMPAIGN_TRACE: every result is told */

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *v = getenv(name);

	return v ? strtoull(v, NULL, 0) : otherwise;
}

static uint64_t injected(void)
{
	struct disk_sim_stats st;
	uint64_t n = 0;

	disk_sim_stats(c.w->sim, &st);
	for (uint32_t i = 0; i < SIM_FAULTS; i++)
		n += i == SIM_SHORT_IO || i == SIM_AGAIN || i == SIM_HANG ? 0 : st.injected[i];
	return n;
}

/* ---- what results mean ------------------------------------------------------------------------------------------------------ */

static void on_write(struct slot *p)
{
	struct key *k = &c.key[p->key];

	k->pending = k->writing = false;
	if (p->op.result == -EEXIST || p->op.result == -ENOSPC || p->op.result == -EIO || p->op.result == -EROFS)
		return;
	if (p->op.result)
		wrong(c.w, "write: %d", p->op.result);
	k->cur = p->version;
	k->doubt = false;
	/* The removal has done its work. When this version is evicted in its turn, an older one may be found again. */
	k->durable_gone = k->gone = k->cleared;
	k->cur_at = ++c.clock;
	k->floor = p->version - 1;
	c.t->writes++;
	c.balance++;
}

static void on_read(struct slot *p)
{
	struct key *k = &c.key[p->key];
	uint32_t version = 0;

	c.t->reads++;
	if (p->op.result == -ENOENT || p->op.result == -EMSGSIZE)
		return;
	if ((p->op.result == -EILSEQ || p->op.result == -EIO) && c.mode != MODE_CLEAN) {
		c.t->bad_sums += p->op.result == -EILSEQ;
		return;
	}
	if (p->op.result)
		wrong(c.w, "read: %d", p->op.result);
	if (!content_is(p->key, p->mem, p->op.bytes, &version))
		wrong(c.w, "WRONG BYTES: key %u", p->key);
	if (version <= p->a || version > k->issued)
		wrong(c.w, "key %u: version %u read; older than %" PRIu64 " or newer than %u", p->key, version,
		      p->a + 1, k->issued);
	c.t->hits++;
}

static void gone(struct key *k, uint32_t upto)
{
	if (k->cur && k->cur <= upto)
		k->cur = 0;
	if (upto > k->floor)
		k->floor = upto;
	if (upto > k->gone) {
		k->gone = upto;
		k->gone_at = ++c.clock;
	}
}

static void on_remove(struct slot *p)
{
	struct key *k = &c.key[p->key];

	k->pending = false;
	if (p->op.result == -EIO || p->op.result == -EROFS || p->op.result == -ENOSPC) {
		c.uncounted = true; /* it may be forgotten all the same */
		return;
	}
	if (p->op.result && p->op.result != -ENOENT)
		wrong(c.w, "remove: %d", p->op.result);
	if (!p->op.result) {
		/* What is not there may have a record on the medium still: evicted, or found bad. */
		gone(k, p->version);
		c.t->removes++;
		c.balance--;
	}
}

static void on_clear(struct slot *p)
{

	c.clearing = false;
	if (p->op.result == -EIO || p->op.result == -EROFS)
		return;
	if (p->op.result)
		wrong(c.w, "clear: %d", p->op.result);
	for (uint32_t i = 0; i < c.nkeys; i++) {
		struct key *k = &c.key[i];
		gone(k, k->clear_mark);
		k->cleared = k->clear_mark;
		if (k->gone > k->durable_gone)
			k->durable_gone = k->gone;
		if (k->durable <= k->durable_gone)
			k->durable = 0;
	}
	c.uncounted = true;
	c.t->clears++;
}

/* 0: it is not there. */
static uint64_t place_of(uint32_t key)
{
	struct seg_key k = key_of(c.w, key);
	uint32_t e = seg_index_find(&c.w->s->ix, &k);

	return e ? (uint64_t)c.w->s->ix.e[e].at * FORMAT_BLOCK : 0;
}

static void on_flush(struct slot *p)
{
	/* After one that failed nobody can say what of all that came before is on the medium, also not by a later one. */
	for (uint32_t i = 0; p->op.result && i < c.nkeys; i++)
		c.key[i].cur_at = c.key[i].gone_at = UINT64_MAX;
	for (uint32_t i = 0; !p->op.result && i < c.nkeys; i++) {
		struct key *k = &c.key[i];
		if (k->cur && k->cur_at <= p->a) {
			if (k->durable != k->cur)
				k->home = place_of(i);
			k->durable = k->cur;
		}
		if (k->gone > k->durable_gone && k->gone_at <= p->a) {
			k->durable_gone = k->gone;
			if (k->durable <= k->durable_gone)
				k->durable = 0;
		}
	}
	c.t->flushes += !p->op.result;
}

static void on_end(struct world *w, struct slot *p)
{
	if (trace)
		fprintf(stderr, "# %" PRIu64 " kind %u key %u version %u: %d\n", disk_sim_now(w->sim), p->op.kind,
			p->key, p->version, p->op.result);
	if (c.dead)
		return; /* nobody is there to hear it */
	switch (p->op.kind) {
	case SEG_WRITE:
		on_write(p);
		break;
	case SEG_READ:
		on_read(p);
		break;
	case SEG_REMOVE:
		on_remove(p);
		break;
	case SEG_CLEAR:
		on_clear(p);
		break;
	case SEG_FLUSH:
		on_flush(p);
		break;
	}
}

/* ---- the load ---------------------------------------------------------------------------------------------------------------- */

static uint64_t size_of(uint32_t key, uint32_t version)
{
	uint64_t r = mix((uint64_t)key << 32 | version), most = c.segment_bytes / 3;

	if (most > WORLD_BUFFER - DISK_ALIGN)
		most = WORLD_BUFFER - DISK_ALIGN;
	switch (r % 8) {
	case 0:
		return 24 + (r >> 8) % (most - 24);
	case 1:
		return DISK_ALIGN * (1 + (r >> 8) % 8) + (r >> 16) % 3 - 1; /* around whole blocks */
	default:
		return 24 + (r >> 8) % (most / 6);
	}
}

static void start_write(struct slot *p, uint32_t key)
{
	struct key *k = &c.key[key];

	if (k->pending)
		return;
	k->pending = k->writing = true;
	p->version = ++k->issued;
	content(key, p->version, size_of(key, p->version), p->mem);
	world_start(c.w, p, SEG_WRITE, key, size_of(key, p->version));
}

static void start_read(struct slot *p, uint32_t key)
{
	uint64_t bytes = world_size(c.w, key);

	p->a = c.key[key].floor;
	world_start(c.w, p, SEG_READ, key, bytes ? bytes : 4096);
}

static void start_clear(struct slot *p)
{
	if (c.clearing)
		return;
	c.clearing = true;
	for (uint32_t i = 0; i < c.nkeys; i++)
		c.key[i].clear_mark = c.key[i].issued - c.key[i].writing;
	world_start(c.w, p, SEG_CLEAR, 0, 0);
}

static void start_any(struct slot *p)
{
	uint32_t key = (uint32_t)any_below(c.w, c.nkeys);
	uint64_t what = any_below(c.w, 1000);

	if (what < 520) {
		start_write(p, key);
	} else if (what < 860) {
		start_read(p, chance_of(c.w, 0.5) ? key : key % 8); /* some are hot */
	} else if (what < 930) {
		if (c.key[key].pending)
			return;
		c.key[key].pending = true;
		p->version = c.key[key].issued;
		world_start(c.w, p, SEG_REMOVE, key, 0);
	} else if (what < 998) {
		p->a = c.clock;
		world_start(c.w, p, SEG_FLUSH, 0, 0);
	} else {
		start_clear(p);
	}
}

static void work(uint32_t ops)
{
	uint64_t end = disk_sim_now(c.w->sim) + 600000ull * MS;
	struct slot *p;

	for (uint32_t i = 0; i < ops; i++) {
		while (c.w->busy >= c.depth || !(p = world_slot(c.w))) {
			seg_run(c.w->s, MS / 10);
			if (c.faults.hang > 0 && chance_of(c.w, 0.01))
				disk_sim_release(c.w->sim);
			if (disk_sim_now(c.w->sim) > end)
				wrong(c.w, "%u operations never end", c.w->busy);
		}
		start_any(p);
		if (chance_of(c.w, 0.5))
			seg_run(c.w->s, chance_of(c.w, 0.1) ? MS : 0);
	}
}

/* Nothing hangs any more: everything ends within a minute. */
static void drain(void)
{
	uint64_t end = disk_sim_now(c.w->sim) + 60000ull * MS;

	while (c.w->busy) {
		disk_sim_release(c.w->sim);
		seg_run(c.w->s, MS);
		if (disk_sim_now(c.w->sim) > end)
			wrong(c.w, "%u operations never end", c.w->busy);
	}
}

/* Nothing comes or goes unaccounted for. */
static void balance(void)
{
	struct seg_stats st;

	world_recount(c.w);
	seg_stats(c.w->s, &st);
	if (c.mode == MODE_CLEAN && !c.uncounted && st.objects + st.evicted_objects + st.bad_checksums != c.balance)
		wrong(c.w, "%" PRIu64 " objects and %" PRIu64 " evicted are not the %" PRIu64 " that came", st.objects,
		      st.evicted_objects, c.balance);
}

#endif
