/* bench_l2.c - `bench l2`: options and report. The work is in bench_l2_run.c. */
#include "tools/bench_l2.h"
#include "tools/commands.h"

#include "daemon/base/mem.h"
#include "tools/session.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH     56
#define ANY_PHASE UINT32_MAX

struct l2_opts {
	struct cli_common common;
	const char *adapter;
	uint32_t keys, in_flight, rounds, warmup, only;
	uint64_t size_kb, seed;
	double hit_rate;
	bool skip_verify, no_skip_verify, keep;
};

#define FIELD(f) offsetof(struct l2_opts, f)

static const struct cli_opt rows[] = {
	{"l2-adapter", 0, "JSON", CLI_STR, FIELD(adapter), 0, 0, NULL,
	 "The adapter, as the server takes it (default: $L2_ADAPTER_JSON); docs/l2-adapters.md"},
	{"num-keys", 0, "N", CLI_U32, FIELD(keys), 1, 1 << 24, NULL, "Objects of a round (default 32)"},
	{"data-size-kb", 0, "KIB", CLI_U64, FIELD(size_kb), 1, 512 << 10, NULL, "Size of an object (default 256)"},
	{"in-flight", 0, "N", CLI_U32, FIELD(in_flight), 1, 4096, NULL, "Operations at the same time (default 1)"},
	{"rounds", 0, "N", CLI_U32, FIELD(rounds), 1, 1 << 20, NULL, "Rounds that count (default 1)"},
	{"warmup-rounds", 0, "N", CLI_U32, FIELD(warmup), 0, 1 << 20, NULL,
	 "Rounds before them that do not (default 1)"},
	{"lookup-max-hit-rate", 0, "R", CLI_REAL, FIELD(hit_rate), 0, 1, NULL,
	 "Share of the keys looked up that are there (default 0)"},
	{"skip-verify", 0, NULL, CLI_FLAG, FIELD(skip_verify), 0, 0, NULL, "Speed only: do not compare what is loaded"},
	{"no-skip-verify", 0, NULL, CLI_FLAG, FIELD(no_skip_verify), 0, 0, NULL, "Compare every byte (the default)"},
	{"only", 0, "PHASE", CLI_CHOICE, FIELD(only), 0, 0, "store|lookup|load",
	 "Measure one phase; objects are stored all the same"},
	{"seed", 0, "N", CLI_U64, FIELD(seed), 0, 9e15, NULL, "Seed of keys and bytes (default: random)"},
	{"keep", 0, NULL, CLI_FLAG, FIELD(keep), 0, 0, NULL,
	 "Leave the objects there; the same --seed finds them again after a restart"},
};

static const char *const phase_names[BENCH_L2_PHASES] = {"Store", "Lookup", "Load"};
static const char *const phase_keys[BENCH_L2_PHASES] = {"store", "lookup", "load"};

static void show_phase(struct report *r, const struct bench_l2_result *x, enum bench_l2_phase p)
{
	const struct hist *h = &x->phase[p].latency;
	double seconds = (double)x->phase[p].ns / 1e9;
	report_section(r, phase_keys[p], false, "%s", phase_names[p]);
	report_int(r, "Operations", "operations", (long long)x->phase[p].done);
	report_real(r, "Operations/s", "operations_per_second", seconds > 0 ? (double)x->phase[p].done / seconds : NAN);
	if (p != BENCH_L2_LOOKUP)
		report_real(r, "Throughput (GB/s)", "throughput_gb_per_second",
			    seconds > 0 ? (double)x->phase[p].bytes / 1e9 / seconds : NAN);
	if (p != BENCH_L2_LOOKUP)
		report_real(r, "CPU (ms/GiB)", "cpu_ms_per_gib",
			    x->phase[p].bytes
				    ? (double)x->phase[p].cpu_ns / 1e6 * (double)(1u << 30) / (double)x->phase[p].bytes
				    : NAN);
	report_real(r, "Latency p50 (ms)", "latency_p50_ms", h->count ? (double)hist_percentile(h, 0.5) / 1e6 : NAN);
	report_real(r, "Latency p95 (ms)", "latency_p95_ms", h->count ? (double)hist_percentile(h, 0.95) / 1e6 : NAN);
	report_real(r, "Latency p99 (ms)", "latency_p99_ms", h->count ? (double)hist_percentile(h, 0.99) / 1e6 : NAN);
	report_real(r, "Latency max (ms)", "latency_max_ms", h->count ? (double)h->max / 1e6 : NAN);
	if (p == BENCH_L2_STORE) {
		report_int(r, "Dropped", "dropped", (long long)x->phase[p].dropped);
		report_int(r, "There already", "present", (long long)x->phase[p].present);
		report_real(r, "Flush (ms)", "flush_ms", (double)x->flush_ns / 1e6);
	} else {
		report_int(r, p == BENCH_L2_LOOKUP ? "Not found" : "Missing", "missing",
			   (long long)x->phase[p].missing);
	}
	report_int(r, "Errors", "errors", (long long)x->phase[p].failed);
}

static struct report *show(const struct bench_l2_conf *c, const struct bench_l2_result *x, const char *adapter)
{
	struct report *r = report_create("Bench L2 Adapter", WIDTH);
	struct l2_conf *conf = NULL;
	if (!r)
		return NULL;
	if (l2_conf_parse(adapter, 0, &conf, NULL) == 0)
		report_text(r, "Type", "type", "%s", l2_conf_type(conf));
	l2_conf_free(conf);
	report_int(r, "Objects per round", "num_keys", c->keys);
	report_int(r, "Object size (KiB)", "data_size_kb", (long long)(c->bytes >> 10));
	report_int(r, "In flight", "in_flight", c->in_flight);
	report_int(r, "Rounds", "rounds", c->rounds);
	report_text(r, "Pages of the buffers", "pages", "%s", x->pages);
	report_int(r, "Seed", "seed", (long long)c->seed);
	if (x->adapter)
		report_both(r, NULL, "adapter", json_incref(x->adapter), "%s", "");
	for (uint32_t p = 0; p < BENCH_L2_PHASES; p++)
		if (c->phase[p])
			show_phase(r, x, (enum bench_l2_phase)p);
	if (c->phase[BENCH_L2_LOAD]) {
		report_section(r, "correctness", false, "Correctness");
		if (c->verify)
			report_text(r, "Objects", "objects", "%llu/%llu OK", (unsigned long long)x->right,
				    (unsigned long long)(x->right + x->wrong));
		else
			report_text(r, "Objects", "objects", "not checked");
	}
	return r;
}

static int finish(const struct cli_cmd *cmd, const struct l2_opts *o, const struct bench_l2_conf *c,
		  const struct bench_l2_result *x)
{
	uint64_t failed = 0;
	for (uint32_t p = 0; p < BENCH_L2_PHASES; p++)
		failed += x->phase[p].failed;
	if (failed)
		cli_error(cmd, "%llu operations failed, the first with: %s", (unsigned long long)failed,
			  x->first_error == -EILSEQ ? "checksum" : strerrordesc_np(-x->first_error));
	if (x->wrong)
		cli_error(cmd, "%llu objects came back with other bytes (seed %llu)", (unsigned long long)x->wrong,
			  (unsigned long long)c->seed);
	return cli_finish(cmd, &o->common, show(c, x, o->adapter), failed || x->wrong ? CLI_FAILED : CLI_OK);
}

static int run(const struct cli_cmd *cmd, const struct l2_opts *o)
{
	struct bench_l2_conf c = {.keys = o->keys,
				  .in_flight = o->in_flight,
				  .rounds = o->rounds,
				  .warmup = o->warmup,
				  .bytes = o->size_kb << 10,
				  .hit_rate = o->hit_rate,
				  .seed = o->seed,
				  .verify = !o->skip_verify,
				  .keep = o->keep,
				  .timeout_ms = (uint32_t)(o->common.timeout_s * 1000)};
	struct why why = {0};
	for (uint32_t p = 0; p < BENCH_L2_PHASES; p++)
		c.phase[p] = o->only == ANY_PHASE || o->only == p;
	struct bench_l2_result *x = mem_calloc(1, sizeof(*x));
	if (!x) {
		cli_error(cmd, "out of memory");
		return CLI_FAILED;
	}
	int rc = bench_l2_run(&c, o->adapter, x, &why);
	int code = rc ? CLI_FAILED : finish(cmd, o, &c, x);
	json_decref(x->adapter);
	mem_free(x);
	if (rc == -EINVAL || rc == -ENOTSUP)
		return cli_usage(cmd, "%s", why.text);
	if (rc)
		cli_error(cmd, "%s", why.text);
	return code;
}

int cmd_bench_l2(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {.opts = rows,
				      .nopts = sizeof(rows) / sizeof(rows[0]),
				      .default_timeout_s = 60,
				      .after = "Needs no server. The objects are removed at the end unless --keep is "
					       "given; others stay as they are.\n"
					       "A device that a server uses is refused.\n"};
	struct l2_opts o = {.adapter = getenv("L2_ADAPTER_JSON"),
			    .keys = 32,
			    .in_flight = 1,
			    .rounds = 1,
			    .warmup = 1,
			    .only = ANY_PHASE,
			    .size_kb = 256,
			    .seed = session_random() >> 16};
	int code = cli_parse(cmd, &spec, argc, argv, &o.common);
	if (code >= 0)
		return code;
	if (!o.adapter || !*o.adapter)
		return cli_usage(cmd, "--l2-adapter JSON is missing (or L2_ADAPTER_JSON in the environment)");
	if (o.skip_verify && o.no_skip_verify)
		return cli_usage(cmd, "--skip-verify and --no-skip-verify exclude each other");
	return run(cmd, &o);
}
