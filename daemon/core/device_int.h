/* device_int.h - between device.c (door, operators) and device_copy.c (copies under way). */
#ifndef DAEMON_CORE_DEVICE_INT_H
#define DAEMON_CORE_DEVICE_INT_H

#include "daemon/core/core_int.h"

#define LOST_REMEMBERED 64u /* instances whose GPU lost its context, until their next PING */

/* A STORE or RETRIEVE under way. From gpu_submit to `done` it belongs to its GPU's thread, but for the list. */
struct device_copy {
	struct gpu_copy copy;
	struct device_copy *next, **link; /* of `flight`, or next of `free` */
	struct device *dev;
	struct task *task;  /* to be answered */
	struct moved moved; /* a reference to the context and one to the namespace */
	uint32_t gpu;
	bool disowned; /* the write TTL has passed: its keys are others' to store */
	uint64_t instance_id, since_ms;
	void *room; /* hashes, objects, salt */
	size_t room_bytes;
};

struct device_series {
	metric_series copies[2], bytes[GPU_PATHS], failed, in_flight, mapped, registered, lost;
};

struct device {
	struct server *srv;
	struct lk lk; /* LK_COPIES: up to `lost` */
	pthread_cond_t idle;
	struct device_copy *flight, *free;
	uint32_t copies, waiting[GPU_MAX], under_way[GPU_MAX];
	uint64_t lost[LOST_REMEMBERED];
	uint32_t nlost;
	uint32_t ngpus;
	struct device_series series[GPU_MAX];
};

void device_copies_free(struct device *dev);

#endif
