/* breaker.c - the state machine of breaker.h. */
#include "daemon/l2/breaker.h"

#include <errno.h>
#include <string.h>

#define SECOND        1000000000ull
#define ROW           3u
#define RATE_LEAST    100u
#define HANG_NS       (2 * SECOND)
#define PERIOD_NS     (10 * SECOND)
#define PERIOD_LEAST  50u /* reads that make a period count */
#define SLOW_NS       (30 * SECOND)
#define SLOW_OWN      8u
#define SLOW_PEERS    4u
#define PAUSE_NS      SECOND
#define PAUSE_MAX_NS  (60 * SECOND)
#define STEP_FIRST_NS 1024u

const char *breaker_state_name(enum breaker_state s)
{
	static const char *const names[] = {"closed", "writes_off", "open", "half_open"};
	return names[s];
}

const char *breaker_cause_text(enum breaker_cause c)
{
	static const char *const texts[BREAKER_CAUSES] = {
		[BREAKER_NONE] = "ok",
		[BREAKER_READ_ERRORS] = "read errors",
		[BREAKER_WRITE_ERRORS] = "write errors",
		[BREAKER_HANGS] = "an operation does not come back",
		[BREAKER_SLOW] = "much slower than usual and than its peers",
		[BREAKER_READ_ONLY] = "read-only",
		[BREAKER_GONE] = "gone",
	};
	return texts[c];
}

void breaker_init(struct breaker *b, uint64_t now)
{
	memset(b, 0, sizeof(*b));
	b->reads = b->writes = true;
	b->since_ns = b->period_ns = now;
	b->pause_ns = PAUSE_NS;
}

/* ---- states ---------------------------------------------------------------------------------------------------------- */

static void become(struct breaker *b, uint64_t now, enum breaker_state state, enum breaker_cause cause)
{
	b->state = state;
	b->cause = cause;
	b->since_ns = now;
	b->changes++;
}

static void forget_errors(struct breaker *b)
{
	memset(b->row, 0, sizeof(b->row));
	memset(b->slot, 0, sizeof(b->slot));
	b->slow_since_ns = 0;
}

/* Trips to writes off or open; never from worse to better. What is half open keeps its probe, whose answer is then late and bad. */
static void trip(struct breaker *b, uint64_t now, bool reads, enum breaker_cause cause)
{
	if ((reads && !b->writes) || !b->reads)
		return;
	b->reads = reads;
	b->writes = false;
	b->trips++;
	b->retry_ns = now + (cause == BREAKER_SLOW && !reads ? SLOW_NS : b->pause_ns);
	become(b, now, reads ? BREAKER_WRITES_OFF : BREAKER_OPEN, cause);
	forget_errors(b);
}

void breaker_gone(struct breaker *b, uint64_t now)
{
	if (b->cause == BREAKER_GONE)
		return;
	if (b->reads) {
		trip(b, now, false, BREAKER_GONE);
		return;
	}
	become(b, now, BREAKER_OPEN, BREAKER_GONE);
}

bool breaker_probe(struct breaker *b, uint64_t now)
{
	if (b->state == BREAKER_CLOSED || b->probing || now < b->retry_ns)
		return false;
	/* A small probe says nothing about speed: while reads go on, they do. */
	if (b->cause == BREAKER_SLOW && b->reads && b->slow_since_ns)
		return false;
	b->probing = true;
	become(b, now, BREAKER_HALF_OPEN, b->cause);
	return true;
}

void breaker_probed(struct breaker *b, uint64_t now, bool good)
{
	if (!b->probing)
		return;
	b->probing = false;
	if (good && b->state == BREAKER_HALF_OPEN) {
		b->reads = b->writes = true;
		b->pause_ns = PAUSE_NS;
		/* What was measured before the trouble no longer counts, but what is usual does. */
		memset(b->step, 0, sizeof(b->step));
		b->samples = 0;
		b->p99_ns = 0;
		b->period_ns = now;
		forget_errors(b);
		become(b, now, BREAKER_CLOSED, BREAKER_NONE);
		return;
	}
	b->pause_ns = b->pause_ns * 2 < PAUSE_MAX_NS ? b->pause_ns * 2 : PAUSE_MAX_NS;
	b->retry_ns = now + b->pause_ns;
	if (b->state == BREAKER_HALF_OPEN)
		become(b, now, b->reads ? BREAKER_WRITES_OFF : BREAKER_OPEN, b->cause);
}

/* ---- errors ------------------------------------------------------------------------------------------------------------- */

static bool rate_exceeded(const struct breaker *b, uint64_t second, bool write)
{
	uint64_t done = 0, failed = 0;
	for (uint32_t i = 0; i < BREAKER_SLOTS; i++) {
		if (b->slot[i].second + BREAKER_SLOTS <= second)
			continue;
		done += b->slot[i].done[write];
		failed += b->slot[i].failed[write];
	}
	return done >= RATE_LEAST && failed * 100 > done;
}

static void note_latency(struct breaker *b, uint64_t ns)
{
	uint64_t v = ns > STEP_FIRST_NS ? ns : STEP_FIRST_NS;
	uint32_t top = 63u - (uint32_t)__builtin_clzll(v);
	uint32_t i = (top - 10) * 4 + (uint32_t)(v >> (top - 2) & 3);
	b->step[i < BREAKER_STEPS ? i : BREAKER_STEPS - 1]++;
	b->samples++;
}

void breaker_done(struct breaker *b, uint64_t now, bool write, int err, uint64_t ns)
{
	uint64_t second = now / SECOND;
	uint32_t i = (uint32_t)(second % BREAKER_SLOTS);
	if (err == -ENODEV || err == -ENXIO) {
		breaker_gone(b, now);
		return;
	}
	if (err == -EROFS) {
		trip(b, now, true, BREAKER_READ_ONLY);
		return;
	}
	if (b->slot[i].second != second)
		memset(&b->slot[i], 0, sizeof(b->slot[i]));
	b->slot[i].second = second;
	b->slot[i].done[write]++;
	b->slot[i].failed[write] += err != 0;
	b->row[write] = err ? b->row[write] + 1 : 0;
	if (err && (b->row[write] >= ROW || rate_exceeded(b, second, write)))
		trip(b, now, write, write ? BREAKER_WRITE_ERRORS : BREAKER_READ_ERRORS);
	if (!err && !write && ns)
		note_latency(b, ns);
}

/* ---- hangs and slowness ---------------------------------------------------------------------------------------------------- */

static uint64_t p99(const struct breaker *b)
{
	uint64_t want = (uint64_t)b->samples * 99 / 100, n = 0;
	for (uint32_t i = 0; i < BREAKER_STEPS; i++) {
		n += b->step[i];
		if (n > want)
			return (uint64_t)(4 + i % 4 + 1) << (i / 4 + 10 - 2);
	}
	return 0;
}

static void end_period(struct breaker *b, uint64_t now)
{
	if (b->samples >= PERIOD_LEAST) {
		b->p99_ns = p99(b);
		/* What is far from usual does not become usual: else a slow decline would hide itself. */
		if (!b->usual_ns)
			b->usual_ns = b->p99_ns;
		else if (b->p99_ns < 2 * b->usual_ns)
			b->usual_ns = (b->usual_ns * 15 + b->p99_ns) / 16;
	}
	memset(b->step, 0, sizeof(b->step));
	b->samples = 0;
	b->period_ns = now;
}

static bool is_slow(const struct breaker *b, uint64_t peers_ns)
{
	return peers_ns && b->usual_ns && b->p99_ns > SLOW_OWN * b->usual_ns && b->p99_ns > SLOW_PEERS * peers_ns;
}

void breaker_tick(struct breaker *b, uint64_t now, uint64_t oldest_ns, uint64_t peers_ns)
{
	if (oldest_ns > HANG_NS)
		trip(b, now, false, BREAKER_HANGS);
	if (now - b->period_ns >= PERIOD_NS)
		end_period(b, now);
	if (!is_slow(b, peers_ns)) {
		b->slow_since_ns = 0;
	} else if (!b->slow_since_ns) {
		b->slow_since_ns = now;
	} else if (now - b->slow_since_ns >= SLOW_NS) {
		/* Without writes first: they may be what slows it down. */
		trip(b, now, b->writes, BREAKER_SLOW);
		b->slow_since_ns = now;
	}
}
