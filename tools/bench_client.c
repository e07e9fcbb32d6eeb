/* bench_client.c - one client of `bench kvcache`. */
#include "tools/bench_kv.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PING_EVERY_MS 10000
#define HEADER_TOKENS 8
#define VOCABULARY    128256u
#define STORE_PIECES  3 /* a prefill arrives in up to so many pieces */

void bench_busy_enter(struct bench_busy *b)
{
	lk_lock(&b->lock);
	if (b->inside++ == 0)
		b->since = clock_ns();
	lk_unlock(&b->lock);
}

void bench_busy_leave(struct bench_busy *b)
{
	lk_lock(&b->lock);
	if (--b->inside == 0)
		b->total_ns += clock_ns() - b->since;
	lk_unlock(&b->lock);
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9E3779B97F4A7C15u;
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	return z ^ (z >> 31);
}

static uint64_t below(struct bench_client *c, uint64_t n)
{
	return next_random(&c->rng) % n;
}

void bench_prompt(const struct bench_shared *s, uint64_t family, uint32_t n, uint32_t *ids)
{
	uint64_t state = family * 2 + 1 + s->conf.seed;
	for (uint32_t i = 0; i < HEADER_TOKENS && i < n; i++)
		ids[i] = (uint32_t)(next_random(&state) % VOCABULARY);
	uint32_t at = (uint32_t)(next_random(&state) % s->ndoc);
	for (uint32_t i = HEADER_TOKENS; i < n; i++) {
		ids[i] = s->doc[at];
		at = at + 1 < s->ndoc ? at + 1 : 0;
	}
}

/* A prompt that was seen before with probability hit_rate, of another length than then: it hits in part, or grows. */
static void make_prompt(struct bench_client *c, struct eng_prompt *p)
{
	struct bench_shared *s = c->shared;
	const struct bench_conf *conf = &s->conf;
	uint64_t seen = atomic_load(&s->next_family), family;
	bool again = seen > 0 && (double)(below(c, 1u << 20)) < conf->hit_rate * (1u << 20);
	if (again) {
		uint64_t window = seen < conf->prompts ? seen : conf->prompts;
		family = seen - 1 - below(c, window);
	} else {
		family = atomic_fetch_add(&s->next_family, 1);
	}
	p->count = conf->tokens - (uint32_t)below(c, conf->tokens / 2 + 1);
	p->ids = c->ids;
	p->chain = c->chain;
	bench_prompt(s, family, p->count, c->ids);
	km_chain(c->ids, p->count, c->chain);
	snprintf(p->request_id, sizeof(p->request_id), "bench-%d-%u-%llu", (int)getpid(), c->index,
		 (unsigned long long)c->serial++);
}

static void swap(uint32_t *v, uint64_t i, uint64_t j)
{
	uint32_t saved = v[i];
	v[i] = v[j];
	v[j] = saved;
}

/* The first n blocks of each permutation are the prompt's, the last of these the canary. Block 0, which is nobody's, is at the end of each;
 * where requests name it for "none", it is the canary. */
static void deal_blocks(struct bench_client *c, uint32_t n)
{
	uint64_t usable = c->engine->place.num_blocks - 1;
	swap(c->blocks[0], c->null_at, usable);
	c->null_at = usable;
	for (uint32_t g = 0; g < c->engine->groups; g++)
		for (uint64_t i = 0; i < n; i++)
			swap(c->blocks[g], i, i + below(c, usable - i));
	if (c->engine->groups > 1) {
		c->null_at = n - 1;
		swap(c->blocks[0], c->null_at, usable);
	}
}

static struct eng_blocks dealt(const struct bench_client *c)
{
	return (struct eng_blocks){.ids = {c->blocks[0], c->blocks[1]}};
}

static void account(struct bench_client *c, enum bench_op op, uint64_t start_ns, uint64_t bytes)
{
	hist_add(&c->latency[op], clock_ns() - start_ns);
	atomic_fetch_add(&c->done[op], 1);
	c->bytes[op] += bytes;
}

/* ---- checking ------------------------------------------------------------------------------------------------ */

struct range {
	uint64_t start, end, skip; /* tokens */
};

static uint64_t at(const struct bench_client *c, uint32_t group, uint64_t i)
{
	return eng_host_block(c->engine, c->blocks[group], i);
}

/* Whether a retrieve writes the group's block of token t: none of the engine's own, and none that a window has left behind. */
static bool wanted(const struct bench_client *c, uint32_t group, const struct range *r, uint64_t t)
{
	const struct engine *e = c->engine;
	bool windowed = e->groups > 1 && group == 0;
	return t >= r->start + r->skip && (!windowed || t + e->place.block_tokens + e->conf.model->window > r->end);
}

/* What an engine with windows asks for: the null block, 0, where it needs nothing. */
static struct eng_blocks ask(struct bench_client *c, const struct range *r)
{
	const struct engine *e = c->engine;
	uint64_t bs = e->place.block_tokens;
	for (uint32_t g = 0; g < e->groups; g++)
		for (uint64_t t = r->start; t < r->end; t += bs)
			c->asked[g][t / bs] = t < r->start + r->skip || wanted(c, g, r, t) ? c->blocks[g][t / bs] : 0;
	return (struct eng_blocks){.ids = {c->asked[0], c->asked[1]}};
}

/* `canary`, here and below: which of the dealt blocks. */
static int poison(struct bench_client *c, const struct range *r, uint64_t canary)
{
	struct engine *e = c->engine;
	uint64_t bs = e->place.block_tokens;
	const struct eng_blocks b = dealt(c);
	for (uint32_t w = 0; w < e->nworkers; w++)
		for (uint32_t g = 0; g < e->groups; g++) {
			for (uint64_t t = r->start; t < r->end; t += bs)
				km_poison(&c->host[g], e->workers[w].bases, at(c, g, t / bs));
			km_poison(&c->host[g], e->workers[w].bases, at(c, g, canary));
		}
	int rc = eng_upload(e, &b, r->start / bs, (r->end - r->start) / bs, &c->why);
	return rc ? rc : eng_upload(e, &b, canary, 1, &c->why);
}

/* So that what is checked can only have come from the GPU. */
static int fetch(struct bench_client *c, const struct range *r, uint64_t canary)
{
	struct engine *e = c->engine;
	uint64_t bs = e->place.block_tokens;
	const struct eng_blocks b = dealt(c);
	for (uint32_t w = 0; w < e->nworkers && e->conf.gpus; w++) {
		for (uint32_t i = 0; i < e->host.ntensors; i++)
			memset(e->workers[w].bases[i], 0, e->host.tensor_bytes);
	}
	int rc = eng_download(e, &b, r->start / bs, (r->end - r->start) / bs, &c->why);
	return rc ? rc : eng_download(e, &b, canary, 1, &c->why);
}

static void mismatch(struct bench_client *c, const struct eng_prompt *p, uint32_t w, uint64_t token, uint64_t runs)
{
	if (!c->why.err)
		why_set(&c->why, -EILSEQ, "%s, rank %u, block at token %llu: %llu wrong runs", p->request_id, w,
			(unsigned long long)token, (unsigned long long)runs);
}

/* One chunk of one rank. Blocks that are not wanted belong to others and must be as they were. */
static void check_chunk(struct bench_client *c, const struct eng_prompt *p, const struct range *r, uint32_t w,
			uint64_t first)
{
	const struct engine *e = c->engine;
	uint8_t *const *bases = e->workers[w].bases;
	uint32_t bs = e->place.block_tokens;
	bool right = true;
	for (uint32_t g = 0; g < e->groups; g++)
		for (uint64_t t = first; t < first + e->chunk_tokens; t += bs) {
			uint64_t block = at(c, g, t / bs);
			uint64_t bad = wanted(c, g, r, t)
					       ? km_check(&c->host[g], bases, block, p->chain + t, e->workers[w].shard)
					       : km_check_poison(&c->host[g], bases, block);
			if (bad)
				mismatch(c, p, w, t, bad);
			right = right && bad == 0;
		}
	atomic_fetch_add(right ? &c->right : &c->wrong, 1);
}

static void check(struct bench_client *c, const struct eng_prompt *p, const struct range *r, uint64_t canary)
{
	const struct engine *e = c->engine;
	for (uint32_t w = 0; w < e->nworkers; w++) {
		for (uint64_t t = r->start; t < r->end; t += e->chunk_tokens)
			check_chunk(c, p, r, w, t);
		for (uint32_t g = 0; g < e->groups; g++)
			if (km_check_poison(&c->host[g], e->workers[w].bases, at(c, g, canary))) {
				atomic_fetch_add(&c->wrong, 1);
				mismatch(c, p, w, UINT64_MAX, 1); /* a block that no request named was written */
			}
	}
}

/* ---- the steps of a round ------------------------------------------------------------------------------------ */

static int look_up(struct bench_client *c, const struct eng_prompt *p, uint64_t *hit)
{
	uint64_t ns;
	int rc = eng_lookup(c->engine, p, hit, &ns, &c->why);
	if (rc)
		return rc;
	hist_add(&c->latency[BENCH_LOOKUP], ns);
	atomic_fetch_add(&c->done[BENCH_LOOKUP], 1);
	c->chunks_asked += p->count / c->engine->chunk_tokens;
	c->chunks_hit += *hit;
	return 0;
}

/* Half of the time the engine has a part of the prompt in its own prefix cache: it gives the locks of whole chunks of that
 * part back, and has the rest retrieved without its own blocks. */
static int choose_range(struct bench_client *c, const struct eng_prompt *p, uint64_t hit_tokens, struct range *r)
{
	struct engine *e = c->engine;
	bool own = below(c, 2) != 0;
	uint32_t step = e->conf.mode == ENG_HANDLE ? e->place.block_tokens : e->chunk_tokens;
	uint64_t has = own ? below(c, hit_tokens) / step * step : 0;
	r->start = has / e->chunk_tokens * e->chunk_tokens;
	r->end = hit_tokens;
	r->skip = has - r->start;
	return has ? eng_free_locks(e, p, has, &c->why) : 0;
}

static int retrieve(struct bench_client *c, const struct eng_prompt *p, uint64_t hit_tokens)
{
	struct engine *e = c->engine;
	struct range r;
	uint64_t right = 0, wrong = 0;
	bool handle = e->conf.mode == ENG_HANDLE, verify = c->shared->conf.verify;
	uint32_t bs = e->place.block_tokens, canary = (p->count + bs - 1) / bs;
	int rc = choose_range(c, p, hit_tokens, &r);
	if (rc)
		return rc;
	if (handle && verify)
		rc = poison(c, &r, canary);
	if (rc)
		return rc;
	const struct eng_blocks b = handle ? ask(c, &r) : (struct eng_blocks){.ids = {NULL}};
	bench_busy_enter(&c->shared->busy[BENCH_RETRIEVE]);
	uint64_t t0 = clock_ns();
	rc = handle ? eng_retrieve(e, p, r.start, r.end, r.skip, &b, &c->why)
		    : eng_pull(e, p, r.start, r.end, verify, &right, &wrong, &c->why);
	bench_busy_leave(&c->shared->busy[BENCH_RETRIEVE]);
	if (rc)
		return rc;
	account(c, BENCH_RETRIEVE, t0, km_chunk_bytes(e->conf.model, 1) * (r.end - r.start - r.skip) * e->nworkers);
	if (handle && verify) {
		rc = fetch(c, &r, canary);
		if (rc)
			return rc;
		check(c, p, &r, canary);
	}
	atomic_fetch_add(&c->right, right);
	atomic_fetch_add(&c->wrong, wrong);
	if (wrong)
		mismatch(c, p, 0, r.start, wrong);
	return 0;
}

static int write_blocks(struct bench_client *c, const struct eng_prompt *p, uint64_t start, uint64_t end)
{
	struct engine *e = c->engine;
	uint64_t bs = e->place.block_tokens;
	const struct eng_blocks b = dealt(c);
	for (uint32_t w = 0; w < e->nworkers; w++)
		for (uint32_t g = 0; g < e->groups; g++)
			for (uint64_t t = start; t < end; t += bs)
				km_write(&c->host[g], e->workers[w].bases, at(c, g, t / bs), p->chain + t,
					 e->workers[w].shard);
	return eng_upload(e, &b, start / bs, (end - start) / bs, &c->why);
}

static int store_piece(struct bench_client *c, const struct eng_prompt *p, uint64_t start, uint64_t end)
{
	struct engine *e = c->engine;
	bool handle = e->conf.mode == ENG_HANDLE, verify = c->shared->conf.verify;
	int rc = handle && verify ? write_blocks(c, p, start, end) : 0;
	if (rc)
		return rc;
	const struct eng_blocks b = dealt(c);
	bench_busy_enter(&c->shared->busy[BENCH_STORE]);
	uint64_t t0 = clock_ns();
	rc = handle ? eng_store(e, p, start, end, &b, &c->why) : eng_push(e, p, start, end, verify, &c->why);
	bench_busy_leave(&c->shared->busy[BENCH_STORE]);
	if (!rc)
		account(c, BENCH_STORE, t0,
			km_chunk_bytes(e->conf.model, 1) * (end - start) * e->conf.model->world_size);
	return rc;
}

static int store(struct bench_client *c, const struct eng_prompt *p, uint64_t from, uint64_t end)
{
	uint64_t cs = c->engine->chunk_tokens, chunks = (end - from) / cs, pieces = 1 + below(c, STORE_PIECES);
	uint64_t each = (chunks + pieces - 1) / pieces * cs;
	int rc = 0;
	for (uint64_t at = from; at < end && !rc; at += each)
		rc = store_piece(c, p, at, at + each < end ? at + each : end);
	return rc;
}

static int ping_when_due(struct bench_client *c)
{
	uint64_t ns, now = clock_ms();
	if (now < c->next_ping_ms || c->shared->conf.dialect < WIRE_D1)
		return 0;
	c->next_ping_ms = now + PING_EVERY_MS;
	int rc = eng_ping(c->engine, &ns, &c->why);
	if (!rc)
		hist_add(&c->latency[BENCH_PING], ns);
	return rc;
}

static int one_round(struct bench_client *c)
{
	struct eng_prompt p = {0};
	uint64_t hit = 0, cs = c->engine->chunk_tokens;
	make_prompt(c, &p);
	deal_blocks(c, (p.count + c->engine->place.block_tokens - 1) / c->engine->place.block_tokens + 1);
	uint64_t whole = p.count / cs * cs;
	int rc = ping_when_due(c);
	if (!rc)
		rc = look_up(c, &p, &hit);
	if (!rc && hit)
		rc = retrieve(c, &p, hit * cs);
	if (!rc && hit * cs < whole)
		rc = store(c, &p, hit * cs, whole);
	int ended = eng_end_session(c->engine, &p, rc ? NULL : &c->why);
	return rc ? rc : ended;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static int set_up(struct bench_client *c)
{
	struct bench_shared *s = c->shared;
	const struct bench_conf *b = &s->conf;
	const struct eng_conf conf = {.url = &s->conf.url,
				      .dialect = b->dialect,
				      .mode = b->mode,
				      .model = b->model,
				      .format = b->formats[c->index % b->nformats],
				      .num_blocks = b->num_blocks,
				      .max_tokens = b->tokens,
				      .timeout_ms = b->timeout_ms,
				      .touch = true,
				      .env = &s->env,
				      .gpus = s->gpus,
				      .window = b->verify};
	int rc = eng_open(&conf, &c->engine, &c->why);
	if (rc)
		return rc;
	uint64_t n = c->engine->place.num_blocks;
	c->ids = mem_calloc(b->tokens, sizeof(*c->ids));
	c->chain = mem_calloc(b->tokens, sizeof(*c->chain));
	bool have = c->ids && c->chain;
	for (uint32_t g = 0; g < c->engine->groups && have; g++) {
		c->blocks[g] = mem_calloc(n, sizeof(uint32_t));
		c->asked[g] = mem_calloc(n, sizeof(uint32_t));
		c->host[g] = c->engine->groups > 1 ? km_group(&c->engine->host, g) : c->engine->host;
		have = c->blocks[g] && c->asked[g];
		c->null_at = n - 1;
		for (uint64_t i = 0; i + 1 < n && have; i++)
			c->blocks[g][i] = (uint32_t)i + 1;
	}
	if (!have)
		return why_set(&c->why, -ENOMEM, "no memory for prompts of %u tokens", b->tokens);
	c->rng = b->seed + c->index * 7919u;
	return 0;
}

void *bench_client_run(void *arg)
{
	struct bench_client *c = arg;
	struct bench_shared *s = c->shared;
	int rc = set_up(c);
	atomic_fetch_add(&s->ready, 1);
	while (!rc && atomic_load(&s->ready) < s->conf.clients && !atomic_load(&s->stop))
		usleep(1000); /* start together */
	for (uint32_t i = 0; !rc && (s->conf.rounds == 0 || i < s->conf.rounds) && !atomic_load(&s->stop); i++)
		rc = one_round(c);
	if (rc) {
		atomic_fetch_add(&c->errors, 1);
		why_prefix(&c->why, "client %u", c->index);
	}
	eng_close(c->engine);
	mem_free(c->ids);
	mem_free(c->chain);
	for (uint32_t g = 0; g < KM_GROUPS; g++) {
		mem_free(c->blocks[g]);
		mem_free(c->asked[g]);
	}
	atomic_fetch_sub(&s->running, 1);
	return NULL;
}
