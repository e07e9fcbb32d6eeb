#include "transport/disk/engines.h"

#include <errno.h>
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

/* Of this thread, or with cpu >= 0 of all that runs on that CPU. */
static int count_event(const char *event, int cpu, const char *filter)
{
	long id = event_id(event);
	struct perf_event_attr a = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof a, .config = (uint64_t)id};
	int fd;

	if (id < 0)
		return -1;
	fd = (int)syscall(SYS_perf_event_open, &a, cpu < 0 ? 0 : -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd >= 0 && filter && ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

void trace_init(struct disk_trace *t)
{
	t->on = false;
	t->punts = -1;
	t->splits = -1;
	for (uint32_t i = 0; i < TRACE_CPUS; i++)
		t->by_workers[i] = -1;
}

static bool open_all(struct disk_trace *t)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	char filter[128];

	snprintf(filter, sizeof filter, "opcode == %d || opcode == %d || opcode == %d || opcode == %d", IORING_OP_READ,
		 IORING_OP_WRITE, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED);
	t->punts = count_event("io_uring/io_uring_queue_async_work", -1, filter);
	t->splits = count_event("block/block_split", -1, NULL);
	if (t->punts < 0 || t->splits < 0 || cpus > (long)TRACE_CPUS)
		return false;
	snprintf(filter, sizeof filter, "comm == \"iou-wrk-%d\"", gettid());
	for (int cpu = 0; cpu < cpus; cpu++) {
		t->by_workers[cpu] = count_event("block/block_split", cpu, filter);
		if (t->by_workers[cpu] < 0 && errno != ENODEV) /* that CPU is offline */
			return false;
	}
	return true;
}

bool trace_open(struct disk_trace *t)
{
	if (!open_all(t)) {
		trace_close(t);
		return false;
	}
	atomic_store(&t->on, true);
	return true;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void trace_close(struct disk_trace *t)
{
	atomic_store(&t->on, false);
	close_one(&t->punts);
	close_one(&t->splits);
	for (uint32_t i = 0; i < TRACE_CPUS; i++)
		close_one(&t->by_workers[i]);
}

static bool add_count(int fd, uint64_t *sum)
{
	uint64_t n;

	if (fd < 0)
		return true;
	if (read(fd, &n, sizeof n) != (ssize_t)sizeof n)
		return false;
	*sum += n;
	return true;
}

bool trace_read(struct disk_trace *t, uint64_t *punts, uint64_t *splits)
{
	bool ok;

	*punts = *splits = 0;
	if (!atomic_load(&t->on))
		return false;
	ok = add_count(t->punts, punts) && add_count(t->splits, splits);
	for (uint32_t i = 0; ok && i < TRACE_CPUS; i++)
		ok = add_count(t->by_workers[i], splits);
	return ok;
}
