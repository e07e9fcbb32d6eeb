/* Engines come and go: what any thread does of it, and what the GPU's thread does. */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

static void put_views(struct gpu_view **views, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		gpu_view_put(views[i]);
}

/* ---- create ----------------------------------------------------------------------------------------------------------------- */

static int check_views(struct gpu_door *d, struct gpu_view **views, uint32_t n, struct gpu **out, struct why *why)
{
	uint32_t gpu = n ? gpu_view_gpu(views[0]) : 0;

	if (!n)
		return why_set(why, -EINVAL, "an engine without memory");
	for (uint32_t i = 1; i < n; i++)
		if (gpu_view_gpu(views[i]) != gpu)
			return why_set(why, -EXDEV,
				       "tensors of one engine lie on GPU %u and on GPU %u; each rank registers its own",
				       gpu, gpu_view_gpu(views[i]));
	*out = &d->gpu[gpu];
	return 0;
}

static struct gpu_engine *new_engine(struct gpu *g, const struct kv_layout *layout, struct gpu_view **views, uint32_t n)
{
	struct gpu_engine *e = mem_calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->views = mem_calloc(n, sizeof(struct gpu_view *));
	if (!e->views) {
		mem_free(e);
		return NULL;
	}
	memcpy(e->views, views, n * sizeof(struct gpu_view *));
	e->nviews = n;
	e->gpu = g;
	e->layout = layout;
	atomic_store(&e->refs, 1);
	for (uint32_t i = 0; i < DIRECTIONS; i++) {
		e->lane[i].wait_tail = &e->lane[i].wait;
		e->lane[i].fly_tail = &e->lane[i].fly;
	}
	return e;
}

/* Everything on the device is made by the GPU's thread. */
static int have_it_made(struct gpu_engine *e, struct why *why)
{
	struct gpu *g = e->gpu;
	int rc = gpu_thread_start(g, why);

	if (rc)
		return rc;
	lk_lock(&g->in);
	if (g->stop) {
		lk_unlock(&g->in);
		return why_set(why, -ESHUTDOWN, "the door is closing");
	}
	e->why = why;
	e->made = 1;
	e->next_in = g->made;
	g->made = e;
	pthread_cond_signal(&g->wake);
	while (e->made == 1)
		pthread_cond_wait(&g->answered, &g->in.m);
	rc = e->made;
	e->why = NULL;
	lk_unlock(&g->in);
	return rc;
}

static int make(struct gpu *g, const struct kv_layout *layout, struct gpu_view **views, uint32_t n,
		struct gpu_engine **out, struct why *why)
{
	struct gpu_engine *e = new_engine(g, layout, views, n);
	int rc;

	if (!e)
		return why_set(why, -ENOMEM, "out of memory");
	rc = gpu_hold(g, why);
	if (!rc) {
		rc = have_it_made(e, why);
		if (rc)
			gpu_release(g);
	}
	if (rc) {
		mem_free(e->views);
		mem_free(e);
		return rc;
	}
	pinned_begin(g->door->pinned, g);
	*out = e;
	return 0;
}

int gpu_engine_create(struct gpu_door *d, const struct kv_layout *layout, struct gpu_view **views, uint32_t nviews,
		      struct gpu_engine **out, struct why *why)
{
	struct gpu *g = NULL;
	int rc = check_views(d, views, nviews, &g, why);

	if (!rc)
		rc = make(g, layout, views, nviews, out, why);
	if (rc)
		put_views(views, nviews);
	return rc;
}

/* ---- on the GPU's thread ---------------------------------------------------------------------------------------------------- */

static void publish_copier(struct gpu *g, struct copier *c)
{
	lk_lock(&g->lk);
	g->copier = c;
	lk_unlock(&g->lk);
}

static void drop_copier(struct gpu *g)
{
	struct copier *c = g->copier;

	publish_copier(g, NULL);
	if (c)
		copier_destroy(c);
}

static int make_copier(struct gpu *g, struct why *why)
{
	struct copier *c = NULL;
	int rc = g->copier ? 0 : copier_create(g, &c, why);

	if (c)
		publish_copier(g, c);
	return rc;
}

int gpu_engine_setup(struct gpu_engine *e, struct why *why)
{
	struct gpu *g = e->gpu;
	int rc = gpu_enter(g);

	if (rc)
		return why_set(why, rc, "the CUDA context of GPU %u broke", g->index);
	e->epoch = atomic_load(&g->epoch);
	rc = make_copier(g, why);
	if (rc)
		return rc;
	rc = events_create(g, &e->events, why);
	if (!rc) {
		rc = copier_engine(g->copier, e, why);
		if (rc)
			events_destroy(e->events);
	}
	if (rc) {
		if (!g->engines)
			drop_copier(g);
		return rc;
	}
	e->next = g->engines;
	g->engines = e;
	atomic_fetch_add(&g->n.engines, 1);
	return 0;
}

void gpu_engine_teardown(struct gpu_engine *e)
{
	struct gpu *g = e->gpu;
	void (*gone)(void *arg) = e->gone;
	void *arg = e->gone_arg;
	struct gpu_engine **at = &g->engines;

	while (*at && *at != e)
		at = &(*at)->next;
	check(*at == e);
	*at = e->next;
	copier_engine_drop(g->copier, e);
	events_destroy(e->events);
	if (!g->engines)
		drop_copier(g);
	put_views(e->views, e->nviews);
	pinned_end(g->door->pinned, g);
	mem_free(e->views);
	mem_free(e);
	gpu_release(g);
	atomic_fetch_sub(&g->n.engines, 1);
	if (gone)
		gone(arg);
}

/* ---- put -------------------------------------------------------------------------------------------------------------------- */

void gpu_engine_unref(struct gpu_engine *e)
{
	struct gpu *g = e->gpu;

	if (atomic_fetch_sub(&e->refs, 1) != 1)
		return;
	lk_lock(&g->in);
	e->next_in = g->dropped;
	g->dropped = e;
	pthread_cond_signal(&g->wake);
	lk_unlock(&g->in);
}

void gpu_engine_put(struct gpu_engine *e, void (*gone)(void *arg), void *arg)
{
	if (!e)
		return;
	e->gone = gone;
	e->gone_arg = arg;
	atomic_store(&e->put_ns, clock_ns());
	gpu_engine_unref(e);
}

uint32_t gpu_engine_gpu(const struct gpu_engine *e)
{
	return e->gpu->index;
}

bool gpu_engine_lost(const struct gpu_engine *e)
{
	return atomic_load(&e->gpu->epoch) != e->epoch;
}

uint32_t gpu_engine_idle_event(struct gpu_engine *e, uint32_t like, uint8_t out[GPU_EVENT_MAX])
{
	return events_idle(e->events, like, out);
}
