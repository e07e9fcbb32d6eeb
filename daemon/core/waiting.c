/* waiting.c - WAIT_PREFETCH_STATUS: requests that are answered when their lookup's job is over, or when their time is up.
 *
 * No thread waits: the control thread keeps the tasks. A job may end after the request has asked for it and before its task gets
 * here; therefore `any` is set first and the job is looked at again then. Whoever ends it later finds `any` set.
 */
#include "daemon/base/clock.h"
#include "daemon/core/core_int.h"

/* True when the job is over: the answer is in the task. */
static bool is_over(struct server *srv, struct task *t)
{
	struct wire_reply reply = {.kind = WIRE_REPLY_UINT};

	reply.u = sessions_query_job(srv->sessions, t->wait_job, true);
	if (reply.u == SESSION_PENDING)
		return false;
	task_answer(t, &reply);
	return true;
}

static void time_is_up(struct server *srv, struct task *t)
{
	const struct wire_reply none = {.kind = WIRE_REPLY_NONE};

	task_answer(t, &none);
	count(srv, COUNT_WAIT_TIMEOUTS, 1);
}

bool waiting_add(struct waiting *w, struct server *srv, struct task *t)
{
	atomic_store(&w->any, true);
	if (is_over(srv, t))
		return false;
	if (w->n >= PARKED_MAX || t->wait_until_ms <= clock_ms()) {
		time_is_up(srv, t);
		return false;
	}
	if (!w->n || t->wait_until_ms < w->until_ms)
		w->until_ms = t->wait_until_ms;
	t->next = w->head;
	w->head = t;
	w->n++;
	return true;
}

struct task *waiting_ready(struct waiting *w, struct server *srv, bool all)
{
	bool look = atomic_exchange(&w->look_again, false);
	struct task *ready = NULL, **link = &w->head;
	uint64_t now = w->n ? clock_ms() : 0, until = UINT64_MAX;

	if (!w->n)
		atomic_store(&w->any, false);
	if (!look && !all && now < w->until_ms)
		return NULL;
	while (*link) {
		struct task *t = *link;
		bool over = (look || all) && is_over(srv, t);

		if (!over && !all && t->wait_until_ms > now) {
			until = t->wait_until_ms < until ? t->wait_until_ms : until;
			link = &t->next;
			continue;
		}
		if (!over)
			time_is_up(srv, t);
		*link = t->next;
		w->n--;
		t->next = ready;
		ready = t;
	}
	w->until_ms = until;
	return ready;
}

int waiting_ms(const struct waiting *w, int most)
{
	uint64_t now;

	if (!w->n)
		return most;
	now = clock_ms();
	if (w->until_ms <= now)
		return 0;
	return w->until_ms - now < (uint64_t)most ? (int)(w->until_ms - now) : most;
}

bool waiting_job_done(struct waiting *w)
{
	return atomic_load(&w->any) && !atomic_exchange(&w->look_again, true);
}
