/* measure_drive.c - reads of NVMe drives by threads of each node. Nothing here opens a drive for writing. */
#include "numa/measure.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "numa/measure_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK   (1ull << 20)
#define READERS 8u /* one read each under way: what a drive of four lanes needs to be busy with blocks of this size */

struct reader {
	const struct measure_conf *conf;
	struct measure_gate *gate;
	const struct mach_node *node;
	bool bind;
	int fd;
	uint64_t first, blocks, stride; /* block numbers: no two readers read the same, no cache of the drive helps */
	pthread_t thread;
	uint64_t bytes, ns;
	char reason[128];
};

static void read_on(struct reader *r, void *p)
{
	uint64_t start = clock_ns(), end = start, at = r->first;

	while (end - start < (uint64_t)(r->conf->seconds * 1e9)) {
		ssize_t n = pread(r->fd, p, BLOCK, (off_t)(at % r->blocks * BLOCK));
		if (n != (ssize_t)BLOCK) {
			snprintf(r->reason, sizeof(r->reason), "reading: %s", n < 0 ? strerror(errno) : "cut short");
			return;
		}
		at += r->stride;
		r->bytes += (uint64_t)n;
		end = clock_ns();
	}
	r->ns = end - start;
}

static void *reader(void *arg)
{
	struct reader *r = arg;
	void *p = NULL;
	int rc = cpus_pin_self(&r->node->cpus);

	if (rc)
		snprintf(r->reason, sizeof(r->reason), "cannot run there: %s", strerror(-rc));
	else
		p = measure_memory(BLOCK, r->node->id, r->bind, r->reason);
	if (measure_gate_pass(r->gate, p != NULL) && p)
		read_on(r, p);
	if (p)
		munmap(p, BLOCK);
	return NULL;
}

static int read_from(const struct measure_conf *conf, const struct mach_node *node, bool bind, int fd, uint64_t blocks,
		     struct measure_drive *out)
{
	struct reader *r = mem_calloc(READERS, sizeof(*r));
	struct measure_gate gate;
	uint32_t n = 0;

	if (!r)
		return -ENOMEM;
	measure_gate_init(&gate, READERS);
	for (; n < READERS; n++) {
		r[n] = (struct reader){.conf = conf,
				       .gate = &gate,
				       .node = node,
				       .bind = bind,
				       .fd = fd,
				       .first = n,
				       .blocks = blocks,
				       .stride = READERS};
		if (pthread_create(&r[n].thread, NULL, reader, &r[n]) != 0)
			break;
	}
	if (n < READERS) {
		measure_gate_shrink(&gate, n);
		snprintf(out->reason, sizeof(out->reason), "cannot start %u threads", READERS);
	}
	for (uint32_t i = 0; i < n; i++) {
		pthread_join(r[i].thread, NULL);
		out->gbs += r[i].ns ? (double)r[i].bytes / (double)r[i].ns : 0;
		if (r[i].reason[0] && !out->reason[0])
			memcpy(out->reason, r[i].reason, sizeof(out->reason));
	}
	if (out->reason[0])
		out->gbs = 0;
	measure_gate_destroy(&gate);
	mem_free(r);
	return 0;
}

/* A descriptor or -errno with the reason. */
static int open_drive(const struct mach_device *d, uint64_t *blocks, char reason[128])
{
	char path[64];
	struct stat st;
	uint64_t bytes = 0;

	if (!d->name[0] || strchr(d->name, '/')) {
		snprintf(reason, 128, "it has no block device");
		return -ENODEV;
	}
	snprintf(path, sizeof(path), "/dev/%s", d->name);
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		int err = -errno;
		snprintf(reason, 128, "%s: %s%s", path, strerror(-err),
			 err == -EACCES   ? " (reading it needs root or group disk)"
			 : err == -ENOENT ? " (is its block device in this container?)"
					  : "");
		return err;
	}
	if (fstat(fd, &st) != 0 || !S_ISBLK(st.st_mode) || ioctl(fd, BLKGETSIZE64, &bytes) != 0 ||
	    bytes < READERS * BLOCK) {
		snprintf(reason, 128, "%s: not a drive of at least %llu MiB", path, READERS * BLOCK >> 20);
		close(fd);
		return -ENODEV;
	}
	*blocks = bytes / BLOCK;
	return fd;
}

static int measure_drive(const struct machine *m, const struct measure_conf *conf, const struct mach_device *d,
			 const struct measure_watch *watch, struct measure *out)
{
	uint64_t blocks = 0;
	char reason[128] = "";
	int fd = open_drive(d, &blocks, reason), rc = 0;

	for (uint32_t i = 0; i < m->nnodes && rc == 0; i++) {
		if (cpus_count(&m->nodes[i].cpus) == 0)
			continue;
		struct measure_drive *r = &out->drives[out->ndrives++];
		*r = (struct measure_drive){.device = d->node, .cpu = m->nodes[i].id};
		snprintf(r->pci, sizeof(r->pci), "%s", d->pci);
		snprintf(r->name, sizeof(r->name), "%s", d->name);
		if (fd < 0) {
			r->cpu = NODE_UNKNOWN;
			memcpy(r->reason, reason, sizeof(r->reason));
		} else {
			rc = read_from(conf, &m->nodes[i], m->nnodes > 1 && m->nodes[i].memory_bytes > 0, fd, blocks,
				       r);
		}
		if (rc == 0 && watch && watch->drive)
			watch->drive(watch->ctx, r);
		if (fd < 0)
			return 0; /* one line is enough */
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

int measure_drives(const struct machine *m, const struct measure_conf *conf, const struct measure_watch *watch,
		   struct measure *out)
{
	uint32_t drives = 0;

	for (uint32_t i = 0; i < m->ndevices; i++)
		drives += m->devices[i].kind == DEV_NVME;
	if ((uint64_t)drives * m->nnodes > MEASURE_MAX_CELLS)
		return -E2BIG;
	out->drives = mem_calloc((size_t)drives * m->nnodes + 1, sizeof(*out->drives));
	if (!out->drives)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->ndevices; i++) {
		int rc = m->devices[i].kind == DEV_NVME ? measure_drive(m, conf, &m->devices[i], watch, out) : 0;
		if (rc)
			return rc;
	}
	return 0;
}
