/* fs_file.c - one file: reading, writing, its mark. No lock is held; everything here may block. */
#include "daemon/l2/fs_int.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ALIGN 4096u

/* ---- marks: "1:<crc>:<bytes>:<digest of name and layout>", all hexadecimal ------------------------------------------------- */

#define MARK_BYTES (2u + 8 + 1 + 16 + 1 + 2 * SEG_DIGEST)
_Static_assert(MARK_BYTES < FS_MARK_ROOM, "a mark and what ends it");

static bool hex(const char *p, uint32_t n, uint64_t *out)
{
	*out = 0;
	for (uint32_t i = 0; i < n; i++) {
		char c = p[i];
		int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
		if (v < 0)
			return false;
		*out = *out << 4 | (uint64_t)v;
	}
	return true;
}

int fs_mark_parse(const char *text, uint64_t n, struct fs_mark *out)
{
	uint64_t crc, byte;

	if (n != MARK_BYTES || memcmp(text, "1:", 2) != 0 || text[10] != ':' || text[27] != ':' ||
	    !hex(text + 2, 8, &crc) || !hex(text + 11, 16, &out->bytes))
		return -ENODATA;
	for (uint32_t i = 0; i < SEG_DIGEST; i++) {
		if (!hex(text + 28 + (size_t)2 * i, 2, &byte))
			return -ENODATA;
		out->digest[i] = (uint8_t)byte;
	}
	out->crc = (uint32_t)crc;
	return 0;
}

int fs_mark_text(const struct fs_mark *m, char out[FS_MARK_ROOM])
{
	int at = snprintf(out, FS_MARK_ROOM, "1:%08x:%016" PRIx64 ":", m->crc, m->bytes);

	for (uint32_t i = 0; i < SEG_DIGEST; i++)
		at += snprintf(out + at, FS_MARK_ROOM - (size_t)at, "%02x", m->digest[i]);
	return at;
}

int fs_mark_read(int fd, struct fs_mark *out)
{
	char text[FS_MARK_ROOM];
	ssize_t n = fgetxattr(fd, FS_MARK, text, sizeof(text));

	return n < 0 ? -ENODATA : fs_mark_parse(text, (uint64_t)n, out);
}

int fs_mark_write(int fd, const struct fs_mark *m)
{
	char text[FS_MARK_ROOM];
	int n = fs_mark_text(m, text);

	return fsetxattr(fd, FS_MARK, text, (size_t)n, 0) ? -errno : 0;
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------- */

static bool direct_fits(const struct fs *f, const struct l2_job *job)
{
	return f->direct && ((uintptr_t)job->mem | job->bytes) % ALIGN == 0;
}

/* Around the page cache if it can be, else through it. */
static int open_either(int dir, const char *file, int flags, bool *direct)
{
	int fd = openat(dir, file, flags | (*direct ? O_DIRECT : 0), 0644);

	if (fd < 0 && errno == EINVAL && *direct) {
		*direct = false;
		fd = openat(dir, file, flags, 0644);
	}
	return fd < 0 ? -errno : fd;
}

/* The file system may take the flag and refuse the first transfer. */
static bool give_up_direct(int fd, bool *direct)
{
	int flags = fcntl(fd, F_GETFL);

	if (!*direct || errno != EINVAL || flags < 0 || fcntl(fd, F_SETFL, flags & ~O_DIRECT))
		return false;
	*direct = false;
	return true;
}

static int read_piece(int fd, bool *direct, uint8_t *p, uint64_t n, uint64_t at)
{
	while (n > 0) {
		errno = 0;
		ssize_t k = pread(fd, p, n, (off_t)at);
		if (k == 0)
			return -EMSGSIZE; /* shorter than it was a moment ago */
		if (k < 0 && (errno == EINTR || give_up_direct(fd, direct)))
			continue;
		if (k < 0)
			return -errno;
		p += k;
		at += (uint64_t)k;
		n -= (uint64_t)k;
		/* what a direct read left over may be unaligned */
		if (n > 0 && *direct && at % ALIGN) {
			errno = EINVAL;
			give_up_direct(fd, direct);
		}
	}
	return 0;
}

static int read_all(int fd, bool direct, const struct l2_job *job)
{
	uint8_t *p = job->mem;

	if (!direct && job->bytes > FS_PIECE)
		posix_fadvise(fd, 0, (off_t)job->bytes, POSIX_FADV_WILLNEED);
	for (uint64_t at = 0; at < job->bytes; at += FS_PIECE) {
		uint64_t n = job->bytes - at < FS_PIECE ? job->bytes - at : FS_PIECE;
		int rc = read_piece(fd, &direct, p + at, n, at);
		if (rc)
			return rc;
		job->sums[at / CRC_BLOCK] = crc32c(0, p + at, n);
	}
	return 0;
}

int fs_file_read(struct fs *f, const char *file, const struct l2_job *job, struct fs_mark *mark)
{
	bool direct = direct_fits(f, job);
	struct stat st;
	/* not blocking, in case somebody put a pipe there */
	int rc, fd = open_either(f->base, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, &direct);

	mark->bytes = 0;
	if (fd < 0)
		return fd == -ELOOP || fd == -ENXIO ? -ENOENT : fd;
	if (fstat(fd, &st))
		rc = -errno;
	else if (!S_ISREG(st.st_mode))
		rc = -ENOENT;
	else if ((uint64_t)st.st_size != job->bytes)
		rc = -EMSGSIZE;
	else
		rc = read_all(fd, direct, job);
	if (rc == 0 && (fs_mark_read(fd, mark) || mark->bytes != job->bytes))
		mark->bytes = 0;
	close(fd);
	return rc;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------- */

static int write_piece(int fd, bool *direct, const uint8_t *p, uint64_t n, uint64_t at)
{
	while (n > 0) {
		errno = 0;
		ssize_t k = pwrite(fd, p, n, (off_t)at);
		if (k < 0 && (errno == EINTR || give_up_direct(fd, direct)))
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -EIO;
		p += k;
		at += (uint64_t)k;
		n -= (uint64_t)k;
		if (n > 0 && *direct && at % ALIGN) {
			errno = EINVAL;
			give_up_direct(fd, direct);
		}
	}
	return 0;
}

static int write_all(int fd, bool direct, const struct l2_job *job)
{
	const uint8_t *p = job->mem;

	for (uint64_t at = 0; at < job->bytes; at += FS_PIECE) {
		uint64_t n = job->bytes - at < FS_PIECE ? job->bytes - at : FS_PIECE;
		if (!job->have_sums)
			job->sums[at / CRC_BLOCK] = crc32c(0, p + at, n);
		int rc = write_piece(fd, &direct, p + at, n, at);
		if (rc)
			return rc;
	}
	return 0;
}

static void put_mark(struct fs *f, int fd, const struct l2_job *job, uint32_t crc)
{
	struct fs_mark m = {.crc = crc, .bytes = job->bytes};

	memcpy(m.digest, job->digest, SEG_DIGEST);
	int rc = fs_mark_write(fd, &m);
	if (!rc)
		return;
	lk_lock(&f->lk);
	bool first = !f->no_marks;
	f->no_marks = true;
	lk_unlock(&f->lk);
	if (first)
		log_warn("%s: no extended attributes (%s): after a restart only the length of a file will be checked",
			 f->base_path, strerror(-rc));
}

int fs_dir_sync(struct fs *f)
{
	return fsync(f->base) && errno != EINVAL ? -errno : 0;
}

static int fill_and_name(struct fs *f, int fd, const char *tmp, const char *file, bool direct, const struct l2_job *job,
			 uint32_t *crc)
{
	int rc = write_all(fd, direct, job);

	if (!rc) {
		*crc = crc32c_join(job->sums, job->bytes);
		put_mark(f, fd, job, *crc);
	}
	if (!rc && f->sync == FS_SYNC_ALWAYS && fsync(fd))
		rc = -errno;
	if (close(fd) && !rc)
		rc = -errno;
	if (!rc && renameat(f->tmp, tmp, f->base, file))
		rc = -errno;
	return rc;
}

int fs_file_write(struct fs *f, const char *file, const struct l2_job *job, uint32_t *crc)
{
	bool direct = direct_fits(f, job);
	char tmp[64];

	lk_lock(&f->lk);
	snprintf(tmp, sizeof(tmp), FS_TMP_HEAD "%s-%" PRIu64 FS_TMP_TAIL, f->session, f->tmp_number++);
	lk_unlock(&f->lk);
	int fd = open_either(f->tmp, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, &direct);
	if (fd < 0)
		return fd;
	int rc = fill_and_name(f, fd, tmp, file, direct, job, crc);
	if (rc) {
		unlinkat(f->tmp, tmp, 0);
		return rc;
	}
	return f->sync == FS_SYNC_ALWAYS ? fs_dir_sync(f) : 0;
}

int fs_file_sync(struct fs *f, const char *file)
{
	int rc, fd = openat(f->base, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno; /* gone meanwhile */
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}
