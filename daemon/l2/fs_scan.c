/* fs_scan.c - what is in the directory at start, found in the background; and what a crash left half written. */
#include "daemon/l2/fs_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TMP_OLD_S 600 /* in a directory that others write to, younger ones may be theirs */

struct found {
	int64_t used_ns; /* last read or written */
	uint64_t number;
	uint32_t id;
};

struct scan {
	struct fs *f;
	struct found *list;
	uint64_t n, room, files, ignored, tmps;
};

static DIR *dir_of(int fd)
{
	int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = again < 0 ? NULL : fdopendir(again);

	if (!d && again >= 0)
		close(again);
	return d;
}

/* ---- temporary files ------------------------------------------------------------------------------------------------------ */

static bool is_tmp(const char *file)
{
	size_t n = strlen(file), head = sizeof(FS_TMP_HEAD) - 1, tail = sizeof(FS_TMP_TAIL) - 1;

	return n > head + tail && strncmp(file, FS_TMP_HEAD, head) == 0 && strcmp(file + n - tail, FS_TMP_TAIL) == 0;
}

static void remove_tmps(struct scan *s, int fd)
{
	const struct fs *f = s->f;
	struct stat st;
	DIR *d = dir_of(fd);

	for (const struct dirent *e; d && !f->stopping && (e = readdir(d));) {
		/* those with our own session's number are being written */
		if (!is_tmp(e->d_name) || strstr(e->d_name, f->session) ||
		    fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		if (!S_ISREG(st.st_mode) || (f->shared && time(NULL) - st.st_mtime < TMP_OLD_S))
			continue;
		s->tmps += unlinkat(fd, e->d_name, 0) == 0;
	}
	if (d)
		closedir(d);
}

/* ---- objects ------------------------------------------------------------------------------------------------------------------ */

static int64_t ns_of(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool remember(struct scan *s, uint32_t id, uint64_t number, const struct stat *st)
{
	int64_t a = ns_of(st->st_atim), m = ns_of(st->st_mtim);

	if (s->n == s->room) {
		uint64_t room = s->room ? s->room * 2 : 1024;
		struct found *list = mem_realloc(s->list, room * sizeof(*list));
		if (!list)
			return false;
		s->list = list;
		s->room = room;
	}
	s->list[s->n++] = (struct found){a > m ? a : m, number, id};
	return true;
}

/* Without memory for an entry the file is left alone, and its bytes count. */
static void add_file(struct scan *s, const char *file)
{
	struct fs *f = s->f;
	struct fs_parsed p;
	struct stat st;
	uint32_t stem, id = 0;

	if (!fs_parse(file, &p) || fstatat(f->base, file, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) {
		s->ignored += file[0] != '.';
		return;
	}
	lk_lock(&f->lk);
	stem = fs_stem_intern(&f->stems, file, p.prefix_bytes, p.salt, p.salt_bytes);
	/* known already: written since the start */
	if (stem && !fs_entry_find(&f->index, stem, &p.hash))
		id = fs_entry_add(&f->index, stem, &p.hash);
	if (id) {
		struct fs_entry *e = fs_entry_at(&f->index, id);
		e->state = FS_READY;
		e->bytes = (uint64_t)st.st_size;
		e->name = f->persist ? 0 : FS_OTHER_LAYOUT; /* of an earlier run: as good as that */
		fs_entry_newest(&f->index, id);
		e->untouched = true;
		f->n.objects++;
		if (!remember(s, id, e->number, &st))
			s->ignored++;
	}
	if (id || !stem)
		f->used += (uint64_t)st.st_size;
	f->found++;
	lk_unlock(&f->lk);
	s->files++;
}

static int by_use(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	return (x->used_ns > y->used_ns) - (x->used_ns < y->used_ns);
}

/* To the old end, youngest first; what was used since the start stays where it is. */
static void order_by_use(struct scan *s)
{
	struct fs_index *ix = &s->f->index;

	if (s->n)
		qsort(s->list, s->n, sizeof(*s->list), by_use);
	lk_lock(&s->f->lk);
	for (uint64_t i = s->n; i-- > 0;) {
		const struct fs_entry *e = fs_entry_at(ix, s->list[i].id);
		if (e->number == s->list[i].number && e->state == FS_READY && e->untouched)
			fs_entry_oldest(ix, s->list[i].id);
	}
	lk_unlock(&s->f->lk);
}

static void *scan_main(void *arg)
{
	struct fs *f = arg;
	struct scan s = {.f = f};
	DIR *d = dir_of(f->base);

	for (const struct dirent *e; d && !f->stopping && (e = readdir(d));)
		add_file(&s, e->d_name);
	if (d)
		closedir(d);
	else
		log_error("%s: cannot be read: %s", f->base_path, strerror(errno));
	remove_tmps(&s, f->base);
	if (f->tmp != f->base)
		remove_tmps(&s, f->tmp);
	order_by_use(&s);
	mem_free(s.list);
	if (f->capacity && !f->stopping)
		fs_make_room(f, f->capacity, 0);
	lk_lock(&f->lk);
	f->scanning = false;
	uint64_t used = f->used;
	lk_unlock(&f->lk);
	log_info("%s: %llu objects, %.3f GiB; %llu files of others, %llu half written ones removed", f->base_path,
		 (unsigned long long)s.files, (double)used / (double)(1u << 30), (unsigned long long)s.ignored,
		 (unsigned long long)s.tmps);
	l2_pool_release_stores(f->on.pool);
	return NULL;
}

int fs_scan_start(struct fs *f, struct why *why)
{
	f->scanning = true;
	int rc = -pthread_create(&f->scanner, NULL, scan_main, f);
	if (rc) {
		f->scanning = false;
		return why_set(why, rc, "cannot start a thread: %s", strerror(-rc));
	}
	f->has_scanner = true;
	return 0;
}

bool fs_scan_stop(struct fs *f, uint32_t wait_ms)
{
	uint64_t until = clock_ms() + wait_ms;

	f->stopping = true;
	if (!f->has_scanner)
		return true;
	/* Asked again and again, since pthread_clockjoin_np is a join that ThreadSanitizer does not see. */
	for (;;) {
		if (pthread_tryjoin_np(f->scanner, NULL) == 0)
			return true;
		if (clock_ms() >= until)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	pthread_detach(f->scanner);
	return false;
}
