/* e2e_transfer_bench.c - transfers as an engine sees them, against the floor measured in the same run.
 *
 * (d) STORE and RETRIEVE, request to answer, against memcpy of the same bytes by the same number of threads; (e) engine-driven
 * PREPARE + COMMIT pairs against a bare ZMQ echo's rate of the same frames (tools/rig.h). Ours and limit take turns; what is
 * compared are medians.
 *
 * e2e_transfer_bench [letters of the parts to run]; LMCA_BIN names the daemon.
 */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/bench/row.h"
#include "tools/e2e.h"
#include "tools/session.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define L1_GB       2.0 /* twice what one pass stores */
#define MAX_WORKERS 8u

/* ---- (d): transfers ------------------------------------------------------------------------------------------ */

#define TRANSFER_CHUNKS 32u /* 1 GiB of Llama 3.1 8B */

enum move { STORE, RETRIEVE, COPY_OUT, COPY_IN, MOVES };

struct mover {
	pthread_t thread;
	struct engine *e;
	struct eng_prompt p;
	uint32_t *ids, *blocks;
	uint8_t *buffer;
	size_t buffer_bytes;
	enum move move;
	pthread_barrier_t *start;
};

static void copy(struct mover *m, bool out)
{
	size_t each = m->e->place.tensor_bytes;
	for (uint32_t i = 0; i < m->e->place.ntensors; i++) {
		uint8_t *page = m->e->workers[0].bases[i], *at = m->buffer + i * each;
		memcpy(out ? at : page, out ? page : at, each);
	}
}

static void *move_main(void *arg)
{
	struct mover *m = arg;
	const struct eng_blocks b = {.ids = {m->blocks}};
	pthread_barrier_wait(m->start);
	if (m->move == STORE)
		e2e_must(eng_store(m->e, &m->p, 0, m->p.count, &b, &why));
	else if (m->move == RETRIEVE)
		e2e_must(eng_retrieve(m->e, &m->p, 0, m->p.count, 0, &b, &why));
	else
		copy(m, m->move == COPY_OUT);
	return NULL;
}

/* GB/s of all movers together. */
static double move_all(struct mover *movers, uint32_t n, enum move move)
{
	pthread_barrier_t start;
	uint64_t bytes = 0;
	pthread_barrier_init(&start, NULL, n + 1);
	for (uint32_t i = 0; i < n; i++) {
		movers[i].move = move;
		movers[i].start = &start;
		bytes += move < COPY_OUT ? km_chunk_bytes(movers[i].e->conf.model, movers[i].p.count)
					 : movers[i].buffer_bytes;
		if (pthread_create(&movers[i].thread, NULL, move_main, &movers[i]))
			exit(1);
	}
	pthread_barrier_wait(&start);
	uint64_t t0 = clock_ns();
	for (uint32_t i = 0; i < n; i++)
		pthread_join(movers[i].thread, NULL);
	double ns = (double)(clock_ns() - t0);
	pthread_barrier_destroy(&start);
	return (double)bytes / ns;
}

static void open_mover(struct e2e *b, struct mover *m, uint32_t format, uint32_t chunks)
{
	m->e = e2e_engine(b, &km_models[0], format, ENG_HANDLE, chunks * E2E_CHUNK);
	m->ids = e2e_get(chunks * E2E_CHUNK, sizeof(*m->ids));
	m->blocks = e2e_get(chunks * E2E_CHUNK / 16, sizeof(*m->blocks));
	uint32_t n = chunks * E2E_CHUNK / 16;
	for (uint32_t i = 0; i < n; i++)
		m->blocks[i] = i + 1;
	for (uint32_t i = n - 1; i > 0; i--) { /* as a free list of an engine that has run for a while */
		uint32_t j = (uint32_t)(session_random() % (i + 1)), saved = m->blocks[i];
		m->blocks[i] = m->blocks[j];
		m->blocks[j] = saved;
	}
	m->buffer_bytes = m->e->place.tensor_bytes * m->e->place.ntensors;
	m->buffer =
		mmap(NULL, m->buffer_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (m->buffer == MAP_FAILED)
		exit(1);
	m->p.count = chunks * E2E_CHUNK;
}

static void close_mover(struct mover *m)
{
	munmap(m->buffer, m->buffer_bytes);
	mem_free(m->ids);
	mem_free(m->blocks);
	eng_close(m->e);
}

static void lookup_all(struct mover *movers, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t hits, ns;
		e2e_must(eng_lookup(movers[i].e, &movers[i].p, &hits, &ns, &why));
		if (hits != movers[i].p.count / E2E_CHUNK)
			e2e_die("only %llu chunks are stored", (unsigned long long)hits);
	}
}

static void transfer_round(struct mover *movers, uint32_t n, uint64_t number, double gbs[MOVES])
{
	struct wire_req clear = {.op = WIRE_CLEAR};
	struct wire_reply reply;
	for (uint32_t i = 0; i < n; i++) {
		e2e_random_tokens(movers[i].ids, movers[i].p.count);
		movers[i].p = e2e_prompt(movers[i].ids, movers[i].p.count, "move", number * MAX_WORKERS + i);
	}
	gbs[COPY_OUT] = move_all(movers, n, COPY_OUT);
	gbs[STORE] = move_all(movers, n, STORE);
	lookup_all(movers, n);
	gbs[COPY_IN] = move_all(movers, n, COPY_IN);
	gbs[RETRIEVE] = move_all(movers, n, RETRIEVE);
	for (uint32_t i = 0; i < n; i++)
		e2e_must(eng_end_session(movers[i].e, &movers[i].p, &why));
	e2e_must(ctl_call(movers[0].e->scheduler, &clear, 0, E2E_TIMEOUT_MS, &reply, &why));
}

static void transfers(struct e2e *b, uint32_t format, uint32_t workers, double goal)
{
	enum { ROUNDS = 7, WARM = 2 };
	struct mover movers[MAX_WORKERS] = {0};
	double v[MOVES][ROUNDS], gbs[MOVES], m[MOVES];
	char name[64], goal_text[16];
	for (uint32_t i = 0; i < workers; i++)
		open_mover(b, &movers[i], format, TRANSFER_CHUNKS / workers);
	for (int r = 0; r < ROUNDS + WARM; r++) {
		transfer_round(movers, workers, (uint64_t)r, gbs);
		for (int k = 0; k < MOVES && r >= WARM; k++)
			v[k][r - WARM] = gbs[k];
	}
	for (int k = 0; k < MOVES; k++)
		m[k] = rig_median(v[k], ROUNDS);
	snprintf(goal_text, sizeof(goal_text), ">= %.1f", goal);
	snprintf(name, sizeof(name), "STORE %s, %u thread(s)", goal > 0.8 ? "NHD" : "HND", workers);
	e2e_row(b, name, m[STORE], m[COPY_OUT], "GB/s", "memcpy", m[STORE] / m[COPY_OUT], goal_text,
		m[STORE] >= goal * m[COPY_OUT]);
	snprintf(name, sizeof(name), "RETRIEVE %s, %u thread(s)", goal > 0.8 ? "NHD" : "HND", workers);
	e2e_row(b, name, m[RETRIEVE], m[COPY_IN], "GB/s", "memcpy", m[RETRIEVE] / m[COPY_IN], goal_text,
		m[RETRIEVE] >= goal * m[COPY_IN]);
	for (uint32_t i = 0; i < workers; i++)
		close_mover(&movers[i]);
}

static void part_d(struct e2e *b, uint32_t workers)
{
	bench_head("STORE and RETRIEVE end to end, Llama 3.1 8B, 1 GiB per pass, blocks in random order");
	transfers(b, KV_NL_X_TWO_NB_BS_NH_HS, workers, 0.9);
	transfers(b, KV_NL_X_TWO_NB_NH_BS_HS, workers, 0.6);
}

/* ---- (e): engine-driven pairs -------------------------------------------------------------------------------- */

#define WINDOW       16u
#define PAIR_BATCH   125u
#define PAIR_BATCHES 12u
#define PAIR_ROUNDS  3u
#define PAIRS        (PAIR_BATCH * PAIR_BATCHES)

struct pairs {
	struct rig_message prepare[PAIRS], commit[PAIRS];
	struct eng_prompt p[PAIRS];
	uint32_t ids[PAIRS][E2E_CHUNK];
};

static void encode_pairs(const struct engine *e, struct pairs *s, enum wire_op prepare, enum wire_op commit)
{
	for (uint32_t i = 0; i < PAIRS; i++) {
		s->prepare[i] = e2e_encode(e, 2 * i, prepare, &s->p[i], 0, E2E_CHUNK);
		s->commit[i] = e2e_encode(e, 2 * i + 1, commit, &s->p[i], 0, E2E_CHUNK);
	}
}

static void free_pairs(struct pairs *s)
{
	for (uint32_t i = 0; i < PAIRS; i++) {
		rig_message_free(&s->prepare[i]);
		rig_message_free(&s->commit[i]);
	}
}

/* Pairs [first, first + n): each PREPARE's reply lets its COMMIT go, each COMMIT's reply (true) the next PREPARE; `window`
 * pairs are under way. Pairs per second. */
static double run_pairs(struct rig_link *l, const struct pairs *s, uint32_t first, uint32_t n, uint32_t window)
{
	uint32_t next = first, done = 0;
	uint64_t start = clock_ns();
	while (next < first + window)
		e2e_must(rig_send(l, &s->prepare[next++], &why));
	while (done < n) {
		uint64_t uid = 0;
		struct slice payload;
		e2e_must(rig_recv(l, &uid, &payload, &why));
		if (uid % 2 == 0) {
			e2e_must(rig_send(l, &s->commit[uid / 2], &why));
			continue;
		}
		if (!slice_eq(payload, slice_of("\xc3", 1)))
			e2e_die("a COMMIT is not answered true");
		done++;
		if (next < first + n)
			e2e_must(rig_send(l, &s->prepare[next++], &why));
	}
	return n / ((double)(clock_ns() - start) / 1e9);
}

struct rates {
	double ours[PAIR_ROUNDS * PAIR_BATCHES], limit[PAIR_ROUNDS * PAIR_BATCHES];
	uint32_t n;
};

/* The daemon and the echo take turns with batches of the same pairs. */
static void measure(struct e2e *b, const struct pairs *s, uint32_t window, struct rates *r)
{
	for (uint32_t i = 0; i < PAIR_BATCHES; i++, r->n++) {
		r->ours[r->n] = run_pairs(b->to_daemon, s, i * PAIR_BATCH, PAIR_BATCH, window);
		r->limit[r->n] = run_pairs(b->to_echo, s, i * PAIR_BATCH, PAIR_BATCH, window);
	}
}

static void new_pairs(struct pairs *s, uint64_t round)
{
	for (uint32_t i = 0; i < PAIRS; i++) {
		e2e_random_tokens(s->ids[i], E2E_CHUNK);
		s->p[i] = e2e_prompt(s->ids[i], E2E_CHUNK, "pair", round * PAIRS + i);
	}
}

/* What the daemon answers to one PREPARE, taught to the echo; the pair is completed. */
static void teach_pair(struct e2e *b, struct engine *e, enum wire_op prepare, enum wire_op commit,
		       const struct eng_prompt *p)
{
	struct slice payload;
	struct rig_message first = e2e_encode(e, 0, prepare, p, 0, E2E_CHUNK),
			   second = e2e_encode(e, 1, commit, p, 0, E2E_CHUNK);
	e2e_timed(b->to_daemon, &first, &payload);
	if (payload.n < 64) /* one slot takes more */
		e2e_die("%s gives no slot", wire_op_name(prepare));
	e2e_teach(b, &first, RIG_PAYLOAD, payload);
	e2e_timed(b->to_daemon, &second, &payload);
	e2e_teach(b, &second, RIG_PAYLOAD, slice_of("\xc3", 1));
	rig_message_free(&first);
	rig_message_free(&second);
}

static void lock_pairs(struct engine *e, const struct pairs *s)
{
	for (uint32_t i = 0; i < PAIRS; i++) {
		uint64_t hits = 0, ns;
		e2e_must(eng_lookup(e, &s->p[i], &hits, &ns, &why));
		if (hits != 1)
			e2e_die("a committed chunk is not found");
	}
}

enum { ST_SEQ, ST_WIN, RT_SEQ, RT_WIN, KINDS };

static void pair_round(struct e2e *b, struct engine *e, struct pairs *s, uint64_t round, uint32_t window,
		       struct rates *store, struct rates *retrieve)
{
	uint64_t hits, ns;
	new_pairs(s, round);
	teach_pair(b, e, WIRE_PREPARE_STORE, WIRE_COMMIT_STORE, &s->p[0]);
	new_pairs(s, round);
	encode_pairs(e, s, WIRE_PREPARE_STORE, WIRE_COMMIT_STORE);
	measure(b, s, window, store);
	free_pairs(s);
	lock_pairs(e, s);
	teach_pair(b, e, WIRE_PREPARE_RETRIEVE, WIRE_COMMIT_RETRIEVE, &s->p[0]);
	e2e_must(eng_lookup(e, &s->p[0], &hits, &ns, &why)); /* the lesson used its lock */
	encode_pairs(e, s, WIRE_PREPARE_RETRIEVE, WIRE_COMMIT_RETRIEVE);
	measure(b, s, window, retrieve);
	free_pairs(s);
	for (uint32_t i = 0; i < PAIRS; i++)
		e2e_must(eng_end_session(e, &s->p[i], &why));
}

static void part_e(struct e2e *b)
{
	static const char *const names[] = {
		"PREPARE_STORE + COMMIT, one at a time", "PREPARE_STORE + COMMIT, 16 in flight",
		"PREPARE_RETRIEVE + COMMIT, one at a time", "PREPARE_RETRIEVE + COMMIT, 16 in flight"};
	struct engine *e = e2e_engine(b, &e2e_tiny, KV_NL_X_TWO_NB_BS_NH_HS, ENG_DRIVEN, E2E_CHUNK);
	struct pairs *s = e2e_get(1, sizeof(*s));
	struct rates *r = e2e_get(KINDS, sizeof(*r));
	for (uint64_t i = 0; i < PAIR_ROUNDS; i++) {
		pair_round(b, e, s, i * 2, 1, &r[ST_SEQ], &r[RT_SEQ]);
		pair_round(b, e, s, i * 2 + 1, WINDOW, &r[ST_WIN], &r[RT_WIN]);
	}
	bench_head("Engine-driven pairs, one chunk each");
	for (int k = 0; k < KINDS; k++) {
		double o = rig_median(r[k].ours, r[k].n), l = rig_median(r[k].limit, r[k].n);
		e2e_row(b, names[k], o, l, "pairs/s", "echo of the same frames", o / l, ">= 0.8", o >= 0.8 * l);
	}
	mem_free(r);
	mem_free(s);
	eng_close(e);
}

static void run(struct e2e *b, unsigned workers, const char *parts)
{
	e2e_start(b, L1_GB, workers);
	for (const char *p = parts; *p; p++) {
		if (*p == 'd')
			part_d(b, workers);
		else if (*p == 'e')
			part_e(b);
	}
	e2e_stop(b);
}

int main(int argc, char **argv)
{
	struct e2e b;
	const char *parts = argc > 1 ? argv[1] : "ed";
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	e2e_begin(&b);
	run(&b, 1, parts);
	if (strchr(parts, 'd') && cpus >= 2)
		run(&b, cpus >= 8 ? 4 : 2, "d");
	e2e_end(&b);
	return b.all_ok ? 0 : 1;
}
