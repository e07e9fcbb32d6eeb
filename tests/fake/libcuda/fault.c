/* fault.c - what tests tell the machine, and what they can ask it.
 *
 * A command is a line; blank lines and those that begin with # mean nothing. `pid=N` limits it to one process.
 *   fail FUNCTION error=N [after=CALLS] [count=CALLS] [sticky=1] [pid=N]   calls fail; "*" is every call that needs a context
 *   clear                                                     no call fails any more
 *   slow gpu=N [latency_us=N] [bytes_per_s=N] [pid=N]         its streams take their time; zero of both: as before
 *   stick gpu=N [pid=N] / release gpu=N                       its streams begin nothing
 *   lose gpu=N / restore gpu=N                                the device falls off the bus
 *   batch_cap N                                               of cuMemcpyBatchAsync
 *   reap                                                      gives back what dead processes held
 */
#include "tests/fake/libcuda/fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static CUresult hit(struct fault *f, struct context *c)
{
	if (atomic_load(&f->wait) > 0 && atomic_fetch_sub(&f->wait, 1) > 0)
		return CUDA_SUCCESS;
	if (atomic_fetch_sub(&f->count, 1) <= 0)
		return CUDA_SUCCESS;
	if (f->sticky && c)
		context_break(c, f->error);
	return f->error;
}

CUresult fault_check(const char *function, struct context *c)
{
	CUresult rc = CUDA_SUCCESS;

	if (!atomic_load(&self.m->nfaults))
		return rc;
	for (uint32_t i = 0; i < FAULTS && !rc; i++) {
		struct fault *f = &self.m->fault[i];

		if (!atomic_load(&f->used) || (f->pid && f->pid != self.pid))
			continue;
		if (strcmp(f->function, function) == 0 || (c && strcmp(f->function, "*") == 0))
			rc = hit(f, c);
	}
	return rc;
}

/* ---- commands ---------------------------------------------------------------------------------------------------------------- */

static int64_t value_of(const char *line, const char *key, int64_t def)
{
	size_t n = strlen(key);

	for (const char *p = strchr(line, ' '); p; p = strchr(p + 1, ' '))
		if (strncmp(p + 1, key, n) == 0 && p[1 + n] == '=')
			return strtoll(p + 2 + n, NULL, 0);
	return def;
}

static int add_fault(const char *line)
{
	struct fault *f = NULL;

	for (uint32_t i = 0; i < FAULTS && !f; i++)
		f = atomic_load(&self.m->fault[i].used) ? NULL : &self.m->fault[i];
	if (!f)
		return -ENOSPC;
	if (sscanf(line, "fail %47s", f->function) != 1)
		return -EINVAL;
	f->error = (CUresult)value_of(line, "error", CUDA_ERROR_UNKNOWN);
	f->pid = (int32_t)value_of(line, "pid", 0);
	f->sticky = value_of(line, "sticky", 0) != 0;
	atomic_store(&f->wait, value_of(line, "after", 0));
	atomic_store(&f->count, value_of(line, "count", 1));
	atomic_store(&f->used, true);
	atomic_fetch_add(&self.m->nfaults, 1);
	return 0;
}

static void clear_faults(void)
{
	atomic_store(&self.m->nfaults, 0);
	for (uint32_t i = 0; i < FAULTS; i++)
		atomic_store(&self.m->fault[i].used, false);
}

static int change_gpu(const char *word, const char *line)
{
	int64_t i = value_of(line, "gpu", -1), pid = value_of(line, "pid", 0);
	struct gpu_state *g = i >= 0 && i < (int64_t)self.m->ngpus ? &self.m->gpu[i] : NULL;

	if (!g)
		return -EINVAL;
	if (strcmp(word, "slow") == 0) {
		atomic_store(&g->slow_pid, pid);
		atomic_store(&g->latency_ns, value_of(line, "latency_us", 0) * 1000);
		atomic_store(&g->bytes_per_s, value_of(line, "bytes_per_s", 0));
	} else if (strcmp(word, "stick") == 0) {
		atomic_store(&g->stuck_pid, pid);
		atomic_store(&g->stuck, true);
	} else if (strcmp(word, "release") == 0) {
		atomic_store(&g->stuck, false);
	} else if (strcmp(word, "lose") == 0) {
		atomic_store(&g->lost, true);
	} else if (strcmp(word, "restore") == 0) {
		atomic_store(&g->lost, false);
	} else {
		return -EINVAL;
	}
	machine_tick();
	return 0;
}

/* Machine locked. */
static int command(const char *line)
{
	char word[48];

	if (sscanf(line, "%47s", word) != 1 || word[0] == '#')
		return 0;
	if (strcmp(word, "fail") == 0)
		return add_fault(line);
	if (strcmp(word, "clear") == 0)
		clear_faults();
	else if (strcmp(word, "reap") == 0)
		machine_reap();
	else if (strcmp(word, "batch_cap") == 0)
		self.m->batch_cap = (uint32_t)strtoul(line + 9, NULL, 0);
	else
		return change_gpu(word, line);
	return 0;
}

static int attached(void)
{
	CUresult rc;

	pthread_mutex_lock(&self.lk);
	rc = machine_attach();
	pthread_mutex_unlock(&self.lk);
	return rc ? -EIO : 0;
}

FAKE_API int fake_cuda_control(const char *commands)
{
	char line[256];
	int rc = attached();

	while (!rc && *commands) {
		size_t n = strcspn(commands, "\n");

		if (n >= sizeof(line))
			return -EINVAL;
		memcpy(line, commands, n);
		line[n] = 0;
		commands += n + (commands[n] != 0);
		machine_lock();
		rc = command(line);
		machine_unlock();
	}
	return rc;
}

/* Whoever sees that the file `control` changed runs it, once for all processes. */
static void run_file(const struct stat *st, int64_t stamp)
{
	char path[256], text[8192];
	ssize_t n = 0;
	int fd;

	machine_lock();
	if (atomic_load(&self.m->control_time) != stamp || atomic_load(&self.m->control_size) != st->st_size) {
		atomic_store(&self.m->control_time, stamp);
		atomic_store(&self.m->control_size, st->st_size);
		snprintf(path, sizeof(path), "%s/control", self.dir);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
		if (fd >= 0)
			close(fd);
	}
	machine_unlock();
	if (n > 0) {
		text[n] = 0;
		fake_cuda_control(text);
	}
}

void control_poll(void)
{
	int64_t now = (int64_t)now_ns(), last = atomic_load(&self.control_checked);
	char path[256];
	struct stat st;
	int64_t stamp;

	if (now - last < 2000000 || !atomic_compare_exchange_strong(&self.control_checked, &last, now))
		return;
	snprintf(path, sizeof(path), "%s/control", self.dir);
	if (stat(path, &st))
		return;
	stamp = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	if (atomic_load(&self.m->control_time) != stamp || atomic_load(&self.m->control_size) != st.st_size)
		run_file(&st, stamp);
}

/* ---- reports ------------------------------------------------------------------------------------------------------------------ */

struct text {
	char *buf;
	size_t cap, n;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->n < t->cap ? t->buf + t->n : NULL, t->n < t->cap ? t->cap - t->n : 0, fmt, ap);
	va_end(ap);
	t->n += n > 0 ? (size_t)n : 0;
}

static void put_process(struct text *t, struct process *p)
{
#define FIELD(name)             \
	{                       \
#name, &p->name \
	}
	const struct {
		const char *name;
		const _Atomic int64_t *value;
	} fields[] = {FIELD(contexts),       FIELD(allocations), FIELD(allocated_bytes), FIELD(imports),
		      FIELD(imported_bytes), FIELD(vmm_handles), FIELD(vmm_maps),        FIELD(reservations),
		      FIELD(streams),        FIELD(events),      FIELD(event_imports),   FIELD(host_registrations),
		      FIELD(host_bytes),     FIELD(modules),     FIELD(copies),          FIELD(copied_bytes),
		      FIELD(batches),        FIELD(launches),    FIELD(kernel_faults)};
#undef FIELD

	put(t, "{\"pid\":%d", p->pid);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		put(t, ",\"%s\":%lld", fields[i].name, (long long)atomic_load(fields[i].value));
	put(t, "}");
}

static void put_machine(struct text *t, struct machine *m)
{
	uint32_t memories = 0, events = 0;
	const char *sep = "";

	for (uint32_t i = 0; i < m->nmemories; i++)
		memories += m->memory[i].id != 0;
	for (uint32_t i = 0; i < m->nevents; i++)
		events += m->event[i].id != 0;
	put(t, "{\"memories\":%u,\"ipc_events\":%u,\"gpus\":[", memories, events);
	for (uint32_t i = 0; i < m->ngpus; i++)
		put(t, "%s{\"name\":\"%s\",\"bytes\":%llu,\"used\":%lld,\"lost\":%s,\"stuck\":%s}", i ? "," : "",
		    m->gpu[i].name, (unsigned long long)m->gpu[i].bytes, (long long)atomic_load(&m->gpu[i].used),
		    atomic_load(&m->gpu[i].lost) ? "true" : "false", atomic_load(&m->gpu[i].stuck) ? "true" : "false");
	put(t, "],\"processes\":[");
	for (uint32_t i = 0; i < PROCESSES; i++) {
		if (!atomic_load(&m->process[i].started))
			continue;
		put(t, "%s", sep);
		put_process(t, &m->process[i]);
		sep = ",";
	}
	put(t, "]}\n");
}

FAKE_API int fake_cuda_report(char *buf, size_t cap)
{
	struct text t = {buf, cap, 0};
	int rc = attached();

	if (rc)
		return rc;
	machine_lock();
	machine_reap();
	put_machine(&t, self.m);
	machine_unlock();
	return t.n < cap ? (int)t.n : -ENOSPC;
}
