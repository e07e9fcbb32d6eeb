/* e2e_bench.c - lookups and PING as an engine sees them, against the floor measured in the same run.
 *
 * (a) LOOKUP of a fresh prompt of 128k tokens against a bare ZMQ echo of the same frames plus one chained BLAKE3 pass;
 * (b) LOOKUP of a prompt that grew by one chunk against the echo alone; (c) PING while copies run at full speed. The echo is
 * a process of its own with one ROUTER (tools/rig.h). An echo returns the frames it got; the rows called strict measure the
 * same against a lean echo, which sends only what the daemon answers and so does half the work. Ours and limit take turns;
 * what is compared are medians.
 *
 * e2e_bench [letters of the parts to run]; LMCA_BIN names the daemon.
 */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/bench/row.h"
#include "tools/e2e.h"
#include "tools/hist.h"
#include "tools/session.h"

#include <blake3.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG_PROMPT (128u * 1024)
#define L1_GB       2.0

/* ---- (a) and (b): lookups -------------------------------------------------------------------------------------- */

struct hashing {
	uint8_t (*preimages)[32 + E2E_CHUNK * 4];
	uint32_t n;
};

static void prepare_hashing(struct hashing *h, const uint32_t *ids, uint32_t count)
{
	h->n = count / E2E_CHUNK;
	for (uint32_t c = 0; c < h->n; c++)
		for (uint32_t t = 0; t < E2E_CHUNK; t++) {
			uint32_t be = __builtin_bswap32(ids[c * E2E_CHUNK + t]);
			memcpy(h->preimages[c] + 32 + t * 4, &be, 4);
		}
}

/* The protocol chains the chunks: each preimage begins with the digest before it. */
static uint64_t chained(struct hashing *h)
{
	uint8_t digest[32] = {0};
	uint64_t start = clock_ns();
	for (uint32_t c = 0; c < h->n; c++) {
		blake3_hasher s;
		memcpy(h->preimages[c], digest, 32);
		blake3_hasher_init(&s);
		blake3_hasher_update(&s, h->preimages[c], sizeof(h->preimages[c]));
		blake3_hasher_finalize(&s, digest, 32);
	}
	return clock_ns() - start;
}

static uint64_t unchained(struct hashing *h)
{
	uint8_t digest[32];
	uint64_t start = clock_ns();
	blake3_hasher s;
	blake3_hasher_init(&s);
	blake3_hasher_update(&s, h->preimages, h->n * sizeof(h->preimages[0]));
	blake3_hasher_finalize(&s, digest, 32);
	return clock_ns() - start;
}

/* QUERY_PREFETCH_STATUS until it is not None. */
static uint64_t query(struct rig_link *l, const struct rig_message *m, uint64_t *hits)
{
	struct slice payload;
	uint64_t start = clock_ns();
	do
		e2e_timed(l, m, &payload);
	while (!payload.p);
	uint64_t ns = clock_ns() - start;
	if (wire_uid_decode(payload, hits)) /* an unsigned integer, like a uid */
		e2e_die("QUERY_PREFETCH_STATUS is no number");
	return ns;
}

enum { OURS, OURS_QUERY, ECHO, ECHO_QUERY, ECHO_ALL, CHAINED, BULK, SERIES };

struct lookups {
	double v[SERIES][256];
	size_t n;
};

/* A short request first, so that neither process is timed while it is being woken from a long sleep. */
static void wake(struct rig_link *l)
{
	struct wire_req noop = {.op = WIRE_NOOP};
	struct rig_message m;
	struct slice payload;
	e2e_must(rig_encode(SESSION_DIALECT, 0, &noop, &m, &why));
	e2e_timed(l, &m, &payload);
	rig_message_free(&m);
}

static uint64_t ours_lookup(struct e2e *b, struct lookups *s, const struct rig_message *lookup,
			    const struct rig_message *status)
{
	struct slice payload;
	uint64_t hits;
	wake(b->to_daemon);
	s->v[OURS][s->n] = (double)e2e_timed(b->to_daemon, lookup, &payload) / 1e6;
	s->v[OURS_QUERY][s->n] = (double)query(b->to_daemon, status, &hits) / 1e6;
	return hits;
}

static void echo_lookup(struct e2e *b, struct lookups *s, const struct rig_message *lookup,
			const struct rig_message *status)
{
	struct slice payload;
	e2e_teach(b, lookup, RIG_NO_PAYLOAD, slice_of(NULL, 0));
	wake(b->to_echo);
	s->v[ECHO][s->n] = (double)e2e_timed(b->to_echo, lookup, &payload) / 1e6;
	s->v[ECHO_QUERY][s->n] = (double)e2e_timed(b->to_echo, status, &payload) / 1e6;
	e2e_teach(b, lookup, RIG_EVERYTHING, slice_of(NULL, 0));
	wake(b->to_echo);
	s->v[ECHO_ALL][s->n] = (double)e2e_timed(b->to_echo, lookup, &payload) / 1e6;
}

/* Ours and the echo, in turns first; returns the hits. */
static uint64_t both(struct e2e *b, struct lookups *s, const struct rig_message *lookup,
		     const struct rig_message *status)
{
	if (s->n % 2)
		echo_lookup(b, s, lookup, status);
	uint64_t hits = ours_lookup(b, s, lookup, status);
	if (s->n % 2 == 0)
		echo_lookup(b, s, lookup, status);
	return hits;
}

static void fresh_round(struct e2e *b, struct engine *e, struct lookups *s, struct hashing *h, uint32_t *ids)
{
	e2e_random_tokens(ids, LONG_PROMPT);
	struct eng_prompt p = e2e_prompt(ids, LONG_PROMPT, "fresh", s->n);
	struct rig_message lookup = e2e_encode(e, 1, WIRE_LOOKUP, &p, -1, LONG_PROMPT);
	struct rig_message status = e2e_encode(e, 2, WIRE_QUERY_PREFETCH_STATUS, &p, -1, 0);
	e2e_teach(b, &status, RIG_PAYLOAD, slice_of("\x00", 1));
	prepare_hashing(h, ids, LONG_PROMPT);
	if (both(b, s, &lookup, &status) != 0)
		e2e_die("a fresh prompt hits");
	s->v[CHAINED][s->n] = (double)chained(h) / 1e6;
	s->v[BULK][s->n] = (double)unchained(h) / 1e6;
	e2e_must(eng_end_session(e, &p, &why));
	rig_message_free(&lookup);
	rig_message_free(&status);
	s->n++;
}

static double median(struct lookups *s, int series, size_t skip)
{
	return rig_median(s->v[series] + skip, s->n - skip);
}

static void part_a(struct e2e *b)
{
	struct engine *e = e2e_engine(b, &e2e_tiny, KV_NL_X_TWO_NB_BS_NH_HS, ENG_HANDLE, LONG_PROMPT);
	struct lookups *s = e2e_get(1, sizeof(*s));
	struct hashing h = {.preimages = e2e_get(LONG_PROMPT / E2E_CHUNK, sizeof(*h.preimages))};
	uint32_t *ids = e2e_get(LONG_PROMPT, sizeof(*ids));
	while (s->n < 60)
		fresh_round(b, e, s, &h, ids);
	double ours = median(s, OURS, 5), echo = median(s, ECHO_ALL, 5), hash = median(s, CHAINED, 5);
	double lean = median(s, ECHO, 5), both_ms = ours + median(s, OURS_QUERY, 5), floor = echo + hash;
	bench_head("LOOKUP of 128k tokens, fresh prompt");
	e2e_row(b, "LOOKUP", ours, floor, "ms", "echo + chained BLAKE3", ours / floor, "<= 1.5", ours <= 1.5 * floor);
	e2e_row(b, "LOOKUP, strict", ours, lean + hash, "ms", "lean echo + chained BLAKE3", ours / (lean + hash), "-",
		true);
	e2e_row(b, "LOOKUP + QUERY_PREFETCH_STATUS, strict", both_ms, lean + hash + median(s, ECHO_QUERY, 5), "ms",
		"2 lean echoes + chained BLAKE3", both_ms / (lean + hash + median(s, ECHO_QUERY, 5)), "-", true);
	printf("   echo: returns the frames it got, %.3f ms; lean echo: answers like the daemon, %.3f ms; chained "
	       "BLAKE3 "
	       "%.3f ms; for information: the same bytes in one BLAKE3 call %.3f ms\n",
	       echo, lean, hash, median(s, BULK, 5));
	mem_free(ids);
	mem_free(h.preimages);
	mem_free(s);
	eng_close(e);
}

/* The prompt of n chunks, of which n - 1 are stored, by a request of its own; then the last one is stored too. */
static void grown_turn(struct e2e *b, struct engine *e, struct lookups *s, uint32_t *ids, uint32_t n,
		       const struct eng_blocks *blocks, uint64_t number)
{
	uint64_t end = (uint64_t)n * E2E_CHUNK;
	struct eng_prompt p = e2e_prompt(ids, n * E2E_CHUNK, "grown", number);
	struct rig_message lookup = e2e_encode(e, 1, WIRE_LOOKUP, &p, -1, end);
	struct rig_message status = e2e_encode(e, 2, WIRE_QUERY_PREFETCH_STATUS, &p, -1, 0);
	e2e_teach(b, &status, RIG_PAYLOAD, slice_of("\xcd\x01\xff", 3));
	uint64_t hits = both(b, s, &lookup, &status);
	if (hits != n - 1)
		e2e_die("%llu chunks hit, %u are stored", (unsigned long long)hits, n - 1);
	e2e_must(eng_free_locks(e, &p, end, &why));
	e2e_must(eng_store(e, &p, end - E2E_CHUNK, end, blocks, &why));
	e2e_must(eng_end_session(e, &p, &why));
	rig_message_free(&lookup);
	rig_message_free(&status);
	s->n++;
}

static void part_b(struct e2e *b)
{
	enum { TURNS = 64, ROUNDS = 2 };
	struct engine *e = e2e_engine(b, &e2e_tiny, KV_NL_X_TWO_NB_BS_NH_HS, ENG_HANDLE, LONG_PROMPT);
	struct lookups *s = e2e_get(1, sizeof(*s));
	uint32_t *ids = e2e_get(LONG_PROMPT, sizeof(*ids)), last = LONG_PROMPT / E2E_CHUNK, first = last - TURNS;
	uint32_t *blocks = e2e_get(LONG_PROMPT / 16, sizeof(*blocks));
	for (uint32_t i = 0; i < LONG_PROMPT / 16; i++)
		blocks[i] = i + 1;
	const struct eng_blocks all = {.ids = {blocks}};
	for (uint64_t round = 0; round < ROUNDS; round++) {
		e2e_random_tokens(ids, LONG_PROMPT);
		struct eng_prompt p = e2e_prompt(ids, first * E2E_CHUNK, "base", round);
		e2e_must(eng_store(e, &p, 0, p.count, &all, &why));
		e2e_must(eng_end_session(e, &p, &why));
		for (uint32_t n = first + 1; n <= last; n++)
			grown_turn(b, e, s, ids, n, &all, round * TURNS + n);
	}
	double ours = median(s, OURS, 5), echo = median(s, ECHO_ALL, 5), lean = median(s, ECHO, 5);
	double both_ms = ours + median(s, OURS_QUERY, 5), lean2 = lean + median(s, ECHO_QUERY, 5);
	bench_head("LOOKUP of 128k tokens, prompt grown by one chunk");
	e2e_row(b, "LOOKUP", ours, echo, "ms", "echo", ours / echo, "<= 1.2", ours <= 1.2 * echo);
	e2e_row(b, "LOOKUP, strict", ours, lean, "ms", "lean echo", ours / lean, "-", true);
	e2e_row(b, "LOOKUP + QUERY_PREFETCH_STATUS, strict", both_ms, lean2, "ms", "2 lean echoes", both_ms / lean2,
		"-", true);
	mem_free(blocks);
	mem_free(ids);
	mem_free(s);
	eng_close(e);
}

/* ---- (c): PING under load ------------------------------------------------------------------------------------ */

static pid_t start_load(const struct e2e *b)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		execl(b->binary, b->binary, "bench", "kvcache", "--url", b->daemon.url.text, "--no-verify", "--clients",
		      "2", "--tokens", "2048", "--duration", "600", "--quiet", (char *)NULL);
		_exit(127);
	}
	return pid;
}

static void part_c(struct e2e *b)
{
	enum { PINGS = 5000, WARM_MS = 3000 };
	struct wire_req req = {.op = WIRE_PING};
	struct rig_message ping;
	struct hist *ours = e2e_get(1, sizeof(*ours)), *echo = e2e_get(1, sizeof(*echo));
	struct slice payload;
	int status;
	e2e_must(rig_encode(SESSION_DIALECT, 1, &req, &ping, &why));
	e2e_teach(b, &ping, RIG_PAYLOAD, slice_of("\xc3", 1));
	pid_t load = start_load(b);
	usleep(WARM_MS * 1000);
	for (int i = 0; i < PINGS; i++) {
		hist_add(ours, e2e_timed(b->to_daemon, &ping, &payload));
		hist_add(echo, e2e_timed(b->to_echo, &ping, &payload));
		usleep(1000);
	}
	kill(load, SIGINT);
	waitpid(load, &status, 0);
	double p99 = (double)hist_percentile(ours, 0.99) / 1e6, e99 = (double)hist_percentile(echo, 0.99) / 1e6;
	bench_head("PING while two engines store and retrieve as fast as they can");
	e2e_row(b, "PING p99", p99, e99, "ms", "echo p99 under the same load", p99 / e99, "< 1 ms", p99 < 1);
	printf("   PING p50 %.3f ms, p99.9 %.3f ms, max %.3f ms; echo p50 %.3f ms\n",
	       (double)hist_percentile(ours, 0.5) / 1e6, (double)hist_percentile(ours, 0.999) / 1e6,
	       (double)ours->max / 1e6, (double)hist_percentile(echo, 0.5) / 1e6);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("   MISS: the load ended with status %d\n", status);
		b->all_ok = false;
	}
	rig_message_free(&ping);
	mem_free(ours);
	mem_free(echo);
}

int main(int argc, char **argv)
{
	struct e2e b;
	e2e_begin(&b);
	e2e_start(&b, L1_GB, 1);
	for (const char *p = argc > 1 ? argv[1] : "abc"; *p; p++) {
		if (*p == 'a')
			part_a(&b);
		else if (*p == 'b')
			part_b(&b);
		else if (*p == 'c')
			part_c(&b);
	}
	e2e_stop(&b);
	e2e_end(&b);
	return b.all_ok ? 0 : 1;
}
