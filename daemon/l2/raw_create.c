/* raw_create.c - raw_block from its configuration: what is on the devices, formatting, start. */
#include "daemon/l2/raw_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- what is on a device ------------------------------------------------------------------------------------------------ */

static int format(const struct l2_conf *c, const char *path, struct why *why)
{
	struct seg_format_conf f = {.path = path,
				    .bytes = (uint64_t)l2_conf_int(c, "capacity_bytes"),
				    .segment_bytes = (uint64_t)l2_conf_int(c, "segment_bytes")};
	log_info("L2 device %s: it is empty and will be formatted", path);
	uint64_t start = clock_ms();
	int rc = seg_format(&f, why);
	if (!rc)
		log_info("L2 device %s: formatted in %.1f s", path, (double)(clock_ms() - start) / 1e3);
	return rc;
}

static int prepare(const struct l2_conf *c, const char *path, struct why *why)
{
	struct seg_info info;
	struct stat st;
	bool absent = stat(path, &st) != 0;
	if (absent && errno != ENOENT)
		return why_set(why, -errno, "%s: %s", path, strerrordesc_np(errno));
	if (absent && strncmp(path, "/dev/", 5) == 0)
		return why_set(why, -ENOENT, "%s: there is no such device", path);
	/* A file that is absent or without bytes cannot tell its size. */
	bool empty_file = absent || (S_ISREG(st.st_mode) && st.st_size == 0);
	if (empty_file && !l2_conf_int(c, "capacity_bytes"))
		return why_set(why, -EINVAL,
			       "%s is an empty file or not there: say how large it shall be (capacity_bytes)", path);
	if (empty_file)
		return format(c, path, why);
	int rc = seg_probe(path, &info, why);
	if (rc)
		return rc;
	if (info.content == SEG_EMPTY)
		return format(c, path, why);
	if (info.content == SEG_FOREIGN)
		return why_set(why, -EEXIST,
			       "%s holds a %s. To lose that and use it: lmcache-appliance l2 format --force %s", path,
			       info.foreign, path);
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------ */

static void free_device(struct raw_device *d)
{
	struct l2_io *io, *next;
	/* What another device's thread sent on after this one had ended. */
	for (io = atomic_exchange(&d->inbox, NULL); io; io = next) {
		next = io->next;
		io->result = -ECANCELED;
		io->done(io);
	}
	if (d->memory)
		munmap(d->memory, RAW_MEMORY);
	mem_free(d->slots);
	mem_free(d->path);
	pthread_cond_destroy(&d->wake);
	lk_destroy(&d->lk);
}

void raw_free(struct raw *r)
{
	for (uint32_t i = 0; i < r->ndevices; i++)
		free_device(&r->device[i]);
	pthread_cond_destroy(&r->started);
	lk_destroy(&r->started_lk);
	mem_free((void *)r->env.buffers);
	mem_free(r);
}

static void init_list(struct raw_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
	l->n = 0;
}

static int init_device(struct raw *r, uint32_t i, const char *path)
{
	struct raw_device *d = &r->device[i];
	pthread_condattr_t attr;
	d->raw = r;
	d->index = i;
	lk_init(&d->lk, LK_L2);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->wake, &attr);
	pthread_condattr_destroy(&attr);
	init_list(&d->loads);
	init_list(&d->stores);
	init_list(&d->others);
	breaker_init(&d->breaker, clock_ns());
	d->told_reads = d->told_writes = true;
	atomic_store(&d->reads, true);
	atomic_store(&d->writes, true);
	r->ndevices = i + 1;
	d->path = mem_strndup(path, strlen(path));
	d->slots = mem_calloc(RAW_SLOTS, sizeof(*d->slots));
	if (!d->slots || !d->path)
		return -ENOMEM;
	for (uint32_t k = RAW_SLOTS; k-- > 0;) {
		d->slots[k].d = d;
		d->slots[k].next = d->unused;
		d->unused = &d->slots[k];
	}
	return 0;
}

static void take_conf(struct raw *r, const struct l2_conf *c)
{
	const char *engine = l2_conf_text(c, "io_engine");
	r->engine = strcmp(engine, "posix") == 0      ? DISK_THREADS
		    : strcmp(engine, "io_uring") == 0 ? DISK_URING
						      : DISK_AUTO;
	for (uint32_t i = 0; i < 2; i++) {
		static const char *const old[] = {"use_iouring", "use_uring"};
		if (!l2_conf_has(c, "io_engine") && l2_conf_has(c, old[i]))
			r->engine = l2_conf_bool(c, old[i]) ? DISK_URING : DISK_THREADS;
	}
	r->buffered = !l2_conf_bool(c, "use_odirect");
	r->verify = strcmp(l2_conf_text(c, "verify"), "full") == 0;
	r->discard = l2_conf_bool(c, "discard");
	r->trace = l2_conf_bool(c, "trace");
	r->window_bytes = (uint64_t)l2_conf_int(c, "window_mb") << 20;
	r->queue_bytes = (uint64_t)l2_conf_int(c, "max_queue_mb") << 20;
	r->write_rate = (uint64_t)(l2_conf_real(c, "write_limit_mb") * (double)(1u << 20));
	r->dwpd = l2_conf_real(c, "dwpd");
	r->readmit = l2_conf_real(c, "readmit");
	r->flush_ms = (uint32_t)l2_conf_int(c, "flush_ms");
	r->max_objects = (uint32_t)l2_conf_int(c, "max_objects");
}

static int start(struct raw *r, struct why *why)
{
	for (uint32_t i = 0; i < r->ndevices; i++) {
		struct raw_device *d = &r->device[i];
		d->opened = 1;
		int rc = -pthread_create(&d->thread, NULL, raw_device_run, d);
		if (rc)
			return why_set(why, rc, "cannot start a thread");
		d->started = true;
	}
	for (uint32_t i = 0; i < r->ndevices; i++) {
		struct raw_device *d = &r->device[i];
		lk_lock(&r->started_lk);
		while (d->opened > 0)
			pthread_cond_wait(&r->started, &r->started_lk.m);
		lk_unlock(&r->started_lk);
		if (d->opened) {
			if (why)
				*why = d->why;
			return d->opened;
		}
	}
	return 0;
}

static int keep_buffers(struct raw *r)
{
	struct disk_buffer *own = mem_calloc(r->env.nbuffers + 1, sizeof(*own));
	if (own && r->env.nbuffers)
		memcpy(own, r->env.buffers, r->env.nbuffers * sizeof(*own));
	r->env.buffers = own;
	return own ? 0 : -ENOMEM;
}

static int make(const struct l2_conf *c, const struct l2_env *env, const struct raw_opener *opener, struct l2 **out,
		struct why *why)
{
	uint32_t n = l2_conf_has(c, "device_paths") ? l2_conf_count(c, "device_paths") : 1;
	struct raw *r = mem_calloc(1, sizeof(*r) + n * sizeof(r->device[0]));
	int rc = 0;
	if (!r)
		return why_set(why, -ENOMEM, "out of memory");
	r->l2.ops = &raw_ops;
	r->env = *env;
	if (opener)
		r->opener = *opener;
	take_conf(r, c);
	lk_init(&r->started_lk, LK_QUEUE);
	pthread_cond_init(&r->started, NULL);
	rc = keep_buffers(r);
	if (rc)
		why_set(why, rc, "out of memory");
	for (uint32_t i = 0; i < n && !rc; i++) {
		const char *path = l2_conf_has(c, "device_paths") ? l2_conf_item(c, "device_paths", i)
								  : l2_conf_text(c, "device_path");
		rc = init_device(r, i, path);
		if (rc)
			why_set(why, rc, "out of memory");
		else if (!opener)
			rc = prepare(c, path, why);
	}
	if (!rc)
		rc = start(r, why);
	if (rc) {
		raw_ops.close(&r->l2, 0);
		return rc;
	}
	*out = &r->l2;
	return 0;
}

int l2_raw_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why)
{
	return make(c, env, NULL, out, why);
}

int l2_raw_create_with(const struct l2_conf *c, const struct l2_env *env, const struct raw_opener *opener,
		       struct l2 **out, struct why *why)
{
	return make(c, env, opener, out, why);
}
