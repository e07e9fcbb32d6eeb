/* campaign_test.c - a segment store on a disk that fails, lies and loses power, against a model of what it may and may not do.
 *
 * Per seed: a small store, a random load (writes of mixed sizes, reads, removals, clears, flushes, evictions, since it holds a part of
 * the objects only), a kill or a power cut at a random moment, recovery, everything read back; several times over. It must
 *   never return a wrong byte: the bytes of an object follow from its key and its version,
 *   never lose an object that was acknowledged as durable (after a kill: as written) and still there just before, unless a fault hit its
 *   record or its segment's header,
 *   never bring back what was removed durably, unless a fault was injected,
 *   count right: usage is what a recount says; seg_check passes.
 *
 * LMCA_CAMPAIGN_SEEDS and LMCA_CAMPAIGN_FIRST choose the seeds; a failure prints the command that repeats it.
 */
#include "tests/unit/daemon/seg/campaign.h"

#include <signal.h>

/* ---- the end of a life, and the next one ----------------------------------------------------------------------------------- */

static uint32_t segment_of(uint64_t at)
{
	uint32_t i = 0;

	while (i + 1 < c.w->super.segments && format_segment_at(&c.w->super, i + 1) <= at)
		i++;
	return i;
}

/* Which objects must be there in the next life: those that are there now, at the places where they are now. */
static void look_back(bool power)
{
	for (uint32_t i = 0; i < c.nkeys; i++) {
		struct key *k = &c.key[i];
		struct seg_key sk = key_of(c.w, i);
		uint32_t e = seg_index_find(&c.w->s->ix, &sk), kept = power ? k->durable : k->cur;
		/* What is under way may win or lose. */
		k->must = e && kept && kept == k->cur && !k->pending && !c.clearing && !k->doubt;
		k->must_version = kept;
		if (!e)
			continue;
		k->at = (uint64_t)c.w->s->ix.e[e].at * FORMAT_BLOCK;
		k->bytes = format_record_bytes(c.w->s->ix.e[e].bytes);
	}
}

/* What is on the medium where an object was lost. */
static void tell_place(const struct key *k)
{
	static struct format_record r;
	uint32_t id = segment_of(k->at);
	uint64_t start = format_segment_at(&c.w->super, id);
	const uint8_t *m = disk_sim_medium(c.w->sim);
	struct format_segment h = {0};
	struct format_seal seal = {0};
	int rc[3] = {format_segment_decode(m + start, &h), format_seal_decode(m + start + FORMAT_BLOCK, &seal),
		     format_record_decode(m + k->at, &c.w->super, id, k->at, &r)};

	fprintf(stderr,
		"# segment %u, record at %" PRIu64 ": header %d (generation %" PRIu64 " epoch %" PRIu64
		"), seal %d (generation %" PRIu64 ", %u records), record %d (generation %" PRIu64 " sequence %" PRIu64
		"); store: state %u generation %" PRIu64 ", epoch %" PRIu64 "\n",
		id, k->at - start, rc[0], h.generation, h.epoch, rc[1], seal.generation, seal.records, rc[2],
		r.generation, r.sequence, c.w->s->segment[id].state, c.w->s->segment[id].generation,
		c.w->s->super.epoch);
}

static bool damaged(uint64_t record, uint64_t bytes)
{
	uint64_t segment = format_segment_at(&c.w->super, segment_of(record));

	return disk_sim_damaged(c.w->sim, record, bytes) || disk_sim_damaged(c.w->sim, segment, FORMAT_RECORDS);
}

static bool fault_explains(const struct key *k)
{
	return c.faulty_recovery || damaged(k->at, k->bytes) || (k->home && damaged(k->home, k->bytes));
}

static void end_life(void)
{
	uint64_t how = any_below(c.w, 10);
	struct seg_stats st;

	c.power_lost = how < 5;
	seg_stats(c.w->s, &st);
	c.t->evicted += st.evicted_objects;
	c.t->readmitted += st.readmitted_bytes;
	if (how >= 9) { /* in good order */
		drain();
		balance();
		c.t->closes++;
	}
	look_back(c.power_lost);
	if (trace)
		fprintf(stderr, "# %" PRIu64 " %s\n", disk_sim_now(c.w->sim),
			c.power_lost ? "power cut"
			: how < 9    ? "kill"
				     : "close");
	if (c.power_lost)
		disk_sim_crash(c.w->sim);
	else if (how < 9)
		disk_sim_kill(c.w->sim);
	c.t->cuts += c.power_lost;
	c.t->kills += !c.power_lost && how < 9;
	c.dead = true;
	disk_sim_faults(c.w->sim, NULL);
	disk_sim_release(c.w->sim);
	world_close(c.w, 2000);
	c.dead = false;
	c.clearing = false;
	for (uint32_t i = 0; i < c.nkeys; i++)
		c.key[i].pending = c.key[i].writing = false;
	c.t->lives++;
}

static uint32_t damaged_supers(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < FORMAT_SUPERS; i++)
		n += disk_sim_damaged(c.w->sim, format_super_at(&c.w->super, i), FORMAT_BLOCK);
	return n;
}

/* False: the store cannot be opened, and a fault is why. */
static bool open_store(void)
{
	int rc = world_open(c.w, &c.conf, c.sub_io_bytes);

	if (!rc)
		return true;
	c.t->refused_opens++;
	if (!damaged_supers() && !c.faulty_recovery)
		wrong(c.w, "the store does not open: %d", rc);
	return false;
}

/* A full store frees a segment as soon as it is recovered, maybe one that had an older copy of what a torn one had, too: so many may be
 * missing, and no more. */
static bool evicted(void)
{
	struct seg_stats st;

	seg_stats(c.w->s, &st);
	return c.missing < st.evicted_objects + c.evicted_before;
}

static void check_key(uint32_t i)
{
	struct key *k = &c.key[i];
	uint32_t version = 0;
	int rc = world_read(c.w, i, &version);

	/* -EILSEQ: a segment was used again, and the power cut left its new records and its old summary. */
	if (rc && rc != -ENOENT && rc != -EILSEQ && (rc != -EIO || c.mode == MODE_CLEAN))
		wrong(c.w, "key %u after recovery: %d", i, rc);
	if (!rc && version > k->issued)
		wrong(c.w, "key %u: version %u was never written", i, version);
	if (!rc && version <= k->durable_gone) {
		if (!injected() && !c.small)
			wrong(c.w, "key %u: version %u is back, and up to %u was durably removed", i, version,
			      k->durable_gone);
		c.t->strays++;
	}
	if (k->must && (rc || version < k->must_version)) {
		if (!fault_explains(k) && !evicted() && !c.small) {
			tell_place(k);
			wrong(c.w, "key %u LOST: version %u at %" PRIu64 " was %s; now %d, version %u", i,
			      k->must_version, k->at, c.power_lost ? "durable" : "written", rc, version);
		}
		c.t->excused += fault_explains(k);
		c.missing += !fault_explains(k);
	} else if (k->must) {
		c.t->kept++;
	}
	c.t->old_again += !rc && version < k->cur;
	if (rc || version != k->durable)
		k->home = 0;
	k->cur = rc ? 0 : version;
	k->cur_at = ++c.clock;
	k->floor = rc ? k->issued : version - 1;
	if (k->durable != k->cur)
		k->durable = 0;
	/* A newer object that had arrived unacknowledged has taken the removal's place. */
	if (!rc && version > k->durable_gone)
		k->durable_gone = k->cleared;
	k->gone = k->durable_gone;
	k->doubt = k->doubt || c.faulty_recovery;
}

static void check_all(void)
{
	struct seg_stats st;

	world_recount(c.w);
	seg_stats(c.w->s, &st);
	c.balance = st.objects + st.evicted_objects + st.bad_checksums;
	c.uncounted = false;
	c.w->ended = NULL;
	c.missing = 0;
	for (uint32_t i = 0; i < c.nkeys; i++)
		check_key(i);
	c.w->ended = on_end;
	world_recount(c.w);
}

/* Opens, now and then loses power while it recovers, and checks everything. */
static bool next_life(void)
{
	c.faulty_recovery = c.mode != MODE_CLEAN && chance_of(c.w, 0.1);
	disk_sim_faults(c.w->sim, c.faulty_recovery ? &c.faults : NULL);
	c.evicted_before = 0;
	while (chance_of(c.w, 0.15)) {
		struct seg_stats st;
		if (!open_store())
			return false;
		for (uint64_t n = any_below(c.w, 40); n; n--)
			seg_run(c.w->s, MS / 20);
		seg_stats(c.w->s, &st);
		c.evicted_before += st.evicted_objects;
		if (chance_of(c.w, 0.5)) {
			/* What was only written before a kill may go with the power. */
			for (uint32_t i = 0; i < c.nkeys; i++)
				c.key[i].must = c.key[i].must && c.key[i].durable == c.key[i].must_version;
			disk_sim_crash(c.w->sim);
		} else {
			disk_sim_kill(c.w->sim);
		}
		c.t->cut_in_recovery++;
		if (trace)
			fprintf(stderr, "# end during recovery\n");
		world_close(c.w, 2000);
	}
	if (!open_store())
		return false;
	if (c.faulty_recovery) {
		for (uint32_t n = 0; n < 100 && !seg_recovered(c.w->s); n++)
			seg_run(c.w->s, MS);
		disk_sim_faults(c.w->sim, NULL);
		disk_sim_release(c.w->sim);
	}
	if (!world_recover(c.w))
		wrong(c.w, "recovery never ends");
	check_all();
	return true;
}

/* ---- seeds -------------------------------------------------------------------------------------------------------------------- */

static void choose_faults(void)
{
	double p = 1.0 / (double)(20 + any_below(c.w, 400));
	double *all[] = {&c.faults.rot_write, &c.faults.dropped,     &c.faults.misdirected, &c.faults.torn,
			 &c.faults.rot_read,  &c.faults.write_error, &c.faults.read_error,  &c.faults.flush_error,
			 &c.faults.hang,      &c.faults.short_io,    &c.faults.again};

	memset(&c.faults, 0, sizeof(c.faults));
	if (c.mode == MODE_MIXED) {
		for (uint32_t i = 0; i < 11; i++)
			*all[i] = chance_of(c.w, 0.5) ? p / 4 : 0;
	} else if (c.mode == MODE_ONE) {
		*all[any_below(c.w, 5)] = p * 4;
	} else if (c.mode == MODE_ERRORS) {
		for (uint32_t i = 5; i < 11; i++)
			*all[i] = chance_of(c.w, 0.6) ? p : 0;
	}
}

static void setup(uint64_t seed)
{
	static const uint32_t subs[] = {0, 128u << 10, 32u << 10, 4096};
	struct totals *t = &totals;

	memset(&c, 0, sizeof(c));
	c.w = world_get();
	c.t = t;
	c.w->rnd = mix(seed + 1);
	c.w->ended = on_end;
	c.mode = (uint32_t)(seed % MODES);
	c.segment_bytes = (uint64_t)(128 << 10) << any_below(c.w, 4);
	c.nkeys = 32 + (uint32_t)any_below(c.w, KEYS - 32);
	c.small = chance_of(c.w, 0.05);
	c.depth = 1 + (uint32_t)any_below(c.w, WORLD_SLOTS - 1);
	c.sub_io_bytes = subs[any_below(c.w, 4)];
	c.disk = (struct disk_sim_conf){.bytes = FORMAT_DATA + 2 * FORMAT_RESERVED +
						 c.segment_bytes * (6 + any_below(c.w, 20)) + 4096 * any_below(c.w, 8),
					.seed = seed,
					.read_ns = 80000,
					.write_ns = 20000,
					.flush_ns = 400000,
					.bytes_per_ns = 3,
					.reorder = chance_of(c.w, 0.9),
					.write_through = chance_of(c.w, 0.1),
					.queue = 8 + (uint32_t)any_below(c.w, 120),
					.cache_bytes = (uint64_t)(64 << 10) << any_below(c.w, 9)};
	c.conf = (struct seg_conf){.max_objects = c.small ? 64 : 4096,
				   .verify = true,
				   .discard = chance_of(c.w, 0.5),
				   .readmit = chance_of(c.w, 0.8) ? 0.1 * (double)any_below(c.w, 5) : 0,
				   .flush_ms = (uint32_t)any_below(c.w, 100),
				   .flush_bytes = (uint64_t)(256 << 10) << any_below(c.w, 6)};
	choose_faults();
	world_create(c.w, &c.disk, c.segment_bytes);
}

static void one_seed(uint64_t seed)
{
	struct disk_sim_stats st;
	uint32_t lives;

	world_seed = seed;
	setup(seed);
	if (!open_store() || !world_recover(c.w))
		wrong(c.w, "an empty store does not open");
	for (lives = 2 + (uint32_t)any_below(c.w, 3); lives; lives--) {
		disk_sim_faults(c.w->sim, &c.faults);
		work((uint32_t)any_below(c.w, 400));
		if (c.faults.hang == 0 && chance_of(c.w, 0.2)) {
			drain();
			balance();
		}
		end_life();
		if (!next_life())
			break;
	}
	if (c.w->s)
		world_close(c.w, 2000);
	disk_sim_stats(c.w->sim, &st);
	for (uint32_t i = 0; i < SIM_FAULTS; i++)
		totals.injected[i] += st.injected[i];
	totals.lost_writes += st.lost_writes;
	totals.torn_writes += st.torn_writes;
	world_destroy(c.w);
}

static void tell(uint64_t seeds)
{
	const struct totals *t = &totals;

	printf("# %" PRIu64 " seeds, %" PRIu64 " lives: %" PRIu64 " power cuts, %" PRIu64 " kills, %" PRIu64
	       " closes, %" PRIu64 " ends during recovery; the disk lost %" PRIu64 " writes and tore %" PRIu64 "\n",
	       seeds, t->lives, t->cuts, t->kills, t->closes, t->cut_in_recovery, t->lost_writes, t->torn_writes);
	printf("# %" PRIu64 " writes, %" PRIu64 " reads (%" PRIu64 " hits), %" PRIu64 " removals, %" PRIu64
	       " clears, %" PRIu64 " flushes, %" PRIu64 " objects evicted, %" PRIu64 " MiB written again\n",
	       t->writes, t->reads, t->hits, t->removes, t->clears, t->flushes, t->evicted, t->readmitted >> 20);
	printf("# faults: read error %" PRIu64 ", write error %" PRIu64 ", flush error %" PRIu64 ", hang %" PRIu64
	       ", rotten read %" PRIu64 ", rotten write %" PRIu64 ", dropped %" PRIu64 ", misdirected %" PRIu64
	       ", torn %" PRIu64 ", short %" PRIu64 ", again %" PRIu64 "\n",
	       t->injected[0], t->injected[1], t->injected[2], t->injected[3], t->injected[4], t->injected[5],
	       t->injected[6], t->injected[7], t->injected[8], t->injected[9], t->injected[10]);
	printf("# must be there and was: %" PRIu64 "; lost to a fault of its record or segment header: %" PRIu64
	       "; older version back after eviction: %" PRIu64 "; removed ones back after a fault: %" PRIu64
	       "; bad checksums told: %" PRIu64 "; stores lost with their superblocks: %" PRIu64 "\n",
	       t->kept, t->excused, t->old_again, t->strays, t->bad_sums, t->refused_opens);
}

static void campaign(void **state)
{
	uint64_t first = env_number("LMCA_CAMPAIGN_FIRST", 0), seeds = env_number("LMCA_CAMPAIGN_SEEDS", 200);

	(void)state;
	for (uint64_t i = 0; i < seeds; i++) {
		one_seed(first + i);
		if (i && i % 1000 == 0)
			fprintf(stderr, "# %" PRIu64 " seeds done\n", i);
	}
	world_seed = UINT64_MAX;
	tell(seeds);
	if (seeds >= 100) {
		assert_true(totals.kept > 10 * seeds && totals.evicted > seeds && totals.readmitted > 0);
		assert_true(totals.torn_writes > seeds && totals.lost_writes > seeds &&
			    totals.cut_in_recovery > seeds / 10);
		for (uint32_t i = 0; i < SIM_GONE; i++)
			assert_true(totals.injected[i] > 0);
	}
}

/* A broken invariant ends the program: the seed is told all the same. */
static void on_abort(int sig)
{
	(void)sig;
	world_tell_seed();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(campaign),
	};
	int rc;

	trace = getenv("LMCA_CAMPAIGN_TRACE");
	signal(SIGABRT, on_abort);
	log_set_level(trace ? LOG_LVL_DEBUG : LOG_LVL_ERROR + 1);
	world_seed = UINT64_MAX;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	world_free();
	return rc;
}
