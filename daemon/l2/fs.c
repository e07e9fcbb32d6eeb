/* fs.c - one file per object: upstream's fs and fs_native, which differ in nothing but the name here. */
#include "daemon/l2/fs_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_THREADS    256u
#define READ_IN_FLIGHT (UINT64_C(1536) << 20)

static struct fs *of(struct l2 *a)
{
	return (struct fs *)a;
}

/* ---- operations ---------------------------------------------------------------------------------------------------------- */

static void find_here(struct l2 *a, struct l2_find *q)
{
	fs_find(of(a), q->keys, q->n, q->bytes);
	q->done(q);
}

/* Those whose layout is known, in the order of the index's slots; the cursor is the last one told. */
static uint32_t list(struct l2 *a, uint64_t *cursor, struct l2_list_entry *out, uint32_t max)
{
	struct fs *f = of(a);
	uint32_t n = 0;

	lk_lock(&f->lk);
	uint64_t id = *cursor + 1;
	for (; id <= f->index.used && n < max; id++) {
		const struct fs_entry *e = fs_entry_at(&f->index, (uint32_t)id);
		uint32_t name = e->state != FS_READY ? 0 : e->name ? e->name : fs_stem_at(&f->stems, e->stem)->name;
		if (name && name != FS_OTHER_LAYOUT)
			out[n++] = (struct l2_list_entry){{name, e->hash}, e->bytes};
	}
	*cursor = id <= f->index.used ? id - 1 : 0;
	lk_unlock(&f->lk);
	return n;
}

static void stats(struct l2 *a, struct l2_stats *out)
{
	struct fs *f = of(a);

	lk_lock(&f->lk);
	*out = f->n;
	out->used_bytes = f->used;
	out->capacity_bytes = f->capacity;
	out->healthy = f->closed_until_ms == 0;
	if (f->closed_until_ms)
		snprintf(out->state, sizeof(out->state), "nothing is stored: %s", strerror(-f->error));
	else if (f->scanning)
		snprintf(out->state, sizeof(out->state), "scanning, %" PRIu64 " objects so far", f->found);
	else
		snprintf(out->state, sizeof(out->state), "ok");
	lk_unlock(&f->lk);
	l2_pool_counts(f->on.pool, &out->in_flight_loads, &out->in_flight_stores, &out->queued);
}

static json_t *describe(struct l2 *a)
{
	static const char *const sync[] = {
		[FS_SYNC_NEVER] = "never", [FS_SYNC_FLUSH] = "flush", [FS_SYNC_ALWAYS] = "always"};
	struct fs *f = of(a);

	lk_lock(&f->lk);
	bool marks = !f->no_marks, scanning = f->scanning;
	lk_unlock(&f->lk);
	return json_pack("{s:s, s:s, s:b, s:b, s:s, s:b, s:b}", "backend", "files", "base_path", f->base_path,
			 "use_odirect", f->direct, "shared", f->shared, "fsync", sync[f->sync], "checksums_kept", marks,
			 "scanning", scanning);
}

static void destroy(struct fs *f)
{
	if (f->tmp >= 0 && f->tmp != f->base)
		close(f->tmp);
	if (f->base >= 0)
		close(f->base);
	fs_stems_free(&f->stems);
	fs_index_free(&f->index);
	lk_destroy(&f->lk);
	mem_free(f->dirty);
	mem_free(f->base_path);
	mem_free(f);
}

static void do_close(struct l2 *a, uint32_t wait_ms)
{
	struct fs *f = of(a);
	uint64_t until = clock_ms() + wait_ms,
		 drained = until - wait_ms / 4; /* the rest is for what is under way then */
	struct l2_stats n;

	for (stats(a, &n); n.queued && clock_ms() < drained; stats(a, &n))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	uint64_t now = clock_ms();
	uint32_t left = now + 100 < until ? (uint32_t)(until - now) : 100;
	bool scanned = fs_scan_stop(f, left);
	now = clock_ms();
	left = now + 100 < until ? (uint32_t)(until - now) : 100;
	/* a scan that hangs may still ask the pool for something */
	if (scanned && l2_pool_stop(f->on.pool, left))
		destroy(f);
	else if (!scanned)
		l2_pool_abandon(f->on.pool, left);
}

static const struct l2_ops fs_ops = {
	.local = true,
	.find = find_here,
	.load = l2_pooled_load,
	.store = l2_pooled_store,
	.remove = l2_pooled_remove,
	.clear = l2_pooled_clear,
	.flush = l2_pooled_flush,
	.list = list,
	.stats = stats,
	.describe = describe,
	.close = do_close,
};

/* ---- starting ------------------------------------------------------------------------------------------------------------- */

/* `path`, made with all that leads to it, below the directory `at`. */
static int make_dir(int at, const char *path, struct why *why)
{
	char *copy = mem_strndup(path, strlen(path));
	int fd;

	if (!copy)
		return why_set(why, -ENOMEM, "out of memory");
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		mkdirat(at, copy, 0777);
		*p = '/';
	}
	mkdirat(at, copy, 0777);
	fd = openat(at, copy, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mem_free(copy);
	return fd >= 0 ? fd : why_set(why, -errno, "%s: %s", path, strerror(errno));
}

/* Below base_path, and nowhere else. */
static bool leads_out(const char *path)
{
	if (*path == '/')
		return true;
	for (const char *p = path; *p; p += strcspn(p, "/"), p += *p == '/')
		if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || !p[2]))
			return true;
	return false;
}

static int open_dirs(struct fs *f, const struct l2_conf *c, struct why *why)
{
	const char *tmp = l2_conf_text(c, "relative_tmp_dir");

	if (leads_out(tmp))
		return why_set(why, -EINVAL, "relative_tmp_dir: '%.100s' does not lie below base_path", tmp);
	f->base = make_dir(AT_FDCWD, f->base_path, why);
	if (f->base < 0)
		return f->base;
	if (faccessat(f->base, ".", W_OK | X_OK, AT_EACCESS) && errno != EROFS)
		return why_set(why, -errno, "%s: %s", f->base_path, strerror(errno));
	/* two servers with a limit each would keep none */
	if (!f->shared && flock(f->base, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return why_set(why, -EBUSY, "%s is in use by another server; \"shared\": true if that is meant",
			       f->base_path);
	f->tmp = *tmp ? make_dir(f->base, tmp, why) : f->base;
	return f->tmp < 0 ? f->tmp : 0;
}

static void read_conf(struct fs *f, const struct l2_conf *c)
{
	const char *sync = l2_conf_text(c, "fsync");

	f->direct = l2_conf_bool(c, "use_odirect");
	f->shared = l2_conf_bool(c, "shared");
	f->persist = l2_conf_bool(c, "persist_enabled");
	f->sync = strcmp(sync, "always") == 0  ? FS_SYNC_ALWAYS
		  : strcmp(sync, "flush") == 0 ? FS_SYNC_FLUSH
					       : FS_SYNC_NEVER;
	f->capacity = l2_conf_gib(c, "max_capacity_gb");
	f->noop = strcmp(l2_conf_text(c, "eviction.eviction_policy"), "noop") == 0;
	if (l2_conf_has(c, "eviction") && f->capacity && !f->noop) {
		f->watermark = l2_conf_real(c, "eviction.trigger_watermark");
		f->ratio = l2_conf_real(c, "eviction.eviction_ratio");
	}
}

static int start_threads(struct fs *f, const struct l2_conf *c, const struct l2_env *env, struct why *why)
{
	uint32_t workers = (uint32_t)l2_conf_int(c, "num_workers"), depth = (uint32_t)l2_conf_int(c, "read_io_depth");
	uint64_t bytes = (uint64_t)l2_conf_int(c, "read_max_bytes_in_flight");
	struct l2_pool_conf p = {.env = env,
				 .name = "lmca-fs",
				 .threads = depth > workers ? depth : workers,
				 .max_loads = depth,
				 .max_stores = workers,
				 .max_load_bytes = bytes ? bytes : READ_IN_FLIGHT,
				 .hold_stores = f->capacity != 0,
				 .run = fs_run,
				 .ctx = f};

	if (p.threads > MAX_THREADS)
		p.threads = MAX_THREADS;
	int rc = l2_pool_start(&p, &f->on.pool, why);
	if (rc)
		return rc;
	rc = fs_scan_start(f, why);
	if (rc)
		l2_pool_stop(f->on.pool, 10000);
	return rc;
}

int l2_fs_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why)
{
	struct fs *f = mem_calloc(1, sizeof(*f));
	uint64_t seed[2];
	int rc;

	if (!f)
		return why_set(why, -ENOMEM, "out of memory");
	lk_init(&f->lk, LK_L2);
	f->base = f->tmp = -1;
	f->names = env->names;
	f->ops = fs_ops;
	f->ops.type = l2_conf_type(c);
	read_conf(f, c);
	f->ops.local = !f->shared;
	if (f->shared)
		f->ops.find = l2_pooled_find;
	f->on.l2.ops = &f->ops;
	f->base_path = mem_strndup(l2_conf_text(c, "base_path"), strlen(l2_conf_text(c, "base_path")));
	rc = getrandom(seed, sizeof(seed), 0) == (ssize_t)sizeof(seed) ? 0 : -EIO;
	if (!rc && (!f->base_path || fs_index_init(&f->index, seed[0])))
		rc = -ENOMEM;
	if (rc)
		why_set(why, rc, "%s", strerror(-rc));
	f->stems.seed = seed[1];
	snprintf(f->session, sizeof(f->session), "%016" PRIx64, seed[0] ^ (seed[1] << 7));
	if (!rc)
		rc = open_dirs(f, c, why);
	if (!rc)
		rc = start_threads(f, c, env, why);
	if (rc) {
		destroy(f);
		return rc;
	}
	*out = &f->on.l2;
	return 0;
}
