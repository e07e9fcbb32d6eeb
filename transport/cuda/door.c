/* The door as a whole: opening, closing, what it tells of itself. */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- open and close --------------------------------------------------------------------------------------------------------- */

static int keep_conf(struct gpu_door *d, const struct gpu_conf *conf, struct why *why)
{
	d->conf = *conf;
	d->conf.library = NULL; /* was needed to load only */
	if (!conf->nmemory)
		return 0;
	d->memory = mem_calloc(conf->nmemory, sizeof(*d->memory));
	if (!d->memory)
		return why_set(why, -ENOMEM, "out of memory");
	memcpy(d->memory, conf->memory, conf->nmemory * sizeof(*d->memory));
	d->conf.memory = d->memory;
	return 0;
}

static void take_down(struct gpu_door *d)
{
	if (d->pinned)
		pinned_destroy(d->pinned, false);
	while (d->ngpus)
		gpu_fini(&d->gpu[--d->ngpus]);
	mem_free(d->memory);
	mem_free(d);
}

static int find_gpus(struct gpu_door *d, struct why *why)
{
	int n = 0;
	CUresult rc = d->cu->cuDeviceGetCount(&n);

	if (rc)
		return why_set(why, cuda_errno(rc), "the GPUs cannot be counted: %s", cuda_error(d->cu, rc));
	if (n > (int)GPU_MAX) {
		log_warn("there are %d GPUs; the first %u are used", n, GPU_MAX);
		n = (int)GPU_MAX;
	}
	for (uint32_t i = 0; i < (uint32_t)n; i++) {
		int err = gpu_init(d, i, why);

		if (err)
			return err;
		d->ngpus++;
	}
	return d->ngpus ? 0 : why_set(why, -ENODEV, "the driver sees no GPU");
}

static int begin(struct gpu_door *d, const struct gpu_conf *conf, struct why *why)
{
	int rc = keep_conf(d, conf, why);

	if (!rc)
		rc = find_gpus(d, why);
	if (!rc && pinned_create(d, &d->pinned))
		rc = why_set(why, -ENOMEM, "out of memory");
	return rc;
}

int gpu_door_open_on(const struct cuda_driver *cu, const struct gpu_conf *conf, struct gpu_door **out, struct why *why)
{
	struct gpu_door *d = mem_calloc(1, sizeof(*d));
	int rc = 0;

	if (!d)
		return why_set(why, -ENOMEM, "out of memory");
	d->cu = cu ? cu : &d->driver;
	if (!cu)
		rc = cuda_driver_load(conf->library, &d->driver, why);
	if (!rc)
		rc = begin(d, conf, why);
	if (rc)
		take_down(d);
	else
		*out = d;
	return rc;
}

int gpu_door_open(const struct gpu_conf *conf, struct gpu_door **out, struct why *why)
{
	return gpu_door_open_on(NULL, conf, out, why);
}

/* True when nothing of this GPU is in use any more. */
static bool close_one(struct gpu *g, uint64_t until, uint32_t wait_ms)
{
	uint64_t engines, views = 0, allocations, bytes;

	if (!gpu_thread_stop(g, until)) {
		log_warn("GPU %u: %llu copies are still under way after %u ms; its context and memory are left to the "
			 "end of the "
			 "process",
			 g->index, (unsigned long long)atomic_load(&g->n.in_flight), wait_ms);
		return false;
	}
	engines = atomic_load(&g->n.engines);
	imports_count(g, &views, &allocations, &bytes);
	if (engines || views)
		log_error("GPU %u: the door closes while %llu engines and %llu mapped tensors are still there",
			  g->index, (unsigned long long)engines, (unsigned long long)views);
	return !engines && !views;
}

/* What the device may still write to must stay as it is, and so must everything that it belongs to. */
void gpu_door_close(struct gpu_door *d, uint32_t wait_ms)
{
	uint64_t until = clock_ns() + wait_ms * 1000000ull;
	bool left = false;

	if (!d)
		return;
	for (uint32_t i = 0; i < d->ngpus; i++)
		left |= !close_one(&d->gpu[i], until, wait_ms);
	if (left)
		pinned_destroy(d->pinned, true);
	else
		take_down(d);
}

/* ---- what there is ---------------------------------------------------------------------------------------------------------- */

uint32_t gpu_count(const struct gpu_door *d)
{
	return d->ngpus;
}

void gpu_facts(const struct gpu_door *d, uint32_t i, struct gpu_facts *out)
{
	*out = d->gpu[i].facts;
}

void gpu_describe(const struct gpu_door *d, char *buf, size_t cap)
{
	snprintf(buf, cap, "%d.%d, %u GPU%s", d->cu->version / 1000, d->cu->version % 1000 / 10, d->ngpus,
		 d->ngpus == 1 ? "" : "s");
}

void gpu_stats(struct gpu_door *d, uint32_t gpu, struct gpu_stats *out)
{
	struct gpu *g = &d->gpu[gpu];

	*out = (struct gpu_stats){
		.failed = atomic_load(&g->n.failed),
		.in_flight = atomic_load(&g->n.in_flight),
		.unregistered_bytes = atomic_load(&g->n.unregistered_bytes),
		.engines = atomic_load(&g->n.engines),
		.events = atomic_load(&g->n.events),
		.lost = atomic_load(&g->n.lost),
	};
	for (uint32_t i = 0; i < DIRECTIONS; i++) {
		out->copies[i] = atomic_load(&g->n.copies[i]);
		out->bytes[i] = atomic_load(&g->n.bytes[i]);
	}
	for (uint32_t i = 0; i < GPU_PATHS; i++)
		out->path_bytes[i] = atomic_load(&g->n.path_bytes[i]);
	lk_lock(&g->in);
	out->waiting = g->queued;
	lk_unlock(&g->in);
	imports_count(g, &out->views, &out->allocations, &out->mapped_bytes);
	pinned_count(d->pinned, &out->registered_bytes, &out->register_ns);
}

/* ---- /status ---------------------------------------------------------------------------------------------------------------- */

static const char *const path_names[GPU_PATHS] = {"other", "direct", "batch", "staged"};

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static json_t *path_status(const struct gpu_stats *s)
{
	json_t *o = json_object();

	for (uint32_t i = 0; i < GPU_PATHS; i++)
		if (i != GPU_AUTO)
			json_object_set_new(o, path_names[i], number(s->path_bytes[i]));
	json_object_set_new(o, "through_staging_because_not_registered", number(s->unregistered_bytes));
	return o;
}

static json_t *abilities(const struct gpu_facts *f)
{
	return json_pack("{s:b, s:b, s:b, s:b}", "mig", f->mig, "virtual_memory", f->vmm, "fabric", f->fabric,
			 "timeline", f->timeline);
}

/* Which of the GPU's users there are says more than whether there is a context. */
static const char *state_of(struct gpu *g)
{
	const char *state;

	lk_lock(&g->lk);
	state = atomic_load(&g->lost) ? "lost" : g->ctx ? "in use" : "not in use";
	lk_unlock(&g->lk);
	return state;
}

/* A thread that works and was not seen for long is stuck in the driver. */
static json_t *thread_status(struct gpu *g)
{
	uint64_t seen = atomic_load(&g->progress_ns);
	const char *state;

	lk_lock(&g->in);
	state = !g->started ? "not started" : g->sleeping ? "asleep" : "working";
	lk_unlock(&g->in);
	return json_pack("{s:s, s:I}", "state", state, "seen_ms_ago",
			 seen ? (json_int_t)((clock_ns() - seen) / 1000000u) : (json_int_t)-1);
}

static json_t *one_status(struct gpu_door *d, uint32_t i)
{
	struct gpu *g = &d->gpu[i];
	const struct gpu_facts *f = &g->facts;
	struct gpu_stats s;
	json_t *o, *copier = NULL;

	gpu_stats(d, i, &s);
	o = json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:i, s:i}", "gpu", (int)i, "name", f->name, "uuid", f->uuid,
		      "pci", f->pci, "state", state_of(g), "bytes", (json_int_t)f->bytes, "copy_engines",
		      (int)f->copy_engines, "multiprocessors", (int)f->sms);
	if (!o)
		return NULL;
	json_object_set_new(o, "abilities", abilities(f));
	json_object_set_new(o, "engines", number(s.engines));
	json_object_set_new(o, "mapped", imports_status(g));
	json_object_set_new(o, "copies",
			    json_pack("{s:I, s:I, s:I, s:I, s:I}", "stored", (json_int_t)s.copies[TO_SLOTS],
				      "retrieved", (json_int_t)s.copies[TO_PAGES], "failed", (json_int_t)s.failed,
				      "waiting", (json_int_t)s.waiting, "in_flight", (json_int_t)s.in_flight));
	json_object_set_new(o, "bytes_stored", number(s.bytes[TO_SLOTS]));
	json_object_set_new(o, "bytes_retrieved", number(s.bytes[TO_PAGES]));
	json_object_set_new(o, "path_bytes", path_status(&s));
	json_object_set_new(o, "contexts_lost", number(s.lost));
	json_object_set_new(o, "thread", thread_status(g));
	lk_lock(&g->lk);
	if (g->copier)
		copier = copier_status(g->copier);
	lk_unlock(&g->lk);
	if (copier)
		json_object_set_new(o, "copier", copier);
	return o;
}

json_t *gpu_status(struct gpu_door *d)
{
	json_t *o = json_object(), *gpus = json_array();
	char version[32];

	snprintf(version, sizeof version, "%d.%d", d->cu->version / 1000, d->cu->version % 1000 / 10);
	json_object_set_new(o, "driver", json_string(version));
	for (uint32_t i = 0; gpus && i < d->ngpus; i++)
		json_array_append_new(gpus, one_status(d, i));
	json_object_set_new(o, "gpus", gpus);
	json_object_set_new(o, "registered", pinned_status(d->pinned));
	return o;
}
