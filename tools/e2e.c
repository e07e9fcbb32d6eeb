#include "tools/e2e.h"

#include "daemon/base/mem.h"
#include "tools/bench/row.h"
#include "tools/session.h"

#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct km_model e2e_tiny = {"tiny", "bench/tiny", 1, 2, 1, 64, 16, 1, 1, 1, PK_BFLOAT16, 0};

void e2e_die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("bench: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

void e2e_row(struct e2e *b, const char *name, double ours, double limit, const char *unit, const char *limit_name,
	     double ratio, const char *goal, bool ok)
{
	b->all_ok = bench_row(name, ours, limit, unit, limit_name, ratio, goal, ok) && b->all_ok;
}

void *e2e_get(size_t n, size_t size)
{
	void *p = mem_calloc(n, size);
	if (!p)
		e2e_die("no memory for %zu bytes", n * size);
	return p;
}

struct engine *e2e_engine(struct e2e *b, const struct km_model *m, uint32_t format, enum eng_mode mode,
			  uint32_t max_tokens)
{
	struct engine *e;
	const struct eng_conf conf = {.url = &b->daemon.url,
				      .dialect = SESSION_DIALECT,
				      .mode = mode,
				      .model = m,
				      .format = format,
				      .max_tokens = max_tokens,
				      .timeout_ms = E2E_TIMEOUT_MS,
				      .touch = true,
				      .env = &b->env};
	e2e_must(eng_open(&conf, &e, &why));
	return e;
}

struct eng_prompt e2e_prompt(uint32_t *ids, uint32_t n, const char *name, uint64_t number)
{
	struct eng_prompt p = {.ids = ids, .count = n};
	snprintf(p.request_id, sizeof(p.request_id), "%s-%llu", name, (unsigned long long)number);
	return p;
}

void e2e_random_tokens(uint32_t *ids, uint32_t n)
{
	uint64_t s = session_random();
	for (uint32_t i = 0; i < n; i++) {
		s = s * 6364136223846793005u + 1442695040888963407u;
		ids[i] = (uint32_t)(s >> 33) % 128256;
	}
}

struct rig_message e2e_encode(const struct engine *e, uint64_t uid, enum wire_op op, const struct eng_prompt *p,
			      int worker, uint64_t end)
{
	struct rig_message m;
	struct wire_req req = eng_request(e, op, p, worker, 0, end);
	e2e_must(rig_encode(SESSION_DIALECT, uid, &req, &m, &why));
	return m;
}

uint64_t e2e_timed(struct rig_link *l, const struct rig_message *m, struct slice *payload)
{
	uint64_t ns = 0;
	e2e_must(rig_round_trip(l, m, &ns, payload, &why));
	return ns;
}

void e2e_teach(struct e2e *b, const struct rig_message *like, enum rig_answer how, struct slice payload)
{
	e2e_must(rig_echo_teach(b->to_echo, like, how, payload, &why));
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static const char *find_binary(void)
{
	static char path[PATH_MAX + 64]; /* once, at the start */
	char self[PATH_MAX] = "";
	const char *named = getenv("LMCA_BIN");
	if (named)
		return named;
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return "build/lmcache-appliance";
	snprintf(path, sizeof(path), "%s/../lmcache-appliance", dirname(self));
	return path;
}

void e2e_begin(struct e2e *b)
{
	*b = (struct e2e){.binary = find_binary(), .all_ok = true};
	e2e_must(rig_echo_start(&b->echo, &why));
}

void e2e_end(struct e2e *b)
{
	rig_echo_stop(&b->echo);
}

void e2e_start(struct e2e *b, double l1_gb, unsigned workers)
{
	struct slice payload;
	struct wire_req probe = {.op = WIRE_GET_CHUNK_SIZE};
	struct rig_message m;
	e2e_must(rig_daemon_start(b->binary, l1_gb, workers, &b->daemon, &why));
	e2e_must(rig_link_open(&b->daemon.url, E2E_TIMEOUT_MS, &b->to_daemon, &why));
	e2e_must(rig_link_open(&b->echo.url, E2E_TIMEOUT_MS, &b->to_echo, &why));
	e2e_must(rig_encode(SESSION_DIALECT, 0, &probe, &m, &why));
	e2e_timed(b->to_daemon, &m, &payload);
	if (!slice_eq(payload, slice_of("\xcd\x01\x00", 3)))
		e2e_die("the daemon's chunk is not %u tokens", E2E_CHUNK);
	rig_message_free(&m);
}

void e2e_stop(struct e2e *b)
{
	rig_link_close(b->to_daemon);
	rig_link_close(b->to_echo);
	int code = rig_daemon_stop(&b->daemon);
	if (code) {
		printf("   MISS: the daemon ended with %d\n", code);
		b->all_ok = false;
	}
}
