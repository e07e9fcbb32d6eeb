/* fake_gpu.h - a door with two GPUs whose memory is this process's, in place of transport/cuda: the whole of gpu.h. Copies are made by a
 * thread, late, by kv_gather and kv_scatter. Tests say when, and what fails.
 *
 * A handle of kind A holds the address of its memory in its first eight bytes; the first digit of the device's uuid is the GPU.
 */
#ifndef TESTS_UNIT_DAEMON_CORE_FAKE_GPU_H
#define TESTS_UNIT_DAEMON_CORE_FAKE_GPU_H

#include "daemon/base/mem.h"
#include "transport/cuda/gpu.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define FAKE_GPUS 2u

struct gpu_view {
	struct gpu_door *door;
	uint8_t *at;
	uint64_t bytes;
	uint32_t gpu;
};

struct gpu_engine {
	struct gpu_door *door;
	const struct kv_layout *layout;
	struct gpu_view **views;
	uint32_t nviews, gpu, refs, epoch;
	bool put;
	void (*gone)(void *arg);
	void *arg;
};

/* What a copy keeps of its request. */
struct fake_copy {
	struct kv_blocks blocks[8];
	uint32_t *ids[8];
	uint8_t **slots;
};

struct gpu_door {
	pthread_mutex_t lk;
	pthread_cond_t wake;
	pthread_t thread;
	bool stop, hold, deaf; /* hold: nothing is done; deaf: nothing is even queued */
	bool hang[FAKE_GPUS];  /* no engine of it can be made for now */
	uint32_t hanging;
	int submit_error, start_error, done_error, import_error, engine_error;
	int import_error_at; /* the n-th from now on, from 0 */
	struct gpu_copy *inbox, **inbox_tail, *flight, **flight_tail;
	uint32_t views, engines, in_flight, epoch[FAKE_GPUS];
	uint64_t copies[2];
};

static struct gpu_door *fake_door;   /* the one that is open */
static char fake_pci[FAKE_GPUS][16]; /* before it opens */

/* ---- what tests say ---------------------------------------------------------------------------------------------------- */

#define FAKE_SET(field, value)                            \
	do {                                              \
		pthread_mutex_lock(&fake_door->lk);       \
		fake_door->field = (value);               \
		pthread_cond_broadcast(&fake_door->wake); \
		pthread_mutex_unlock(&fake_door->lk);     \
	} while (0)

static inline uint32_t fake_get(const uint32_t *field)
{
	uint32_t v;

	pthread_mutex_lock(&fake_door->lk);
	v = *field;
	pthread_mutex_unlock(&fake_door->lk);
	return v;
}

/* ---- copies ------------------------------------------------------------------------------------------------------------ */

static void fake_free(struct gpu_copy *c)
{
	struct fake_copy *f = c->inner;

	for (uint32_t g = 0; g < c->ngroups; g++)
		free(f->ids[g]);
	free(f->slots);
	free(f);
}

static void fake_move(struct gpu_copy *c)
{
	struct fake_copy *f = c->inner;
	const struct kv_layout *l = c->engine->layout;
	uint32_t cs = kv_layout_chunk_tokens(l), skip = c->skip_tokens;

	for (uint32_t j = 0; j < c->nchunks; j++) {
		uint32_t here = skip > cs ? cs : skip;

		skip -= here;
		if (!f->slots[j])
			continue;
		if (c->store)
			kv_gather(l, f->blocks, j, f->slots[j]);
		else if (here < cs)
			kv_scatter(l, f->blocks, j, here, f->slots[j]);
	}
}

static void fake_let_go(struct gpu_engine *e)
{
	for (uint32_t i = 0; i < e->nviews; i++)
		gpu_view_put(e->views[i]);
	pthread_mutex_lock(&e->door->lk);
	e->door->engines--;
	pthread_mutex_unlock(&e->door->lk);
	if (e->gone)
		e->gone(e->arg);
	free(e->views);
	free(e);
}

static bool fake_unref(struct gpu_engine *e)
{
	bool last;

	pthread_mutex_lock(&e->door->lk);
	last = --e->refs == 0;
	pthread_mutex_unlock(&e->door->lk);
	return last;
}

static void fake_end(struct gpu_door *d, struct gpu_copy *c, int rc)
{
	struct gpu_engine *e = c->engine;

	if (!rc)
		fake_move(c);
	fake_free(c);
	pthread_mutex_lock(&d->lk);
	d->in_flight--;
	d->copies[c->store] += !rc;
	pthread_mutex_unlock(&d->lk);
	c->done(c, rc);
	if (fake_unref(e))
		fake_let_go(e);
}

static struct gpu_copy *fake_pop(struct gpu_copy **head, struct gpu_copy ***tail)
{
	struct gpu_copy *c = *head;

	*head = c->next;
	if (!*head)
		*tail = head;
	return c;
}

static void fake_start(struct gpu_door *d, struct gpu_copy *c)
{
	uint8_t event[GPU_EVENT_MAX] = {'e', 'v'};
	int rc;

	pthread_mutex_lock(&d->lk);
	rc = gpu_engine_lost(c->engine) ? -ENODEV : d->start_error;
	pthread_mutex_unlock(&d->lk);
	c->started_ns = c->submitted_ns + 1;
	c->submitted(c, rc, rc ? NULL : event, rc ? 0 : c->event.n == GPU_TIMELINE ? GPU_TIMELINE : GPU_EVENT);
	if (rc) {
		fake_end(d, c, rc);
		return;
	}
	pthread_mutex_lock(&d->lk);
	c->next = NULL;
	*d->flight_tail = c;
	d->flight_tail = &c->next;
	pthread_mutex_unlock(&d->lk);
}

static void *fake_run(void *arg)
{
	struct gpu_door *d = arg;

	pthread_mutex_lock(&d->lk);
	for (;;) {
		struct gpu_copy *c = NULL;
		int rc;

		if (d->inbox && !d->deaf) {
			c = fake_pop(&d->inbox, &d->inbox_tail);
			pthread_mutex_unlock(&d->lk);
			fake_start(d, c);
		} else if (d->flight && !d->hold) {
			c = fake_pop(&d->flight, &d->flight_tail);
			rc = gpu_engine_lost(c->engine) ? -ENODEV : d->done_error;
			pthread_mutex_unlock(&d->lk);
			fake_end(d, c, rc);
		} else if (d->stop) {
			break;
		} else {
			pthread_cond_wait(&d->wake, &d->lk);
			continue;
		}
		pthread_mutex_lock(&d->lk);
	}
	pthread_mutex_unlock(&d->lk);
	return NULL;
}

int gpu_submit(struct gpu_copy *c)
{
	struct gpu_door *d = c->engine->door;
	struct fake_copy *f;
	int err;

	pthread_mutex_lock(&d->lk);
	err = gpu_engine_lost(c->engine) ? -ENODEV : d->submit_error;
	if (!err) {
		c->engine->refs++;
		d->in_flight++;
	}
	pthread_mutex_unlock(&d->lk);
	if (err)
		return err;
	f = calloc(1, sizeof(*f));
	f->slots = malloc(c->nchunks * sizeof(*f->slots));
	memcpy(f->slots, c->slots, c->nchunks * sizeof(*f->slots));
	for (uint32_t g = 0; g < c->ngroups; g++) {
		size_t bytes = c->blocks[g].n * sizeof(uint32_t);

		f->ids[g] = malloc(bytes ? bytes : 1);
		memcpy(f->ids[g], c->blocks[g].ids, bytes);
		f->blocks[g] = (struct kv_blocks){f->ids[g], c->blocks[g].n};
	}
	c->inner = f;
	c->submitted_ns = 1;
	pthread_mutex_lock(&d->lk);
	c->next = NULL;
	*d->inbox_tail = c;
	d->inbox_tail = &c->next;
	pthread_cond_broadcast(&d->wake);
	pthread_mutex_unlock(&d->lk);
	return 0;
}

/* ---- views and engines --------------------------------------------------------------------------------------------------- */

int gpu_import(struct gpu_door *d, const struct pk_wrapper *w, uint32_t peer_pid, struct gpu_view **out,
	       struct why *why)
{
	struct gpu_view *v;
	int err = 0;

	(void)peer_pid;
	pthread_mutex_lock(&d->lk);
	if (d->import_error && d->import_error_at-- == 0)
		err = d->import_error;
	d->views += !err;
	pthread_mutex_unlock(&d->lk);
	if (err)
		return why_set(why, err, "the driver refuses the handle");
	v = calloc(1, sizeof(*v));
	v->door = d;
	memcpy(&v->at, w->mem_handle.p, sizeof(v->at));
	v->at += w->base_offset;
	v->bytes = w->storage_bytes;
	v->gpu = (uint32_t)(((const char *)w->device_uuid.p)[0] - '0');
	*out = v;
	return 0;
}

void gpu_view_put(struct gpu_view *v)
{
	if (!v)
		return;
	pthread_mutex_lock(&v->door->lk);
	v->door->views--;
	pthread_mutex_unlock(&v->door->lk);
	free(v);
}

uint64_t gpu_view_address(const struct gpu_view *v)
{
	return (uint64_t)(uintptr_t)v->at;
}

uint64_t gpu_view_bytes(const struct gpu_view *v)
{
	return v->bytes;
}

uint32_t gpu_view_gpu(const struct gpu_view *v)
{
	return v->gpu;
}

int gpu_engine_create(struct gpu_door *d, const struct kv_layout *layout, struct gpu_view **views, uint32_t nviews,
		      struct gpu_engine **out, struct why *why)
{
	struct gpu_engine *e;
	int err = d->engine_error ? why_set(why, d->engine_error, "no room for staging") : 0;

	for (uint32_t i = 1; !err && i < nviews; i++) {
		if (views[i]->gpu != views[0]->gpu)
			err = why_set(why, -EXDEV, "tensor %u is on another GPU", i);
	}
	if (err) {
		for (uint32_t i = 0; i < nviews; i++)
			gpu_view_put(views[i]);
		return err;
	}
	pthread_mutex_lock(&d->lk);
	d->hanging++;
	while (d->hang[views[0]->gpu])
		pthread_cond_wait(&d->wake, &d->lk);
	d->hanging--;
	pthread_mutex_unlock(&d->lk);
	e = calloc(1, sizeof(*e));
	e->door = d;
	e->layout = layout;
	e->views = malloc(nviews * sizeof(struct gpu_view *));
	memcpy(e->views, views, nviews * sizeof(struct gpu_view *));
	e->nviews = nviews;
	e->gpu = views[0]->gpu;
	e->refs = 1;
	pthread_mutex_lock(&d->lk);
	e->epoch = __atomic_load_n(&d->epoch[e->gpu], __ATOMIC_RELAXED);
	d->engines++;
	pthread_mutex_unlock(&d->lk);
	*out = e;
	return 0;
}

void gpu_engine_put(struct gpu_engine *e, void (*gone)(void *arg), void *arg)
{
	e->gone = gone;
	e->arg = arg;
	e->put = true;
	if (fake_unref(e))
		fake_let_go(e);
}

uint32_t gpu_engine_gpu(const struct gpu_engine *e)
{
	return e->gpu;
}

bool gpu_engine_lost(const struct gpu_engine *e)
{
	return __atomic_load_n(&e->door->epoch[e->gpu], __ATOMIC_RELAXED) != e->epoch;
}

static inline void fake_lose(uint32_t gpu)
{
	__atomic_add_fetch(&fake_door->epoch[gpu], 1, __ATOMIC_RELAXED);
}

uint32_t gpu_engine_idle_event(struct gpu_engine *e, uint32_t like, uint8_t out[GPU_EVENT_MAX])
{
	(void)e;
	memset(out, 'i', GPU_EVENT_MAX);
	return like == GPU_TIMELINE ? GPU_TIMELINE : GPU_EVENT;
}

/* ---- the door ------------------------------------------------------------------------------------------------------------ */

int gpu_door_open(const struct gpu_conf *conf, struct gpu_door **out, struct why *why)
{
	struct gpu_door *d;

	if (conf->library && strcmp(conf->library, "none") == 0)
		return why_set(why, -ENOENT, "no NVIDIA driver");
	d = calloc(1, sizeof(*d));
	pthread_mutex_init(&d->lk, NULL);
	pthread_cond_init(&d->wake, NULL);
	d->inbox_tail = &d->inbox;
	d->flight_tail = &d->flight;
	if (pthread_create(&d->thread, NULL, fake_run, d))
		abort();
	*out = fake_door = d;
	return 0;
}

void gpu_door_close(struct gpu_door *d, uint32_t wait_ms)
{
	(void)wait_ms;
	if (d->engines || d->views || d->in_flight)
		abort();
	FAKE_SET(stop, true);
	pthread_join(d->thread, NULL);
	pthread_cond_destroy(&d->wake);
	pthread_mutex_destroy(&d->lk);
	free(d);
	fake_door = NULL;
}

uint32_t gpu_count(const struct gpu_door *d)
{
	(void)d;
	return FAKE_GPUS;
}

void gpu_facts(const struct gpu_door *d, uint32_t i, struct gpu_facts *out)
{
	(void)d;
	*out = (struct gpu_facts){.uuid = "0", .name = "fake", .pci = "", .bytes = 1 << 30};
	out->uuid[0] = (char)('0' + i);
	memcpy(out->pci, fake_pci[i], sizeof(out->pci));
}

void gpu_describe(const struct gpu_door *d, char *buf, size_t cap)
{
	(void)d;
	snprintf(buf, cap, "fake, %u GPUs", FAKE_GPUS);
}

json_t *gpu_status(struct gpu_door *d)
{
	(void)d;
	return json_object();
}

void gpu_stats(struct gpu_door *d, uint32_t gpu, struct gpu_stats *out)
{
	pthread_mutex_lock(&d->lk);
	*out = (struct gpu_stats){.copies = {d->copies[0], d->copies[1]},
				  .engines = d->engines,
				  .lost = __atomic_load_n(&d->epoch[gpu], __ATOMIC_RELAXED)};
	pthread_mutex_unlock(&d->lk);
}

#endif
