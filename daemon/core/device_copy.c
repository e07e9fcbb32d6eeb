/* device_copy.c - copies of GPU engines from the worker that begins them to the callback that ends them. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/device_int.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* ---- records ------------------------------------------------------------------------------------------------------ */

static void put_record(struct device *dev, struct device_copy *d)
{
	lk_lock(&dev->lk);
	d->next = dev->free;
	dev->free = d;
	lk_unlock(&dev->lk);
}

/* NULL: -EAGAIN or -ENOMEM. */
static struct device_copy *take_record(struct device *dev, uint32_t gpu, int *err)
{
	struct device_copy *d;

	lk_lock(&dev->lk);
	*err = dev->waiting[gpu] >= DEVICE_WAITING_MAX || dev->under_way[gpu] >= DEVICE_COPIES_MAX ? -EAGAIN : 0;
	d = *err ? NULL : dev->free;
	if (d)
		dev->free = d->next;
	lk_unlock(&dev->lk);
	if (!d && !*err) {
		d = mem_calloc(1, sizeof(*d));
		*err = d ? 0 : -ENOMEM;
	}
	return d;
}

void device_copies_free(struct device *dev)
{
	while (dev->free) {
		struct device_copy *d = dev->free;

		dev->free = d->next;
		mem_free(d->room);
		mem_free(d);
	}
}

static void link_in(struct device *dev, struct device_copy *d)
{
	lk_lock(&dev->lk);
	d->next = dev->flight;
	d->link = &dev->flight;
	if (d->next)
		d->next->link = &d->next;
	dev->flight = d;
	dev->copies++;
	dev->waiting[d->gpu]++;
	dev->under_way[d->gpu]++;
	lk_unlock(&dev->lk);
}

/* From here on no sweep sees it; whoever waits for the last copy is told by count_out. */
static void link_out(struct device *dev, struct device_copy *d)
{
	lk_lock(&dev->lk);
	*d->link = d->next;
	if (d->next)
		d->next->link = d->link;
	lk_unlock(&dev->lk);
}

static void answered(struct device *dev, uint32_t gpu)
{
	lk_lock(&dev->lk);
	dev->waiting[gpu]--;
	lk_unlock(&dev->lk);
}

static void count_out(struct device *dev, uint32_t gpu)
{
	lk_lock(&dev->lk);
	dev->under_way[gpu]--;
	if (--dev->copies == 0)
		pthread_cond_broadcast(&dev->idle);
	lk_unlock(&dev->lk);
}

/* Copies of what is the worker's own. Rounded up, so that prompts that grow do not allocate each time. */
static int fill_record(struct device_copy *d, const struct moved *m, bool store)
{
	size_t nhashes = store ? m->first + m->n : 0, hashes = nhashes * sizeof(struct store_hash);
	size_t objs = m->n * sizeof(store_obj), need = hashes + objs + m->salt.n;
	uint8_t *p;

	if (need > d->room_bytes) {
		size_t room = 4096;

		while (room < need)
			room *= 2;
		mem_free(d->room);
		d->room = mem_realloc(NULL, room);
		d->room_bytes = d->room ? room : 0;
		if (!d->room)
			return -ENOMEM;
	}
	p = d->room;
	d->moved = *m;
	d->moved.hashes = memcpy(p, m->hashes, hashes);
	d->moved.objs = memcpy(p + hashes, m->objs, objs);
	d->moved.salt = slice_of(p + hashes + objs, m->salt.n);
	if (m->salt.n)
		memcpy(p + hashes + objs, m->salt.p, m->salt.n);
	return 0;
}

/* ---- callbacks, on the GPU's thread ------------------------------------------------------------------------------------- */

static void log_failed(const struct device_copy *d, int rc)
{
	static struct log_limit limit;
	uint64_t dropped;

	count(d->dev->srv, COUNT_ERROR_REFUSED, 1);
	if (log_limit_pass(&limit, 200, &dropped))
		log_warn("%s from instance %llu failed on %s: %s%s", d->copy.store ? "STORE" : "RETRIEVE",
			 (unsigned long long)d->instance_id, d->moved.ctx->device,
			 rc == -EINVAL   ? "the event it sent cannot be opened"
			 : rc == -ENODEV ? "the GPU's CUDA context is broken"
					 : strerror(-rc),
			 dropped ? " (and more)" : "");
}

static void on_submitted(struct gpu_copy *c, int rc, const uint8_t *event, uint32_t bytes)
{
	struct device_copy *d = c->owner;
	struct wire_reply reply = {.kind = WIRE_REPLY_EVENT, .flag = rc == 0};
	uint8_t idle[GPU_EVENT_MAX];
	struct task *t = d->task;

	if (rc) {
		bytes = gpu_engine_idle_event(c->engine, (uint32_t)d->copy.event.n, idle);
		event = idle;
	}
	reply.bytes = slice_of(event, bytes);
	d->task = NULL;
	answered(d->dev, d->gpu);
	task_ready(t, &reply);
}

static void on_done(struct gpu_copy *c, int rc)
{
	struct device_copy *d = c->owner;
	struct device *dev = d->dev;
	struct server *srv = dev->srv;
	struct ctx *ctx = d->moved.ctx;
	uint64_t now = clock_ns(), ns = c->started_ns && now > c->started_ns ? now - c->started_ns : 0;
	uint32_t gpu = d->gpu;

	link_out(dev, d);
	if (c->store)
		moved_store(srv, &d->moved, rc == 0, ns);
	else
		moved_retrieve(srv, &d->moved, rc == 0, ns);
	metric_series_add(srv->metrics, ctx->ended[c->store], 1);
	if (rc)
		log_failed(d, rc);
	store_ns_put(srv->store, d->moved.ns);
	put_record(dev, d);
	ctx_put(srv->contexts, ctx);
	count_out(dev, gpu);
}

/* ---- workers ------------------------------------------------------------------------------------------------------ */

static bool is_event(struct slice event)
{
	return event.n == 0 || event.n == GPU_EVENT || event.n == GPU_TIMELINE;
}

static void describe(struct device_copy *d, struct exec *e, const struct wire_req *r, const struct kv_blocks *blocks,
		     bool store)
{
	const struct moved *m = &d->moved;

	for (uint32_t j = 0; j < m->n; j++)
		e->slots_at[j] = m->objs[j] ? store_ptr(e->srv->store, m->objs[j]) : NULL;
	d->instance_id = r->instance_id;
	d->since_ms = clock_ms();
	d->disowned = false;
	d->task = e->task;
	d->copy = (struct gpu_copy){.engine = m->ctx->gpu,
				    .store = store,
				    .nchunks = m->n,
				    .skip_tokens = store ? 0 : (uint32_t)r->skip_first_n_tokens,
				    .blocks = blocks,
				    .ngroups = r->nblock_groups,
				    .slots = e->slots_at,
				    .event = r->event,
				    .submitted = on_submitted,
				    .done = on_done,
				    .owner = d};
}

/* The record is linked first: `done` may come before gpu_submit returns. */
static int submit(struct device *dev, struct device_copy *d, struct exec *e, struct ctx *c)
{
	struct task *t = e->task;
	int err;

	if (!ctx_gpu_hold(c))
		return -ENOENT;
	atomic_fetch_add(&c->refs, 1);
	link_in(dev, d);
	task_later(e, t);
	err = gpu_submit(&d->copy);
	if (err) {
		t->early = false;
		link_out(dev, d);
		answered(dev, d->gpu);
		count_out(dev, d->gpu);
		atomic_fetch_sub(&c->refs, 1); /* the caller has one, too */
	}
	ctx_gpu_release(c);
	return err;
}

int device_copy(struct exec *e, const struct wire_req *r, const struct moved *m, const struct kv_blocks *blocks,
		bool store)
{
	struct device *dev = e->srv->device;
	struct device_copy *d;
	int err;

	if (!is_event(r->event))
		return -EINVAL;
	d = take_record(dev, m->ctx->gpu_index, &err);
	if (!d)
		return err;
	d->dev = dev;
	d->gpu = m->ctx->gpu_index;
	err = fill_record(d, m, store);
	if (!err) {
		describe(d, e, r, blocks, store);
		err = submit(dev, d, e, m->ctx);
	}
	if (err)
		put_record(dev, d);
	return err ? err : DEVICE_TAKEN;
}

struct slice device_idle_event(struct exec *e, const struct wire_req *r, struct ctx *c)
{
	struct ctx *any = c ? NULL : ctx_get_gpu(e->srv->contexts);
	uint32_t n = 0;

	c = c ? c : any;
	if (c && c->gpu && ctx_gpu_hold(c)) {
		n = gpu_engine_idle_event(c->gpu, r->event.n == GPU_TIMELINE ? GPU_TIMELINE : GPU_EVENT, e->event);
		ctx_gpu_release(c);
	}
	ctx_put(e->srv->contexts, any);
	return slice_of(e->event, n);
}
