/* bench_kvcache.c - `bench kvcache`: options, threads and their end. The work is in bench_client.c. */
#include "tools/bench_kv.h"
#include "tools/commands.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/httpc.h"
#include "tools/session.h"
#include "tools/tokens.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DOCUMENT     "/usr/share/common-licenses/GPL-3"
#define DOCUMENT_MAX (64u << 20)
#define VOCABULARY   128256u
#define NO_FORMAT    UINT32_MAX
#define CI_ROUNDS    16

enum layout { LAYOUT_NHD, LAYOUT_HND, LAYOUT_MIXED, LAYOUT_ALL, LAYOUT_CROSS_LAYER };

struct bench_opts {
	struct cli_common common;
	const char *http_url, *model, *dialect, *document, *device, *library;
	uint32_t clients, tokens, prompts, format_id, layout, mode, block_size, kv_dtype, wrapper, events;
	uint64_t num_blocks, seed;
	double duration, hit_rate;
	bool verify_only, no_verify;
};

#define FIELD(f) offsetof(struct bench_opts, f)

static const struct cli_opt rows[] = {
	{"clients", 'c', "N", CLI_U32, FIELD(clients), 1, 256, NULL, "Engines at the same time (default 4)"},
	{"duration", 'd', "SECONDS", CLI_REAL, FIELD(duration), 0.1, 1e6, NULL, "How long to run (default 30)"},
	{"model", 0, "NAME", CLI_STR, FIELD(model), 0, 0, NULL,
	 "Shape: llama-3.1-8b (default), llama-3.1-70b-tp4, mistral-7b, qwen3-8b, qwen3-32b-tp4, gpt-oss-20b, "
	 "deepseek-v3-mla"},
	{"device", 0, "WHERE", CLI_STR, FIELD(device), 0, 0, NULL,
	 "Where the KV is: cpu (default), cuda (GPU after GPU), cuda:N"},
	{"mode", 0, "MODE", CLI_CHOICE, FIELD(mode), 0, 0, "handle|engine-driven|pickle", "Who copies, and how"},
	{"layout", 0, "LAYOUT", CLI_CHOICE, FIELD(layout), 0, 0, "nhd|hnd|mixed|all|cross-layer",
	 "KV layout; mixed and all give clients different ones"},
	{"format-id", 0, "N", CLI_U32, FIELD(format_id), 0, KV_FORMAT_COUNT - 1, NULL, "KV format by number instead"},
	{"block-size", 0, "N", CLI_U32, FIELD(block_size), 1, 4096, NULL, "Tokens per block (default: the model's)"},
	{"kv-dtype", 0, "TYPE", CLI_CHOICE, FIELD(kv_dtype), 0, 0, "auto|fp8",
	 "Elements: the model's, or one byte each"},
	{"wrapper", 0, "KIND", CLI_CHOICE, FIELD(wrapper), 0, 0, "torch|raw", "How memory of a GPU is exported"},
	{"events", 0, "FORM", CLI_CHOICE, FIELD(events), 0, 0, "ipc|timeline",
	 "Events of a GPU: CUDA's, or those of isolated engines"},
	{"cuda-library", 0, "FILE", CLI_STR, FIELD(library), 0, 0, NULL, "Another driver than libcuda.so.1"},
	{"dialect", 0, "DN", CLI_STR, FIELD(dialect), 0, 0, NULL, "Wire dialect, D1 to D7 (default D6)"},
	{"tokens", 0, "N", CLI_U32, FIELD(tokens), 256, 1 << 20, NULL, "Longest prompt (default 2048)"},
	{"num-blocks", 0, "N", CLI_U64, FIELD(num_blocks), 4, 1 << 22, NULL, "Blocks of each engine (default: enough)"},
	{"hit-rate", 0, "R", CLI_REAL, FIELD(hit_rate), 0, 1, NULL, "Share of prompts seen before (default 0.5)"},
	{"prompts", 0, "N", CLI_U32, FIELD(prompts), 1, 1 << 20, NULL,
	 "How many recent prompts come again (default 32)"},
	{"document", 0, "FILE", CLI_STR, FIELD(document), 0, 0, NULL, "Text of the prompts (default " DOCUMENT ")"},
	{"seed", 0, "N", CLI_U64, FIELD(seed), 0, 9e15, NULL, "Seed of prompts and blocks (default: random)"},
	{"verify-only", 0, NULL, CLI_FLAG, FIELD(verify_only), 0, 0, NULL, "Short fixed run for CI"},
	{"no-verify", 0, NULL, CLI_FLAG, FIELD(no_verify), 0, 0, NULL, "Speed only: no patterns, no checks"},
	{"http-url", 0, "URL", CLI_STR, FIELD(http_url), 0, 0, NULL,
	 "Also ask the server's health when done, and what each tier did meanwhile"},
};

/* ---- from options to a run ----------------------------------------------------------------------------------- */

static void choose_formats(struct bench_conf *c, uint32_t layout, uint32_t format_id)
{
	static const uint32_t mixed[] = {KV_NL_X_TWO_NB_BS_NH_HS, KV_NL_X_TWO_NB_NH_BS_HS, KV_NL_X_NB_TWO_BS_NH_HS,
					 KV_NL_X_NB_TWO_NH_BS_HS};
	bool mla = c->model->kv_size == 1;
	if (format_id != NO_FORMAT) {
		c->formats[c->nformats++] = format_id;
	} else if (layout == LAYOUT_ALL || (layout == LAYOUT_MIXED && mla)) {
		/* Of a hybrid model those that have groups: objects of others are not the same. */
		uint32_t groups = km_groups(c->model, KV_NL_X_TWO_NB_BS_NH_HS);
		for (uint32_t f = 0; f < KV_FORMAT_COUNT; f++)
			if (km_format(f)->mla == mla && km_groups(c->model, f) == groups)
				c->formats[c->nformats++] = f;
	} else if (layout == LAYOUT_MIXED) {
		memcpy(c->formats, mixed, sizeof(mixed));
		c->nformats = sizeof(mixed) / sizeof(mixed[0]);
	} else if (layout == LAYOUT_CROSS_LAYER) {
		c->formats[c->nformats++] = KV_NB_NL_TWO_BS_NH_HS;
	} else {
		c->formats[c->nformats++] = mla                    ? KV_NL_X_NB_BS_HS
					    : layout == LAYOUT_HND ? KV_NL_X_TWO_NB_NH_BS_HS
								   : KV_NL_X_TWO_NB_BS_NH_HS;
	}
}

static int check_mode(const struct cli_cmd *cmd, const struct bench_conf *c)
{
	if (c->mode == ENG_DRIVEN && c->dialect < WIRE_D4)
		return cli_usage(cmd, "--mode engine-driven exists from dialect D4 on");
	if (c->mode == ENG_PICKLE && c->dialect < WIRE_D3B)
		return cli_usage(cmd, "--mode pickle exists from dialect D3b on");
	if (c->dialect == WIRE_D1E)
		return cli_usage(cmd, "--dialect D1E is not spoken by the bench");
	return -1;
}

static int choose_model(const struct cli_cmd *cmd, const struct bench_opts *o, struct bench_conf *c)
{
	const struct km_model *m = km_model_find(o->model);
	char names[256];
	km_model_names(names, sizeof(names));
	if (!m)
		return cli_usage(cmd, "--model %.64s: expected %s", o->model, names);
	c->chosen = *m;
	c->model = &c->chosen;
	if (o->block_size)
		c->chosen.block_tokens = o->block_size;
	if (o->kv_dtype)
		c->chosen.dtype = PK_UINT8; /* what vLLM registers for its 8-bit caches */
	return -1;
}

static int choose_device(const struct cli_cmd *cmd, const struct bench_opts *o, struct bench_conf *c)
{
	char *end = NULL;
	long n = -1;
	if (strncmp(o->device, "cuda:", 5) == 0 && o->device[5] >= '0' && o->device[5] <= '9')
		n = strtol(o->device + 5, &end, 10);
	c->on_gpu = strcmp(o->device, "cuda") == 0 || (end && *end == '\0' && n < 1024);
	if (!c->on_gpu && strcmp(o->device, "cpu") != 0)
		return cli_usage(cmd, "--device %.64s: expected cpu, cuda or cuda:N", o->device);
	if (!c->on_gpu && (o->wrapper || o->events || o->library))
		return cli_usage(cmd, "--wrapper, --events and --cuda-library belong to --device cuda");
	if (c->on_gpu && c->mode != ENG_HANDLE)
		return cli_usage(cmd, "--device cuda: the server copies, so --mode must be handle");
	c->gpu = (struct egpu_conf){.library = o->library,
				    .ordinal = (int32_t)n,
				    .workers = o->clients * c->chosen.workers,
				    .wrapper = (enum egpu_wrapper)o->wrapper,
				    .events = (enum egpu_events)o->events};
	return -1;
}

static int to_conf(const struct cli_cmd *cmd, const struct bench_opts *o, struct bench_conf *c)
{
	struct km_place place;
	struct why why;
	*c = (struct bench_conf){.mode = (enum eng_mode)o->mode,
				 .num_blocks = o->num_blocks,
				 .seed = o->seed,
				 .clients = o->clients,
				 .tokens = o->tokens,
				 .prompts = o->prompts,
				 .rounds = o->verify_only ? CI_ROUNDS : 0,
				 .hit_rate = o->hit_rate,
				 .verify = !o->no_verify,
				 .timeout_ms = (int)(o->common.timeout_s * 1000),
				 .url = o->common.url};
	int code = choose_model(cmd, o, c);
	if (code < 0)
		code = choose_device(cmd, o, c);
	if (code >= 0)
		return code;
	if (wire_dialect_parse(slice_str(o->dialect), &c->dialect))
		return cli_usage(cmd, "--dialect %.64s: expected D1 to D7", o->dialect);
	if (c->url.kind == URL_HTTP)
		return cli_usage(cmd, "the bench speaks ZMQ: give host:port, tcp://host:port or ipc://path");
	if (o->verify_only && o->no_verify)
		return cli_usage(cmd, "--verify-only and --no-verify exclude each other");
	choose_formats(c, o->layout, o->format_id);
	if (km_place_init(&place, c->model, c->formats[0], c->model->block_tokens, 4, &why))
		return cli_usage(cmd, "%s", why.text);
	return check_mode(cmd, c);
}

/* ---- the run ------------------------------------------------------------------------------------------------- */

static void progress(const struct bench_shared *s, struct bench_client *const *clients, double seconds, double of)
{
	uint64_t done[BENCH_OPS] = {0}, right = 0, wrong = 0;
	for (uint32_t i = 0; i < s->conf.clients; i++) {
		for (int op = 0; op < BENCH_OPS; op++)
			done[op] += atomic_load(&clients[i]->done[op]);
		right += atomic_load(&clients[i]->right);
		wrong += atomic_load(&clients[i]->wrong);
	}
	fprintf(stderr, "\r\033[K[%.0f/%.0f s] %llu lookups, %llu retrieves, %llu stores, %llu/%llu chunks right",
		seconds, of, (unsigned long long)done[BENCH_LOOKUP], (unsigned long long)done[BENCH_RETRIEVE],
		(unsigned long long)done[BENCH_STORE], (unsigned long long)right, (unsigned long long)(right + wrong));
}

/* Waits until the time is over, all clients have ended, or a signal asks to stop; SIGINT and SIGTERM are blocked, so that they
 * arrive here and nowhere else. Returns the seconds of the run. */
static double wait_for_end(struct bench_shared *s, struct bench_client *const *clients, double duration, bool show)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	while (atomic_load(&s->ready) < s->conf.clients && atomic_load(&s->running) > 0)
		if (sigtimedwait(&set, NULL, &(struct timespec){.tv_nsec = 10000000}) > 0)
			atomic_store(&s->stop, true);
	uint64_t start = clock_ns(), next_line = start;
	double seconds = 0;
	while (atomic_load(&s->running) > 0 && !atomic_load(&s->stop) && (s->conf.rounds || seconds < duration)) {
		if (sigtimedwait(&set, NULL, &(struct timespec){.tv_nsec = 20000000}) > 0)
			break;
		seconds = (double)(clock_ns() - start) / 1e9;
		if (show && clock_ns() >= next_line) {
			progress(s, clients, seconds, duration);
			next_line += 1000000000u;
		}
	}
	atomic_store(&s->stop, true);
	return seconds > 0.001 ? seconds : 0.001;
}

static int start_clients(struct bench_shared *s, struct bench_client **clients, pthread_t *threads, uint32_t *started)
{
	int rc = 0;
	for (*started = 0; *started < s->conf.clients && !rc;) {
		struct bench_client *c = clients[*started];
		c->shared = s;
		c->index = *started;
		atomic_fetch_add(&s->running, 1);
		rc = -pthread_create(&threads[*started], NULL, bench_client_run, c);
		if (rc)
			atomic_fetch_sub(&s->running, 1);
		else
			++*started;
	}
	return rc;
}

static int run(struct bench_shared *s, struct bench_client **clients, double duration, bool show, double *seconds)
{
	uint32_t started;
	sigset_t set, old;
	pthread_t *threads = mem_calloc(s->conf.clients, sizeof(*threads));
	if (!threads)
		return -ENOMEM;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	for (int op = 0; op < BENCH_OPS; op++)
		lk_init(&s->busy[op].lock, LK_METRICS);
	int rc = start_clients(s, clients, threads, &started);
	if (rc)
		atomic_store(&s->stop, true);
	*seconds = wait_for_end(s, clients, duration, show && !rc);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	for (int op = 0; op < BENCH_OPS; op++)
		lk_destroy(&s->busy[op].lock);
	if (show)
		fprintf(stderr, "\r\033[K");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	mem_free(threads);
	return rc;
}

static void ask_health(const struct bench_opts *o, struct bench_result *result)
{
	static const char *const paths[] = {"/status", "/api/status", NULL};
	struct url u;
	struct httpc_answer a;
	result->asked_health = o->http_url != NULL;
	if (!o->http_url || url_parse(o->http_url, &u, NULL) || u.kind != URL_HTTP ||
	    httpc_first(u.text, paths, NULL, o->common.timeout_s, &a, NULL))
		return;
	json_t *status = httpc_json(&a, NULL);
	result->healthy = httpc_check(&a, NULL) == 0 && json_is_true(json_object_get(status, "is_healthy"));
	json_decref(status);
	httpc_free(&a);
}

/* Whatever else uses the server at the same time is counted, too. */
static void ask_tiers(const struct bench_opts *o, const struct bench_tiers *before, struct bench_result *result)
{
	struct bench_tiers after;
	struct url u;

	result->asked_tiers = before && url_parse(o->http_url, &u, NULL) == 0 &&
			      bench_tiers_read(u.text, o->common.timeout_s, &after, NULL) == 0;
	if (result->asked_tiers)
		result->tiers = bench_tiers_since(before, &after);
}

static int finish(const struct cli_cmd *cmd, const struct bench_opts *o, struct bench_shared *s,
		  struct bench_client **clients, const struct bench_tiers *before, double seconds)
{
	struct bench_result result = {.seconds = seconds};
	bool good;
	ask_health(o, &result);
	ask_tiers(o, before, &result);
	struct report *r = bench_report(s, clients, &result, &good);
	for (uint32_t i = 0; i < s->conf.clients; i++)
		if (clients[i]->why.err)
			cli_error(cmd, "%s", clients[i]->why.text);
	if (!good)
		cli_error(cmd, "failed (seed %llu)", (unsigned long long)s->conf.seed);
	return cli_finish(cmd, &o->common, r, good ? CLI_OK : CLI_FAILED);
}

static int load_document(const struct bench_opts *o, uint32_t **ids, uint32_t *n, struct why *why)
{
	char *text;
	size_t bytes;
	int rc = tokens_read_file(o->document, DOCUMENT_MAX, &text, &bytes, why);
	if (rc)
		return rc;
	rc = tokens_of_document(text, bytes, VOCABULARY, ids, n, why);
	mem_free(text);
	return rc;
}

static int bench(const struct cli_cmd *cmd, const struct bench_opts *o, struct bench_shared *s)
{
	struct bench_client **clients = mem_calloc(s->conf.clients, sizeof(*clients));
	bool have_all = clients != NULL, show = isatty(STDERR_FILENO) && !o->common.quiet;
	double seconds;
	struct bench_tiers before;
	struct url u;
	int code = CLI_FAILED;
	bool tiers = o->http_url && url_parse(o->http_url, &u, NULL) == 0 && u.kind == URL_HTTP &&
		     bench_tiers_read(u.text, o->common.timeout_s, &before, NULL) == 0;
	for (uint32_t i = 0; have_all && i < s->conf.clients; i++) {
		clients[i] = mem_calloc(1, sizeof(**clients));
		have_all = clients[i] != NULL;
	}
	int rc = have_all ? run(s, clients, o->duration, show, &seconds) : -ENOMEM;
	if (rc)
		cli_error(cmd, "starting %u clients: %s", s->conf.clients, strerror(-rc));
	else
		code = finish(cmd, o, s, clients, tiers ? &before : NULL, seconds);
	for (uint32_t i = 0; clients && i < s->conf.clients; i++)
		mem_free(clients[i]);
	mem_free(clients);
	return code;
}

static int open_gpus(struct bench_shared *s, struct why *why)
{
	int rc = egpu_host_open(&s->conf.gpu, &s->gpus, why);
	return rc ? rc : egpu_host_limit(s->gpus, &s->to_gpu, &s->from_gpu, why);
}

int cmd_bench_kvcache(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {.opts = rows,
				      .nopts = sizeof(rows) / sizeof(rows[0]),
				      .default_url = CLI_DEFAULT_ZMQ,
				      .default_timeout_s = 60};
	struct bench_opts o = {.model = "llama-3.1-8b",
			       .device = "cpu",
			       .dialect = "D6",
			       .document = DOCUMENT,
			       .format_id = NO_FORMAT,
			       .clients = 4,
			       .tokens = 2048,
			       .prompts = 32,
			       .duration = 30,
			       .hit_rate = 0.5,
			       .seed = session_random() >> 16};
	struct bench_shared s = {0};
	struct why why = {0};
	uint32_t *doc;
	int code = cli_parse(cmd, &spec, argc, argv, &o.common);
	if (code < 0)
		code = to_conf(cmd, &o, &s.conf);
	if (code >= 0)
		return code;
	if (load_document(&o, &doc, &s.ndoc, &why)) {
		cli_error(cmd, "%s", why.text);
		return CLI_FAILED;
	}
	s.doc = doc;
	if (s.conf.on_gpu && open_gpus(&s, &why)) {
		cli_error(cmd, "--device %s: %s", o.device, why.text);
		code = CLI_FAILED;
	} else {
		code = bench(cmd, &o, &s);
	}
	egpu_host_close(s.gpus);
	mem_free(doc);
	return code;
}
