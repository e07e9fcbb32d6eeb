#include "transport/shm/shm_int.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct shm_table shm_table = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void slot_set_range(struct shmx_map *m, uintptr_t start, uint64_t span)
{
	atomic_fetch_add(&m->seq, 1);
	atomic_store(&m->start, start);
	atomic_store(&m->span, span);
	atomic_fetch_add(&m->seq, 1);
}

struct shmx_map *shm_slot_take(void *start, uint64_t span)
{
	uint32_t i = shm_table.first_free;
	while (i < SHMX_MAX_MAPPINGS && atomic_load_explicit(&shm_table.slot[i].start, memory_order_relaxed) != 0)
		i++;
	shm_table.first_free = i;
	if (i == SHMX_MAX_MAPPINGS)
		return NULL;
	struct shmx_map *m = &shm_table.slot[i];
	atomic_store(&m->faulted, false);
	slot_set_range(m, (uintptr_t)start, span);
	if (i >= atomic_load(&shm_table.used))
		atomic_store(&shm_table.used, i + 1);
	shm_table.first_free = i + 1;
	return m;
}

void shm_slot_free(struct shmx_map *m)
{
	uint32_t i = (uint32_t)(m - shm_table.slot);
	slot_set_range(m, 0, 0);
	if (i < shm_table.first_free)
		shm_table.first_free = i;
}

/* ---- the handler: from here on only what is async-signal-safe -------------------------------------------------------- */

static struct shmx_map *slot_of(uintptr_t addr, uintptr_t *start, uint64_t *span)
{
	uint32_t used = atomic_load(&shm_table.used);
	for (uint32_t i = 0; i < used; i++) {
		struct shmx_map *m = &shm_table.slot[i];
		uint32_t seq = atomic_load(&m->seq);
		*start = atomic_load(&m->start);
		*span = atomic_load(&m->span);
		if ((seq & 1) || atomic_load(&m->seq) != seq)
			continue;
		if (*start != 0 && addr >= *start && addr - *start < *span)
			return m;
	}
	return NULL;
}

/* The raw system call: the C library's mmap is not promised to be async-signal-safe, and sanitizers intercept it. */
static bool replace_by_zeroes(uintptr_t at, uint64_t n)
{
	long r = syscall(SYS_mmap, at, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0L);
	return r == (long)at;
}

/* A hugetlb mapping can only be replaced in units of its page size, which the table does not know: try the small page,
 * the two usual huge ones, and last the whole mapping. */
static bool patch(uintptr_t addr, uintptr_t start, uint64_t span)
{
	static const uint64_t unit[] = {4096, 65536, 2u << 20, 1u << 30};
	for (size_t i = 0; i < sizeof unit / sizeof *unit; i++) {
		uintptr_t at = addr & ~(uintptr_t)(unit[i] - 1);
		if (at >= start && at - start + unit[i] <= span && replace_by_zeroes(at, unit[i]))
			return true;
	}
	return replace_by_zeroes(start, span);
}

static void die_of_sigbus(void)
{
	struct sigaction dfl;
	memset(&dfl, 0, sizeof dfl);
	dfl.sa_handler = SIG_DFL;
	sigaction(SIGBUS, &dfl, NULL);
	/* Blocked while we are in the handler: it arrives on return, also for one sent by kill(2) that would not recur. */
	raise(SIGBUS);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	int saved = errno;
	uintptr_t start;
	uint64_t span;
	uintptr_t addr = (uintptr_t)info->si_addr;
	/* si_code <= 0: sent by a process, si_addr then means nothing. */
	struct shmx_map *m = info->si_code > 0 ? slot_of(addr, &start, &span) : NULL;
	if (m != NULL) {
		atomic_store(&m->faulted, true);
		if (!patch(addr, start, span))
			m = NULL;
	}
	if (m == NULL)
		die_of_sigbus();
	errno = saved;
}

int shmx_init(struct why *why)
{
	struct sigaction sa;
	memset(&sa, 0, sizeof sa);
	sa.sa_sigaction = on_sigbus;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGBUS, &sa, NULL) != 0)
		return why_set(why, -errno, "cannot install the SIGBUS handler: %s", strerror(errno));
	return 0;
}
