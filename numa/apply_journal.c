/* apply_journal.c - the journal of apply: what was found, on disk before anything is changed.
 *
 *   lmcache-appliance numa journal 1
 *   boot =6f1c...
 *   run
 *   set /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages =0%0A =64
 *   end
 *
 * Values follow a '=' and have bytes outside of the printable ones (and blanks and '%') as %XX.
 */
#include "numa/apply_journal.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TITLE    "lmcache-appliance numa journal 1"
#define LINE_CAP (APPLY_PATH + 6 * APPLY_VALUE + 16)

/* ---- values --------------------------------------------------------------------------------------------------------- */

static void encode(const char *value, char out[3 * APPLY_VALUE + 2])
{
	char *at = out;

	*at++ = '=';
	for (const char *v = value; *v; v++) {
		if (*v > ' ' && *v < 0x7f && *v != '%')
			*at++ = *v;
		else
			at += snprintf(at, 4, "%%%02X", (unsigned char)*v);
	}
	*at = '\0';
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* `text` has n bytes. False when it is no value of ours. */
static bool decode(const char *text, size_t n, char *out, size_t cap)
{
	size_t put = 0;

	if (n == 0 || text[0] != '=')
		return false;
	for (size_t i = 1; i < n; i++) {
		int c = (unsigned char)text[i];
		if (c == '%') {
			int hi = i + 2 < n ? hex(text[i + 1]) : -1, lo = i + 2 < n ? hex(text[i + 2]) : -1;
			if (hi < 0 || lo < 0)
				return false;
			c = hi * 16 + lo;
			i += 2;
		}
		if (c == 0 || put + 1 >= cap)
			return false;
		out[put++] = (char)c;
	}
	out[put] = '\0';
	return true;
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

static int add_step(struct journal *j, const struct journal_step *s)
{
	if (j->nsteps == JOURNAL_MAX_STEPS)
		return -E2BIG;
	if (j->nsteps == j->cap) {
		uint32_t cap = j->cap ? 2 * j->cap : 16;
		struct journal_step *more = mem_realloc(j->steps, cap * sizeof(*more));
		if (!more)
			return -ENOMEM;
		j->steps = more;
		j->cap = cap;
	}
	j->steps[j->nsteps++] = *s;
	return 0;
}

/* "set PATH =FOUND =WANTED" */
static int take_set(struct journal *j, const char *line, size_t n)
{
	struct journal_step s;
	const char *path = line + 4, *end = line + n;
	const char *found = memchr(path, ' ', (size_t)(end - path));
	const char *wanted = found ? memchr(found + 1, ' ', (size_t)(end - found - 1)) : NULL;

	if (!wanted || (size_t)(found - path) >= sizeof(s.path))
		return -EBADMSG;
	memset(&s, 0, sizeof(s));
	memcpy(s.path, path, (size_t)(found - path));
	if (strlen(s.path) != (size_t)(found - path) || !apply_path_ok(s.path))
		return -EPERM;
	if (!decode(found + 1, (size_t)(wanted - found - 1), s.found, sizeof(s.found)) ||
	    !decode(wanted + 1, (size_t)(end - wanted - 1), s.wanted, sizeof(s.wanted)))
		return -EBADMSG;
	return add_step(j, &s);
}

static bool is(const char *line, size_t n, const char *text)
{
	return n == strlen(text) && memcmp(line, text, n) == 0;
}

static int take_line(struct journal *j, uint32_t number, const char *line, size_t n)
{
	char boot[sizeof(j->boot)];
	bool running = j->state == JOURNAL_HALF;

	if (number == 1)
		return is(line, n, TITLE) ? 0 : -EBADMSG;
	if (number == 2) {
		if (n < 5 || memcmp(line, "boot ", 5) != 0 || !decode(line + 5, n - 5, boot, sizeof(boot)))
			return -EBADMSG;
		j->stale = strcmp(boot, j->boot) != 0;
		return 0;
	}
	if (!running && is(line, n, "run"))
		j->state = JOURNAL_HALF;
	else if (running && is(line, n, "end"))
		j->state = JOURNAL_COMPLETE;
	else
		return running && n > 4 && memcmp(line, "set ", 4) == 0 ? take_set(j, line, n) : -EBADMSG;
	return 0;
}

int journal_parse(struct journal *j, const char *text, size_t n, struct why *why)
{
	size_t at = 0;
	uint32_t number = 0;

	j->state = JOURNAL_NONE;
	while (at < n) {
		const char *end = memchr(text + at, '\n', n - at);
		if (!end) /* torn, so nothing came after it; but a first line that cannot become ours is somebody else's */
			return number > 0 || (n < sizeof(TITLE) && memcmp(text, TITLE, n) == 0)
				       ? 0
				       : why_set(why, -EBADMSG, "line 1 is not a journal's");
		int rc = take_line(j, ++number, text + at, (size_t)(end - text) - at);
		if (rc == -EPERM)
			return why_set(why, rc, "line %u names a file that numa apply never writes", number);
		if (rc)
			return why_set(why, rc, "line %u: %s", number,
				       rc == -EBADMSG ? "not a line of a journal" : strerror(-rc));
		at = (size_t)(end - text) + 1;
		j->end = (off_t)at;
	}
	return 0;
}

static int load(struct journal *j, struct why *why)
{
	struct stat st;

	if (fstat(j->fd, &st) != 0)
		return why_set(why, -errno, "%s: %s", j->path, strerror(errno));
	if (!S_ISREG(st.st_mode) || (geteuid() == 0 && st.st_uid != 0) || (st.st_mode & 022))
		return why_set(why, -EBADMSG, "%s is not obeyed: it must be a file of root that nobody else may write",
			       j->path);
	if (st.st_size > (off_t)JOURNAL_MAX_BYTES)
		return why_set(why, -EBADMSG, "%s is not a journal of ours: %lld bytes", j->path,
			       (long long)st.st_size);
	size_t n = (size_t)st.st_size;
	char *text = mem_calloc(1, n + 1);
	if (!text)
		return why_set(why, -ENOMEM, "%s: out of memory", j->path);
	ssize_t got = pread(j->fd, text, n, 0);
	int rc = got < 0 ? why_set(why, -errno, "cannot read %s: %s", j->path, strerror(errno))
			 : journal_parse(j, text, (size_t)got, why);
	mem_free(text);
	if (rc == 0 || rc == -ENOMEM)
		return rc;
	if (got >= 0)
		why_prefix(why, "%s is not obeyed", j->path);
	return -EBADMSG;
}

/* ---- opening -------------------------------------------------------------------------------------------------------- */

static void read_boot(const struct apply_conf *conf, char out[64])
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/sys/kernel/random/boot_id", conf->root ? conf->root : "");
	snprintf(out, 64, "unknown");
	f = fopen(path, "re");
	if (!f)
		return;
	if (!fgets(out, 64, f))
		snprintf(out, 64, "unknown");
	out[strcspn(out, "\n")] = '\0';
	fclose(f);
}

static int open_folder(const char *path)
{
	char copy[512];

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return -ENAMETOOLONG;
	const char *folder = dirname(copy);
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && mkdir(folder, 0755) == 0)
		fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The name, too, must survive a power cut. */
static int sync_folder(const char *path)
{
	int fd = open_folder(path);

	if (fd < 0)
		return fd;
	int rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

#define ATTEMPTS 16 /* each lost to a process that removed the file between our open and our lock */

static int open_locked(struct journal *j, enum journal_mode mode)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		struct stat st;
		int flags = mode == JOURNAL_LOOK ? O_RDONLY : mode == JOURNAL_MAKE ? O_RDWR | O_CREAT : O_RDWR;
		int fd = open(j->path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
		if (fd < 0)
			return -errno;
		if (flock(fd, (mode == JOURNAL_LOOK ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
			int err = errno;
			close(fd);
			return err == EWOULDBLOCK ? -EBUSY : -err;
		}
		if (fstat(fd, &st) == 0 && st.st_nlink > 0) {
			j->fd = fd;
			return 0;
		}
		close(fd);
	}
	return -EBUSY;
}

int journal_open(const struct apply_conf *conf, enum journal_mode mode, struct journal *j, struct why *why)
{
	*j = (struct journal){.fd = -1, .path = conf->journal ? conf->journal : APPLY_JOURNAL};
	read_boot(conf, j->boot);
	if (mode == JOURNAL_MAKE) {
		int folder = open_folder(j->path);
		if (folder >= 0)
			close(folder);
	}
	int rc = open_locked(j, mode);
	if (rc == -ENOENT && mode != JOURNAL_MAKE)
		return 0;
	if (rc == -EBUSY)
		return why_set(why, rc, "%s is locked: another numa apply or undo is at work", j->path);
	if (rc)
		return why_set(why, rc, "cannot open the journal %s: %s%s", j->path, strerror(-rc),
			       rc == -EACCES ? " (numa apply and undo need root)" : "");
	rc = load(j, why);
	if (rc)
		journal_close(j);
	return rc;
}

void journal_close(struct journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	mem_free(j->steps);
	j->fd = -1;
	j->steps = NULL;
	j->nsteps = j->cap = 0;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

static int append(struct journal *j, const char *text, struct why *why)
{
	size_t n = strlen(text);
	ssize_t put = pwrite(j->fd, text, n, j->end);

	if (put != (ssize_t)n || fdatasync(j->fd) != 0) {
		int err = put >= 0 && put < (ssize_t)n ? ENOSPC : errno;
		return why_set(why, -err, "cannot write the journal %s: %s", j->path, strerror(err));
	}
	j->end += put;
	return 0;
}

static int cut(struct journal *j, off_t at, struct why *why)
{
	if (ftruncate(j->fd, at) != 0 || fdatasync(j->fd) != 0)
		return why_set(why, -errno, "cannot shorten the journal %s: %s", j->path, strerror(errno));
	j->end = at;
	return 0;
}

int journal_begin(struct journal *j, struct why *why)
{
	char boot[3 * APPLY_VALUE + 2], text[4 * APPLY_VALUE + 64];
	/* The steps of an earlier boot are void, and a torn line must not grow together with ours. */
	bool fresh = j->state == JOURNAL_NONE || j->stale;
	int rc = cut(j, fresh ? 0 : j->end, why);

	if (rc)
		return rc;
	encode(j->boot, boot);
	snprintf(text, sizeof(text), TITLE "\nboot %s\n", boot);
	if (fresh) {
		j->nsteps = 0;
		j->stale = false;
		j->state = JOURNAL_NONE;
		rc = append(j, text, why);
		if (rc == 0)
			rc = sync_folder(j->path) ? why_set(why, -EIO, "cannot sync the folder of %s", j->path) : 0;
	}
	j->run = j->end;
	return rc ? rc : append(j, "run\n", why);
}

int journal_set(struct journal *j, const struct apply_step *s, struct why *why)
{
	char found[3 * APPLY_VALUE + 2], wanted[3 * APPLY_VALUE + 2], line[LINE_CAP];

	encode(s->found, found);
	encode(s->wanted, wanted);
	snprintf(line, sizeof(line), "set %s %s %s\n", s->path, found, wanted);
	return append(j, line, why);
}

int journal_end(struct journal *j, struct why *why)
{
	return append(j, "end\n", why);
}

int journal_remove(struct journal *j, struct why *why)
{
	if (unlink(j->path) != 0 && errno != ENOENT)
		return why_set(why, -errno, "cannot remove the journal %s: %s", j->path, strerror(errno));
	sync_folder(j->path);
	return 0;
}

int journal_drop_run(struct journal *j, struct why *why)
{
	return j->state == JOURNAL_NONE ? journal_remove(j, why) : cut(j, j->run, why);
}
