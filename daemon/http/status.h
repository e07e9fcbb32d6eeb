/* status.h - the snapshot behind GET /status, and its JSON in all key generations.
 *
 * daemon/core fills the struct (plain values, copied under its locks); this module only renders it, so the HTTP thread never
 * holds a data-path lock while it formats. Source: shared surface reference section 2.3.
 */
#ifndef DAEMON_HTTP_STATUS_H
#define DAEMON_HTTP_STATUS_H

#include "daemon/http/status_below.h"
#include "daemon/http/status_numa.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define STATUS_MAX_GROUPS 32

struct status_group {
	uint32_t engine_group, nlayers, block_size, kv_size, num_heads, head_size;
	const char *dtype;  /* "bfloat16" */
	const char *format; /* "NL_X_TWO_NB_BS_NH_HS" */
	uint64_t num_blocks;
	uint32_t *layers;           /* nlayers indices; owned by the snapshot */
	uint64_t concrete_shape[8]; /* of the engine's first tensor of the group */
	uint32_t ndim;
};

struct status_context {
	uint64_t instance_id;
	char *model_name;
	uint32_t world_size;
	bool engine_driven; /* else device or shm handles */
	bool shm_mode;      /* engine-driven: slots in the arena (else bytes in messages) */
	char *engine_type;
	uint32_t block_size, num_layers, hidden_dim_size;
	bool use_mla;
	uint64_t object_bytes, cache_size_per_token;
	struct status_group group[STATUS_MAX_GROUPS];
	uint32_t ngroups;
	double last_seen_s;   /* seconds since its last request */
	const char *liveness; /* "pidfd" or "ping" */
	bool faulted;         /* its shared memory vanished */
	node_id node;
	const char *node_source; /* "gpu", "pages", "cpus"; NULL = unknown */
	char device[16];         /* "cuda:0", "cpu" */
	char uuid[48];           /* of the GPU; "" none */
};

struct status_thread {
	char name[24];
	int cpu;  /* where it last ran; -1 unknown */
	int node; /* node it is pinned to; -1 none */
	uint32_t queue_depth;
	double last_progress_s; /* since it last finished something or went idle */
	bool busy, healthy;
};

struct status_peer_counts {
	uint64_t peers, dropped_messages, bad_messages;
};

struct status {
	bool is_healthy;
	double uptime_s;
	char zmq_endpoint[256], http_endpoint[256], version[64];
	const char *hash_algorithm;
	uint32_t chunk_size;
	struct status_context *contexts;
	uint32_t ncontexts;
	uint64_t active_sessions, active_prefetch_jobs;
	/* storage manager */
	uint64_t objects, write_locked, read_locked, temporary, detached, used_bytes, total_bytes, committed_bytes;
	uint32_t write_ttl_s, read_ttl_s;
	const char *eviction_policy; /* "LRU", "noop", "IsolatedLRU" */
	double trigger_watermark, eviction_ratio;
	struct status_thread *threads;
	uint32_t nthreads;
	struct status_peer_counts peers;
	const char *copy_kernel;   /* "avx512-nt" */
	const char *arena_backing; /* "shm lmcache_l1_pool_123" */
	struct status_numa numa;
	struct status_below below;
	json_t *gpu; /* owned; NULL: no CUDA door, because ... */
	char no_gpu[160];
};

/* Frees what the snapshot owns, not the struct. */
void status_free(struct status *s);

/* The payload of GET /status: S1/S2 keys, and the S3+ names beside them. New reference, NULL when out of memory. */
json_t *status_json(const struct status *s);

#endif
