/* gpu.h - the CUDA door: paged KV of engines on the same host, moved between their GPU and the arena.
 *
 * An engine's process exports its KV memory (CUDA IPC handles, or descriptors of virtual memory); we map it, and copy between its
 * pages and slots of the arena on streams of our own, in order with the engine's events. libcuda.so.1 is loaded by name: a machine
 * without it has no door and everything else works. No GPU gets a context before an engine registers memory of it.
 *
 * Threads: one thread per GPU in use owns all calls into that GPU's streams (a full queue of one GPU stalls nobody else). Everything
 * here may be called by any thread; callbacks of a copy run on the GPU's thread and must be short. gpu_door_open and _close: main.
 * Who owns what: a view (mapped memory) and an engine are counted references; a copy in flight holds its engine, an engine its
 * views. Slots a copy uses are the caller's, who keeps them locked or reserved until `done`.
 * What can fail: open (no driver: -ENOENT, no device: -ENODEV), import (see gpu_import), copies (result of `done`). A context that
 * CUDA declares broken fails all that is in flight, loses its engines (gpu_engine_lost) and is made anew at the next registration.
 */
#ifndef TRANSPORT_CUDA_GPU_H
#define TRANSPORT_CUDA_GPU_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "transport/kv/kv.h"
#include "transport/pickle/pickle.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define GPU_MAX   64u
#define GPU_EVENT 64u /* bytes of a CUDA IPC event handle */
#define GPU_TIMELINE \
	81u /* of the isolated form: version 1, memory handle, u64 offset of the slot, u64 sequence, big-endian */
#define GPU_EVENT_MAX GPU_TIMELINE

struct gpu_door;
struct gpu_view;
struct gpu_engine;

/* ---- the door ------------------------------------------------------------------------------------------------------------ */

/* Memory that copies come from and go to, besides the engines': ranges of the arena. Registered with CUDA in the background, slice by
 * slice, once a GPU is in use; what is not registered yet is copied through pinned staging memory. */
struct gpu_memory {
	void *base;
	uint64_t bytes;
	uint64_t (*there)(void *ctx, uint32_t index); /* bytes from base that are committed by now; NULL: all */
	void *ctx;
	uint32_t index;
};

enum gpu_path { GPU_AUTO, GPU_DIRECT, GPU_BATCH, GPU_STAGED, GPU_PATHS }; /* how a copy is made; AUTO: by calibration */

struct gpu_conf {
	const char *library; /* NULL: libcuda.so.1 */
	const struct gpu_memory *memory;
	uint32_t nmemory;
	uint64_t
		staging_bytes; /* of one staging slot; an engine has two per direction in which kernels copy. 0 = 16 MiB; at least a plane of a chunk */
	uint32_t
		blocks; /* thread blocks of a kernel at most, so that the engine keeps its SMs; 0 = found by calibration */
	enum gpu_path path;   /* forced (tests, operators) */
	uint64_t slice_bytes; /* of the arena, registered with CUDA at once; 0 = 1 GiB */
	/* A GPU's thread calls enter first, with its PCI address ("0000:3b:00.0"), and leave last: placement. May be NULL. */
	void (*enter)(void *ctx, const char *pci, const char *name);
	void (*leave)(void *ctx);
	void *ctx;
};

int gpu_door_open(const struct gpu_conf *conf, struct gpu_door **out, struct why *why);
/* No engine may be left. Waits up to wait_ms for copies in flight. */
void gpu_door_close(struct gpu_door *d, uint32_t wait_ms);

struct gpu_facts {
	char uuid[48]; /* as engines name it: no "GPU-" prefix, lower case */
	char name[96], pci[16];
	uint64_t bytes;
	uint32_t copy_engines, sms;
	bool mig, vmm, fabric, timeline; /* MIG: cannot export; what it can do */
};
uint32_t gpu_count(const struct gpu_door *d);
void gpu_facts(const struct gpu_door *d, uint32_t i, struct gpu_facts *out);
/* "12.8, 2 GPUs" */
void gpu_describe(const struct gpu_door *d, char *buf, size_t cap);
/* For /status: driver, each GPU with its thread's progress, queue, memory mapped, the calibration's figures and choices, what of the
 * arena is registered, copies and bytes by path, errors. A new reference, or NULL. */
json_t *gpu_status(struct gpu_door *d);

/* ---- importing memory -------------------------------------------------------------------------------------------------- */

/* Maps what a wrapper of kind A, B or C names, or finds the mapping (one per distinct allocation and GPU). The claimed view must lie
 * within the allocation as the driver knows it. `peer_pid`: the client's process as the kernel names it (never as the client does:
 * descriptors are taken from it, and the owner of torch's counter is looked up there), 0 = not known. May take as long as the driver does,
 * and up to 10 s more where the wrapper names an event to wait for.
 * -ENODEV (no such GPU here; its context is lost), -EOPNOTSUPP (expandable segments, MIG, a descriptor nobody sent: `why` says what to
 * change), -EINVAL (sizes, handles that are none), -ERANGE (leaves the allocation), -EACCES (the driver refuses the handle: exporter gone, isolated
 * container), -ETIMEDOUT (that event), -ENOMEM, -EIO. */
int gpu_import(struct gpu_door *d, const struct pk_wrapper *w, uint32_t peer_pid, struct gpu_view **out,
	       struct why *why);
/* The last one unmaps, and tells torch's reference counter (kind A). NULL is allowed. */
void gpu_view_put(struct gpu_view *v);
uint64_t gpu_view_address(
	const struct gpu_view *v); /* of element (0, ..., 0) before storage_offset: a device address, never read here */
uint64_t gpu_view_bytes(const struct gpu_view *v);
uint32_t gpu_view_gpu(const struct gpu_view *v);

/* ---- engines ----------------------------------------------------------------------------------------------------------- */

/* One registered instance: its streams, events and tables on the GPU. All views are of one GPU (-EXDEV otherwise). Takes the views over
 * (also on failure) and borrows `layout`, which was made with device addresses and lives as long as the engine. The first engine of a
 * GPU starts its thread and calibrates (tens of milliseconds). */
int gpu_engine_create(struct gpu_door *d, const struct kv_layout *layout, struct gpu_view **views, uint32_t nviews,
		      struct gpu_engine **out, struct why *why);
/* The engine is let go when its last copy is done; then the views. `gone` (may be NULL) is called after that, on any thread. */
void gpu_engine_put(struct gpu_engine *e, void (*gone)(void *arg), void *arg);
uint32_t gpu_engine_gpu(const struct gpu_engine *e);
/* Its GPU's context broke: copies fail, and the engine must be registered again. */
bool gpu_engine_lost(const struct gpu_engine *e);
/* A handle of an event of ours on that GPU that has happened: what negative replies carry. Of the form that `like` has: GPU_EVENT or
 * GPU_TIMELINE bytes. Returns its length; 0 when there is none. */
uint32_t gpu_engine_idle_event(struct gpu_engine *e, uint32_t like, uint8_t out[GPU_EVENT_MAX]);

/* ---- copies ------------------------------------------------------------------------------------------------------------ */

struct gpu_copy {
	struct gpu_engine *engine;
	bool store; /* pages to slots; else slots to pages */
	uint32_t nchunks;
	uint32_t skip_tokens; /* retrieve: of the range's first tokens, whose blocks are not written */
	const struct kv_blocks
		*blocks; /* one list per engine group, checked by kv_blocks_check; read before gpu_submit returns */
	uint32_t ngroups;
	uint8_t *const *
		slots; /* nchunks addresses of kv_object_bytes each; NULL: this chunk is left out. Read before gpu_submit returns */
	struct slice
		event; /* to wait for first: GPU_EVENT or GPU_TIMELINE bytes, or empty; read before gpu_submit returns */
	/* Everything is queued on the GPU: `event` is the handle of ours that covers the copies, in the form of the client's event. With an
	 * error nothing was queued, and `done` follows with the same error. May be NULL. */
	void (*submitted)(struct gpu_copy *c, int rc, const uint8_t *event, uint32_t bytes);
	/* The bytes are there, or it failed: -EIO, -ENODEV (context lost), -EINVAL (event refused), -ETIMEDOUT never: a copy under way is not
	 * given up while CUDA may write. The caller's again from here on. */
	void (*done)(struct gpu_copy *c, int rc);
	void *owner;
	uint64_t submitted_ns, started_ns; /* the door's: when it was taken, and queued on the GPU */
	uint64_t bytes;                    /* the door's: of all slots */
	struct gpu_copy *next;             /* the door's */
	void *inner;                       /* the door's */
};

/* Copies of one engine and direction are queued in order. Allocates only when its pools are empty. -ENOMEM, -EAGAIN (queue full:
 * GPU_QUEUE copies of this GPU wait), -ENODEV (lost): then no callback comes. */
#define GPU_QUEUE 1024u
int gpu_submit(struct gpu_copy *c);

struct gpu_stats {
	uint64_t copies[2], bytes[2], failed, waiting, in_flight; /* [0] slots to pages, [1] pages to slots */
	uint64_t path_bytes[GPU_PATHS], unregistered_bytes;
	uint64_t views, mapped_bytes, allocations, engines, events, lost;
	uint64_t registered_bytes, register_ns;
};
void gpu_stats(struct gpu_door *d, uint32_t gpu, struct gpu_stats *out);

#endif
