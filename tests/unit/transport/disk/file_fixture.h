/* file_fixture.h - a preallocated file on a file system with direct IO, memory to read and write it by, and requests that count. */
#ifndef TESTS_FILE_FIXTURE_H
#define TESTS_FILE_FIXTURE_H

#include "transport/disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB        (1ull << 20)
#define FILE_BYTES (24 * MIB)
#define MEM_BYTES  (16 * MIB)

struct fix {
	char path[64];
	int fd; /* buffered, for the test's own look */
	uint8_t *mem;
	bool direct;
};

struct req {
	struct disk_io io;
	uint32_t done, parts;
	uint64_t part_bytes;
};

static inline void on_done(struct disk_io *io)
{
	((struct req *)io->owner)->done++;
}

static inline void on_part(struct disk_io *io, uint64_t at, uint32_t n)
{
	struct req *r = io->owner;

	assert_true(at + n <= io->bytes);
	r->parts++;
	r->part_bytes += n;
}

static inline int fix_setup(void **state)
{
	struct fix *f = calloc(1, sizeof *f);
	int fd, rc;

	/* The build folder: on a disk where /tmp is memory without direct IO. */
	snprintf(f->path, sizeof f->path, "%s/disk_test_XXXXXX", access("build", W_OK) ? "/var/tmp" : "build");
	f->fd = mkstemp(f->path);
	assert_true(f->fd >= 0);
	do
		rc = posix_fallocate(f->fd, 0, FILE_BYTES);
	while (rc == EINTR);
	assert_int_equal(rc, 0);
	f->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->mem, MAP_FAILED);
	fd = open(f->path, O_RDWR | O_DIRECT);
	f->direct = fd >= 0;
	if (fd >= 0)
		close(fd);
	*state = f;
	return 0;
}

static inline int fix_teardown(void **state)
{
	struct fix *f = *state;

	munmap(f->mem, MEM_BYTES);
	close(f->fd);
	unlink(f->path);
	free(f);
	return 0;
}

static inline struct disk *fix_open(struct fix *f, struct disk_conf *c)
{
	struct why why = {0};
	struct disk *d = NULL;

	c->path = f->path;
	c->buffered = !f->direct;
	if (disk_open(c, &d, &why))
		fail_msg("disk_open: %s", why.text);
	return d;
}

static inline void put(struct disk *d, struct req *r, enum disk_op op, uint64_t offset, void *buf, uint64_t bytes)
{
	*r = (struct req){.io = {.op = op,
				 .offset = offset,
				 .bytes = bytes,
				 .buf = buf,
				 .done = on_done,
				 .part = on_part,
				 .owner = r}};
	disk_submit(d, &r->io);
}

/* Until all n are done, at most 20 s. */
static inline void wait_all(struct disk *d, struct req *r, uint32_t n)
{
	for (uint32_t spin = 0; spin < 200; spin++) {
		uint32_t left = 0;

		for (uint32_t i = 0; i < n; i++)
			left += !r[i].done;
		if (!left)
			return;
		disk_run(d, 100000000);
	}
	fail_msg("requests do not come back");
}

static inline void fill(uint8_t *p, uint64_t n, uint64_t seed)
{
	uint64_t *w = (uint64_t *)(void *)p, x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (uint64_t i = 0; i < n / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		w[i] = x;
	}
}

#endif
