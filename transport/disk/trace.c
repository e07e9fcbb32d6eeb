#include "transport/disk/engines.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const roots[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};

static long event_id(const char *event)
{
	char path[160], text[32];

	for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++) {
		ssize_t n;
		int fd;

		snprintf(path, sizeof path, "%s/events/%s/id", roots[i], event);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		n = read(fd, text, sizeof text - 1);
		close(fd);
		if (n <= 0)
			continue;
		text[n] = 0;
		return strtol(text, NULL, 10);
	}
	return -1;
}

static int count_event(const char *event, const char *filter)
{
	long id = event_id(event);
	/* inherit: a punted request is carried out, and split, by a kernel thread that the submitting one started. */
	struct perf_event_attr a = {
		.type = PERF_TYPE_TRACEPOINT, .size = sizeof a, .config = (uint64_t)id, .inherit = 1};
	int fd;

	if (id < 0)
		return -1;
	fd = (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd >= 0 && filter && ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

void trace_init(struct disk_trace *t)
{
	t->punts = -1;
	t->splits = -1;
}

bool trace_open(struct disk_trace *t, bool ring)
{
	char filter[128];
	int punts = -1, splits = count_event("block/block_split", NULL);

	if (splits < 0)
		return false;
	if (ring) {
		snprintf(filter, sizeof filter, "opcode == %d || opcode == %d || opcode == %d || opcode == %d",
			 IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED);
		punts = count_event("io_uring/io_uring_queue_async_work", filter);
		if (punts < 0) {
			close(splits);
			return false;
		}
	}
	atomic_store(&t->punts, punts);
	atomic_store(&t->splits, splits);
	return true;
}

void trace_close(struct disk_trace *t)
{
	int punts = atomic_exchange(&t->punts, -1), splits = atomic_exchange(&t->splits, -1);

	if (punts >= 0)
		close(punts);
	if (splits >= 0)
		close(splits);
}

bool trace_read(struct disk_trace *t, uint64_t *punts, uint64_t *splits)
{
	int p = atomic_load(&t->punts), s = atomic_load(&t->splits);

	*punts = *splits = 0;
	if (s < 0 || read(s, splits, sizeof *splits) != (ssize_t)sizeof *splits)
		return false;
	return p < 0 || read(p, punts, sizeof *punts) == (ssize_t)sizeof *punts;
}
