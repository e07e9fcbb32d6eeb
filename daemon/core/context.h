/* context.h - the registry of engine contexts: what one registered engine instance gave us.
 *
 * One registry for all kinds (paged tensors in shared memory, engine-driven slots, message bytes). A context is a counted
 * reference: dropping it from the registry makes the instance unknown at once, its mappings go when the last transfer that
 * uses it has finished. Everything a context holds (mappings, pending reservations, their locks) goes with it.
 *
 * Threads: any. Lock: LK_CONTEXTS guards the table and the pending lists; layouts and mappings are constant.
 */
#ifndef DAEMON_CORE_CONTEXT_H
#define DAEMON_CORE_CONTEXT_H

#include "daemon/base/why.h"
#include "daemon/core/chash.h"
#include "daemon/core/device.h"
#include "daemon/core/place.h"
#include "daemon/core/session.h"
#include "daemon/http/metrics.h"
#include "daemon/seg/names.h"
#include "daemon/store/store.h"
#include "transport/kv/kv.h"
#include "transport/pickle/pickle.h"
#include "transport/shm/shmx.h"
#include "transport/wire/wire.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ctx_registry;
struct status;

#define CTX_MAX_OBJECT (4ull << 30) /* bytes of a chunk */

enum ctx_kind { CTX_PAGED, CTX_SLOTS, CTX_BYTES }; /* shm tensors; engine-driven by slots; by message bytes */

/* A PREPARE_* waiting for its COMMIT_*: reservations (store) or locks (retrieve) the engine holds. */
struct ctx_pending {
	struct ctx_pending *next;
	uint64_t key_id; /* fingerprint of the request key */
	bool store;
	bool disowned; /* write TTL passed: the keys are free again, the slots wait for the engine */
	uint64_t since_ms;
	uint32_t n;
	store_obj objs[];
};

struct ctx {
	struct ctx *next; /* hash chain */
	_Atomic uint32_t refs;
	uint64_t instance_id;
	uint64_t owner; /* peer that registered it */
	enum ctx_kind kind;
	char *model, *engine_type;
	uint32_t world_size;
	uint64_t object_bytes;
	uint8_t object_form[SEG_DIGEST]; /* what its objects are: ctx_layout_digest */
	/* CTX_PAGED */
	struct kv_layout *layout;
	struct shmx_map **maps;
	uint32_t nmaps;
	struct gpu_engine *gpu;     /* pages are GPU memory; NULL: shared memory of the host */
	_Atomic uint32_t gpu_users; /* the registry, and whoever is about to submit; at 0 the engine is let go */
	uint32_t gpu_index;
	struct device_engines *engines; /* counts it */
	char device[16], gpu_uuid[48];  /* "cuda:0", "cpu" */
	void (*farewell)(void *arg);    /* called once, when the engine and its mappings are gone */
	void *farewell_arg;
	enum pk_dtype dtype; /* of the first tensor; the only one for CTX_SLOTS and CTX_BYTES */
	/* engine-driven */
	uint32_t block_size, num_layers, hidden;
	bool use_mla;
	/* Where its bytes come from, and the node whose pool serves it. */
	node_id node, home;
	enum ctx_node_source node_source;
	uint64_t shape[4]; /* of a chunk */
	uint32_t ndim;
	/* liveness */
	int pidfd;            /* -1: judged by PING age */
	uint32_t pid;         /* whose */
	_Atomic bool watched; /* the main thread hears of its end */
	_Atomic uint64_t last_seen_ms;
	_Atomic bool pinged;
	uint64_t created_ms;
	_Atomic uint64_t unread; /* bytes of replies its client has not taken yet */
	/* guarded by LK_CONTEXTS */
	struct ctx_pending *pending;
	uint32_t npending;
	bool dropped;
	bool contested; /* another connection registered the same id before: only the owner is served */
	/* metric series of its labels */
	metric_series store_gbs, load_gbs, loaded_chunks, begun[2], ended[2]; /* [0] RETRIEVE, [1] STORE */
};

/* Called without locks, after an instance died (process end, or silence), not when it unregistered. */
typedef void (*ctx_dead_fn)(void *arg, const struct ctx *c);

int ctx_registry_create(struct store *store, ctx_dead_fn dead, void *arg, struct ctx_registry **out);
void ctx_registry_destroy(struct ctx_registry *r);

/* A new context with copies of the names; not in the registry yet. */
struct ctx *ctx_create(uint64_t instance_id, enum ctx_kind kind, struct slice model, struct slice engine_type,
		       uint32_t world_size);
/* Enters it (takes the caller's reference). An older one of the same id gives way when `replace` says so, when its memory
 * vanished, or when another connection registered it: instance ids are pids, so an engine restarted in its container has the same
 * one, and so may two engines in two containers. The older connection's requests are then refused, rather than served with memory
 * that is not its own. Otherwise -EEXIST. -ENOSPC at CTX_MAX. */
#define CTX_MAX 4096
int ctx_enter(struct ctx_registry *r, struct ctx *c, bool replace);
/* Counted; NULL when unknown. The second form also when `owner`, the serial of the peer that asks, may not use it. */
struct ctx *ctx_get(struct ctx_registry *r, uint64_t instance_id);
struct ctx *ctx_get_for(struct ctx_registry *r, uint64_t instance_id, uint64_t owner);
void ctx_put(struct ctx_registry *r, struct ctx *c);
/* UNREGISTER: makes the instance unknown and gives back what it holds. False when it was not there for this owner. */
bool ctx_drop(struct ctx_registry *r, uint64_t instance_id, uint64_t owner);
/* The same in two steps, for who wants to set its farewell in between. NULL when it was not there. */
struct ctx *ctx_take(struct ctx_registry *r, uint64_t instance_id, uint64_t owner);
void ctx_let_go(struct ctx_registry *r, struct ctx *c);
/* Drops `c`, whose process ended, if it is still the one registered under its id (a pidfd that fired late must not hit a
 * successor). */
bool ctx_drop_this(struct ctx_registry *r, struct ctx *c);
bool ctx_faulted(const struct ctx *c);
/* GPU engines: between the two c->gpu may be used. False: it was let go, because the instance was dropped. */
bool ctx_gpu_hold(struct ctx *c);
void ctx_gpu_release(struct ctx *c);
/* Counted: one with a GPU engine, any; NULL. */
struct ctx *ctx_get_gpu(struct ctx_registry *r);
void ctx_seen(struct ctx *c, uint64_t now_ms, bool ping);

/* Object size of the contexts with this model and world size; 0 when none is registered, CTX_SIZES_DIFFER when they disagree
 * (pipeline stages of unequal depth, or one of them is wrong). */
#define CTX_SIZES_DIFFER UINT64_MAX
uint64_t ctx_object_bytes(struct ctx_registry *r, struct slice model, uint32_t world_size);
/* The same, and the forms their objects have: one, unless they disagree. Those of contexts that peer `owner` registered come first. */
struct ctx_shape {
	uint64_t object_bytes;
	uint32_t nforms, nown; /* forms beyond SESSION_FORMS are left out; the first nown are the owner's */
	struct session_form forms[SESSION_FORMS];
	node_id home; /* unknown when they differ */
};
void ctx_shape_of(struct ctx_registry *r, struct slice model, uint32_t world_size, uint64_t owner,
		  struct ctx_shape *out);
/* One more context; the shape begins with object_bytes, nforms and nown 0. */
void ctx_shape_add(struct ctx_shape *s, const struct ctx *c, uint64_t owner);

/* Pending transfers; `p` is handed over. A retrieve of the same key replaces the older one, whose locks go back. -ENOENT when the
 * context was dropped meanwhile, -ENOSPC when it has CTX_PENDING_MAX (the caller keeps `p`). */
#define CTX_PENDING_MAX 4096u
int ctx_pending_add(struct ctx_registry *r, struct ctx *c, struct ctx_pending *p);
struct ctx_pending *ctx_pending_take(struct ctx_registry *r, struct ctx *c, uint64_t key_id, bool store);

/* Time limits: pending ones, and instances judged by PING age. Returns how many instances were dropped. Slots that a silent engine
 * reserved stay taken for another write TTL: silence does not prove that it will not write. */
struct ctx_limits {
	uint64_t write_ttl_ms, read_ttl_ms, reap_ms, grace_ms;
};
uint32_t ctx_sweep(struct ctx_registry *r, const struct ctx_limits *limits, uint64_t now_ms);

/* The main thread hears of its process' end. */
bool ctx_watched(const struct ctx *c);

uint32_t ctx_count(struct ctx_registry *r);
/* Counted references of all contexts, which are constant but for atomics; NULL when out of memory. Free the array with mem_free. */
struct ctx **ctx_get_all(struct ctx_registry *r, uint32_t *n);
/* Fills the contexts of a snapshot whose chunk_size is set already. 0 or -ENOMEM. */
int ctx_status(struct ctx_registry *r, struct status *out, uint64_t now_ms);

/* Builds a paged context from a REGISTER_KV_CACHE, whose tensors are all shared memory of the host or all memory of one GPU.
 * 0; -EOPNOTSUPP for GPU memory without a door; what shmx_open, gpu_import, kv_layout_create and gpu_engine_create say. */
struct ctx_paged_conf {
	uint32_t chunk_tokens, null_block;
	struct pk_mem *pk;
	const char *arena_name; /* L1's own shared memory, which is nobody's KV cache; NULL or "" = anonymous */
	struct gpu_door *gpu;   /* NULL: there is none, because ... */
	const char *no_gpu;
	struct device_engines *engines;
	/* The process behind the instance, if that is proven; 0. Asked for only where a descriptor must be taken from it. NULL: unknown. */
	uint32_t (*pid)(void *ctx, uint64_t instance_id);
	void *ctx;
};
int ctx_paged_create(const struct wire_req *req, const struct ctx_paged_conf *conf, struct ctx **out, struct why *why);
/* Fills in c->object_form, before ctx_enter: digest of the form of its objects (element type, K and V, layers and hidden size of every
 * group), of the tokens per chunk and of how they are hashed. Equal for a paged and an engine-driven context of one shape. */
void ctx_layout_digest(struct ctx *c, const struct chash *h);
/* Builds an engine-driven context. */
int ctx_engine_driven_create(const struct wire_req *req, uint32_t chunk_tokens, bool slots, struct ctx **out,
			     struct why *why);

#endif
