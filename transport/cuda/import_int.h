/* import_int.h - memory of engines, mapped: the table of one GPU, and what the import*.c files ask of each other.
 *
 * import.c: views, and what is checked before anything is opened.  import_map.c: one mapping per allocation, counted.
 * import_vmm.c: virtual memory.  import_torch.c: torch's reference counters.
 */
#ifndef TRANSPORT_CUDA_IMPORT_INT_H
#define TRANSPORT_CUDA_IMPORT_INT_H

#include "transport/cuda/gpu_int.h"

#include <limits.h>
#include <sys/types.h>

#define IMPORT_KEY     64u /* bytes of a memory handle and of a fabric handle; an export id is shorter */
#define IMPORT_BUCKETS 256u
#define IMPORT_WAIT_MS 10000u /* for the event a torch handle may carry: recorded when the engine shared its memory */

/* The process that a wrapper came from, as the kernel knows it: a pid may be given to another process later. All 0: not known. */
struct exporter {
	uint32_t pid;
	uint64_t start; /* clock ticks since boot */
	uid_t uid;
};

enum map_kind { MAP_IPC, MAP_FABRIC, MAP_FD };

/* What is to be mapped. */
struct map_what {
	enum map_kind kind;
	struct slice key;
	uint64_t alloc_bytes; /* virtual memory */
	bool has_fd;          /* MAP_FD: the descriptor's number in the exporter */
	uint32_t fd;
	struct exporter from;
};

struct mapping {
	struct mapping *next; /* of its bucket */
	struct imports *im;
	enum map_kind kind;
	uint8_t key[IMPORT_KEY];
	uint32_t refs; /* 0: the driver would not unmap it; tried again at the next import */
	CUdeviceptr base;
	uint64_t bytes; /* from base to the end of the allocation */
	struct exporter from;
	bool mapped;
	/* virtual memory: what of it is there besides */
	CUmemGenericAllocationHandle handle;
	uint64_t reserved;
	bool has_handle;
};

/* torch's count of those who use a storage, in shared memory of the exporter (kind A). */
struct torch_counter {
	char name[NAME_MAX + 2]; /* "" : none, or one that is not torch's */
	uint64_t index;
	uid_t uid; /* of the exporter, else ours */
};

struct gpu_view {
	struct gpu_view *next, **at; /* views of its GPU; under the imports' lock */
	struct gpu *gpu;
	struct mapping *map;
	uint64_t address, bytes;
	struct torch_counter torch;
};

struct imports {
	struct gpu *gpu;
	uint32_t wait_ms; /* IMPORT_WAIT_MS; tests change it */
	struct lk lk;     /* the rest; LK_GPU_MAP. Held while the driver maps: nobody opens the same handle beside us */
	struct mapping *bucket[IMPORT_BUCKETS];
	struct gpu_view *views;
	/* Counts are read without it: whoever asks for them must not wait for the driver. */
	_Atomic uint64_t nviews, nmappings, bytes, nstuck, torch_told, torch_missed;
};

/* ---- import_map.c; the context is current ------------------------------------------------------------------------------------ */

/* The GPU's table, made at first use; NULL: out of memory. */
struct imports *imports_of(struct gpu *g);
/* Finds or makes the mapping, and counts. */
int map_take(struct imports *im, const struct map_what *what, struct mapping **out, struct why *why);
/* Unmaps what the driver would not unmap before. */
void map_retry(struct imports *im);
/* What the driver said of a handle that is not ours: notices a broken context, puts error and remedy into `why`. `of`: "the memory handle". */
int map_refused(struct gpu *g, CUresult rc, const char *of, struct why *why);
struct exporter exporter_of(uint32_t pid);

/* ---- import_vmm.c; imports' lock held, context current ------------------------------------------------------------------------ */

/* Fills base, bytes and what follows; on failure the caller unmaps what there is. */
int vmm_map(struct mapping *m, const struct map_what *what, struct why *why);
/* 0 when nothing of it is left. */
CUresult vmm_unmap(struct mapping *m);

/* ---- import_torch.c ------------------------------------------------------------------------------------------------------------- */

void torch_counter_init(struct torch_counter *t, struct slice name, uint64_t index, const struct exporter *from);
bool torch_counter_same(const struct torch_counter *a, const struct torch_counter *b);
/* One user less. False: no such counter any more, or it is not to be touched. */
bool torch_counter_down(const struct torch_counter *t);

#endif
