/* What this process is allowed: cgroup, cpuset, ulimit, capabilities, seccomp, mounts. */
#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NO_LIMIT  UINT64_MAX
#define CGROUP_UP 64u /* levels walked towards the root */

/* ---- /proc/self/cgroup and /proc/self/mountinfo ---- */

/* Where one controller's files of our cgroup are. */
struct cgroup_dir {
	uint32_t version; /* 0: not there */
	char mount[256], path[512];
};

struct mount {
	char root[256], point[256], type[32], options[512];
};

/* The kernel writes space, tab, newline and backslash as \040 and so on. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
		    s[3] <= '7') {
			char c = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));

			*out++ = c < ' ' || c == 0x7f ? '?' : c;
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

/* "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw" */
static bool parse_mount(const char *line, struct mount *out)
{
	const char *dash = strstr(line, " - ");

	*out = (struct mount){0};
	if (!dash || sscanf(line, "%*s %*s %*s %255s %255s", out->root, out->point) != 2 ||
	    sscanf(dash + 3, "%31s %*s %511s", out->type, out->options) < 1)
		return false;
	unescape(out->root);
	unescape(out->point);
	return true;
}

/* One of the words between commas. */
static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
		if (strncmp(at, word, n) == 0 && (at[n] == ',' || at[n] == '\0'))
			return true;
	}
	return false;
}

/* Our path for a controller of version 1, or for version 2 with "". */
static bool cgroup_path(const char *text, const char *controller, char *out, size_t cap)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char entry[1024], *list, *path;

		snprintf(entry, sizeof(entry), "%.*s", (int)strcspn(line, "\n"), line);
		list = strchr(entry, ':');
		path = list ? strchr(list + 1, ':') : NULL;
		if (!path || path[1] != '/')
			continue;
		*path++ = '\0';
		list++;
		if (controller[0] ? has_word(list, controller) : !list[0])
			return snprintf(out, cap, "%s", path) < (int)cap;
	}
	return false;
}

/* A container's mount shows only a part of the hierarchy; our path may be given from above that part. */
static void strip_root(struct cgroup_dir *d, const char *root)
{
	size_t n = strlen(root);

	/* From outside our namespace: no such directory is shown to us. */
	if (strstr(d->path, "/.."))
		d->path[0] = '\0';
	if (strcmp(root, "/") == 0)
		return;
	if (strncmp(d->path, root, n) == 0 && (d->path[n] == '/' || d->path[n] == '\0'))
		memmove(d->path, d->path + n, strlen(d->path + n) + 1);
	else
		d->path[0] = '\0';
}

static void find_cgroup(const char *cgroups, const char *mounts, const char *controller, struct cgroup_dir *out)
{
	bool v1 = cgroup_path(cgroups, controller, out->path, sizeof(out->path));

	if (!v1 && !cgroup_path(cgroups, "", out->path, sizeof(out->path)))
		return;
	for (const char *line = mounts; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		struct mount m;
		char entry[2048];

		snprintf(entry, sizeof(entry), "%.*s", (int)strcspn(line, "\n"), line);
		if (!parse_mount(entry, &m) || strcmp(m.type, v1 ? "cgroup" : "cgroup2") != 0 ||
		    (v1 && !has_word(m.options, controller)))
			continue;
		memcpy(out->mount, m.point, sizeof(out->mount));
		strip_root(out, m.root);
		out->version = v1 ? 1 : 2;
		return;
	}
}

/* ---- limits of a cgroup and of those above it ---- */

struct limit {
	uint64_t max, used;
	char where[192];
};

static void keep_end(char *out, size_t cap, const char *text)
{
	size_t n = strlen(text);

	if (n < cap)
		memcpy(out, text, n + 1);
	else
		snprintf(out, cap, "...%s", text + (n - (cap - 4)));
}

/* From our cgroup to the root: the one that leaves least room is what a request will meet. Without a file of use, the
 * smallest. */
static void walk_up(struct facts *f, const struct cgroup_dir *d, const char *max_file, const char *used_file,
		    struct limit *out)
{
	uint64_t room = NO_LIMIT;
	char path[512];

	*out = (struct limit){.max = NO_LIMIT};
	if (d->version == 0)
		return;
	memcpy(path, d->path, sizeof(path));
	for (uint32_t level = 0; level < CGROUP_UP; level++) {
		char file[900], *slash;
		uint64_t max, used;

		while (path[0] && path[strlen(path) - 1] == '/')
			path[strlen(path) - 1] = '\0';
		snprintf(file, sizeof(file), "%s%s/%s", d->mount, path, max_file);
		/* "max" is no number; version 1 writes a huge one */
		if (facts_u64(f, &max, "%s", file) == 0 && max < 1ull << 62) {
			if (!used_file || facts_u64(f, &used, "%s%s/%s", d->mount, path, used_file))
				used = 0;
			if ((max > used ? max - used : 0) < room) {
				room = max > used ? max - used : 0;
				out->max = max;
				out->used = used;
				keep_end(out->where, sizeof(out->where), file);
			}
		}
		slash = strrchr(path, '/');
		if (!slash)
			return;
		*slash = '\0';
	}
}

/* "2MB", "1GB", "64KB": as hugetlb files are named. */
static void size_name(uint64_t bytes, char out[16])
{
	if (bytes >= 1ull << 30)
		snprintf(out, 16, "%uGB", (unsigned)(bytes >> 30));
	else if (bytes >= 1ull << 20)
		snprintf(out, 16, "%uMB", (unsigned)(bytes >> 20));
	else
		snprintf(out, 16, "%uKB", (unsigned)(bytes >> 10));
}

static void hugetlb_limit(struct facts *f, const struct cgroup_dir *d, struct mach_hugetlb_limit *h)
{
	char size[16], max[64], used[64];
	const char *const max_word = d->version == 1 ? "limit_in_bytes" : "max";
	const char *const used_word = d->version == 1 ? "usage_in_bytes" : "current";
	struct limit l;

	size_name(h->page_bytes, size);
	snprintf(max, sizeof(max), "hugetlb.%s.%s", size, max_word);
	snprintf(used, sizeof(used), "hugetlb.%s.%s", size, used_word);
	walk_up(f, d, max, used, &l);
	h->max = l.max;
	h->used = l.used;
	memcpy(h->where, l.where, sizeof(h->where));
	snprintf(max, sizeof(max), "hugetlb.%s.rsvd.%s", size, max_word);
	snprintf(used, sizeof(used), "hugetlb.%s.rsvd.%s", size, used_word);
	walk_up(f, d, max, used, &l);
	h->rsvd_max = l.max;
	h->rsvd_used = l.used;
	memcpy(h->rsvd_where, l.where, sizeof(h->rsvd_where));
}

static bool listed(const struct mach_limits *l, uint64_t page_bytes)
{
	for (uint32_t i = 0; i < l->nhugetlb; i++) {
		if (l->hugetlb[i].page_bytes == page_bytes)
			return true;
	}
	return false;
}

/* One entry per size of huge page that a node has, also where nothing limits it. */
static void hugetlb_limits(struct facts *f, const struct machine *m, const struct cgroup_dir *d,
			   struct mach_limits *out)
{
	for (uint32_t i = 0; i < m->nnodes; i++) {
		const struct mach_node *n = &m->nodes[i];

		for (uint32_t k = 0; k < n->nhuge && out->nhugetlb < MACH_PAGE_SIZES; k++) {
			if (listed(out, n->huge[k].page_bytes))
				continue;
			out->hugetlb[out->nhugetlb].page_bytes = n->huge[k].page_bytes;
			hugetlb_limit(f, d, &out->hugetlb[out->nhugetlb++]);
		}
	}
}

static void cgroup_limits(struct facts *f, const struct machine *m, const char *mounts, struct mach_limits *out)
{
	char *cgroups = facts_text(f, "/proc/self/cgroup");
	struct cgroup_dir memory = {0}, hugetlb = {0};
	struct limit l = {.max = NO_LIMIT};
	const char *controller;
	char path[512];

	if (cgroups && mounts) {
		find_cgroup(cgroups, mounts, "memory", &memory);
		find_cgroup(cgroups, mounts, "hugetlb", &hugetlb);
		out->cgroup_version = memory.version ? memory.version : hugetlb.version;
		controller = memory.version == 1 ? "memory" : hugetlb.version == 1 ? "hugetlb" : "";
		if (cgroup_path(cgroups, controller, path, sizeof(path)))
			keep_end(out->cgroup, sizeof(out->cgroup), path);
		/* what is used of it is mostly cache that goes when asked */
		walk_up(f, &memory, memory.version == 1 ? "memory.limit_in_bytes" : "memory.max", NULL, &l);
	}
	out->memory_max = l.max;
	memcpy(out->memory_where, l.where, sizeof(out->memory_where));
	hugetlb_limits(f, m, &hugetlb, out);
	mem_free(cgroups);
}

/* ---- this process ---- */

/* The text behind "\nkey"; NULL when there is none. */
static const char *value_of(const char *text, const char *key)
{
	const char *at = text;

	while (at && (at = strstr(at, key))) {
		if (at == text || at[-1] == '\n')
			return at + strlen(key) + strspn(at + strlen(key), ": \t");
		at++;
	}
	return NULL;
}

static void read_status(struct facts *f, struct mach_limits *out)
{
	char *text = facts_text(f, "/proc/self/status"), *limits = facts_text(f, "/proc/self/limits");
	const char *caps = value_of(text, "CapEff"), *seccomp = value_of(text, "Seccomp:"),
		   *lock = value_of(limits, "Max locked memory");
	uint64_t bits = caps ? strtoull(caps, NULL, 16) : 0;

	out->cap_ipc_lock = bits >> 14 & 1;
	out->cap_sys_admin = bits >> 21 & 1;
	out->cap_sys_nice = bits >> 23 & 1;
	out->seccomp = seccomp && *seccomp >= '0' && *seccomp <= '2' ? (uint32_t)(*seccomp - '0') : UINT32_MAX;
	out->memlock = lock && *lock >= '0' && *lock <= '9' ? strtoull(lock, NULL, 10) : NO_LIMIT;
	mem_free(text);
	mem_free(limits);
}

static enum probe judge(long r)
{
	if (r < 0 && (errno == EPERM || errno == EACCES))
		return PROBE_DENIED;
	return r < 0 && errno == ENOSYS ? PROBE_MISSING : PROBE_OK;
}

/* Each call as one that changes nothing: of no length, or with an argument that the kernel refuses after the filter has let
 * it pass. */
static enum probe try_call(const char *name)
{
	if (strcmp(name, "mbind") == 0)
		return judge(syscall(SYS_mbind, NULL, 0ul, MPOL_DEFAULT, NULL, 0ul, 0u));
	if (strcmp(name, "set_mempolicy") == 0)
		return judge(syscall(SYS_set_mempolicy, MPOL_MAX + 1000, NULL, 0ul));
	if (strcmp(name, "move_pages") == 0)
		return judge(syscall(SYS_move_pages, 0, 0ul, NULL, NULL, NULL, 0));
	if (strcmp(name, "sched_setaffinity") == 0)
		return judge(syscall(SYS_sched_setaffinity, 0, sizeof(long), NULL));
	return judge(syscall(SYS_io_uring_setup, 0u, NULL));
}

static enum probe probe(struct facts *f, const char *name)
{
	static const char *const words[] = {"unknown", "ok", "denied", "missing"};
	char key[48], text[16];

	snprintf(key, sizeof(key), "probe:%s", name);
	if (facts_live(f))
		facts_note(f, key, words[try_call(name)]);
	if (facts_value(f, key, text, sizeof(text)) == 0) {
		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
			if (strcmp(text, words[i]) == 0)
				return (enum probe)i;
		}
	}
	return PROBE_UNKNOWN;
}

static uint64_t number(struct facts *f, const char *key)
{
	char text[32], *end;
	uint64_t v;

	if (facts_value(f, key, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
		return 0;
	v = strtoull(text, &end, 10);
	return *end ? 0 : v;
}

static void shm_space(struct facts *f, struct mach_limits *out)
{
	struct statvfs v;
	char text[32];

	if (facts_live(f) && statvfs("/dev/shm", &v) == 0) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)v.f_blocks * v.f_frsize);
		facts_note(f, "shm_total", text);
		snprintf(text, sizeof(text), "%llu", (unsigned long long)v.f_bavail * v.f_frsize);
		facts_note(f, "shm_free", text);
	}
	out->shm_total = number(f, "shm_total");
	out->shm_free = number(f, "shm_free");
}

/* ---- memory settings and mounts ---- */

/* The chosen word of "always [madvise] never". */
static void bracketed(struct facts *f, const char *path, char out[16])
{
	char text[256], *from, *to;

	out[0] = '\0';
	if (facts_read(f, text, sizeof(text), "%s", path) < 0)
		return;
	from = strchr(text, '[');
	to = from ? strchr(from, ']') : NULL;
	if (to && to - from <= 15)
		snprintf(out, 16, "%.*s", (int)(to - from - 1), from + 1);
}

/* "2M", "1024M", "1G" */
static uint64_t size_of(const char *text)
{
	char *end;
	uint64_t v = strtoull(text, &end, 10);
	unsigned shift = *end == 'G' ? 30 : *end == 'M' ? 20 : *end == 'K' ? 10 : 0;

	return v < 1ull << 30 ? v << shift : 0;
}

static uint64_t default_huge(struct facts *f)
{
	char *text = facts_text(f, "/proc/meminfo");
	const char *at = value_of(text, "Hugepagesize");
	uint64_t kb = at ? strtoull(at, NULL, 10) : 0;

	mem_free(text);
	return kb < 1ull << 40 ? kb << 10 : 0;
}

static void hugetlbfs_mounts(struct facts *f, const char *mounts, struct mach_limits *out)
{
	uint32_t n = 0;

	for (const char *line = mounts; n < 4 && line && *line;
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char entry[2048], *page;
		struct mount m;

		snprintf(entry, sizeof(entry), "%.*s", (int)strcspn(line, "\n"), line);
		if (!parse_mount(entry, &m) || strcmp(m.type, "hugetlbfs") != 0 || strlen(m.point) >= 128)
			continue;
		snprintf(out->hugetlbfs[n], sizeof(out->hugetlbfs[n]), "%.127s", m.point);
		page = strstr(m.options, "pagesize=");
		out->hugetlbfs_page[n++] = page ? size_of(page + 9) : default_huge(f);
	}
}

/* A tmpfs goes by its mount's huge= option; of shmem_enabled only "deny" and "force" hold for it. Without a tmpfs there in sight
 * that word is all there is. */
static void shm_thp(struct facts *f, const char *mounts, struct mach_limits *out)
{
	char *word = out->shmem_thp;

	bracketed(f, "/sys/kernel/mm/transparent_hugepage/shmem_enabled", word);
	if (strcmp(word, "deny") == 0 || strcmp(word, "force") == 0)
		return;
	for (const char *line = mounts; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char entry[2048], *huge;
		struct mount m;

		snprintf(entry, sizeof(entry), "%.*s", (int)strcspn(line, "\n"), line);
		if (!parse_mount(entry, &m) || strcmp(m.type, "tmpfs") != 0 || strcmp(m.point, "/dev/shm") != 0)
			continue;
		huge = strstr(m.options, "huge="); /* the last mount is on top */
		snprintf(word, sizeof(out->shmem_thp), "%.*s", huge ? (int)strcspn(huge + 5, ",") : 5,
			 huge ? huge + 5 : "never");
	}
}

int build_limits(struct facts *f, const struct machine *m, struct mach_limits *out)
{
	char *mounts = facts_text(f, "/proc/self/mountinfo"), text[8];

	cgroup_limits(f, m, mounts, out);
	read_status(f, out);
	out->mbind = probe(f, "mbind");
	out->set_mempolicy = probe(f, "set_mempolicy");
	out->move_pages = probe(f, "move_pages");
	out->sched_setaffinity = probe(f, "sched_setaffinity");
	out->io_uring = probe(f, "io_uring");
	for (uint32_t i = 0; i < m->ncpus; i++)
		out->cpus_restricted |= !m->cpus[i].allowed;
	for (uint32_t i = 0; i < m->nnodes; i++)
		out->mems_restricted |= !m->nodes[i].allowed && m->nodes[i].memory_bytes;
	out->numa_balancing =
		facts_read(f, text, sizeof(text), "/proc/sys/kernel/numa_balancing") > 0 && text[0] != '0';
	shm_space(f, out);
	bracketed(f, "/sys/kernel/mm/transparent_hugepage/enabled", out->thp);
	shm_thp(f, mounts, out);
	hugetlbfs_mounts(f, mounts, out);
	mem_free(mounts);
	return facts_oom(f) ? -ENOMEM : 0;
}
