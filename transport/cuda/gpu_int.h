/* gpu_int.h - inside transport/cuda: the state of a GPU, and what the parts of the module ask of each other.
 *
 * door.c, device.c: the door, GPUs, contexts.  lifetime.c: engines come and go.  thread.c, submit.c: a GPU's thread and the way to it.
 * import*.c: mappings.  event.c, timeline.c: events and timelines.
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

	/* `lk` (LK_GPU): the context, the mappings, and which copier there is */
	struct lk lk;
	CUcontext ctx;       /* NULL: nobody registered memory of it */
	uint32_t users;      /* views, engines and the arena's registration hold the context */
	uint32_t ctx_epoch;  /* of `epoch`, when this context was made */
	pthread_cond_t idle; /* no user is left */
	struct imports *imports;
	struct known_shapes *known; /* what copiers before this one measured (copier.h); the thread's */
	struct copier *copier; /* made and destroyed by the GPU's thread, which alone uses it but for copier_status */

	/* Seen without a lock. A broken context keeps its users until they let it go; then the next one can be made. */
	_Atomic bool lost;
	_Atomic uint32_t epoch; /* + 1 with every context that broke */
	_Atomic uint64_t progress_ns;
	_Atomic uint64_t oldest_ns; /* when the oldest copy on the device was queued there; UINT64_MAX: none is */

	/* `in` (LK_QUEUE): what other threads hand to the GPU's. */
	struct lk in;
	pthread_cond_t wake, answered;
	struct gpu_copy *inbox, **inbox_tail;
	struct gpu_engine *made, *dropped; /* to be set up; to be let go */
	uint32_t queued;                   /* copies that wait, in the inbox and after it */
	bool sleeping, stop, started, ended;
	uint64_t stop_ns; /* with stop: when to leave what is under way */
	pthread_t thread;

	/* the thread's own */
	struct gpu_engine *engines;
	uint32_t busy;   /* copies on the device, and lanes that wait for something */
	uint64_t oldest; /* before it is told as oldest_ns */
	bool leaving;    /* it has seen `stop` */
	struct {
		_Atomic uint64_t copies[2], bytes[2], failed, in_flight, path_bytes[GPU_PATHS], unregistered_bytes,
			events, engines, lost;
	} n;
};

struct gpu_door {
	const struct cuda_driver *cu;
	struct cuda_driver driver; /* where `cu` points, unless a test brought its own */
	struct gpu_conf conf;
	struct gpu_memory *memory; /* of conf */
	struct pinned *pinned;
	uint32_t ngpus;
	struct gpu gpu[GPU_MAX];
};

/* gpu_door_open with a driver that is loaded already (borrowed), or with NULL by conf->library. */
int gpu_door_open_on(const struct cuda_driver *cu, const struct gpu_conf *conf, struct gpu_door **out, struct why *why);

int gpu_init(struct gpu_door *d, uint32_t index, struct why *why); /* the facts of a device; no context */
void gpu_fini(struct gpu *g);
struct gpu *gpu_by_uuid(struct gpu_door *d, struct slice uuid); /* with or without "GPU-", any case; NULL */
/* Makes the primary context current in this thread, and makes it first if nobody has yet: counts a user. Where the context broke it waits
 * a while for its last user to go. 0, -ENODEV, -ENOMEM, -EIO. Never with g->lk held. */
int gpu_hold(struct gpu *g, struct why *why);
void gpu_release(struct gpu *g); /* the last one gives the context back */
/* A user's thread: makes the context current. 0 or -ENODEV (lost). */
int gpu_enter(struct gpu *g);
/* The result of any call: notices a context that broke. Returns cuda_errno; CUDA_ERROR_NOT_READY is -EAGAIN. */
int gpu_result(struct gpu *g, CUresult rc);

/* ---- a GPU's thread (thread.c) and the way to it (submit.c, lifetime.c) ---------------------------------------------------------- */

/* Copies of one engine and direction that are on the device at a time. The others wait with us, where a stuck stream cannot keep them and
 * where they can be given up. */
#define GPU_AHEAD 8u
/* How long copies of an engine that was put may still wait for their events: after it they fail with -ECANCELED. The event of a killed
 * engine never comes. */
#define GPU_GRACE_MS 500u

/* A client's event. Nothing of a copy is queued on the device before it has happened: waits that are queued there could never be taken
 * back. */
struct event_wait {
	CUevent event;  /* of the form of GPU_EVENT bytes; or */
	CUdeviceptr at; /* of a timeline's slot, which is to reach `sequence` */
	uint64_t sequence;
	uint32_t map; /* timeline.c: which mapping, + 1 */
	bool open, reading;
};

int gpu_thread_start(struct gpu *g, struct why *why); /* if it is not there */
/* Waits until `until_ns`. False: it is stuck in the driver, or copies are still under way; nothing of this GPU can be freed then. */
bool gpu_thread_stop(struct gpu *g, uint64_t until_ns);
/* On the GPU's thread: makes what an engine has on the device (the first one: the copier, too); takes it all down. */
int gpu_engine_setup(struct gpu_engine *e, struct why *why);
void gpu_engine_teardown(struct gpu_engine *e);
void gpu_engine_unref(struct gpu_engine *e); /* any thread */

/* ---- views (import.c) ------------------------------------------------------------------------------------------------------ */

/* No lock held; no view is left. May be NULL. */
void imports_destroy(struct imports *im);
/* Neither waits for the driver. */
void imports_count(struct gpu *g, uint64_t *views, uint64_t *allocations, uint64_t *bytes);
json_t *imports_status(struct gpu *g);

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
/* A client's event: opens it (-EINVAL: a handle that is none; -EACCES: it cannot be opened); whether it has happened (1, 0, an error); and
 * lets it go, in any state. `w` is the caller's, zeroed; `lane` below EVENT_LANES: the same for one wait at a time. */
#define EVENT_LANES 2u
int events_open(struct events *ev, struct slice handle, struct event_wait *w);
int events_reached(struct events *ev, struct event_wait *w, uint32_t lane);
void events_close(struct events *ev, struct event_wait *w);
/* Records, on `s`, an event that clients can open, and gives its handle. Stays valid while the engine lives or GPU_REPLIES later ones
 * were recorded and this one was reached. */
#define GPU_REPLIES 2048u
int events_record(struct events *ev, CUstream s, uint32_t like, uint8_t *out, uint32_t *n);
/* One that has happened. */
uint32_t events_idle(const struct events *ev, uint32_t like, uint8_t *out); /* bytes; any thread */

/* timeline.c */
struct timelines;
int timelines_create(struct gpu *g, CUstream side, struct timelines **out, struct why *why); /* `side` is borrowed */
void timelines_destroy(struct timelines *t);
int timelines_record(struct timelines *t, CUstream s, uint8_t out[GPU_TIMELINE]);
void timelines_idle(const struct timelines *t, uint8_t out[GPU_TIMELINE]);
/* As events_open, _reached, _close. A client's memory stays mapped after the wait, for the next one. */
int timelines_open(struct timelines *t, const uint8_t handle[GPU_TIMELINE], struct event_wait *w);
int timelines_reached(struct timelines *t, struct event_wait *w, uint32_t lane);
void timelines_close(struct timelines *t, struct event_wait *w);

/* ---- the arena's registration (pinned.c) --------------------------------------------------------------------------------------- */

int pinned_create(struct gpu_door *d, struct pinned **out);
/* `leave`: a device may still use the memory; everything is left as it is. */
void pinned_destroy(struct pinned *p, bool leave);
/* An engine of g came: the arena is registered from now on, in a thread of its own, in the context of one of the GPUs in use. Went: with
 * the last one of all GPUs everything is unregistered and that context let go, soon. */
void pinned_begin(struct pinned *p, struct gpu *g);
void pinned_end(struct pinned *p, struct gpu *g);
/* [at, at + n) can be copied to and from asynchronously, in one copy: it lies within one slice, and that is registered. */
bool pinned_covers(const struct pinned *p, const void *at, uint64_t n);
/* How many bytes from `at` on lie in one registered slice; 0: none. One copy must not reach from one slice into the next. */
uint64_t pinned_run(const struct pinned *p, const void *at);
void pinned_count(const struct pinned *p, uint64_t *bytes, uint64_t *ns);
json_t *pinned_status(const struct pinned *p);

/* ---- engines and copies (engine.c, copy.c) --------------------------------------------------------------------------------------- */

struct gpu_engine {
	struct gpu *gpu;
	const struct kv_layout *layout;
	struct gpu_view **views;
	uint32_t nviews, epoch;
	_Atomic uint32_t refs;   /* the creator and its copies */
	_Atomic uint64_t put_ns; /* 0: it is in use */
	void (*gone)(void *arg);
	void *gone_arg;
	struct events *events;
	struct engine_tables *tables; /* copy.c: planes on the device, ranges for direct copies */

	struct gpu_engine *next;    /* the thread's list */
	struct gpu_engine *next_in; /* in the lists of `in` */
	struct why *why;            /* while it is made: the waiting thread's */
	int made;                   /* 1: not yet; else how it went */
	struct lane {
		struct gpu_copy *wait, **wait_tail; /* not on the device yet */
		struct event_wait event;            /* of the first of them; */
		bool ready;                         /* it has happened */
		struct gpu_copy *fly, **fly_tail;   /* queued there, in order */
		uint32_t flying;
	} lane[DIRECTIONS];
};

/* engine.c; any thread, no context needed. gpu_submit calls copier_take before it queues a copy: block ids, slots and event go into
 * copy->inner, which comes from a pool of the engine; copy->event points there from then on. copier_leave: for a copy that is never started. -ENOMEM. */
int copier_take(struct gpu_copy *copy);
void copier_leave(struct gpu_copy *copy);

/* copy.c, engine.c; all on the GPU's thread, its context current. */
int copier_create(struct gpu *g, struct copier **out, struct why *why);
void copier_destroy(struct copier *c);
int copier_engine(struct copier *c, struct gpu_engine *e, struct why *why); /* makes e->tables; calibrates its shape */
/* No copy of it is under way. Also for one whose context is lost: then the memory of that context is forgotten, not freed. */
void copier_engine_drop(struct copier *c, struct gpu_engine *e);
/* Queues the copy, then an event for completion; the client's event has happened already (copy->event is still there: the reply has its
 * form). -EAGAIN: no room now (staging); asked again when a copy of this GPU is done. 0: it is under way, and `submitted` is told by the copier: here, or,
 * where slots are not registered with CUDA yet and the copy goes in steps, in a later copier_poll. An error: nothing is under way
 * that touches the slots, inner is given back, and the caller tells `submitted` and `done`. */
int copier_start(struct copier *c, struct gpu_copy *copy);
/* 1 done, 0 not yet, or a negative error: nothing touches the slots any more (if `submitted` was not told yet, the copier told it the
 * error). In the end inner is given back, and the caller tells `done`. With g->lost it must come to an end. Poll all copies under way, not only the oldest. */
int copier_poll(struct copier *c, struct gpu_copy *copy);
/* Any thread, with g->lk held, so that the copier stays. */
json_t *copier_status(struct copier *c);

#endif
