/* lanes.c - which worker has a request, and in what order. The control thread's.
 *
 * A peer's transfers go to one worker, so they are in order; its lookups to another, so a scheduler never waits behind a copy.
 */
#include "daemon/core/peer.h"

/* Registering may take long, and for ever on a GPU that hangs: it has threads of its own, of which one that is at it already is left
 * alone as long as there is another. What the peer sends behind it waits there, too: its transfers stay in order. For the same reason a
 * registration goes where transfers of its peer are that have no answer yet; those may wait for an event that only it can make pointless. */
static bool admits(struct server *srv, struct peer *p, const struct task *t)
{
	uint32_t n = srv->nadmit, best = 0;

	if (!p->admitting && (t->def->op != WIRE_REGISTER_KV_CACHE || p->pending[LANE_TRANSFER]))
		return false;
	for (uint32_t i = 1; i < n; i++) {
		if (srv->admitting[i] < srv->admitting[best])
			best = i;
	}
	if (!p->admitting)
		p->admitter = best;
	p->admitting++;
	srv->admitting[p->admitter]++;
	return true;
}

static struct worker *lane_worker(struct server *srv, struct peer *p, struct task *t)
{
	if (t->lane != LANE_TRANSFER)
		return &srv->worker[srv->ntransfer + p->affinity % srv->nlookup];
	t->admit = admits(srv, p, t);
	if (t->admit)
		return &srv->worker[srv->ntransfer + srv->nlookup + p->admitter];
	return &srv->worker[peer_transfer_worker(p, srv->ntransfer)];
}

void lane_send(struct server *srv, struct task *t)
{
	struct peer *p = t->peer;
	struct worker *w = lane_worker(srv, p, t);

	t->queued = true;
	p->pending[t->lane]++;
	worker_submit(w, t);
}

void lane_answered(struct server *srv, struct task *t)
{
	struct peer *p = t->peer;

	if (t->queued)
		p->pending[t->lane]--;
	if (t->admit) {
		p->admitting--;
		srv->admitting[p->admitter]--;
	}
}
