/* device.c - the CUDA door as the server uses it: opening and closing, where its threads run, what operators see. */
#include "daemon/core/device.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/device_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

void device_name(uint32_t gpu, char out[16])
{
	snprintf(out, 16, "cuda:%u", gpu);
}

/* ---- open and close ----------------------------------------------------------------------------------------------- */

/* L1 grows after the start. */
static uint64_t committed(void *arena, uint32_t range)
{
	return arena_committed(arena, range);
}

static uint32_t arena_memory(const struct server *srv, struct gpu_memory *out)
{
	uint32_t n = arena_nranges(srv->arena);

	for (uint32_t i = 0; i < n; i++) {
		const struct arena_range *r = arena_range(srv->arena, i);

		out[i] = (struct gpu_memory){.base = (uint8_t *)arena_base(srv->arena) + r->start,
					     .bytes = r->bytes,
					     .there = committed,
					     .ctx = srv->arena,
					     .index = i};
	}
	return n;
}

/* Called by a GPU's thread itself: nothing of main's is touched. */
static void enter(void *ctx, const char *pci, const char *name)
{
	const struct server *srv = ctx;
	node_id node = place_node_of_pci(srv, pci);
	const struct plan_thread *t = NULL;
	const struct mach_node *m;

	if (name)
		pthread_setname_np(pthread_self(), name);
	if (!node_known(node) || !place_pins(srv))
		return;
	for (uint32_t i = 0; (t = plan_thread_of(srv->plan, ROLE_TRANSFER, i)) && !node_same(t->node, node); i++)
		;
	m = machine_node(srv->machine, node);
	if (t ? cpus_pin_self(&t->cpus) : m && cpus_next(&m->cpus, 0) >= 0 ? cpus_pin_self(&m->cpus) : 0)
		log_warn("the thread of GPU %s cannot be bound to node %d", pci, node.os);
}

static void make_series(struct device *dev, uint32_t i)
{
	static const char *const ops[] = {"retrieve", "store"};
	static const char *const paths[GPU_PATHS] = {NULL, "direct", "batch", "staged"};
	struct metrics *m = dev->srv->metrics;
	struct device_series *s = &dev->series[i];
	char name[16];
	struct slice label[2];

	device_name(i, name);
	label[0] = slice_str(name);
	for (int k = 0; k < 2; k++) {
		label[1] = slice_str(ops[k]);
		s->copies[k] = metric_series_get(m, M_GPU_COPIES, label, 2);
	}
	for (int k = GPU_DIRECT; k < GPU_PATHS; k++) {
		label[1] = slice_str(paths[k]);
		s->bytes[k] = metric_series_get(m, M_GPU_BYTES, label, 2);
	}
	s->failed = metric_series_get(m, M_GPU_COPY_FAILURES, label, 1);
	s->in_flight = metric_series_get(m, M_GPU_COPIES_IN_FLIGHT, label, 1);
	s->mapped = metric_series_get(m, M_GPU_MAPPED_BYTES, label, 1);
	s->registered = metric_series_get(m, M_GPU_REGISTERED_BYTES, label, 1);
	s->lost = metric_series_get(m, M_GPU_CONTEXTS_LOST, label, 1);
}

static int create(struct server *srv)
{
	struct device *dev = mem_calloc(1, sizeof(*dev));
	pthread_condattr_t attr;

	if (!dev)
		return -ENOMEM;
	dev->srv = srv;
	lk_init(&dev->lk, LK_COPIES);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&dev->idle, &attr);
	pthread_condattr_destroy(&attr);
	dev->ngpus = gpu_count(srv->gpu);
	for (uint32_t i = 0; i < dev->ngpus; i++)
		make_series(dev, i);
	srv->device = dev;
	return 0;
}

static void log_gpus(const struct server *srv)
{
	char text[128];

	gpu_describe(srv->gpu, text, sizeof(text));
	log_info("CUDA: driver %s", text);
	for (uint32_t i = 0; i < gpu_count(srv->gpu); i++) {
		struct gpu_facts f;
		node_id node;

		gpu_facts(srv->gpu, i, &f);
		node = place_node_of_pci(srv, f.pci);
		log_info("cuda:%u: %s, %.1f GiB, GPU-%s at %s, node %d%s", i, f.name, (double)f.bytes / (1 << 30),
			 f.uuid, f.pci, node.os, f.mig ? "; MIG: its engines cannot share memory" : "");
	}
}

int device_open(struct server *srv, struct why *why)
{
	static const enum gpu_path paths[] = {[CONF_GPU_AUTO] = GPU_AUTO,
					      [CONF_GPU_DIRECT] = GPU_DIRECT,
					      [CONF_GPU_BATCH] = GPU_BATCH,
					      [CONF_GPU_STAGED] = GPU_STAGED};
	struct gpu_memory memory[ARENA_MAX_RANGES];
	struct gpu_conf gc = {.library = srv->conf.cuda_library,
			      .memory = memory,
			      .staging_bytes = (uint64_t)srv->conf.gpu_staging_size_mb << 20,
			      .blocks = srv->conf.gpu_blocks,
			      .path = paths[srv->conf.gpu_copy_path],
			      .enter = enter,
			      .ctx = srv};
	struct why reason = {0};
	int err;

	if (srv->conf.cuda == CONF_CUDA_OFF) {
		snprintf(srv->no_gpu, sizeof(srv->no_gpu), "--cuda is off");
		return 0;
	}
	gc.nmemory = arena_memory(srv, memory);
	err = gpu_door_open(&gc, &srv->gpu, &reason);
	if (!err) {
		err = create(srv);
		if (err)
			return why_set(why, err, "out of memory");
		log_gpus(srv);
		return 0;
	}
	srv->gpu = NULL;
	if (srv->conf.cuda == CONF_CUDA_REQUIRED)
		return why_set(why, err, "--cuda required: %s", reason.text);
	snprintf(srv->no_gpu, sizeof(srv->no_gpu), "%.150s", reason.text);
	if (err == -ENOENT || err == -ENODEV)
		log_info("CUDA: %s; engines with GPU memory are refused", reason.text);
	else
		log_warn("CUDA: %s; engines with GPU memory are refused", reason.text);
	return 0;
}

static bool leaving(const struct server *srv)
{
	return atomic_load(&srv->engines.leaving) != 0;
}

static void pause_ms(long ms)
{
	struct timespec t = {0, ms * 1000000l};

	nanosleep(&t, NULL);
}

static uint32_t wait_for_copies(struct device *dev, uint64_t until_ms)
{
	struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000l};
	uint32_t left;
	int err = 0;

	lk_lock(&dev->lk);
	while (dev->copies && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&dev->idle, &dev->lk.m, &until);
	left = dev->copies;
	lk_unlock(&dev->lk);
	return left;
}

/* What waits for its engine's event is given up soon after the engine is let go; else the stop would wait for engines. */
static void let_go_all(struct server *srv)
{
	uint32_t n;
	struct ctx **all = ctx_get_all(srv->contexts, &n);

	for (uint32_t i = 0; all && i < n; i++) {
		if (all[i]->gpu)
			ctx_drop(srv->contexts, all[i]->instance_id, all[i]->owner);
		ctx_put(srv->contexts, all[i]);
	}
	mem_free(all);
}

bool device_drain(struct server *srv, uint32_t ms)
{
	uint64_t until = clock_ms() + ms;
	uint32_t left;

	if (!srv->device)
		return true;
	let_go_all(srv);
	left = wait_for_copies(srv->device, until);
	while (!left && leaving(srv) && clock_ms() < until)
		pause_ms(1);
	if (left || leaving(srv))
		log_error("%u copies of GPU engines are still under way after %u s", left, ms / 1000);
	return !left && !leaving(srv);
}

bool device_close(struct server *srv, uint32_t ms)
{
	uint64_t until = clock_ms() + ms;

	if (!srv->gpu)
		return true;
	while (atomic_load(&srv->engines.all) && clock_ms() < until)
		pause_ms(1);
	if (atomic_load(&srv->engines.all))
		return false;
	gpu_door_close(srv->gpu, ms);
	srv->gpu = NULL;
	if (srv->device) {
		device_copies_free(srv->device);
		pthread_cond_destroy(&srv->device->idle);
		lk_destroy(&srv->device->lk);
		mem_free(srv->device);
		srv->device = NULL;
	}
	return true;
}

/* ---- time limits, lost contexts --------------------------------------------------------------------------------------- */

/* The slots stay taken: CUDA may write them still. */
static uint32_t disown_late(struct device *dev, uint64_t now_ms)
{
	uint64_t ttl = dev->srv->conf.l1_write_ttl_seconds * 1000ull;
	uint32_t n = 0;

	lk_lock(&dev->lk);
	for (struct device_copy *d = dev->flight; d; d = d->next) {
		if (!d->copy.store || d->disowned || now_ms < d->since_ms || now_ms - d->since_ms <= ttl)
			continue;
		store_disown(dev->srv->store, d->moved.objs, d->moved.n);
		d->disowned = true;
		n++;
	}
	lk_unlock(&dev->lk);
	return n;
}

static void remember_lost(struct device *dev, uint64_t instance_id)
{
	lk_lock(&dev->lk);
	dev->lost[dev->nlost++ % LOST_REMEMBERED] = instance_id;
	lk_unlock(&dev->lk);
}

bool device_was_lost(struct server *srv, uint64_t instance_id)
{
	struct device *dev = srv->device;
	bool found = false;

	if (!dev)
		return false;
	lk_lock(&dev->lk);
	for (uint32_t i = 0; i < LOST_REMEMBERED && i < dev->nlost && !found; i++) {
		found = dev->lost[i] == instance_id;
		if (found)
			dev->lost[i] = UINT64_MAX;
	}
	lk_unlock(&dev->lk);
	return found;
}

static bool is_lost(struct ctx *c)
{
	bool lost = false;

	if (c->gpu && ctx_gpu_hold(c)) {
		lost = gpu_engine_lost(c->gpu);
		ctx_gpu_release(c);
	}
	return lost;
}

static void drop_lost(struct server *srv)
{
	uint32_t n, dropped[GPU_MAX] = {0};
	struct ctx **all = ctx_get_all(srv->contexts, &n);

	for (uint32_t i = 0; all && i < n; i++) {
		struct ctx *c = all[i];

		if (is_lost(c) && ctx_drop_this(srv->contexts, c)) {
			dropped[c->gpu_index]++;
			remember_lost(srv->device, c->instance_id);
		}
		ctx_put(srv->contexts, c);
	}
	mem_free(all);
	for (uint32_t i = 0; i < srv->device->ngpus; i++) {
		if (!dropped[i])
			continue;
		count(srv, COUNT_REAPED_GPU, dropped[i]);
		log_error("cuda:%u lost its CUDA context: %u engine(s) dropped, which have to register again", i,
			  dropped[i]);
	}
}

void device_tick(struct server *srv, uint64_t now_ms)
{
	uint32_t late;

	if (!srv->device)
		return;
	late = disown_late(srv->device, now_ms);
	if (late)
		log_warn("%u STORE(s) of GPU engines take longer than the write TTL: others may store those chunks",
			 late);
	if (atomic_load(&srv->engines.all))
		drop_lost(srv);
}

/* ---- operators ------------------------------------------------------------------------------------------------------- */

json_t *device_status(struct server *srv)
{
	return srv->gpu ? gpu_status(srv->gpu) : NULL;
}

void device_refresh(struct server *srv)
{
	struct metrics *m = srv->metrics;

	for (uint32_t i = 0; srv->device && i < srv->device->ngpus; i++) {
		const struct device_series *s = &srv->device->series[i];
		struct gpu_stats st = {0};

		gpu_stats(srv->gpu, i, &st);
		for (int k = 0; k < 2; k++)
			metric_series_set(m, s->copies[k], (double)st.copies[k]);
		for (int k = GPU_DIRECT; k < GPU_PATHS; k++)
			metric_series_set(m, s->bytes[k], (double)st.path_bytes[k]);
		metric_series_set(m, s->failed, (double)st.failed);
		metric_series_set(m, s->in_flight, (double)(st.waiting + st.in_flight));
		metric_series_set(m, s->mapped, (double)st.mapped_bytes);
		metric_series_set(m, s->registered, (double)st.registered_bytes);
		metric_series_set(m, s->lost, (double)st.lost);
	}
}
