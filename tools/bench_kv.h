/* bench_kv.h - parts of `bench kvcache`: what a run shares, what a client is, and what is printed.
 *
 * Each client is one thread with one pretended engine. It takes prompts from a document, looks them up, retrieves what is there
 * into cleared blocks, checks every byte, stores the rest and ends the session.
 */
#ifndef TOOLS_BENCH_KV_H
#define TOOLS_BENCH_KV_H

#include "daemon/base/lock.h"
#include "tools/bench_tiers.h"
#include "tools/cli.h"
#include "tools/engine.h"
#include "tools/hist.h"

#include <stdatomic.h>

enum bench_op { BENCH_LOOKUP, BENCH_RETRIEVE, BENCH_STORE, BENCH_PING, BENCH_OPS };

/* Seconds in which at least one operation of a kind was under way: what bandwidth is divided by. */
struct bench_busy {
	struct lk lock;
	uint32_t inside;
	uint64_t since, total_ns;
};

struct bench_conf {
	const struct km_model *model;
	uint32_t formats[KV_FORMAT_COUNT], nformats; /* client i uses formats[i % nformats] */
	enum eng_mode mode;
	enum wire_dialect dialect;
	uint64_t num_blocks, seed;
	uint32_t clients, tokens, prompts;
	uint32_t rounds; /* per client; 0 = until stopped */
	double hit_rate;
	bool verify;
	int timeout_ms;
	bool on_gpu;
	struct egpu_conf gpu;
	struct url url;
	struct km_model chosen; /* what `model` points to: a row of the table, changed by options */
};

struct bench_shared {
	struct bench_conf conf;
	const uint32_t *doc;
	uint32_t ndoc;
	struct eng_env env;
	struct egpu_host *gpus;  /* NULL: the KV is in shared memory */
	double to_gpu, from_gpu; /* bytes per ns of one large copy */
	_Atomic uint64_t next_family;
	_Atomic bool stop;
	_Atomic uint32_t running, ready;
	struct bench_busy busy[BENCH_OPS];
};

struct bench_client {
	struct bench_shared *shared;
	uint32_t index;
	uint64_t rng;
	struct engine *engine;
	uint32_t *ids; /* tokens of the prompt */
	uint64_t *chain;
	uint32_t *blocks[KM_GROUPS];     /* per layer group a permutation of the engine's blocks */
	uint32_t *asked[KM_GROUPS];      /* what a RETRIEVE names: the same, 0 where a window does not reach */
	uint64_t null_at;                /* where block 0 is in blocks[0] */
	struct km_place host[KM_GROUPS]; /* of a group's layers, as the CPU sees them */
	uint64_t next_ping_ms, serial;
	/* Results; read by others after the thread has ended, the counters at any time. */
	struct hist latency[BENCH_OPS];
	_Atomic uint64_t done[BENCH_OPS], right, wrong, errors;
	uint64_t bytes[BENCH_OPS], chunks_asked, chunks_hit;
	struct why why; /* of the first error or mismatch */
};

void bench_busy_enter(struct bench_busy *b);
void bench_busy_leave(struct bench_busy *b);

/* The prompt `family`, `n` tokens: a header of its own, then the document from a place of its own. */
void bench_prompt(const struct bench_shared *s, uint64_t family, uint32_t n, uint32_t *ids);

/* Thread body; the argument is a struct bench_client. */
void *bench_client_run(void *arg);

struct bench_result {
	double seconds;
	bool healthy; /* the server's /status after the run */
	bool asked_health;
	bool asked_tiers; /* the server told what each tier did */
	struct bench_tiers tiers;
};

/* The report, and whether the run was good: *good false when there were errors, mismatches, or nothing was checked. */
struct report *bench_report(const struct bench_shared *s, struct bench_client *const *clients,
			    const struct bench_result *result, bool *good);

#endif
