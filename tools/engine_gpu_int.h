/* engine_gpu_int.h - between engine_gpu.c (GPUs, memory, copies) and engine_gpu_event.c (events). */
#ifndef TOOLS_ENGINE_GPU_INT_H
#define TOOLS_ENGINE_GPU_INT_H

#include "tools/engine_gpu.h"
#include "transport/cuda/driver.h"

/* Smaller allocations may share a block of the driver's, and a handle names the whole block. */
#define EGPU_GRAIN          (2ull << 20)
#define EGPU_RING           64u   /* events in use before the first one comes again */
#define EGPU_SLOTS          4096u /* of a timeline */
#define EGPU_TIMELINE_BYTES 81u

struct egpu_device {
	CUdevice device;
	CUcontext ctx;
	uint32_t ordinal;
	char uuid[40], name[96];
};

struct egpu_host {
	struct cuda_driver cu;
	struct egpu_conf conf;
	uint32_t ndevices;
	struct egpu_device *devices;
	_Atomic uint32_t turn;
	_Atomic uint64_t counters, kept;
};

struct egpu_ring {
	CUevent event[EGPU_RING];
	CUipcEventHandle handle[EGPU_RING];
	uint64_t taken;
};

/* Ours, and the server's of the last reply. */
struct egpu_timeline {
	CUdeviceptr slots;
	CUipcMemHandle handle;
	uint64_t sequence;
	uint8_t sent[EGPU_RING][EGPU_TIMELINE_BYTES];
	CUdeviceptr theirs;
	CUipcMemHandle their_handle;
};

struct egpu {
	struct egpu_host *host;
	const struct cuda_driver *cu;
	const struct egpu_device *device;
	struct km_place place, window;
	CUstream stream;
	uint32_t nallocations, per_allocation;
	uint64_t tensor_step; /* bytes from tensor to tensor within an allocation */
	CUdeviceptr *allocations;
	CUipcMemHandle *handles;
	uint8_t *window_memory;
	char counter_name[64]; /* torch's reference counters: a file of shared memory */
	uint8_t *counter_file;
	uint64_t counter_bytes;
	struct egpu_ring ring;
	struct egpu_timeline timeline;
};

/* 0, or the errno of a CUDA result and its name in `why`. */
int egpu_result(const struct egpu *g, CUresult rc, const char *call, struct why *why);
/* Its context becomes the thread's. */
int egpu_enter(struct egpu *g, struct why *why);

/* engine_gpu_event.c */
int egpu_events_open(struct egpu *g, struct why *why);
void egpu_events_close(struct egpu *g);

#endif
