#include "tests/fake/libcuda/fake.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct self self = {.lk = PTHREAD_MUTEX_INITIALIZER, .idle = PTHREAD_COND_INITIALIZER};

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void sleep_ns(int64_t ns)
{
	struct timespec t = {ns / 1000000000, ns % 1000000000};

	if (ns > 0)
		nanosleep(&t, NULL);
}

uint64_t machine_hash(uint64_t a, uint64_t b)
{
	uint64_t x = self.m->secret ^ a * 0x9e3779b97f4a7c15ull ^ b * 0xc2b2ae3d27d4eb4full;

	for (int i = 0; i < 3; i++) {
		x ^= x >> 31;
		x *= 0xbf58476d1ce4e5b9ull;
		x ^= x >> 27;
		x += a;
	}
	return x;
}

/* ---- processes ------------------------------------------------------------------------------------------------------------- */

/* A number of this process alone, made of its pid and when it began; 0: there is none, or only its corpse. */
static uint64_t started_of(pid_t pid)
{
	char path[64], text[512], *p;
	unsigned long long ticks = 0;
	char state = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	p = strrchr(text, ')'); /* the name may hold anything */
	if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			 &state, &ticks) != 2)
		return 0;
	/* With the pid: many begin in one tick. */
	return state == 'Z' || state == 'X' ? 0 : (uint64_t)ticks << 24 | (uint64_t)pid;
}

bool process_alive(uint32_t slot, uint64_t started)
{
	struct process *p = &self.m->process[slot % PROCESSES];

	if (!started || atomic_load(&p->started) != started)
		return false;
	return p == self.p || started_of(p->pid) == started;
}

static void process_gone(uint32_t slot)
{
	struct machine *m = self.m;

	for (uint32_t i = 0; i < m->nmemories; i++) {
		struct memory *mem = &m->memory[i];

		if (!mem->id)
			continue;
		if (mem->owner == slot)
			mem->owner_started = 0;
		if (memory_held(mem, slot))
			memory_drop(mem, slot);
	}
	events_drop_dead(slot);
	atomic_store(&m->process[slot].started, 0);
	machine_tick();
}

void machine_reap(void)
{
	for (uint32_t i = 0; i < PROCESSES; i++) {
		uint64_t started = atomic_load(&self.m->process[i].started);

		if (started && !process_alive(i, started))
			process_gone(i);
	}
}

/* The sanitizers do not know the robust kind across processes, and need not: what it guards is of the machine. */
void machine_lock(void)
{
	int rc = pthread_mutex_lock(&self.m->lk);

	if (rc == EOWNERDEAD) {
		pthread_mutex_consistent(&self.m->lk);
		memory_repair();
		events_repair();
	} else if (rc) {
		abort();
	}
}

void machine_unlock(void)
{
	pthread_mutex_unlock(&self.m->lk);
}

void machine_tick(void)
{
	atomic_fetch_add(&self.m->tick, 1);
	if (atomic_load(&self.m->waiters))
		syscall(SYS_futex, &self.m->tick, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void machine_wait(uint32_t tick, long ns)
{
	struct timespec t = {0, ns};

	atomic_fetch_add(&self.m->waiters, 1);
	syscall(SYS_futex, &self.m->tick, FUTEX_WAIT, tick, &t, NULL, 0);
	atomic_fetch_sub(&self.m->waiters, 1);
}

/* ---- making and finding it ---------------------------------------------------------------------------------------------------- */

static int64_t env_number(const char *name, int64_t def)
{
	const char *v = getenv(name);
	char *end;
	long long n;

	if (!v || !*v)
		return def;
	n = strtoll(v, &end, 0);
	switch (*end) {
	case 'k':
		return n << 10;
	case 'm':
		return n << 20;
	case 'g':
		return n << 30;
	default:
		return n;
	}
}

static bool env_list_has(const char *name, uint32_t i)
{
	const char *v = getenv(name);
	char *end;

	while (v && *v) {
		unsigned long n = strtoul(v, &end, 10);

		if (end == v)
			return false;
		if (n == i)
			return true;
		v = *end == ',' ? end + 1 : end;
	}
	return false;
}

static void make_gpu(struct gpu_state *g, uint32_t i)
{
	const char *name = getenv("LMCA_FAKE_CUDA_NAME");

	memcpy(g->uuid, "lmca-test-gpu", 13);
	g->uuid[13] = 0x40;
	g->uuid[14] = (char)(i >> 8);
	g->uuid[15] = (char)i;
	g->mig = env_list_has("LMCA_FAKE_CUDA_MIG", i);
	snprintf(g->name, sizeof(g->name), "%s%s", name ? name : "LMCA Test GPU", g->mig ? " MIG 1g.10gb" : "");
	snprintf(g->pci, sizeof(g->pci), "0000:%02x:00.0", 0x3b + i);
	g->bytes = (uint64_t)env_number("LMCA_FAKE_CUDA_MEMORY", 8ll << 30);
}

static void make_machine(struct machine *m)
{
	pthread_mutexattr_t a;

	memset(m, 0, offsetof(struct machine, process));
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&m->lk, &a);
	pthread_mutexattr_destroy(&a);
	if (getrandom(&m->secret, sizeof(m->secret), 0) != sizeof(m->secret))
		m->secret = now_ns();
	m->next_id = 1;
	m->version = (int32_t)env_number("LMCA_FAKE_CUDA_VERSION", 12080);
	m->ngpus = (uint32_t)env_number("LMCA_FAKE_CUDA_GPUS", 2);
	m->ngpus = m->ngpus > GPUS ? GPUS : m->ngpus;
	m->batch_cap = (uint32_t)env_number("LMCA_FAKE_CUDA_BATCH_CAP", 32768);
	m->fabric = env_number("LMCA_FAKE_CUDA_FABRIC", 1) != 0;
	m->vmm = env_number("LMCA_FAKE_CUDA_VMM", 1) != 0;
	m->value_ops = env_number("LMCA_FAKE_CUDA_VALUE_OPS", 1) != 0;
	m->dead_stuck = env_number("LMCA_FAKE_CUDA_DEAD_STUCK", 0) != 0;
	m->cc = (int32_t)env_number("LMCA_FAKE_CUDA_CC", 90);
	for (uint32_t i = 0; i < m->ngpus; i++)
		make_gpu(&m->gpu[i], i);
	atomic_store(&m->magic, FAKE_MAGIC);
}

static struct machine *open_machine(void)
{
	const char *dir = getenv("LMCA_FAKE_CUDA_DIR");
	char path[256];
	struct machine *m;
	struct stat st;
	int fd;

	if (dir && *dir)
		snprintf(self.dir, sizeof(self.dir), "%s", dir);
	else
		snprintf(self.dir, sizeof(self.dir), "/dev/shm/lmca-fake-cuda-%u", (unsigned)getuid());
	mkdir(self.dir, 0700);
	snprintf(path, sizeof(path), "%s/machine-%zu", self.dir, sizeof(struct machine));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return NULL;
	flock(fd, LOCK_EX);
	m = fstat(fd, &st) || (st.st_size < (off_t)sizeof(*m) && ftruncate(fd, sizeof(*m)))
		    ? MAP_FAILED
		    : mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m != MAP_FAILED && atomic_load(&m->magic) != FAKE_MAGIC)
		make_machine(m);
	flock(fd, LOCK_UN);
	close(fd);
	return m == MAP_FAILED ? NULL : m;
}

static CUresult join(void)
{
	uint64_t started = started_of(getpid());
	CUresult rc = CUDA_ERROR_OPERATING_SYSTEM;

	machine_lock();
	machine_reap();
	for (uint32_t i = 0; i < PROCESSES && rc; i++) {
		struct process *p = &self.m->process[i];

		if (atomic_load(&p->started))
			continue;
		memset(p, 0, sizeof(*p));
		p->pid = getpid();
		atomic_store(&p->started, started);
		self.slot = i;
		self.p = p;
		self.started = started;
		rc = CUDA_SUCCESS;
	}
	machine_unlock();
	return rc;
}

/* Two processes never have the same address for the same thing, even where addresses are not made random. */
static bool reserve_addresses(void)
{
	uint64_t room = (uint64_t)env_number("LMCA_FAKE_CUDA_ADDRESSES", 128ll << 30);
	/* Not the sanitizers' business: they would want shadow for all of it. */
	long p = syscall(SYS_mmap, NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip = GRANULE * (1 + self.slot * 7ull % 509);

	if (p == -1)
		return false;
	self.base = ((uint64_t)p + GRANULE - 1) / GRANULE * GRANULE + skip;
	self.room = room - GRANULE - skip;
	return true;
}

static bool same_uuid(const char *text, const char *uuid)
{
	char mine[40], *p = mine;
	size_t n;

	text += strncmp(text, "GPU-", 4) == 0 || strncmp(text, "MIG-", 4) == 0 ? 4 : 0;
	for (int i = 0; i < 16; i++)
		p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", (unsigned char)uuid[i]);
	n = strcspn(text, ",");
	return n && n <= 36 && strncasecmp(text, mine, n) == 0;
}

/* CUDA_VISIBLE_DEVICES: what follows an entry that means nothing is not seen. */
static void see_devices(void)
{
	const char *v = getenv("CUDA_VISIBLE_DEVICES");

	if (!v) {
		self.ndevices = self.m->ngpus;
		for (uint32_t i = 0; i < self.ndevices; i++)
			self.visible[i] = i;
		return;
	}
	while (*v && self.ndevices < GPUS) {
		char *end;
		long n = strtol(v, &end, 10);
		uint32_t found = GPUS;

		for (uint32_t i = 0; i < self.m->ngpus; i++)
			if ((end != v && (*end == ',' || !*end) && n == (long)i) || same_uuid(v, self.m->gpu[i].uuid))
				found = i;
		if (found == GPUS)
			return;
		self.visible[self.ndevices++] = found;
		v += strcspn(v, ",");
		v += *v == ',';
	}
}

CUresult machine_attach(void)
{
	CUresult rc;

	if (self.m)
		return CUDA_SUCCESS;
	self.m = open_machine();
	if (!self.m)
		return CUDA_ERROR_OPERATING_SYSTEM;
	self.pid = getpid();
	rc = join();
	if (rc || !reserve_addresses()) {
		self.m = NULL;
		return CUDA_ERROR_OPERATING_SYSTEM;
	}
	see_devices();
	for (uint32_t i = 0; i < self.ndevices; i++) {
		self.ctx[i].gpu = self.visible[i];
		self.ctx[i].device = (int)i;
	}
	self.delay_us = env_number("LMCA_FAKE_CUDA_DELAY_US", 100);
	self.depth = (uint64_t)env_number("LMCA_FAKE_CUDA_DEPTH", 1024);
	self.reopen_same = env_number("LMCA_FAKE_CUDA_REOPEN", 0) != 0;
	self.host_same = env_number("LMCA_FAKE_CUDA_HOST_SAME", 0) != 0;
	self.process_sticky = env_number("LMCA_FAKE_CUDA_PROCESS_STICKY", 0) != 0;
	return CUDA_SUCCESS;
}

/* A process that ends in order leaves nothing, as one that is killed leaves nothing after the next reap. */
__attribute__((destructor)) static void leave(void)
{
	if (!self.m || self.pid != getpid())
		return;
	machine_lock();
	if (process_alive(self.slot, self.started))
		process_gone(self.slot);
	machine_reap();
	machine_unlock();
}
