/* engine.h - a pretended inference engine: the connections, registrations and requests of a vLLM instance.
 *
 * One engine = one scheduler connection and one worker connection and context per rank, as vLLM opens them. KV tensors are
 * POSIX shared memory (`/lmcache_kv_<pid>_<n>`), unlinked once the server has mapped them, so that nothing stays behind
 * when the process is killed; or memory of a GPU (engine_gpu.h), with events for order. Requests follow the protocol
 * reference, section 11.1.
 *
 * Who owns what: the engine owns connections, memory and its scratch; prompts belong to the caller.
 * Threads: one per engine; `eng_env` is shared by all of a process. What can fail: everything, 0 or -errno with why.
 */
#ifndef TOOLS_ENGINE_H
#define TOOLS_ENGINE_H

#include "daemon/base/why.h"
#include "tools/engine_gpu.h"
#include "tools/kvmodel.h"
#include "tools/url.h"
#include "transport/zmq/client.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum eng_mode { ENG_HANDLE, ENG_DRIVEN, ENG_PICKLE };

/* What the engines of one process share. Zeroed at start. */
struct eng_env {
	_Atomic uint32_t next_tensor, next_context;
};

struct eng_conf {
	const struct url *url;
	enum wire_dialect dialect;
	enum eng_mode mode;
	const struct km_model *model;
	uint32_t format;
	uint64_t num_blocks; /* 0 = chosen for max_tokens */
	uint32_t max_tokens; /* longest prompt */
	int timeout_ms;
	bool touch; /* fill the KV memory at once, so that page faults are not measured */
	struct eng_env *env;
	struct egpu_host *gpus; /* ENG_HANDLE: the KV is in memory of these; NULL = shared memory */
	bool window;            /* with gpus: the CPU writes and checks blocks */
};

struct eng_worker {
	struct ctl_client *client;
	uint64_t instance_id;
	uint32_t shard;
	uint8_t *bases[KM_MAX_TENSORS]; /* ENG_HANDLE: the tensors, or with a GPU those of the window */
	struct egpu *gpu;
	bool registered;
	uint8_t *pool; /* ENG_DRIVEN: the server's arena */
	uint64_t pool_bytes;
	uint64_t uid; /* of the request under way */
};

struct engine {
	struct eng_conf conf;
	uint32_t chunk_tokens, nworkers;
	uint32_t groups;        /* km_groups of the paged KV; 1 when the engine copies */
	struct km_place place;  /* of the paged KV */
	struct km_place host;   /* of what the bases point to: `place`, or the window's */
	struct km_place object; /* of a chunk object */
	struct ctl_client *scheduler;
	struct eng_worker *workers;
	uint64_t job_id;  /* D1: the lookup under way */
	uint8_t *message; /* pickle mode */
	size_t message_cap;
	struct pk_mem *pickle;
};

struct eng_prompt {
	const uint32_t *ids;
	uint32_t count;
	const uint64_t *chain; /* km_chain of ids */
	char request_id[64];
};

/* Connects, asks for the chunk size, registers every worker. */
int eng_open(const struct eng_conf *conf, struct engine **out, struct why *why);
/* Unregisters and closes; NULL is allowed. */
void eng_close(struct engine *e);

/* Scheduler side. eng_lookup waits until the status is known; *lookup_ns is the LOOKUP round trip alone. */
int eng_lookup(struct engine *e, const struct eng_prompt *p, uint64_t *chunks_hit, uint64_t *lookup_ns,
	       struct why *why);
int eng_free_locks(struct engine *e, const struct eng_prompt *p, uint64_t end, struct why *why); /* not waited for */
int eng_end_session(struct engine *e, const struct eng_prompt *p, struct why *why);              /* not waited for */
int eng_ping(struct engine *e, uint64_t *ns, struct why *why);

/* Blocks of a request, one list per layer group (km_groups). */
struct eng_blocks {
	const uint32_t *ids[KM_GROUPS];
};

/* Where the CPU writes and checks the i-th block of a group that is dealt `blocks`: the block itself, or the i-th of the window. */
static inline uint64_t eng_host_block(const struct engine *e, const uint32_t *blocks, uint64_t i)
{
	return e->conf.gpus ? i : blocks[i];
}
/* Of all ranks and groups, blocks [first, first + n) of the window to the pages ids[first ...] (queued only), or back (waited for). Without a
 * GPU there is nothing to do. */
int eng_upload(struct engine *e, const struct eng_blocks *b, uint64_t first, uint64_t n, struct why *why);
int eng_download(struct engine *e, const struct eng_blocks *b, uint64_t first, uint64_t n, struct why *why);

/* Worker side, all ranks at once: tokens [start, end), chunk-aligned. `b`: the paged blocks from token 0 on (ENG_HANDLE).
 * The first `skip` tokens are not to be written. Fails when the server says false. */
int eng_store(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, const struct eng_blocks *b,
	      struct why *why);
int eng_retrieve(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, uint64_t skip,
		 const struct eng_blocks *b, struct why *why);

/* ENG_DRIVEN and ENG_PICKLE: the engine copies. When `verify`, chunks are written with the pattern and read back against it;
 * *right and *wrong count chunk objects. */
int eng_push(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, bool verify, struct why *why);
int eng_pull(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, bool verify, uint64_t *right,
	     uint64_t *wrong, struct why *why);

/* A request with everything but its own fields filled in: for callers that time single requests. worker < 0: the scheduler's
 * view of the key. */
struct wire_req eng_request(const struct engine *e, enum wire_op op, const struct eng_prompt *p, int worker,
			    uint64_t start, uint64_t end);

#endif
