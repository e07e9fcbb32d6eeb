/* The way of a copy to its GPU's thread. */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"

#include <errno.h>

/* Hands `c` over unless it cannot be taken. */
static int enqueue(struct gpu *g, struct gpu_copy *c)
{
	int rc = 0;

	lk_lock(&g->in);
	if (g->stop)
		rc = -ESHUTDOWN;
	else if (g->queued >= GPU_QUEUE)
		rc = -EAGAIN;
	if (!rc) {
		g->queued++;
		c->next = NULL;
		*g->inbox_tail = c;
		g->inbox_tail = &c->next;
		if (g->sleeping)
			pthread_cond_signal(&g->wake);
	}
	lk_unlock(&g->in);
	return rc;
}

static uint64_t copy_bytes(const struct gpu_copy *c)
{
	uint64_t chunks = 0;

	for (uint32_t i = 0; i < c->nchunks; i++)
		chunks += c->slots[i] != NULL;
	return chunks * kv_object_bytes(c->engine->layout);
}

int gpu_submit(struct gpu_copy *c)
{
	struct gpu_engine *e = c->engine;
	int rc;

	if (gpu_engine_lost(e))
		return -ENODEV;
	c->bytes = copy_bytes(c);
	rc = copier_take(c);
	if (rc)
		return rc;
	c->submitted_ns = clock_ns();
	c->started_ns = 0;
	atomic_fetch_add(&e->refs, 1);
	rc = enqueue(e->gpu, c);
	if (rc) {
		copier_leave(c);
		gpu_engine_unref(e);
	}
	return rc;
}
