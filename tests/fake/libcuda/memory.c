/* memory.c - entries of the machine's memory and their files. All with the machine locked.
 *
 * One page behind the bytes of each file says which allocation it is: that is how a descriptor sent to another process is known again,
 * also when its maker is gone by then. */
#include "tests/fake/libcuda/fake.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRAILER 4096u
#define MARK    6u

static uint64_t whole_pages(uint64_t bytes)
{
	return (bytes + TRAILER - 1) / TRAILER * TRAILER;
}

void memory_path(uint64_t id, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s/memory-%llu", self.dir, (unsigned long long)id);
}

bool memory_held(const struct memory *mem, uint32_t slot)
{
	return mem->holders[slot / 64] >> slot % 64 & 1;
}

void memory_hold(struct memory *mem, uint32_t slot)
{
	mem->holders[slot / 64] |= 1ull << slot % 64;
}

struct memory *memory_by_id(uint64_t id)
{
	for (uint32_t i = 0; i < self.m->nmemories && id; i++)
		if (self.m->memory[i].id == id)
			return &self.m->memory[i];
	return NULL;
}

void memory_disown(struct memory *mem)
{
	if (mem->owner == self.slot && mem->owner_started == self.started)
		mem->owner_started = 0;
}

void memory_drop(struct memory *mem, uint32_t slot)
{
	char path[256];

	mem->holders[slot / 64] &= ~(1ull << slot % 64);
	for (uint32_t i = 0; i < PROCESSES / 64; i++)
		if (mem->holders[i])
			return;
	memory_path(mem->id, path, sizeof(path));
	unlink(path);
	atomic_fetch_sub(&self.m->gpu[mem->gpu].used, (int64_t)mem->bytes);
	mem->id = 0;
}

static void remove_orphans(void)
{
	DIR *d = opendir(self.dir);
	struct dirent *e;
	char path[256];

	while (d && (e = readdir(d))) {
		unsigned long long id;

		if (sscanf(e->d_name, "memory-%llu", &id) != 1 || memory_by_id(id))
			continue;
		memory_path(id, path, sizeof(path));
		unlink(path);
	}
	if (d)
		closedir(d);
}

/* Somebody was killed with the machine locked: anything between the first and the last step of making or dropping may be there. */
void memory_repair(void)
{
	int64_t used[GPUS] = {0};

	for (uint32_t i = 0; i < MEMORIES; i++) {
		struct memory *mem = &self.m->memory[i];
		uint64_t holders = 0;

		for (uint32_t j = 0; j < PROCESSES / 64; j++)
			holders |= mem->holders[j];
		if (!mem->id || !holders) {
			mem->id = 0;
			continue;
		}
		used[mem->gpu] += (int64_t)mem->bytes;
		self.m->nmemories = i >= self.m->nmemories ? i + 1 : self.m->nmemories;
	}
	for (uint32_t i = 0; i < GPUS; i++)
		atomic_store(&self.m->gpu[i].used, used[i]);
	remove_orphans();
}

static int make_file(uint64_t id, uint32_t gpu, uint64_t bytes, uint32_t handle_types)
{
	uint64_t mark[MARK] = {FAKE_MAGIC, id, gpu, bytes, handle_types, machine_hash(id, bytes)};
	char path[256];
	int fd;

	memory_path(id, path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)(whole_pages(bytes) + TRAILER)) ||
	    pwrite(fd, mark, sizeof(mark), (off_t)whole_pages(bytes)) != (ssize_t)sizeof(mark)) {
		int rc = -errno;

		close(fd);
		unlink(path);
		return rc;
	}
	close(fd);
	return 0;
}

struct memory *memory_make(uint32_t gpu, uint64_t bytes, enum memory_kind kind, uint32_t handle_types, CUresult *rc)
{
	struct gpu_state *g = &self.m->gpu[gpu];
	struct memory *mem = NULL;

	*rc = CUDA_ERROR_OUT_OF_MEMORY;
	if ((uint64_t)atomic_load(&g->used) + bytes > g->bytes)
		machine_reap();
	if (bytes > g->bytes || (uint64_t)atomic_load(&g->used) + bytes > g->bytes)
		return NULL;
	for (uint32_t i = 0; i < MEMORIES && !mem; i++)
		mem = self.m->memory[i].id ? NULL : &self.m->memory[i];
	if (!mem || make_file(self.m->next_id, gpu, bytes, handle_types))
		return NULL;
	*mem = (struct memory){.bytes = bytes,
			       .owner_started = self.started,
			       .owner = self.slot,
			       .gpu = gpu,
			       .kind = kind,
			       .handle_types = handle_types};
	memory_hold(mem, self.slot);
	if (mem - self.m->memory >= self.m->nmemories)
		self.m->nmemories = (uint32_t)(mem - self.m->memory) + 1;
	atomic_fetch_add(&g->used, (int64_t)bytes);
	mem->id = self.m->next_id++; /* last: from here on a reaper sees it */
	*rc = CUDA_SUCCESS;
	return mem;
}

int memory_open(const struct memory *mem)
{
	char path[256];
	int fd;

	memory_path(mem->id, path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

char *memory_map(const struct memory *mem, uint64_t *mapped)
{
	int fd = memory_open(mem);
	void *p;

	if (fd < 0)
		return NULL;
	*mapped = whole_pages(mem->bytes);
	p = mmap(NULL, *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

static bool copy_file(int from, int to, off_t bytes)
{
	char page[32768];
	off_t at = 0;

	if (ftruncate(to, bytes))
		return false;
	while ((at = lseek(from, at, SEEK_DATA)) >= 0 && at < bytes) {
		ssize_t n = pread(from, page, sizeof(page), at);

		if (n <= 0 || pwrite(to, page, (size_t)n, at) != n)
			return false;
		at += n;
	}
	return true;
}

/* An allocation whose holders are all gone lives on in a descriptor that is on its way: it gets an entry and a name again. Nobody has
 * the old file mapped, so a copy of it is as good. */
static struct memory *revive(int fd, const uint64_t *mark, off_t bytes)
{
	struct memory *mem = NULL;
	char path[256];
	bool copied;
	int to;

	for (uint32_t i = 0; i < MEMORIES && !mem; i++)
		mem = self.m->memory[i].id ? NULL : &self.m->memory[i];
	memory_path(mark[1], path, sizeof(path));
	to = mem ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
	if (to < 0)
		return NULL;
	copied = copy_file(fd, to, bytes);
	close(to);
	if (!copied) {
		unlink(path);
		return NULL;
	}
	*mem = (struct memory){
		.bytes = mark[3], .gpu = (uint32_t)mark[2], .kind = MEMORY_VMM, .handle_types = (uint32_t)mark[4]};
	if (mem - self.m->memory >= self.m->nmemories)
		self.m->nmemories = (uint32_t)(mem - self.m->memory) + 1;
	atomic_fetch_add(&self.m->gpu[mem->gpu].used, (int64_t)mem->bytes);
	mem->id = mark[1];
	return mem;
}

struct memory *memory_of_fd(int fd)
{
	uint64_t mark[MARK];
	struct memory *mem;
	struct stat st;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size < 2 * TRAILER ||
	    pread(fd, mark, sizeof(mark), st.st_size - TRAILER) != (ssize_t)sizeof(mark))
		return NULL;
	if (mark[0] != FAKE_MAGIC || whole_pages(mark[3]) + TRAILER != (uint64_t)st.st_size ||
	    mark[2] >= self.m->ngpus || mark[5] != machine_hash(mark[1], mark[3]))
		return NULL;
	mem = memory_by_id(mark[1]);
	return mem ? mem : revive(fd, mark, st.st_size);
}
