/* copier.h - how bytes move: what plan.c, copy*.c, calibrate.c and kernels.c share, and what the bench drives by hand. Nobody else
 * needs more than gpu.h.
 *
 * An engine has two tracks, one per direction, with streams and staging of their own, so that nothing of one engine waits for another.
 * A track works off its copies in order, in steps. A step is as much as is queued on the GPU at once: one staging slot,
 * one batched call, or some single copies. Its event gives back what it used. At most STEPS steps and OPS_MAX operations of a track are
 * queued, since CUDA makes a thread wait that queues more than some thousand; what is left follows from copier_poll.
 *
 * Everything belongs to the GPU's thread, but for the pool of jobs (copier_take) and the calibration's results (copier_status).
 */
#ifndef TRANSPORT_CUDA_COPIER_H
#define TRANSPORT_CUDA_COPIER_H

#include "transport/cuda/gpu_int.h"

#define STEPS         64u
#define OPS_MAX       512u
#define BATCH_MAX     4096u /* descriptors per call: some drivers crash or hang with tens of thousands */
#define DIRECT_STEP   128u  /* single copies per step; a batched call counts for as many */
#define STAGING_BYTES (16u << 20)
#define STAGING_ALIGN 256u
#define IDS_RING      65536u /* block ids of the copies under way, at first */
#define PITCH_MAX     0x7fffffffu
#define KERNEL_ITEMS  0x7fffffffu
#define COPY_BLOCKS   8u     /* thread blocks of a kernel where nothing was measured */
#define DIRECT_ENOUGH 65536u /* bytes per copy from which single copies are used where nothing was measured */
#define SHAPES        32u

/* ---- layouts as tables ------------------------------------------------------------------------------------------------------ */

struct group_table {
	struct kv_group_copy kv;                          /* planes have device addresses */
	uint64_t object_offset, plane_bytes, block_bytes; /* in the object */
	uint32_t engine_group, block_tokens, blocks;      /* tokens per block, blocks per chunk */
	uint32_t word;                                    /* the widest that the kernels can use */
	bool pitched;                                     /* its rows can be copied by 2D copies */
	CUdeviceptr planes;                               /* struct kernel_plane[nplanes] on the device; 0: none */
};

struct layout_table {
	struct group_table *group;
	uint32_t ngroups, nengine, chunk_tokens;
	uint32_t *blocks; /* [nengine] blocks per chunk; 0: no layers, its list is not read */
	uint64_t object_bytes, plane_bytes_max;
	uint64_t stride; /* from chunk to chunk in staging */
	bool staged;     /* the kernels can do it */
};

int table_make(struct layout_table *t, const struct kv_layout *l);
void table_free(struct layout_table *t);

/* ---- the planner (plan.c): no driver needed ------------------------------------------------------------------------------------- */

/* One copy. rows 0: no page, the object's bytes are zeros. rows > 1: `bytes` each, the pitches apart. */
struct plan_op {
	uint64_t page;
	uint8_t *object;
	uint64_t bytes, page_pitch, object_pitch;
	uint32_t rows;
};

/* The chunks [chunk, end) of a copy, in the order of the object: neighbours on both sides are one operation. */
struct plan {
	const struct layout_table *t;
	const uint32_t *const *ids; /* [nengine] of chunk 0 on */
	uint8_t *const *slots;
	uint8_t *instead;     /* of the slots (a bounce buffer, one chunk); NULL */
	bool to_pages, flat;  /* flat: no rows > 1 */
	uint32_t skip_tokens; /* of chunk 0, not written */
	uint32_t end;
	uint32_t chunk, group, plane, block, unit; /* where it has come to */
};
uint32_t plan_next(struct plan *p, struct plan_op *ops, uint32_t cap); /* 0: all planned */
static inline bool plan_over(const struct plan *p)
{
	return p->chunk >= p->end;
}

/* ---- jobs and tracks ----------------------------------------------------------------------------------------------------------------- */

struct track;

/* A copy, from copier_take to its end. */
struct job {
	struct job *next;
	struct engine_tables *tables;
	struct gpu_copy *copy; /* NULL: of the calibration */
	const struct layout_table *t;
	uint8_t event[GPU_EVENT_MAX];
	uint32_t event_bytes;
	uint32_t nchunks; /* that are there and not skipped */
	uint8_t **slots;
	uint32_t *ids, nids;        /* of all engine groups, one list after another */
	const uint32_t **group_ids; /* [nengine] into ids */
	uint64_t slots_cap, ids_cap;
	/* the thread's own */
	struct plan plan; /* staged: chunk, group and plane; else all of it */
	bool begun;       /* its event is waited for, its ids are on the GPU */
	bool open;        /* something was queued that touches memory */
	bool queued;      /* all of it, or what there was until it failed */
	bool over, told;  /* nothing is under way any more; `submitted` was called */
	bool window;      /* the plan's chunks up to its end are being copied */
	bool stray;       /* those chunks are in memory that is not registered */
	bool bounce;      /* has the bounce buffer, and no step yet that gives it back */
	uint32_t ids_at, ids_span;
	uint32_t handle_bytes;
	int rc;
};

struct step {
	uint32_t cost;
	struct job *ends; /* this job is over with it */
	bool bounce;      /* uses the bounce buffer, and gives it back */
	uint8_t *to;      /* the bounce buffer's bytes go here then; NULL */
	uint64_t bytes;
};

struct track {
	struct engine_tables *tables;
	uint32_t dir;
	enum gpu_path path;
	uint32_t blocks;
	CUstream kernel, copy;
	CUdeviceptr slot[2]; /* staging */
	CUevent full[2], join;
	uint64_t slot_bytes, slot_step[2]; /* number of the step that used it last, from 1 on; 0: none */
	uint32_t next_slot;
	CUevent event[STEPS];
	struct step step[STEPS];
	uint64_t nqueued, nretired; /* steps; step n uses event[n % STEPS] */
	uint32_t ops;
	struct job *head, **tail, *feed; /* under way; the first that is not all queued */
	uint32_t *ids;                   /* pinned */
	CUdeviceptr ids_device;
	uint32_t ids_cap, ids_begin, ids_used; /* a ring; copies end in the order in which they begin */
	uint8_t *bounce;                       /* pinned; made when it is first needed */
	bool bounce_busy, bounce_refused;
	int broken;
};

struct engine_tables {
	struct copier *copier;
	struct gpu_engine *engine;
	struct layout_table table;
	CUdeviceptr planes;
	struct track track[DIRECTIONS];
	struct lk lk; /* the pool */
	struct job *pool;
	uint32_t pooled;
};

/* ---- the copier ------------------------------------------------------------------------------------------------------------------- */

/* What decides how a copy is made best. */
struct shape_key {
	uint64_t run_bytes, object_bytes; /* bytes that adjoin on both sides; classes of powers of two */
	uint32_t word;
	bool whole;
};

struct measured {
	enum gpu_path path;
	uint32_t blocks;
	double gbps[GPU_PATHS]; /* 0: not measured */
	double limit_gbps;      /* one large copy */
};

struct shape {
	struct shape_key key;
	bool calibrated;
	struct measured of[DIRECTIONS];
};

/* A copier goes with the last engine of its GPU. What it measured stays: an engine that comes back need not wait for it again. */
struct known_shapes {
	uint32_t n;
	struct shape shape[SHAPES];
};

struct kernels {
	CUmodule module;
	CUfunction gather, scatter;
};

struct copier {
	struct gpu *gpu;
	const struct cuda_driver *cu;
	struct kernels kernels;
	int priority;
	struct lk lk; /* shapes, and the flags below as copier_status reads them */
	bool batch;   /* offered, and has not failed */
	uint32_t nshapes;
	struct shape shape[SHAPES];
	uint64_t staging_bytes;
	/* scratch of one call */
	struct plan_op op[DIRECT_STEP];
	CUdeviceptr batch_dst[BATCH_MAX], batch_src[BATCH_MAX];
	size_t batch_bytes[BATCH_MAX];
	struct plan_op batch_op[BATCH_MAX];
};

/* kernels.c. The image is PTX, with a NUL. */
const char *kernels_image(size_t *bytes);
int kernels_load(struct gpu *g, struct kernels *k, struct why *why);
void kernels_unload(struct gpu *g, struct kernels *k);

/* copy_job.c. job_fill reads all that the copy borrows. */
struct job *job_take(struct engine_tables *t);
void job_leave(struct job *j);
int job_fill(struct job *j, const struct layout_table *t, const struct gpu_copy *c);
void jobs_free(struct engine_tables *t);

/* copy_track.c: steps and their events. */
bool track_room(const struct track *l, uint32_t cost);
/* Records the event of a step on s. Its number is nqueued from then on. */
int track_step(struct track *l, CUstream s, struct step step);
void track_add(struct track *l, struct job *j);
void track_pump(struct track *l); /* sees what happened, then queues what can be */
void track_wait(struct track *l); /* until nothing is under way: blocks */

/* copy_paths.c: queues one step. 1 queued, 0 must wait for something, or an error. */
int path_step(struct track *l, struct job *j);
void path_count(struct track *l, enum gpu_path path, uint64_t bytes, bool unregistered);
bool path_covered(const struct track *l, const struct job *j, uint32_t chunk); /* its slot is registered with CUDA */
/* 1: `mine`: the bounce buffer is the job's; else there is none: the driver stages by itself, and this thread may wait for it. 0: it is in
 * use. */
int path_bounce(struct track *l, struct job *j, bool *mine);
/* One run of bytes on the copy stream, in the track's direction. */
CUresult path_run(struct track *l, const struct job *j, CUdeviceptr device, uint8_t *host, uint64_t n);
/* Behind what was queued: with `last` the client's event, then the step's. 1 or an error. */
int path_finish(struct track *l, struct job *j, bool last, struct step step);

/* copy_staged.c. staged_ids_take: 1 there is room for the job's block ids, 0 not now. */
int staged_ids_take(struct track *l, struct job *j);
int ids_upload(struct track *l, struct job *j);
int staged_step(struct track *l, struct job *j);

/* copy_engine.c. Staging is made when the track first takes that way. */
int track_staging(struct track *l); /* -EOPNOTSUPP: not for this layout or GPU */
void track_no_staging(struct track *l);
int track_bounce(struct track *l);
int table_upload(struct copier *c, struct layout_table *t, CUstream s, CUdeviceptr *planes);

/* calibrate.c: chooses path and blocks of both tracks. Fails only with a context that broke. */
int calibrate(struct engine_tables *t, struct why *why);
void track_without_batch(struct track *l);

#endif
