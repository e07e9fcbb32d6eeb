/* recognise.c - which dialect a peer speaks. Nothing on the wire says so; three sources, in this order: the operator's --dialect,
 * the number of its first request (GET_CHUNK_SIZE without payload is every adapter's first), the durable record of the dialects
 * seen last, for clients whose connection came back after a restart.
 */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/peer.h"

#define MAX_GUESS \
	(1u << 20) /* bytes of a message that is decoded by trial: a prompt of 200k tokens, milliseconds of work */
#define RECONNECT_MS 120000u /* how long after a start a peer may be an old client that reconnected */

static enum wire_dialect newest(wire_dialect_set set)
{
	enum wire_dialect d = WIRE_D1E;

	for (uint32_t i = 0; i < WIRE_DIALECT_COUNT; i++) {
		if (set >> i & 1)
			d = (enum wire_dialect)i;
	}
	return d;
}

static void bind_peer(struct server *srv, struct peer *p, wire_dialect_set set)
{
	p->bound = true;
	p->candidates = set;
	p->dialect = newest(set);
	state_save_dialects(srv, set);
	log_debug("peer speaks %s%s", wire_dialect_name(p->dialect), set & (set - 1) ? " or an older one" : "");
}

/* Shortly after a start a peer may be an old client whose connection came back, with any request first. An early D4's PING has
 * the number and shape of D5a's GET_CHUNK_SIZE; answering an int where a bool is due would end its receive thread. */
static bool reconnected(const struct server *srv, wire_dialect_set probe, uint64_t number)
{
	wire_dialect_set saved = srv->previous_dialects;

	if (!saved || (saved & probe) || clock_ms() - srv->started_ms > RECONNECT_MS)
		return false;
	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT; d++) {
		if ((saved >> d & 1) && wire_dialect_op((enum wire_dialect)d, number) == WIRE_PING)
			return true;
	}
	return false;
}

static bool same_family(wire_dialect_set set)
{
	uint32_t number = 0;

	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT; d++) {
		if (!(set >> d & 1))
			continue;
		uint32_t n = wire_dialect_number((enum wire_dialect)d, WIRE_GET_CHUNK_SIZE);
		if (number && n != number)
			return false;
		number = n;
	}
	return number != 0;
}

/* A peer that did not introduce itself: trust the durable record, and only as far as all dialects in which the message decodes
 * mean the same operation by it. Acting on a wrong CLEAR is worse than silence. */
static bool guess(struct server *srv, struct exec *e, struct peer *p, const struct task *t, uint64_t number)
{
	wire_dialect_set known = p->candidates ? p->candidates : srv->saved_dialects, fits = 0;
	enum wire_op op = WIRE_UNKNOWN;
	struct wire_req req;
	size_t bytes = 0;
	struct why why;

	for (uint32_t i = 0; i < t->nframes; i++)
		bytes += t->frames[i].n;
	if (bytes > MAX_GUESS)
		return false;

	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT; d++) {
		enum wire_op o = wire_dialect_op((enum wire_dialect)d, number);

		if (!(known >> d & 1) || !op_def(o))
			continue; /* whoever needs what is not served here is not served anyway */
		e->scratch->u32_used = 0;
		if (wire_request_decode((enum wire_dialect)d, o, t->frames, t->nframes, e->scratch, &req, &why))
			continue;
		if (op != WIRE_UNKNOWN && o != op)
			return false;
		op = o;
		fits |= 1u << d;
	}
	prefix_abandon(e->walk);
	if (!fits)
		return false;
	p->candidates = fits;
	p->dialect = newest(fits);
	p->bound = same_family(fits);
	return true;
}

bool recognise(struct server *srv, struct exec *e, struct peer *p, const struct task *t, uint64_t number)
{
	wire_dialect_set probe;
	enum wire_dialect forced;

	if (p->bound)
		return true;
	if (srv->conf.dialect && wire_dialect_parse(slice_str(srv->conf.dialect), &forced) == 0) {
		p->bound = true;
		p->candidates = 1u << forced;
		p->dialect = forced;
		return true;
	}
	probe = t->nframes == 0 ? wire_dialect_probe(number) : 0;
	if (probe && !reconnected(srv, probe, number)) {
		bind_peer(srv, p, probe);
		return true;
	}
	return guess(srv, e, p, t, number);
}
