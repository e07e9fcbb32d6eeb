/* bench_l2.h - `bench l2`: one adapter without a server: stores, lookups and loads with so many in flight, every byte checked.
 *
 * Threads: one that drives; completions arrive on the adapter's threads and are handed over under a lock.
 */
#ifndef TOOLS_BENCH_L2_H
#define TOOLS_BENCH_L2_H

#include "daemon/l2/l2.h"
#include "tools/hist.h"

enum bench_l2_phase { BENCH_L2_STORE, BENCH_L2_LOOKUP, BENCH_L2_LOAD, BENCH_L2_PHASES };

struct bench_l2_conf {
	uint32_t keys, in_flight, rounds, warmup;
	uint64_t bytes; /* of an object */
	double hit_rate;
	uint64_t seed;
	bool verify, keep;
	bool phase[BENCH_L2_PHASES]; /* which are measured */
	uint32_t timeout_ms;         /* of one operation */
};

struct bench_l2_result {
	struct {
		struct hist latency;
		uint64_t done, bytes, missing, failed, dropped, present;
		uint64_t ns, cpu_ns; /* of the phases, warm-up left out; of the whole process */
	} phase[BENCH_L2_PHASES];
	uint64_t right, wrong, flush_ns;
	int first_error;
	char pages[32];  /* of the buffers */
	json_t *adapter; /* what it says about itself at the end; the caller's, may be NULL */
};

/* Runs all rounds. 0, or -errno with `why`: -ETIMEDOUT when an operation never came back (the adapter must then be closed before anything
 * is freed, which it does not do here: the memory stays). */
int bench_l2_run(const struct bench_l2_conf *conf, const char *adapter, struct bench_l2_result *out, struct why *why);

#endif
