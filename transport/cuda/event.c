/* Events of both directions: those that clients hand us, and ours that replies carry.
 *
 * A client's event is opened for one copy, asked until it has happened, and destroyed. Opened events are not kept: the driver gives the
 * same handle to another event once a client destroyed its own. Ours are kept for as long as gpu_int.h says, because a client opens them
 * whenever it likes.
 */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define REFUSED_EVERY_MS 60000u

struct reply {
	CUevent event;
	CUipcEventHandle handle;
};

struct events {
	struct gpu *gpu;
	CUstream side; /* what is not part of a copy */
	struct timelines *timelines;
	struct reply idle;
	uint32_t next; /* reply to be used next; those before it and after it were made or not */
	struct log_limit refused;
	struct reply replies[GPU_REPLIES];
};

/* ---- ours -------------------------------------------------------------------------------------------------------------------- */

static int make_reply(struct gpu *g, struct reply *r)
{
	const struct cuda_driver *cu = g->door->cu;
	CUevent event = NULL;
	int rc = gpu_result(g, cu->cuEventCreate(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));

	if (rc)
		return rc;
	rc = gpu_result(g, cu->cuIpcGetEventHandle(&r->handle, event));
	if (rc) {
		cu->cuEventDestroy(event);
		return rc;
	}
	r->event = event;
	atomic_fetch_add(&g->n.events, 1);
	return 0;
}

static void drop_reply(struct gpu *g, struct reply *r)
{
	if (!r->event)
		return;
	g->door->cu->cuEventDestroy(r->event);
	r->event = NULL;
	atomic_fetch_sub(&g->n.events, 1);
}

static int make_idle(struct events *ev)
{
	struct gpu *g = ev->gpu;
	const struct cuda_driver *cu = g->door->cu;
	int rc = make_reply(g, &ev->idle);

	if (!rc)
		rc = gpu_result(g, cu->cuEventRecord(ev->idle.event, ev->side));
	if (!rc)
		rc = gpu_result(g, cu->cuStreamSynchronize(ev->side));
	return rc;
}

/* Only isolated engines need them: a GPU that is full to the last megabyte still serves the others. */
static int make_timelines(struct events *ev, struct why *why)
{
	struct why reason = {0};
	int rc = timelines_create(ev->gpu, ev->side, &ev->timelines, &reason);

	if (!rc)
		return 0;
	if (rc == -ENODEV)
		return why_set(why, rc, "%s", reason.text);
	log_warn("%s: an engine with --isolated-ipc would be refused", reason.text);
	return 0;
}

int events_create(struct gpu *g, struct events **out, struct why *why)
{
	struct events *ev = mem_calloc(1, sizeof(*ev));
	int rc;

	if (!ev)
		return why_set(why, -ENOMEM, "out of memory");
	ev->gpu = g;
	rc = gpu_result(g, g->door->cu->cuStreamCreateWithPriority(&ev->side, CU_STREAM_NON_BLOCKING, 0));
	if (!rc)
		rc = make_idle(ev);
	if (rc)
		why_set(why, rc, "GPU %u: no events that another process can open", g->index);
	else if (g->facts.timeline)
		rc = make_timelines(ev, why);
	if (rc)
		events_destroy(ev);
	else
		*out = ev;
	return rc;
}

void events_destroy(struct events *ev)
{
	if (!ev)
		return;
	timelines_destroy(ev->timelines);
	drop_reply(ev->gpu, &ev->idle);
	for (uint32_t i = 0; i < GPU_REPLIES; i++)
		drop_reply(ev->gpu, &ev->replies[i]);
	if (ev->side)
		ev->gpu->door->cu->cuStreamDestroy(ev->side);
	mem_free(ev);
}

/* Its turn comes again after GPU_REPLIES others. Were it not reached by then it would mean two things at once. */
static int record_reply(struct events *ev, CUstream s, uint8_t *out)
{
	struct gpu *g = ev->gpu;
	const struct cuda_driver *cu = g->door->cu;
	struct reply *r = &ev->replies[ev->next];
	int rc = r->event ? gpu_result(g, cu->cuEventQuery(r->event)) : make_reply(g, r);

	if (!rc)
		rc = gpu_result(g, cu->cuEventRecord(r->event, s));
	if (rc)
		return rc == -EAGAIN ? -EBUSY : rc;
	memcpy(out, &r->handle, GPU_EVENT);
	ev->next = (ev->next + 1) % GPU_REPLIES;
	return 0;
}

int events_record(struct events *ev, CUstream s, uint32_t like, uint8_t *out, uint32_t *n)
{
	*n = 0;
	if (like == GPU_TIMELINE) {
		int rc = ev->timelines ? timelines_record(ev->timelines, s, out) : -EOPNOTSUPP;

		*n = rc ? 0 : GPU_TIMELINE;
		return rc;
	}
	*n = GPU_EVENT;
	return record_reply(ev, s, out);
}

uint32_t events_idle(const struct events *ev, uint32_t like, uint8_t *out)
{
	if (like == GPU_TIMELINE) {
		if (!ev->timelines)
			return 0;
		timelines_idle(ev->timelines, out);
		return GPU_TIMELINE;
	}
	memcpy(out, &ev->idle.handle, GPU_EVENT);
	return GPU_EVENT;
}

/* ---- clients' ---------------------------------------------------------------------------------------------------------------- */

static int refused(struct events *ev, const char *what, int rc)
{
	uint64_t dropped = 0;

	if (rc == -ENODEV || rc == -ENOMEM)
		return rc;
	if (log_limit_pass(&ev->refused, REFUSED_EVERY_MS, &dropped))
		log_warn("GPU %u: an engine's event cannot be used: %s; its request fails (%llu such before). Events "
			 "of another "
			 "container need its IPC namespace (hostIPC), or --isolated-ipc at the engine",
			 ev->gpu->index, what, (unsigned long long)dropped);
	return -EINVAL;
}

int events_open(struct events *ev, struct slice handle, struct event_wait *w)
{
	struct gpu *g = ev->gpu;
	CUipcEventHandle h;
	CUresult rc;
	int err;

	*w = (struct event_wait){0};
	if (handle.n == GPU_TIMELINE) {
		err = ev->timelines ? timelines_open(ev->timelines, handle.p, w) : -EOPNOTSUPP;
		w->open = !err;
		return err ? refused(ev,
				     ev->timelines ? "its timeline cannot be mapped"
						   : "there is no timeline on this GPU",
				     err)
			   : 0;
	}
	if (handle.n != GPU_EVENT)
		return refused(ev, "neither 64 nor 81 bytes", -EINVAL);
	memcpy(&h, handle.p, sizeof(h));
	rc = g->door->cu->cuIpcOpenEventHandle(&w->event, h);
	err = gpu_result(g, rc);
	w->open = !err;
	return err ? refused(ev, cuda_error(g->door->cu, rc), err) : 0;
}

int events_reached(struct events *ev, struct event_wait *w, uint32_t lane)
{
	int rc;

	if (w->map)
		return timelines_reached(ev->timelines, w, lane);
	rc = gpu_result(ev->gpu, ev->gpu->door->cu->cuEventQuery(w->event));
	return rc == 0 ? 1 : rc == -EAGAIN ? 0 : rc == -ENODEV ? rc : -EIO;
}

void events_close(struct events *ev, struct event_wait *w)
{
	if (!w->open)
		return;
	if (w->map)
		timelines_close(ev->timelines, w);
	else
		ev->gpu->door->cu->cuEventDestroy(w->event);
	*w = (struct event_wait){0};
}
