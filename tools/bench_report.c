/* bench_report.c - what `bench kvcache` prints: the sections of the upstream proposal, and latencies. */
#include "tools/bench_kv.h"

#include "daemon/base/mem.h"

#include <math.h>

#define BENCH_WIDTH 48

struct totals {
	struct hist latency[BENCH_OPS];
	uint64_t bytes[BENCH_OPS], done[BENCH_OPS], asked, hit, right, wrong, errors;
};

static void add_up(struct totals *t, struct bench_client *const *clients, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct bench_client *c = clients[i];
		for (int op = 0; op < BENCH_OPS; op++) {
			hist_merge(&t->latency[op], &c->latency[op]);
			t->bytes[op] += c->bytes[op];
			t->done[op] += atomic_load(&c->done[op]);
		}
		t->asked += c->chunks_asked;
		t->hit += c->chunks_hit;
		t->right += atomic_load(&c->right);
		t->wrong += atomic_load(&c->wrong);
		t->errors += atomic_load(&c->errors);
	}
}

static void show_device(struct report *r, const struct bench_shared *s)
{
	char text[128] = "cpu";
	if (s->gpus)
		egpu_host_describe(s->gpus, text, sizeof(text));
	report_text(r, "Device", "device", "%s", text);
}

static void show_run(struct report *r, const struct bench_shared *s, const struct bench_result *result)
{
	static const char *const modes[] = {"handle", "engine-driven", "pickle"};
	report_text(r, "URL", "url", "%s", s->conf.url.text);
	report_text(r, "Model", "model", "%s", s->conf.model->name);
	show_device(r, s);
	report_text(r, "Mode", "mode", "%s", modes[s->conf.mode]);
	report_text(r, "Dialect", "dialect", "%s", wire_dialect_name(s->conf.dialect));
	report_int(r, "Clients", "clients", s->conf.clients);
	report_real(r, "Duration (s)", "duration_s", result->seconds);
}

static void show_share(struct report *r, const char *label, const char *key, double part, double of)
{
	double share = of > 0 ? part / of : 0;

	report_both(r, label, key, json_real(round(share * 1e4) / 1e4), "%.1f%%", share * 100);
}

/* Of the tokens asked for: per tier as the server counted, else all that was found as the clients saw it. */
static void show_hits(struct report *r, const struct totals *t, const struct bench_result *result)
{
	report_section(r, "hit_rate", false, "Hit Rate");
	if (result->asked_tiers) {
		show_share(r, "L1", "l1", result->tiers.l1_tokens, result->tiers.asked_tokens);
		show_share(r, "L2", "l2", result->tiers.l2_tokens, result->tiers.asked_tokens);
	} else {
		show_share(r, "L1", "l1", (double)t->hit, (double)t->asked);
		report_both(r, "L2", "l2", json_null(), "N/A");
	}
}

static void show_rates(struct report *r, const struct totals *t, const struct bench_result *result)
{
	double seconds = result->seconds;

	report_section(r, "operations", false, "Operations (ops/s)");
	report_real(r, "Store", "store", (double)t->done[BENCH_STORE] / seconds);
	report_real(r, "Retrieve", "retrieve", (double)t->done[BENCH_RETRIEVE] / seconds);
	report_real(r, "Lookup", "lookup", (double)t->done[BENCH_LOOKUP] / seconds);
	show_hits(r, t, result);
}

static double bandwidth(const struct bench_shared *s, const struct totals *t, enum bench_op op)
{
	uint64_t ns = s->busy[op].total_ns;
	return ns ? (double)t->bytes[op] / (double)ns : 0;
}

/* L2 works in the background: its bytes over the whole run. */
static void show_bandwidth(struct report *r, const struct bench_shared *s, const struct totals *t,
			   const struct bench_result *result)
{
	double ns = result->asked_tiers ? result->seconds * 1e9 : NAN;

	report_section(r, "bandwidth", false, "Bandwidth (GB/s)");
	report_real(r, "L1 read", "l1_read", bandwidth(s, t, BENCH_RETRIEVE));
	report_real(r, "L1 write", "l1_write", bandwidth(s, t, BENCH_STORE));
	if (s->gpus) {
		report_real(r, "One large copy to the GPU", "copy_to_gpu", s->to_gpu);
		report_real(r, "One large copy from it", "copy_from_gpu", s->from_gpu);
	}
	report_real(r, "L2 read", "l2_read", result->tiers.l2_read_bytes / ns);
	report_real(r, "L2 write", "l2_write", result->tiers.l2_write_bytes / ns);
}

static void show_latency(struct report *r, const struct totals *t)
{
	static const struct {
		enum bench_op op;
		const char *label50, *key50, *label99, *key99;
	} rows[] = {
		{BENCH_LOOKUP, "Lookup p50", "lookup_p50", "Lookup p99", "lookup_p99"},
		{BENCH_RETRIEVE, "Retrieve p50", "retrieve_p50", "Retrieve p99", "retrieve_p99"},
		{BENCH_STORE, "Store p50", "store_p50", "Store p99", "store_p99"},
		{BENCH_PING, "Ping p50", "ping_p50", "Ping p99", "ping_p99"},
	};
	report_section(r, "latency_ms", false, "Latency (ms)");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct hist *h = &t->latency[rows[i].op];
		report_real(r, rows[i].label50, rows[i].key50, h->count ? (double)hist_percentile(h, 0.5) / 1e6 : NAN);
		report_real(r, rows[i].label99, rows[i].key99, h->count ? (double)hist_percentile(h, 0.99) / 1e6 : NAN);
	}
}

static void show_correctness(struct report *r, const struct bench_shared *s, const struct totals *t,
			     const struct bench_result *result)
{
	uint64_t all = t->right + t->wrong;
	report_section(r, "correctness", false, "Correctness");
	if (s->conf.verify) {
		report_text(r, "Checksums", "checksums", "%llu/%llu %s", (unsigned long long)t->right,
			    (unsigned long long)all,
			    t->wrong ? "FAIL"
			    : all    ? "OK"
				     : "not checked");
		report_int(r, NULL, "chunks_right", (long long)t->right);
		report_int(r, NULL, "chunks_wrong", (long long)t->wrong);
	} else {
		report_text(r, "Checksums", "checksums", "off");
	}
	report_int(r, "Errors", "errors", (long long)t->errors);
	if (result->asked_health)
		report_text(r, "Server health", "server_health", "%s", result->healthy ? "OK" : "FAIL");
}

/* What the server borrowed of torch's: only known once all engines are gone. False: it kept some. */
static bool show_counters(struct report *r, const struct bench_shared *s)
{
	uint64_t counters = 0, kept = 0;
	if (s->gpus)
		egpu_host_counters(s->gpus, &counters, &kept);
	if (counters)
		report_text(r, "References given back", "references", "%llu/%llu %s",
			    (unsigned long long)(counters - kept), (unsigned long long)counters, kept ? "FAIL" : "OK");
	return kept == 0;
}

struct report *bench_report(const struct bench_shared *s, struct bench_client *const *clients,
			    const struct bench_result *result, bool *good)
{
	struct totals *t = mem_calloc(1, sizeof(*t));
	struct report *r = report_create("Bench KV Cache", BENCH_WIDTH);
	*good = false;
	if (t && r) {
		add_up(t, clients, s->conf.clients);
		show_run(r, s, result);
		show_rates(r, t, result);
		show_bandwidth(r, s, t, result);
		show_latency(r, t);
		show_correctness(r, s, t, result);
		bool counted = show_counters(r, s);
		*good = counted && t->errors == 0 && t->wrong == 0 && (t->right > 0 || !s->conf.verify) &&
			(result->healthy || !result->asked_health);
	}
	mem_free(t);
	return r;
}
