/* import_map.c - the table of mappings of one GPU: an allocation of another process is opened once, counted, and closed with its last
 * user.
 *
 * CUDA maps an allocation once per process and GPU: a second open of its handle fails or shares the mapping, and one close unmaps it for
 * everybody (cuIpcOpenMemHandle). And what is not closed pins the memory of an engine that is long dead. So handles are compared before they are opened, and
 * what the driver would not close is tried again.
 */
#include "transport/cuda/import_int.h"

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- refusals -------------------------------------------------------------------------------------------------------------- */

#define PIDS                                                                                                 \
	"it is of this very process, or of one with the same pid in another container: give them different " \
	"pids (--pid=host, hostPID: true, or --init for one of them)"

static const struct {
	CUresult rc;
	int err;
	const char *what;
} refusals[] = {
	{CUDA_ERROR_INVALID_CONTEXT, -EACCES, PIDS},
	{CUDA_ERROR_INVALID_HANDLE, -EACCES,
	 "the engine has freed that memory or is gone, or it is not shared with this container (--ipc=host, hostIPC: "
	 "true)"},
	{CUDA_ERROR_INVALID_VALUE, -EACCES,
	 "the engine has freed that memory or is gone, or it is not shared with this container (--ipc=host, hostIPC: "
	 "true)"},
	{CUDA_ERROR_MAP_FAILED, -EACCES,
	 "the driver cannot map it here: give both containers the same GPUs by --gpus or NVIDIA_VISIBLE_DEVICES (DRA "
	 "or "
	 "CDI with `void` does not do), and --ipc=host (hostIPC: true)"},
	{CUDA_ERROR_ALREADY_MAPPED, -EACCES,
	 "older memory of that engine is still mapped: the engine has freed and made it anew. Unregister the older "
	 "registration, or wait until it is reaped"},
	{CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, -EACCES, "the memory lies on a GPU that this one cannot reach"},
	{CUDA_ERROR_OPERATING_SYSTEM, -EACCES,
	 "the system refuses it: run server and engine as the same user, with --ipc=host (hostIPC: true)"},
	{CUDA_ERROR_NOT_PERMITTED, -EACCES,
	 "not permitted: run server and engine as the same user; for fabric handles, with the same IMEX channel"},
	{CUDA_ERROR_NOT_SUPPORTED, -EOPNOTSUPP,
	 "this GPU or platform shares no memory between processes (MIG does not)"},
	{CUDA_ERROR_UNKNOWN, -EACCES,
	 "the driver knows no better reason: the handle may be damaged, or of another machine"},
	{CUDA_ERROR_OUT_OF_MEMORY, -ENOMEM, "no room for one more mapping on this GPU"},
};

int map_refused(struct gpu *g, CUresult rc, const char *of, struct why *why)
{
	const char *name = cuda_error(g->door->cu, rc);
	int err = gpu_result(g, rc);

	if (err == -ENODEV)
		return why_set(why, -ENODEV, "%s: %s; the context of this GPU is lost", of, name);
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		if (refusals[i].rc != rc)
			continue;
		return why_set(why, refusals[i].err, "the driver refuses %s (%s): %s%s", of, name, refusals[i].what,
			       rc != CUDA_ERROR_INVALID_CONTEXT && getpid() == 1
				       ? ". This server has pid 1; an engine with pid 1 can share nothing with it"
				       : "");
	}
	return why_set(why, err == -ENOMEM ? err : -EIO, "%s: %s", of, name);
}

/* ---- who exported it --------------------------------------------------------------------------------------------------------- */

/* Field 22 of /proc/<pid>/stat, after the name, which may contain anything. */
static bool start_of(uint32_t pid, uint64_t *start)
{
	char path[32], text[1024], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	p = strrchr(text, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	*start = p ? strtoull(p, NULL, 10) : 0;
	return *start != 0;
}

struct exporter exporter_of(uint32_t pid)
{
	struct exporter e = {.pid = pid};
	struct stat st;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%u", pid);
	if (!pid || stat(path, &st) != 0 || !start_of(pid, &e.start))
		return (struct exporter){0};
	e.uid = st.st_uid;
	return e;
}

/* The pid was given to another process since. */
static bool recycled(const struct exporter *was, const struct exporter *is)
{
	return was->pid && was->pid == is->pid && was->start != is->start;
}

/* ---- the table ------------------------------------------------------------------------------------------------------------------ */

struct imports *imports_of(struct gpu *g)
{
	struct imports *im;

	lk_lock(&g->lk);
	im = g->imports;
	if (!im) {
		im = mem_calloc(1, sizeof(*im));
		if (im) {
			im->gpu = g;
			im->wait_ms = IMPORT_WAIT_MS;
			lk_init(&im->lk, LK_GPU_MAP);
			g->imports = im;
		}
	}
	lk_unlock(&g->lk);
	return im;
}

static struct mapping **bucket_of(struct imports *im, const uint8_t key[IMPORT_KEY])
{
	uint32_t h = 2166136261u;

	for (uint32_t i = 0; i < IMPORT_KEY; i++)
		h = (h ^ key[i]) * 16777619u;
	return &im->bucket[h % IMPORT_BUCKETS];
}

/* An export id is the client's own choice, so it names an allocation only together with the process that has the descriptor. */
static void make_key(const struct map_what *what, uint8_t key[IMPORT_KEY])
{
	memset(key, 0, IMPORT_KEY);
	memcpy(key, what->key.p, what->key.n);
	if (what->kind == MAP_FD) {
		memcpy(key + 32, &what->from.pid, sizeof(what->from.pid));
		memcpy(key + 40, &what->from.start, sizeof(what->from.start));
	}
}

/* ---- mapping and unmapping; the lock is held ------------------------------------------------------------------------------------- */

static CUresult ipc_close(struct mapping *m)
{
	CUresult rc = m->mapped ? m->im->gpu->door->cu->cuIpcCloseMemHandle(m->base) : 0;

	m->mapped = m->mapped && rc != 0;
	return rc;
}

/* True when nothing of it is left: unmapped, or gone with its context. */
static bool unmap(struct mapping *m)
{
	struct gpu *g = m->im->gpu;
	int err = gpu_enter(g);
	CUresult rc;

	if (err)
		return err == -ENODEV;
	rc = m->kind == MAP_IPC ? ipc_close(m) : vmm_unmap(m);
	return !rc || gpu_result(g, rc) == -ENODEV;
}

static void unlink_and_free(struct mapping *m)
{
	struct mapping **at = bucket_of(m->im, m->key);

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	m->im->nmappings--;
	m->im->bytes -= m->bytes;
	mem_free(m);
}

/* One user more of the context that is current. */
static void keep_context(struct gpu *g)
{
	lk_lock(&g->lk);
	g->users++;
	lk_unlock(&g->lk);
}

/* Nobody uses it any more. What the driver would not unmap keeps the context, and is tried again. */
static void drop(struct mapping *m)
{
	static struct log_limit limit;
	uint64_t dropped;

	if (unmap(m)) {
		unlink_and_free(m);
		return;
	}
	keep_context(m->im->gpu);
	m->im->nstuck++;
	if (log_limit_pass(&limit, 10000, &dropped))
		log_warn(
			"GPU %s: %llu bytes of an engine could not be unmapped and stay taken; tried again at the next "
			"registration",
			m->im->gpu->facts.uuid, (unsigned long long)m->bytes);
}

static void retry(struct mapping *m)
{
	struct imports *im = m->im;

	if (!unmap(m))
		return;
	unlink_and_free(m);
	im->nstuck--;
	gpu_release(im->gpu);
}

/* All that nobody uses: before a handle is opened, which may be of the same addresses in the exporter (CUDA_ERROR_ALREADY_MAPPED). */
static void retry_all(struct imports *im)
{
	for (uint32_t i = 0; i < IMPORT_BUCKETS && im->nstuck; i++) {
		for (struct mapping *m = im->bucket[i], *next; m; m = next) {
			next = m->next;
			if (m->refs == 0)
				retry(m);
		}
	}
}

void map_retry(struct imports *im)
{
	lk_lock(&im->lk);
	retry_all(im);
	lk_unlock(&im->lk);
}

static int ipc_map(struct mapping *m, const struct map_what *what, struct why *why)
{
	struct gpu *g = m->im->gpu;
	const struct cuda_driver *cu = g->door->cu;
	CUipcMemHandle h;
	CUdeviceptr base = 0;
	size_t bytes = 0;
	CUresult rc;

	memcpy(&h, what->key.p, sizeof(h));
	rc = cu->cuIpcOpenMemHandle(&m->base, h, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	if (rc)
		return map_refused(g, rc, "the memory handle", why);
	m->mapped = true;
	rc = cu->cuMemGetAddressRange(&base, &bytes, m->base);
	if (rc)
		return map_refused(g, rc, "the size of the allocation", why);
	if (base > m->base || bytes <= m->base - base)
		return why_set(why, -EIO, "the driver gives a range for the KV memory that does not contain it");
	m->bytes = bytes - (m->base - base);
	return 0;
}

static int map_new(struct imports *im, const struct map_what *what, const uint8_t key[IMPORT_KEY], struct mapping **out,
		   struct why *why)
{
	struct mapping **at = bucket_of(im, key), *m = mem_calloc(1, sizeof(*m));
	int err;

	if (!m)
		return why_set(why, -ENOMEM, "out of memory");
	m->im = im;
	m->kind = what->kind;
	m->from = what->from;
	memcpy(m->key, key, IMPORT_KEY);
	err = what->kind == MAP_IPC ? ipc_map(m, what, why) : vmm_map(m, what, why);
	m->next = *at;
	*at = m;
	im->nmappings++;
	im->bytes += m->bytes;
	if (err) {
		drop(m);
		return err;
	}
	m->refs = 1;
	*out = m;
	return 0;
}

static struct mapping *find(struct imports *im, enum map_kind kind, const uint8_t key[IMPORT_KEY])
{
	for (struct mapping *m = *bucket_of(im, key); m; m = m->next) {
		if (m->kind == kind && memcmp(m->key, key, IMPORT_KEY) == 0)
			return m;
	}
	return NULL;
}

int map_take(struct imports *im, const struct map_what *what, struct mapping **out, struct why *why)
{
	uint8_t key[IMPORT_KEY];
	struct mapping *m;
	int err = 0;

	make_key(what, key);
	lk_lock(&im->lk);
	retry_all(im);
	m = find(im, what->kind, key);
	if (!m)
		err = map_new(im, what, key, out, why);
	else if (m->refs == 0)
		err = why_set(why, -EACCES,
			      "the driver would not unmap an earlier mapping of this memory: register once more later");
	else if (recycled(&m->from, &what->from))
		err = why_set(
			why, -EACCES,
			"this handle is of an earlier process with pid %u, whose memory is still mapped: register "
			"again when that registration is gone",
			what->from.pid);
	else
		*out = m;
	if (!err && m)
		m->refs++;
	lk_unlock(&im->lk);
	return err;
}

/* ---- memory that is no view ------------------------------------------------------------------------------------------------------ */

int mapping_open(struct gpu *g, const void *handle, struct mapping **out, struct why *why)
{
	struct map_what what = {.kind = MAP_IPC, .key = slice_of(handle, IMPORT_KEY)};
	struct imports *im = imports_of(g);

	return im ? map_take(im, &what, out, why) : why_set(why, -ENOMEM, "out of memory");
}

void mapping_put(struct mapping *m)
{
	struct imports *im;

	if (!m)
		return;
	im = m->im;
	lk_lock(&im->lk);
	check(m->refs > 0);
	if (--m->refs == 0)
		drop(m);
	lk_unlock(&im->lk);
}

CUdeviceptr mapping_base(const struct mapping *m)
{
	return m->base;
}

uint64_t mapping_bytes(const struct mapping *m)
{
	return m->bytes;
}

/* ---- the end --------------------------------------------------------------------------------------------------------------------- */

void imports_destroy(struct imports *im)
{
	if (!im)
		return;
	check(im->nviews == 0);
	lk_lock(&im->lk);
	retry_all(im);
	for (uint32_t i = 0; i < IMPORT_BUCKETS; i++) {
		while (im->bucket[i]) {
			check(im->bucket[i]->refs == 0);
			unlink_and_free(im->bucket[i]);
			gpu_release(im->gpu);
		}
	}
	lk_unlock(&im->lk);
	lk_destroy(&im->lk);
	mem_free(im);
}

static const struct imports *counted(struct gpu *g)
{
	static const struct imports none;
	const struct imports *im;

	lk_lock(&g->lk);
	im = g->imports;
	lk_unlock(&g->lk);
	return im ? im : &none;
}

void imports_count(struct gpu *g, uint64_t *views, uint64_t *allocations, uint64_t *bytes)
{
	const struct imports *im = counted(g);

	*views = atomic_load(&im->nviews);
	*allocations = atomic_load(&im->nmappings);
	*bytes = atomic_load(&im->bytes);
}

json_t *imports_status(struct gpu *g)
{
	const struct imports *im = counted(g);

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "views", (json_int_t)im->nviews, "allocations",
			 (json_int_t)im->nmappings, "bytes", (json_int_t)im->bytes, "not_unmapped",
			 (json_int_t)im->nstuck, "torch_counters_told", (json_int_t)im->torch_told,
			 "torch_counters_not_there", (json_int_t)im->torch_missed);
}
