/* arena.c - makes the arena: one file, mapped once, of the best pages that can be had, bound and populated node by node.
 *
 * Normal path: take the name, then for each kind of pages in order of preference: check, open, size, map, bind, populate, verify;
 * only then give a file of huge pages its name. The order matters: pages that exist before mbind stay where they are, fallocate
 * does not look at it, and the first process to touch a huge page decides its node.
 * Failure paths: a kind of pages that cannot be had (wanted: an error; tried: a warning and the next kind), a name in use by a
 * living daemon (-EBUSY), no space (-ENOSPC, the text says what to change).
 */
#include "numa/arena_int.h"

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define THP "/sys/kernel/mm/transparent_hugepage/"

/* Each range is a whole number of pages. */
static int lay_out(struct arena *a, const struct arena_conf *conf, struct why *why)
{
	uint32_t n = conf->nranges ? conf->nranges : 1;
	uint64_t align = a->page_bytes > RANGE_ALIGN ? a->page_bytes : RANGE_ALIGN;

	if (n > ARENA_MAX_RANGES)
		return why_set(why, -EINVAL, "arena: %u node ranges, at most %d", n, ARENA_MAX_RANGES);
	a->bytes = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t want = conf->nranges ? conf->range[i].bytes : conf->bytes;
		struct arena_range *r = &a->range[i];

		r->node = conf->nranges ? conf->range[i].node : NODE_UNKNOWN;
		r->bound = false;
		r->start = a->bytes;
		r->bytes = want / align * align;
		if (conf->nranges)
			a->cpus[i] = conf->range[i].cpus;
		if (r->bytes == 0)
			return why_set(why, -EINVAL, "arena: range %u of %llu bytes is below %llu", i,
				       (unsigned long long)want, (unsigned long long)align);
		if (a->bytes + r->bytes < a->bytes || a->bytes + r->bytes > INT64_MAX)
			return why_set(why, -EINVAL, "arena: the ranges are larger than an address space");
		a->bytes += r->bytes;
	}
	a->nranges = n;
	return 0;
}

/* ---- file and mapping ------------------------------------------------------------------------------------------- */

static int check_space(const struct arena *a, struct why *why)
{
	struct statvfs fs;

	if (fstatvfs(a->fd, &fs) != 0 || fs.f_blocks == 0)
		return 0; /* unlimited tmpfs or no answer: commit will tell */
	uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (free_bytes >= a->bytes)
		return 0;
	return why_set(why, -ENOSPC,
		       "L1 wants %.2f GiB but /dev/shm has %.2f GiB free; lower --l1-size-gb, or grow it: mount -o "
		       "remount,size=%lluG /dev/shm (containers: --shm-size or --ipc host)",
		       (double)a->bytes / (1 << 30), (double)free_bytes / (1 << 30),
		       (unsigned long long)((a->bytes >> 30) + 2));
}

/* Beyond RLIMIT_FSIZE ftruncate does not fail, it kills. */
static int size_file(const struct arena *a, struct why *why)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur != RLIM_INFINITY && lim.rlim_cur < a->bytes)
		return why_set(why, -EFBIG,
			       "L1 wants a file of %.2f GiB but files may have %.2f GiB: ulimit -f unlimited (systemd: "
			       "LimitFSIZE=infinity)",
			       (double)a->bytes / (1 << 30), (double)lim.rlim_cur / (1 << 30));
	if (ftruncate(a->fd, (off_t)a->bytes) != 0)
		return why_set(why, -errno, "cannot size the file of L1%s%s: %s", a->name[0] ? ", /dev/shm/" : "",
			       a->name, strerror(errno));
	return 0;
}

static int map_why(const struct arena *a, int err, struct why *why)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_AS, &lim) == 0 && lim.rlim_cur != RLIM_INFINITY)
		return why_set(
			why, err,
			"cannot map %.2f GiB for L1: our address space is limited to %.2f GiB: ulimit -v unlimited "
			"(systemd: LimitAS=infinity)",
			(double)a->bytes / (1 << 30), (double)lim.rlim_cur / (1 << 30));
	if (a->backing == BACK_HUGETLB && err == -ENOMEM)
		return arena_huge_why(a, UINT32_MAX, err, why);
	return why_set(why, err, "cannot map %.2f GiB for L1: %s", (double)a->bytes / (1 << 30), strerror(-err));
}

/* Huge pages are reserved by the mapping: another process cannot take them between here and populating. */
static int map_all(struct arena *a, struct why *why)
{
	int flags = a->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	void *p;

	if (a->backing != BACK_HUGETLB)
		flags |= MAP_NORESERVE;
	p = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE, flags, a->fd, 0);
	if (p == MAP_FAILED)
		return map_why(a, -errno, why);
	a->base = p;
	if (a->backing != BACK_HUGETLB)
		madvise(p, a->bytes, a->backing == BACK_SHM_THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	madvise(p, a->bytes, MADV_DONTDUMP);
	return 0;
}

static void unmap(struct arena *a)
{
	if (a->base)
		munmap(a->base, a->bytes);
	a->base = NULL;
}

/* ---- kinds of pages ---------------------------------------------------------------------------------------------- */

/* The steps that all kinds share, from a file that is open (or anonymous memory) to populated memory that is where it should. */
static int fill(struct arena *a, uint64_t commit, struct why *why)
{
	int err = map_all(a, why);

	if (!err)
		err = arena_place_bind(a, why);
	if (!err)
		err = arena_populate(a, commit, NULL, why);
	return err ? err : arena_place_prove(a, why);
}

/* 0: done. Otherwise everything is as it was before, and why says what was missing. */
static int make_huge(struct arena *a, const struct arena_conf *conf, uint64_t page, struct why *why)
{
	uint32_t before = a->fallbacks;
	int err;

	a->backing = BACK_HUGETLB;
	a->page_bytes = page;
	err = lay_out(a, conf, why);
	if (!err)
		err = arena_huge_check(a, why);
	if (err)
		return err;
	a->name_fd = a->fd;
	a->fd = -1;
	err = arena_huge_open(a, why);
	if (!err)
		err = size_file(a, why);
	if (!err)
		err = fill(a, a->bytes, why);
	if (!err)
		return 0;
	unmap(a);
	arena_huge_unlink(a);
	if (a->fd >= 0)
		close(a->fd);
	a->fd = a->name_fd;
	a->name_fd = -1;
	a->fallbacks = before;
	for (uint32_t i = 0; i < ARENA_MAX_RANGES; i++) {
		a->grow[i].committed = a->grow[i].next = 0;
		a->grow[i].failed_at = UINT64_MAX;
	}
	return err;
}

/* ---- transparent huge pages --------------------------------------------------------------------------------------- */

/* The word in brackets is the setting. False: no such file. */
static bool setting(const char *path, char word[24])
{
	char text[128];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	word[0] = '\0';
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	const char *open_bracket = strchr(text, '[');
	if (open_bracket)
		snprintf(word, 24, "%.*s", (int)strcspn(open_bracket + 1, "]"), open_bracket + 1);
	return true;
}

static bool is_on(const char *word)
{
	static const char *const on[] = {"always", "within_size", "advise", "madvise", "force"};

	for (size_t i = 0; i < sizeof(on) / sizeof(on[0]); i++) {
		if (strcmp(word, on[i]) == 0)
			return true;
	}
	return false;
}

/* Files of a tmpfs go by its mount's huge= option; shmem_enabled is for memory without a mount, except that "force" and "deny"
 * hold for all. */
static int check_thp_shm(struct why *why)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	char word[24], buf[4096], huge[24] = "";
	struct mntent m;

	setting(THP "shmem_enabled", word);
	while (f && getmntent_r(f, &m, buf, sizeof(buf))) {
		const char *option = strcmp(m.mnt_dir, "/dev/shm") == 0 ? hasmntopt(&m, "huge") : NULL;

		if (strcmp(m.mnt_dir, "/dev/shm") == 0) /* the last one is on top */
			snprintf(huge, sizeof(huge), "%.*s", option ? (int)strcspn(option + 5, ",") : 0,
				 option ? option + 5 : "");
	}
	if (f)
		endmntent(f);
	if (strcmp(word, "force") == 0 || (is_on(huge) && strcmp(word, "deny") != 0))
		return 0;
	if (strcmp(word, "deny") == 0)
		return why_set(why, -EOPNOTSUPP,
			       "transparent huge pages are off for all shared memory: echo advise > " THP
			       "shmem_enabled");
	return why_set(why, -EOPNOTSUPP,
		       "transparent huge pages are off for /dev/shm; on: mount -o remount,huge=advise /dev/shm");
}

/* Newer kernels have one more setting per size, which may say "inherit". */
static int check_thp_anonymous(struct why *why)
{
	char word[24];

	if (!setting(THP "hugepages-2048kB/enabled", word) || strcmp(word, "inherit") == 0)
		setting(THP "enabled", word);
	if (is_on(word))
		return 0;
	return why_set(why, -EOPNOTSUPP, "transparent huge pages are off; on: echo madvise > " THP "enabled");
}

static int check_thp(const struct arena *a, struct why *why)
{
	if (access(THP "enabled", F_OK) != 0)
		return why_set(why, -EOPNOTSUPP,
			       "this kernel has no transparent huge pages: " THP "enabled does not exist");
	return a->name[0] ? check_thp_shm(why) : check_thp_anonymous(why);
}

/* ---- choosing ------------------------------------------------------------------------------------------------------- */

static int make_shm(struct arena *a, const struct arena_conf *conf, enum plan_backing backing, struct why *why)
{
	int err;

	a->backing = backing;
	a->page_bytes = ARENA_PAGE;
	err = lay_out(a, conf, why);
	if (!err && a->fd >= 0)
		err = check_space(a, why);
	if (!err && a->fd >= 0)
		err = size_file(a, why);
	return err ? err : fill(a, conf->lazy && conf->init_bytes < a->bytes ? conf->init_bytes : a->bytes, why);
}

/* Errors that other pages would not mend. */
static bool is_final(const struct arena_conf *conf, int err)
{
	return (err == -EPERM || err == -EXDEV || err == -ENOSYS) && conf->numa == WANT_YES;
}

static int choose(struct arena *a, const struct arena_conf *conf, struct why *why)
{
	const struct {
		enum plan_want want;
		uint64_t page;
	} huge[] = {{conf->huge_1g, 1ull << 30}, {conf->huge_2m, 2ull << 20}};
	enum plan_backing shm = conf->thp == WANT_NO ? BACK_SHM : BACK_SHM_THP;
	struct why w = {0};
	char size[24];
	int err;

	for (size_t k = 0; k < sizeof(huge) / sizeof(huge[0]); k++) {
		if (huge[k].want == WANT_NO)
			continue;
		err = make_huge(a, conf, huge[k].page, &w);
		if (!err)
			return 0;
		if (huge[k].want == WANT_YES || is_final(conf, err))
			return why_set(why, err, "%s", w.text);
		log_warn("L1: without huge pages of %s: %s", arena_size_text(huge[k].page, size), w.text);
		a->fallbacks++;
	}
	err = shm == BACK_SHM_THP ? check_thp(a, &w) : 0;
	if (err && conf->thp == WANT_YES)
		return why_set(why, err, "%s", w.text);
	if (err) {
		log_warn("L1: pages of 4 KiB: %s", w.text);
		a->fallbacks++;
		shm = BACK_SHM;
	}
	return make_shm(a, conf, shm, why);
}

int arena_create(const struct arena_conf *conf, struct arena **out, struct why *why)
{
	struct arena *a = mem_calloc(1, sizeof(*a));
	int err;

	if (!a)
		return why_set(why, -ENOMEM, "arena: out of memory");
	a->fd = a->name_fd = a->huge_dir_fd = -1;
	a->numa = conf->numa;
	a->threads = conf->threads;
	a->limits = conf->limits;
	a->page_bytes = ARENA_PAGE;
	arena_grow_init(a);
	err = lay_out(a, conf, why);
	if (!err)
		err = arena_place_check(a, why);
	if (!err)
		err = arena_name_claim(a, conf->shm_name, why);
	if (!err && (conf->huge_1g != WANT_NO || conf->huge_2m != WANT_NO))
		arena_huge_reap();
	if (!err)
		err = choose(a, conf, why);
	if (err) {
		arena_destroy(a);
		return err;
	}
	arena_name_offer(a);
	a->limits = NULL;
	*out = a;
	return 0;
}

void arena_destroy(struct arena *a)
{
	if (!a)
		return;
	unmap(a);
	arena_name_release(a);
	arena_huge_unlink(a);
	if (a->fd >= 0)
		close(a->fd);
	arena_grow_destroy(a);
	mem_free(a);
}

/* ---- what it is --------------------------------------------------------------------------------------------------- */

uint8_t *arena_base(const struct arena *a)
{
	return a->base;
}

uint64_t arena_bytes(const struct arena *a)
{
	return a->bytes;
}

const char *arena_shm_name(const struct arena *a)
{
	return a->name;
}

uint32_t arena_nranges(const struct arena *a)
{
	return a->nranges;
}

const struct arena_range *arena_range(const struct arena *a, uint32_t i)
{
	check(i < a->nranges);
	return &a->range[i];
}

uint32_t arena_range_of(const struct arena *a, uint64_t offset)
{
	uint32_t i = 0;

	check(offset < a->bytes);
	while (offset >= a->range[i].start + a->range[i].bytes)
		i++;
	return i;
}

enum plan_backing arena_backing(const struct arena *a)
{
	return a->backing;
}

uint64_t arena_page_bytes(const struct arena *a)
{
	return a->page_bytes;
}

uint32_t arena_fallbacks(const struct arena *a)
{
	return a->fallbacks;
}

void arena_describe(const struct arena *a, char *buf, size_t cap)
{
	struct cpu_set nodes = {{0}}; /* node numbers are written as CPU numbers are */
	char size[24], list[128], pages[64];
	uint32_t bound = 0;

	for (uint32_t i = 0; i < a->nranges; i++) {
		if (!a->range[i].bound)
			continue;
		cpus_add(&nodes, (uint32_t)a->range[i].node.os);
		bound++;
	}
	cpus_format(&nodes, list, sizeof(list));
	if (a->backing == BACK_HUGETLB)
		snprintf(pages, sizeof(pages), "huge pages of %s", arena_size_text(a->page_bytes, size));
	else
		snprintf(pages, sizeof(pages), "%s",
			 a->backing == BACK_SHM_THP ? "transparent huge pages" : "pages of 4 KiB");
	snprintf(buf, cap, "%s, %s%s%s, %s%s", pages, bound ? "bound to node " : "not bound to nodes", list,
		 bound && bound < a->nranges ? " (not all ranges)" : "",
		 a->name[0] ? "shared memory " : "no name (engines cannot map it)", a->name);
}
