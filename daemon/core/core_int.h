/* core_int.h - inside daemon/core: the one context main builds, tasks, execution environments.
 *
 * Path of a request: control thread receives it into a task, resolves the peer's dialect and the operation, then either runs
 * the operation itself (no data to move, little to hash, nothing of the same lane queued) or hands the task to a worker; the
 * worker decodes with its own scratch, runs, encodes the reply into the task and returns it through the completion queue.
 * A task is always with exactly one thread.
 */
#ifndef DAEMON_CORE_CORE_INT_H
#define DAEMON_CORE_CORE_INT_H

#include "daemon/base/crc32c.h"
#include "daemon/base/lock.h"
#include "daemon/conf/conf.h"
#include "daemon/core/below.h"
#include "daemon/core/context.h"
#include "daemon/core/device.h"
#include "daemon/core/place.h"
#include "daemon/core/prefix.h"
#include "daemon/core/session.h"
#include "daemon/http/http.h"
#include "daemon/http/metrics.h"
#include "daemon/store/store.h"
#include "numa/arena.h"
#include "transport/wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <zmq.h>

#define MAX_THREADS     128u
#define MAX_ADMIT       4u /* threads that register engines with GPU memory about; else one */
#define WORKER_NONE     UINT32_MAX
#define TASKS           2048u /* requests in flight; beyond that the socket is not read */
#define LIVENESS_ORIGIN 48u
#define PARKED_MAX      1024u /* of them: WAITs that wait; more are answered as if their time was up */

struct server;
struct peer;

/* ---- operations ---------------------------------------------------------------------------------------------- */

enum lane {
	LANE_CONTROL,  /* always at once */
	LANE_LOOKUP,   /* in order per peer among themselves; may overtake transfers */
	LANE_TRANSFER, /* in order per peer */
	LANES,
	LANE_NONE = LANES /* known to upstream, not served here: log, no reply */
};

/* What one thread needs to run operations. */
/* Series of one model and salt, so that a LOOKUP adds to them without a search under the metrics' lock. */
#define LOOKUP_SERIES 5u
#define LOOKUP_CACHED 16u
#define LOOKUP_LABELS 256u /* bytes of model and salt together; longer ones are looked up each time */
struct lookup_series {
	metric_series series[LOOKUP_SERIES];
	uint32_t model_bytes, salt_bytes;
	char labels[LOOKUP_LABELS];
};

struct exec {
	struct server *srv;
	struct lookup_series lookups[LOOKUP_CACHED]; /* by a hash of the labels; series[0] 0: free */
	struct wire_scratch *scratch;
	struct prefix_walk *walk;
	struct pk_mem *pk;
	store_obj *objs; /* room for the most chunks one request can name */
	struct wire_slot *slots;
	uint32_t *indices;
	struct pk_tensor *tensors;
	uint32_t max_chunks;
	uint32_t sums[CTX_MAX_OBJECT / CRC_BLOCK]; /* of one object being stored */
	uint64_t owner;                            /* serial of the peer whose request runs */
	struct wire_tokens tokens;                 /* of that request, until exec_remember */
	struct task *task;                         /* it */
	uint8_t **slots_at;                        /* addresses of objs */
	uint8_t event[GPU_EVENT_MAX];              /* of a reply */
};

/* What an operation answers. Arrays in `reply` may point into the exec. */
struct outcome {
	bool answered;
	struct wire_reply reply;
	zmq_msg_t big; /* payload frame written directly (tensor pickles); valid when has_big */
	bool has_big;
	uint64_t wait_job; /* not 0: no answer yet, but when that job is over, or after wait_ms without a payload */
	uint64_t wait_ms;
	bool later; /* no answer yet, but when whoever has the task now calls task_ready */
};

struct op_def {
	enum wire_op op;
	enum lane lane;
	bool heavy; /* moves bytes or may take long: never on the control thread */
	bool keyed; /* first payload frame is a key */
	void (*run)(struct exec *e, struct wire_req *r, struct outcome *o);
};
const struct op_def *op_def(enum wire_op op);
/* The protocol's negative answer of an operation; false when it has none. */
bool op_negative(struct server *srv, enum wire_dialect d, enum wire_op op, struct wire_reply *out);

int exec_create(struct server *srv, struct exec **out, struct why *why);
void exec_destroy(struct exec *e);

/* op_*.c */
void op_register_kv_cache(struct exec *e, struct wire_req *r, struct outcome *o);
void op_register_engine_driven(struct exec *e, struct wire_req *r, struct outcome *o);
void op_register_cpu_context(struct exec *e, struct wire_req *r, struct outcome *o);
void op_unregister(struct exec *e, struct wire_req *r, struct outcome *o);
void op_store(struct exec *e, struct wire_req *r, struct outcome *o);
void op_retrieve(struct exec *e, struct wire_req *r, struct outcome *o);
void op_lookup(struct exec *e, struct wire_req *r, struct outcome *o);
void op_query_status(struct exec *e, struct wire_req *r, struct outcome *o);
void op_wait_status(struct exec *e, struct wire_req *r, struct outcome *o);
void op_query_hits(struct exec *e, struct wire_req *r, struct outcome *o);
void op_free_lookup_locks(struct exec *e, struct wire_req *r, struct outcome *o);
void op_end_session(struct exec *e, struct wire_req *r, struct outcome *o);
void op_prepare_store(struct exec *e, struct wire_req *r, struct outcome *o);
void op_commit_store(struct exec *e, struct wire_req *r, struct outcome *o);
void op_prepare_retrieve(struct exec *e, struct wire_req *r, struct outcome *o);
void op_commit_retrieve(struct exec *e, struct wire_req *r, struct outcome *o);
void op_store_cpu_chunks(struct exec *e, struct wire_req *r, struct outcome *o);
void op_retrieve_cpu_chunks(struct exec *e, struct wire_req *r, struct outcome *o);

/* Shared by transfers (transfer.c). */
struct range {
	uint32_t first, n; /* chunks [first, first + n) of the prompt */
	store_ns ns;       /* of this worker's rank; a reference when writing, else found or 0 */
};
/* Finishes hashing and checks [start, end): 0, -EINVAL. */
int range_check(struct exec *e, const struct wire_req *r, struct range *out, struct why *why);
uint32_t rank_of(const struct wire_key *k);
/* The namespace of what `c` stores and reads: its own layout's. Put it back; no reference, 0 = nothing stored. */
store_ns range_ns_get(struct exec *e, const struct wire_req *r, const struct ctx *c);
store_ns range_ns_find(struct exec *e, const struct wire_req *r, const struct ctx *c);
/* After a commit: the whole prompt of this rank ages together. */
void range_touch(struct exec *e, const struct wire_req *r, store_ns ns);
/* The lookup locks that the request's worker uses; objs as in session.h. */
struct session_range range_held(const struct exec *e, const struct wire_req *r, const struct range *g,
				const store_obj *objs);
uint64_t key_id(const struct exec *e, const struct wire_req *r, const struct range *g);
void refuse(struct server *srv, const struct wire_req *r, const struct why *why);
/* What a STORE has reserved or a RETRIEVE locked, until the bytes are there. */
struct moved {
	struct ctx *ctx;
	struct slice salt;
	uint32_t rank; /* kv_rank */
	store_ns ns;
	const struct store_hash *hashes; /* STORE: of the prompt, from its first chunk to the range's last */
	uint32_t first, n;               /* the range */
	store_obj *objs;                 /* n of them; zeros are left out */
	uint64_t bytes;
};
/* The copy is over, it took `ns`: makes readable, or gives back. `ns` and `ctx` stay the caller's. */
void moved_store(struct server *srv, const struct moved *m, bool ok, uint64_t ns);
void moved_retrieve(struct server *srv, const struct moved *m, bool ok, uint64_t ns);

/* ---- tasks and workers ----------------------------------------------------------------------------------------- */

struct task {
	struct task *next;
	struct peer *peer; /* touched by the control thread only */
	zmq_msg_t id, uid, type, payload[WIRE_MAX_PAYLOAD_FRAMES];
	struct slice frames[WIRE_MAX_PAYLOAD_FRAMES];
	uint32_t nframes;
	uint64_t received_ns;
	uint64_t owner; /* the peer's serial, for workers */
	enum lane lane;
	bool queued; /* counted in the peer's pending[] */
	bool admit;  /* and in its admitting: a thread that registers has it */
	const struct op_def *def;
	enum wire_dialect dialect;    /* best guess; after decoding: the one that fitted */
	wire_dialect_set candidates;  /* the peer's */
	bool bound;                   /* the peer's dialect family is certain */
	bool decoded;                 /* it fitted some dialect */
	char from[LIVENESS_ORIGIN];   /* REGISTER_KV_CACHE: its connection */
	node_id registered_node;      /* of that instance */
	uint64_t registered_instance; /* set by registrations: the peer's PINGs count for it */
	_Atomic uint32_t parts_done;  /* TASK_SENT, TASK_RELEASED when the reply goes early */
	bool early;
	struct server *srv;               /* set by task_later */
	uint64_t wait_job, wait_until_ms; /* parked at the control thread while wait_job is not 0 */
	bool has_reply;
	zmq_msg_t reply; /* payload frame; size 0 = none */
};

#define TASK_SENT     1u /* control has sent the reply */
#define TASK_RELEASED 2u /* the worker no longer reads the frames */

/* Finds the token array inside a key frame without decoding it. */
bool key_find_tokens(struct slice key, const uint8_t **raw, uint32_t *count);
/* Decodes and runs; fills task->has_reply/reply. On the control thread or a worker. */
void task_run(struct exec *e, struct task *t);
/* The answer of a task that waited. */
void task_answer(struct task *t, const struct wire_reply *reply);
/* The answer comes from elsewhere, after or even before the worker is done with the frames: before the task is handed over. */
void task_later(struct exec *e, struct task *t);
/* From any thread, once: this is the answer. */
void task_ready(struct task *t, const struct wire_reply *reply);
/* After task_run, while the task's frames live: the prefix cache learns what was hashed. */
void exec_remember(struct exec *e);

struct worker {
	struct server *srv;
	pthread_t thread;
	char name[16];
	node_id node; /* the planned one */
	struct exec *exec;
	struct lk lk;
	pthread_cond_t wake;
	struct task *head, **tail;
	uint32_t depth;
	bool stop, started, admits;
	_Atomic uint64_t progress_ms;
	_Atomic bool busy, ended;
	_Atomic int cpu;
};

int workers_start(struct server *srv, struct why *why);
/* False: a registration has not come back after `ms`, its thread is left alone. */
bool workers_stop(struct server *srv, uint32_t ms);
/* Of the transfer workers planned on that node, or of all when none is, the one that serves the fewest engines[i]. */
uint32_t worker_near(const struct server *srv, node_id node, const uint32_t *engines);
void worker_submit(struct worker *w, struct task *t);

/* ---- control --------------------------------------------------------------------------------------------------- */

#define ROUTER_NICE (-5) /* of the threads a PING passes through */

struct router {
	void *zmq, *socket;
	int fd; /* ZMQ_FD */
	uint32_t port;
};
int router_open(struct server *srv, struct router *r, struct why *why);
void router_close(struct router *r);

struct control;
int control_start(struct server *srv, struct why *why);
/* Ends the thread; queued work goes on. Then workers_stop, then control_stop answers what they finished and closes. */
void control_quiesce(struct server *srv);
void control_stop(struct server *srv);
/* Requests that wait for a lookup's job (waiting.c): the control thread's, but for the two flags. */
struct waiting {
	struct task *head;
	uint32_t n;
	uint64_t until_ms;            /* when the first one's time is up */
	_Atomic bool any, look_again; /* the control thread has some; it has to look */
};
/* False: it did not have to wait, its answer is in the task. */
bool waiting_add(struct waiting *w, struct server *srv, struct task *t);
/* Those whose job is over or whose time is up, or all, with their answers. */
struct task *waiting_ready(struct waiting *w, struct server *srv, bool all);
/* How long the control thread may sleep, at most `most`. */
int waiting_ms(const struct waiting *w, int most);
/* Any thread: a job is over. True: wake the control thread. */
bool waiting_job_done(struct waiting *w);
/* A lookup's job is over: whoever waits for one is looked at again. Any thread, any lock held. */
void control_job_done(struct control *c);
/* From a worker: the task is finished. */
void control_complete(struct control *c, struct task *t);
/* From a worker: the reply can go, but the worker still reads the frames; control_complete follows. */
void control_reply_early(struct control *c, struct task *t);
/* From any thread: the reply of a task_later is in the task. */
void control_reply_ready(struct control *c, struct task *t);
void control_counts(struct control *c, uint64_t *peers, uint64_t *dropped, uint64_t *bad);
void control_progress(struct control *c, uint64_t *progress_ms, int *cpu);
uint32_t control_port(const struct control *c);

/* The durable record of the last dialects (state.c). */
int state_open(struct server *srv, struct why *why);
void state_save_dialects(struct server *srv, wire_dialect_set set);

/* ---- liveness (liveness.c), main thread's epoll ------------------------------------------------------------------- */

/* Opens a pidfd when the instance id is the pid of a local process that is really our client (before ctx_enter). An engine with GPU memory
 * is also found by its connection, since a mapping keeps the memory of a dead process: `from` is the other end (liveness_origin), or "". */
void liveness_open(struct server *srv, struct ctx *c, const char *from);
/* The other end of the connection a message came by, as /proc/net/tcp writes it; "" unknown. Control thread. */
void liveness_origin(zmq_msg_t *m, char out[LIVENESS_ORIGIN]);
/* The process of a local client with that id, if it is proven; else 0. Any thread. */
uint32_t liveness_pid(void *srv, uint64_t instance_id);
/* Has the main thread wait for its end (after ctx_enter). */
void liveness_watch(struct server *srv, struct ctx *c);
void liveness_event(struct server *srv, uint64_t instance_id);
/* ctx_dead_fn: the locks of a dead engine's requests go back. */
void liveness_dead(void *arg, const struct ctx *c);

/* ---- HTTP's view (snapshot.c) -------------------------------------------------------------------------------------- */

void snapshot_host(struct server *srv, struct http_host *out);

/* ---- metrics with labels (count.c) ---------------------------------------------------------------------------------- */

enum count_id {
	COUNT_ERROR_UNREADABLE,
	COUNT_ERROR_REGISTRATION,
	COUNT_ERROR_REFUSED,
	COUNT_DROP_NO_REQUEST,
	COUNT_DROP_NOT_SERVED,
	COUNT_REAPED_PIDFD,
	COUNT_REAPED_PING,
	COUNT_REAPED_GPU,
	COUNT_STORES_SUBMITTED,
	COUNT_STORES_FINISHED,
	COUNT_RETRIEVES_SUBMITTED,
	COUNT_RETRIEVES_FINISHED,
	COUNT_WAIT_TIMEOUTS,
	COUNT_IDS
};

/* Once, after metrics_create. The others: any thread. */
void count_init(struct server *srv);
void count(struct server *srv, enum count_id id, uint64_t n);
void count_request(struct server *srv, enum wire_op op, uint64_t ns);
void count_lookup(struct exec *e, const struct session_lookup *l, const struct session_hits *hits);
/* The series of a context's device. */
void count_of_context(struct server *srv, struct ctx *c);
void count_no_room(struct server *srv, struct slice model, uint32_t chunks);
void count_read_failure(struct server *srv, struct slice model);

struct server {
	struct conf conf;
	struct l2_conf *l2_conf[CONF_LIST_MAX];
	uint32_t nl2;
	struct seg_names *names; /* with an adapter */
	struct tier *tier;
	struct below_counts *l2_counts;
	bool l2_learns; /* lookups enter names, too */
	struct below_series {
		metric_series store_gbs, load_gbs, stored, loaded, usage, capacity; /* by type */
		metric_series in_stores, in_loads, load_bytes, healthy, dropped, errors, checksums;
		metric_series read, written; /* bytes */
	} l2_series[CONF_LIST_MAX];
	metric_series counted[COUNT_IDS], op_requests[WIRE_OP_COUNT], op_seconds[WIRE_OP_COUNT];
	struct machine *machine;
	struct plan *plan;
	struct l1_thread *l1_thread;
	node_id range_node[ARENA_MAX_RANGES]; /* where each range is, bound or not */
	metric_series numa_bytes[LOCALITY_OPS][LOCALITIES], node_used[ARENA_MAX_RANGES],
		node_misplaced[ARENA_MAX_RANGES];
	struct cpu_set own_cpus; /* of the main thread, while it starts a thread elsewhere */
	bool placing;
	uint32_t unplaced;    /* threads that could not be bound; constant after the start */
	struct gpu_door *gpu; /* NULL: no driver, no GPU, or not wanted */
	struct device *device;
	struct device_engines engines;
	char no_gpu[160]; /* why there is none */
	struct arena *arena;
	struct shmx_map *arena_guard;
	struct store *store;
	struct ctx_registry *contexts;
	struct sessions *sessions;
	struct chash chash;
	struct prefix *prefix;
	struct metrics *metrics;
	struct http *http; /* read by its own threads once http_ready is set */
	_Atomic bool http_ready;
	struct control *control;
	struct worker worker[MAX_THREADS + MAX_ADMIT];
	uint32_t ntransfer, nlookup,
		nadmit; /* worker[0..ntransfer) move bytes, the next nlookup look up, the last register */
	uint32_t admitting[MAX_ADMIT]; /* requests with each of those that register; the control thread's */
	bool slots;                    /* the arena can be opened by name */
	_Atomic uint64_t unread;       /* bytes of pickled replies that clients have not taken yet */
	_Atomic uint64_t tick_ms;      /* when the main thread last looked at time limits */
	char instance_id[64];
	char state_path[512];
	wire_dialect_set saved_dialects;    /* what the durable record says now */
	wire_dialect_set seen_dialects;     /* of clients since this process started */
	wire_dialect_set previous_dialects; /* what it said when this process started */
	uint64_t started_ms;
	int epoll_fd, signal_fd, timer_fd;
	uint32_t ticks; /* main thread */
	bool l1_short;  /* main thread: it has been said that L1 cannot grow */
	_Atomic bool stopping;
};

#endif
