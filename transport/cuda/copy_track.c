/* Tracks: the order of an engine's copies in one direction, and what of them is queued on the GPU. */
#include "transport/cuda/copier.h"

#include "daemon/base/check.h"

#include <errno.h>

/* One step is kept back, so that a copy that fails can always queue its end. */
bool track_room(const struct track *l, uint32_t cost)
{
	return l->nqueued - l->nretired < STEPS - 1 && (l->ops == 0 || l->ops + cost <= OPS_MAX);
}

int track_step(struct track *l, CUstream s, struct step step)
{
	struct copier *c = l->tables->copier;
	CUresult rc = c->cu->cuEventRecord(l->event[l->nqueued % STEPS], s);

	if (rc)
		return gpu_result(c->gpu, rc);
	l->step[l->nqueued % STEPS] = step;
	l->ops += step.cost;
	l->nqueued++;
	return 0;
}

/* ---- the end of jobs ---------------------------------------------------------------------------------------------------------- */

static void tell(struct job *j, int rc)
{
	j->told = true;
	if (j->copy && j->copy->submitted)
		j->copy->submitted(j->copy, rc, rc ? NULL : j->event, rc ? 0 : j->handle_bytes);
}

/* Copies are over in order, but one that failed before anything of it was queued: then it is the newest that has ids. */
static void over(struct track *l, struct job *j)
{
	struct job **at = &l->head;

	while (*at && *at != j)
		at = &(*at)->next;
	check(*at == j);
	if (at == &l->head && l->ids_cap)
		l->ids_begin = (l->ids_begin + j->ids_span) % l->ids_cap;
	l->ids_used -= j->ids_span;
	j->ids_span = 0;
	*at = j->next;
	if (l->tail == &j->next)
		l->tail = at;
	if (l->feed == j)
		l->feed = j->next;
	j->next = NULL;
	j->over = true;
}

/* Nothing is sure any more but what a synchronised stream, or a context that broke, has left behind. Only the latter is for good. */
static void track_break(struct track *l, int rc)
{
	struct copier *c = l->tables->copier;
	CUresult err = c->cu->cuStreamSynchronize(l->kernel);

	if (!err)
		err = c->cu->cuStreamSynchronize(l->copy);
	else
		c->cu->cuStreamSynchronize(l->copy);
	if (err || atomic_load(&c->gpu->lost))
		l->broken = rc;
	l->nretired = l->nqueued;
	l->ops = 0;
	l->bounce_busy = false;
	while (l->head) {
		struct job *j = l->head;

		j->rc = j->rc ? j->rc : rc;
		j->queued = true;
		over(l, j);
	}
}

/* What the job has queued goes on; behind it an event that says when none of it touches the slots any more. */
static void fail(struct track *l, struct job *j, int rc)
{
	struct copier *c = l->tables->copier;
	CUresult err;

	j->rc = rc;
	j->queued = true;
	if (!j->open) {
		over(l, j);
		return;
	}
	err = c->cu->cuEventRecord(l->join, l->kernel);
	if (!err)
		err = c->cu->cuStreamWaitEvent(l->copy, l->join, 0);
	if (err || track_step(l, l->copy, (struct step){.cost = 1, .ends = j, .bounce = j->bounce})) {
		track_break(l, rc);
		return;
	}
	j->bounce = false;
	l->slot_step[0] = l->slot_step[1] = l->nqueued;
}

/* ---- steps -------------------------------------------------------------------------------------------------------------------- */

static void retire_one(struct track *l)
{
	struct step *s = &l->step[l->nretired % STEPS];

	l->ops -= s->cost;
	if (s->bounce) {
		if (s->to)
			kv_copy(s->to, l->bounce, s->bytes);
		l->bounce_busy = false;
	}
	l->nretired++;
	if (s->ends)
		over(l, s->ends);
}

static void retire(struct track *l)
{
	struct copier *c = l->tables->copier;

	if (atomic_load(&c->gpu->lost) && l->head)
		track_break(l, -ENODEV);
	while (l->nretired < l->nqueued) {
		CUresult rc = c->cu->cuEventQuery(l->event[l->nretired % STEPS]);

		if (rc == CUDA_ERROR_NOT_READY)
			return;
		if (rc) {
			track_break(l, gpu_result(c->gpu, rc));
			return;
		}
		retire_one(l);
	}
}

void track_pump(struct track *l)
{
	retire(l);
	while (l->feed) {
		struct job *j = l->feed;
		int rc = path_step(l, j);

		if (rc == 0)
			return;
		if (rc < 0)
			fail(l, j, rc);
		if (l->feed == j && j->queued) {
			l->feed = j->next;
			if (j->rc == 0)
				tell(j, 0);
		}
	}
}

void track_add(struct track *l, struct job *j)
{
	j->next = NULL;
	*l->tail = j;
	l->tail = &j->next;
	if (!l->feed)
		l->feed = j;
}

void track_wait(struct track *l)
{
	struct copier *c = l->tables->copier;

	for (track_pump(l); l->head; track_pump(l)) {
		if (l->nretired == l->nqueued)
			continue;
		CUresult rc = c->cu->cuEventSynchronize(l->event[l->nretired % STEPS]);
		if (rc)
			track_break(l, gpu_result(c->gpu, rc));
	}
}

/* ---- what the GPU's thread calls ---------------------------------------------------------------------------------------------- */

int copier_start(struct copier *c, struct gpu_copy *copy)
{
	struct job *j = copy->inner;
	struct track *l = &copy->engine->tables->track[copy->store ? TO_SLOTS : TO_PAGES];
	int rc = l->broken;

	if (!rc) {
		if (!l->head && l->path == GPU_BATCH && !c->batch)
			track_without_batch(l);
		track_add(l, j);
		track_pump(l);
		rc = j->over && !j->told ? j->rc : 0;
	}
	if (rc) {
		copy->inner = NULL;
		job_leave(j);
	}
	return rc;
}

int copier_poll(struct copier *c, struct gpu_copy *copy)
{
	struct job *j = copy->inner;
	int rc;

	(void)c;
	if (!j->over)
		track_pump(&copy->engine->tables->track[copy->store ? TO_SLOTS : TO_PAGES]);
	if (!j->over)
		return 0;
	rc = j->rc;
	if (!j->told)
		tell(j, rc);
	copy->inner = NULL;
	job_leave(j);
	return rc ? rc : 1;
}
