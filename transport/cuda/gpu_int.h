/* gpu_int.h - inside transport/cuda: the state of a GPU, and what the parts of the module ask of each other.
 *
 * door.c, device.c: the door, GPUs, contexts.  thread.c: a GPU's thread.  import*.c: mappings.  event*.c: events and timelines.
 * pinned.c: the arena's registration.  copy*.c, plan.c, calibrate.c, kernels.c: how bytes move.
 * Every CUDA call needs the GPU's context current in its thread: gpu_enter.
 */
#ifndef TRANSPORT_CUDA_GPU_INT_H
#define TRANSPORT_CUDA_GPU_INT_H

#include "daemon/base/lock.h"
#include "transport/cuda/driver.h"
#include "transport/cuda/gpu.h"
#include "transport/cuda/kernel_abi.h"

#include <pthread.h>
#include <stdatomic.h>

enum { TO_PAGES, TO_SLOTS, DIRECTIONS }; /* retrieve, store */

struct imports; /* mappings of a GPU, by handle */
struct copier;  /* streams, staging, kernels, calibration of a GPU */
struct pinned;  /* what of the arena is registered */

/* ---- a GPU --------------------------------------------------------------------------------------------------------------- */

struct gpu {
	struct gpu_door *door;
	uint32_t index;
	CUdevice device;
	struct gpu_facts facts;

	struct lk lk;   /* the rest up to the thread's own; LK_GPU */
	CUcontext ctx;  /* NULL: nobody registered memory of it */
	uint32_t users; /* views and engines that hold the context */
	uint32_t epoch; /* + 1 with every context that broke */
	struct imports *imports;
	struct gpu_copy *inbox, **inbox_tail;
	uint32_t queued;
	bool stop, started;
	pthread_cond_t wake;
	pthread_t thread;
	_Atomic uint64_t progress_ns;
	_Atomic bool lost; /* the context broke; a new one is made when the last user of this one is gone */

	/* the thread's own */
	struct copier *copier;
	struct gpu_copy *flight, **flight_tail; /* queued on the device, in order per stream */
	struct {
		_Atomic uint64_t copies[2], bytes[2], failed, in_flight, path_bytes[GPU_PATHS], unregistered_bytes,
			events, engines, lost;
	} n;
};

struct gpu_door {
	const struct cuda_driver *cu;
	struct gpu_conf conf;
	struct pinned *pinned;
	uint32_t ngpus;
	struct gpu gpu[GPU_MAX];
};

struct gpu *gpu_by_uuid(struct gpu_door *d, struct slice uuid); /* with or without "GPU-", any case; NULL */
/* Makes the primary context current in this thread, and makes it first if nobody has yet: counts a user. 0, -ENODEV, -ENOMEM, -EIO. */
int gpu_hold(struct gpu *g, struct why *why);
void gpu_release(struct gpu *g); /* the last one gives the context back */
/* A user's thread: makes the context current. 0 or -ENODEV (lost). */
int gpu_enter(struct gpu *g);
/* The result of any call: notices a context that broke. Returns cuda_errno. */
int gpu_result(struct gpu *g, CUresult rc);

/* ---- views (import.c) ------------------------------------------------------------------------------------------------------ */

/* No lock held; no view is left. May be NULL. */
void imports_destroy(struct imports *im);
void imports_count(struct gpu *g, uint64_t *views, uint64_t *allocations, uint64_t *bytes);

/* One allocation of another process, mapped on one GPU: counted, because a handle must not be opened twice, and closing it once unmaps it
 * for all. Also for memory that is no view (timelines). The caller has the context current and holds no lock of LK_GPU_MAP or higher. */
struct mapping;
/* `handle`: 64 bytes of a CUipcMemHandle. -EACCES (`why` says what to change), -ENOMEM, -ENODEV. */
int mapping_open(struct gpu *g, const void *handle, struct mapping **out, struct why *why);
void mapping_put(struct mapping *m); /* the last one unmaps; NULL is allowed */
CUdeviceptr mapping_base(const struct mapping *m);
uint64_t mapping_bytes(const struct mapping *m);
/* virtual memory: import_vmm.c; torch's counter: import_torch.c; both called by import.c only. */

/* ---- events (event.c) -------------------------------------------------------------------------------------------------------- */

struct events; /* of an engine */
/* `like`: GPU_EVENT or GPU_TIMELINE. The GPU's thread, context current. */
int events_create(struct gpu *g, struct events **out, struct why *why);
void events_destroy(struct events *ev);
/* The stream waits for the client's event. -EINVAL (a handle that is none), -EACCES. */
int events_wait(struct events *ev, CUstream s, struct slice handle);
/* Records, on `s`, an event that clients can open, and gives its handle. Stays valid while the engine lives or GPU_REPLIES later ones
 * were recorded and this one was reached. */
#define GPU_REPLIES 2048u
int events_record(struct events *ev, CUstream s, uint32_t like, uint8_t *out, uint32_t *n);
/* One that has happened. */
int events_idle(struct events *ev, uint32_t like, uint8_t *out, uint32_t *n);

/* ---- the arena's registration (pinned.c) --------------------------------------------------------------------------------------- */

int pinned_create(struct gpu_door *d, struct pinned **out);
void pinned_destroy(struct pinned *p);
/* A GPU is in use: begin, in a thread of its own; a context current there. */
void pinned_begin(struct pinned *p, struct gpu *g);
/* [p, p + n) can be copied to and from asynchronously. */
bool pinned_covers(const struct pinned *p, const void *at, uint64_t n);
void pinned_count(const struct pinned *p, uint64_t *bytes, uint64_t *ns);
json_t *pinned_status(const struct pinned *p);

/* ---- engines and copies (engine.c, copy.c) --------------------------------------------------------------------------------------- */

struct gpu_engine {
	struct gpu *gpu;
	const struct kv_layout *layout;
	struct gpu_view **views;
	uint32_t nviews, epoch;
	_Atomic uint32_t refs; /* the creator and its copies */
	_Atomic bool put;
	void (*gone)(void *arg);
	void *gone_arg;
	struct events *events;
	struct engine_tables *tables; /* copy.c: planes on the device, ranges for direct copies */
};

/* engine.c; any thread, no context needed. gpu_submit calls copier_take before it queues a copy: block ids, slots and event go into
 * copy->inner, which comes from a pool of the engine. copier_leave: for a copy that is never started. -ENOMEM. */
int copier_take(struct gpu_copy *copy);
void copier_leave(struct gpu_copy *copy);

/* copy.c, engine.c; all on the GPU's thread, its context current. */
int copier_create(struct gpu *g, struct copier **out, struct why *why);
void copier_destroy(struct copier *c);
int copier_engine(struct copier *c, struct gpu_engine *e, struct why *why); /* makes e->tables; calibrates its shape */
/* No copy of it is under way. Also for one whose context is lost: then the memory of that context is forgotten, not freed. */
void copier_engine_drop(struct copier *c, struct gpu_engine *e);
/* Queues the copy behind its event, then an event for completion. 0: it is under way, and `submitted` is told by the copier: here, or,
 * where slots are not registered with CUDA yet and the copy goes in steps, in a later copier_poll. An error: nothing is under way
 * that touches the slots, inner is given back, and the caller tells `submitted` and `done`. */
int copier_start(struct copier *c, struct gpu_copy *copy);
/* 1 done, 0 not yet, or a negative error: nothing touches the slots any more (if `submitted` was not told yet, the copier told it the
 * error). In the end inner is given back, and the caller tells `done`. Poll all copies under way, not only the oldest. */
int copier_poll(struct copier *c, struct gpu_copy *copy);
json_t *copier_status(struct copier *c);

#endif
