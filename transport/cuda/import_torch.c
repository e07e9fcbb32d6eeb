/* import_torch.c - torch's reference counters: the engine frees a block it shared when its counter is 0.
 *
 * A file of shared memory holds the counters of many storages, int64 each, after 64 bytes that are torch's own (at::RefcountedMapAllocator).
 * Name and index come from a client, so the file has to look like torch's, belong to the exporter or to us, and be long enough. One
 * whose counter is not counted down only frees its block later, so nothing here is an error.
 */
#include "transport/cuda/import_int.h"

#include "transport/shm/shmx.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER 64u
#define PREFIX "torch_"

/* "/torch_<pid>_<random>_<n>"; the slash may be missing. */
static bool is_torch_name(struct slice s)
{
	const char *p = s.p;

	if (s.n > 0 && p[0] == '/') {
		p++;
		s.n--;
	}
	if (s.n <= strlen(PREFIX) || s.n > NAME_MAX || memcmp(p, PREFIX, strlen(PREFIX)) != 0)
		return false;
	for (size_t i = strlen(PREFIX); i < s.n; i++) {
		if ((p[i] < '0' || p[i] > '9') && ((p[i] | 0x20) < 'a' || (p[i] | 0x20) > 'z') && p[i] != '_')
			return false;
	}
	return true;
}

void torch_counter_init(struct torch_counter *t, struct slice name, uint64_t index, const struct exporter *from)
{
	const char *p = name.p;
	size_t n = name.n;

	t->name[0] = '\0';
	t->index = index;
	t->uid = from->pid ? from->uid : geteuid();
	if (!is_torch_name(name))
		return;
	if (p[0] == '/') {
		p++;
		n--;
	}
	t->name[0] = '/';
	memcpy(t->name + 1, p, n);
	t->name[n + 1] = '\0';
}

bool torch_counter_same(const struct torch_counter *a, const struct torch_counter *b)
{
	return a->index == b->index && a->name[0] && strcmp(a->name, b->name) == 0;
}

/* Never below 0: then somebody counted for us, or the counter is of another storage by now. */
static bool count_down(_Atomic int64_t *c)
{
	int64_t now = atomic_load(c);

	while (now > 0) {
		if (atomic_compare_exchange_weak(c, &now, now - 1))
			return true;
	}
	return false;
}

/* The page with byte `at`, guarded: its owner may cut the file at any moment. */
static bool down_at(int fd, uint64_t at)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), in = at % page;
	void *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(at - in));
	struct shmx_map *guard;
	bool done = false;

	if (p == MAP_FAILED)
		return false;
	if (shmx_guard(p, page, &guard, NULL) == 0) {
		done = count_down((_Atomic int64_t *)(void *)((char *)p + in)) && !shmx_faulted(guard);
		shmx_put(guard);
	}
	munmap(p, page);
	return done;
}

bool torch_counter_down(const struct torch_counter *t)
{
	struct stat st;
	bool done = false;
	int fd;

	if (!t->name[0])
		return false;
	/* O_NONBLOCK: a FIFO of that name must not stop us. */
	fd = shm_open(t->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd < 0)
		return false;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_uid == t->uid || st.st_uid == geteuid()) &&
	    st.st_size >= (off_t)HEADER && t->index < ((uint64_t)st.st_size - HEADER) / sizeof(int64_t))
		done = down_at(fd, HEADER + t->index * sizeof(int64_t));
	close(fd);
	return done;
}
