/* tier_int.h - inside daemon/tier: the tier's own state and what its files ask of each other.
 *
 * All of it belongs to the tier's thread, except what stands under `lk` and what is atomic. Requests come in by lists under the
 * lock; completions by two stacks without one (a thread of an adapter must never wait for ours). Whoever adds something wakes the thread
 * only when it sleeps, so that under load nobody makes a system call.
 */
#ifndef DAEMON_TIER_TIER_INT_H
#define DAEMON_TIER_TIER_INT_H

#include "daemon/base/lock.h"
#include "daemon/base/log.h"
#include "daemon/tier/sketch_int.h"
#include "daemon/tier/room_int.h"
#include "daemon/tier/tier.h"

#include <pthread.h>
#include <stdatomic.h>

#define LANE_IOS      256u           /* copies on their way to one adapter at once */
#define LANE_BYTES    (256ull << 20) /* and their bytes */
#define JOBS_WAITING  1024u          /* prefetches known at once */
#define FLUSHES       16u
#define EPOCHS        32u           /* more than flushes */
#define BATCH         128u          /* objects per call of the store, and per time the lock is held */
#define SUMS_INLINE   64u           /* objects up to so many sub-blocks need no memory for their sums */
#define RETRY_NS      2000000ull    /* an object that an engine is writing is looked at again */
#define YIELD_NS      250000000ull  /* a job that got nothing for so long lets another one begin */
#define STALLED_NS    1000000000ull /* an adapter that completes nothing for so long gets no more to hold */
#define FLUSH_NS      30000000000ull
#define NO_LIMIT_NS   60000000000ull /* of a job for which neither limit is set */
#define JOB_MAX_LOCKS 60000u         /* on one object, of all jobs that wait for it */

enum io_kind { IO_LOAD, IO_STORE, IO_FLUSH }; /* l2_io.tag */

struct sums {
	uint32_t few[SUMS_INLINE];
	uint32_t *many;
	uint32_t cap;
};

/* ---- storing ----------------------------------------------------------------------------------------------------------- */

/* One object on its way down. Its lock in L1 is the tier's. */
struct item {
	struct item *next;
	struct store_hash hash;
	uint32_t name;
	store_obj obj;
	uint64_t bytes;
	uint8_t left;  /* adapters that have not answered */
	uint8_t epoch; /* which flush waits for it */
	bool stored;   /* at least one has it */
	bool hit;      /* a lookup's: it may be below already */
};

/* One copy, at an adapter. */
struct copy {
	struct l2_io io;
	struct copy *next;
	struct item *item;
	uint32_t lane;
	struct sums sums;
};

/* What concerns one adapter. */
struct lane {
	struct l2 *a;
	struct item **ring; /* items not yet given to it; t->nitems cells */
	uint32_t head, waiting;
	struct copy *copies, *unused;
	uint32_t in_flight;
	uint64_t flight_bytes;
	uint64_t progress_ns; /* it last completed a store, or had none */
	uint64_t quarantined; /* bytes of loads nobody waits for any more */
	uint32_t nquarantined;
};

struct flush {
	/* under the lock. New: the thread has not seen it; waiting: for stores before it; running: in the adapters. */
	enum flush_state { FLUSH_FREE, FLUSH_NEW, FLUSH_WAITING, FLUSH_RUNNING } state;
	void (*done)(void *ctx, int result);
	void *ctx;
	uint64_t epoch, deadline_ns;
	uint32_t open; /* adapters that have not answered */
	int result;
	bool told;
	struct l2_io io[TIER_MAX_ADAPTERS];
};

/* ---- prefetching ------------------------------------------------------------------------------------------------------- */

struct job;

struct waiter {
	struct waiter *next;
	struct job *job;
	uint32_t at;
};

/* One object on its way up, into a reservation. Without waiters it is quarantined. */
struct load {
	struct l2_io io;
	struct load *next; /* hash chain, or unused */
	store_ns ns;
	store_obj obj;
	uint32_t lane, locks;
	struct waiter *waiters;
	struct sums sums;
};

/* A question to all adapters; may outlive its job. */
struct find {
	struct find *next;
	struct tier *t;
	struct job *job;
	uint32_t n, open;
	uint32_t answered; /* bit per adapter */
	uint32_t *at;      /* index in the job of key k */
	struct seg_key *keys;
	uint64_t *bytes; /* [adapter * n + k] */
	void *mem;
	size_t cap;
	struct l2_find f[TIER_MAX_ADAPTERS];
};

enum spot { SPOT_NONE, SPOT_L1, SPOT_LOADING, SPOT_LOADED, SPOT_CONTENDED, SPOT_FAILED };

struct job_list {
	struct job *head, *tail;
	uint32_t n;
};

struct job {
	struct job *next, *prev;
	struct job_list *list;
	struct job *told_next; /* list of those whose objects arrived */
	bool told;
	struct job *id_next; /* under the lock, as is cancelled */
	uint64_t id;
	bool cancelled;
	uint32_t world, total;
	uint32_t rank0; /* rank of object 0; hashes[0] is its chunk */
	uint16_t locks;
	node_id node;
	uint64_t any_bytes; /* of every object; 0: they differ */
	uint64_t start_ns, progress_ns;
	/* one block of memory */
	void *mem;
	size_t cap;
	struct load **load;
	struct store_hash *hashes;
	store_ns *ns;
	uint32_t *names;
	uint64_t *bytes; /* per rank */
	store_obj *objs;
	uint8_t *spot, *source; /* source: lane + 1, 0 = nowhere */
	/* objects [0, ready) are locked; [0, next_at) have been tried; the job ends when ready reaches limit */
	uint32_t ready, next_at, limit, found, held;
	uint32_t contended;
	enum tier_end end; /* why limit is less than found */
	struct find *find;
};

/* ---- all of it --------------------------------------------------------------------------------------------------------- */

struct counters {
	_Atomic uint64_t store_requests, store_objects, store_bytes;
	_Atomic uint64_t stored_objects, store_failed, store_dropped, store_present, not_admitted;
	_Atomic uint64_t jobs, lookup_objects, hit_objects, load_objects, loaded_objects, load_failed;
	_Atomic uint64_t no_room, not_found, contended, late_jobs, coalesced;
	_Atomic uint64_t loading_bytes, jobs_waiting, jobs_loading,
		quarantined_bytes; /* states, written by the thread */
};

struct tier {
	struct tier_conf c;
	struct tier_meter meter;
	struct lane lane[TIER_MAX_ADAPTERS];
	pthread_t thread;
	bool started, closed;
	int wake; /* eventfd */
	_Atomic bool sleeping;
	_Atomic(struct l2_io *) done_ios;
	_Atomic(struct l2_find *) done_finds;
	_Atomic uint32_t todo; /* something is on a list under the lock */
	_Atomic uint64_t turn_ms;
	_Atomic int cpu;
	struct counters n;

	struct lk lk;
	bool stopping;
	uint64_t stop_ns;
	struct item *free_items, *new_items, **new_items_end;
	uint64_t dirty_objects, dirty_bytes;
	struct job *new_jobs, **new_jobs_end, *spare_jobs, **by_id;
	struct find *spare_finds;
	uint32_t njobs, nspare_jobs, nspare_finds, cancels;
	struct flush *flush;
	uint32_t nflushes; /* not free */

	/* the thread's own */
	struct item *items; /* all of them */
	uint32_t nitems;
	struct item *given_back;
	uint64_t given_objects, given_bytes;
	bool flushing;
	uint64_t epoch, open_in_epoch[EPOCHS], bad_at_flush;
	struct log_limit drop_log, quarantine_log;
	store_obj unlock[BATCH], drop[BATCH];
	uint32_t nunlock, ndrop;
	struct load *loads, *free_loads, **load_of; /* load_of: by key */
	struct waiter *waiters, *free_waiters;
	uint32_t nloads, load_mask, loading;
	uint64_t loading_bytes, quarantined_bytes;
	struct job_list asking, waiting, running;
	struct job *told;
	uint64_t next_deadline_ns; /* no job ends before; may be early */
	uint64_t retry_ns, stalls_ns;
	struct sketch *sketch;
};

static inline void add(_Atomic uint64_t *n, uint64_t by)
{
	atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

static inline void put(_Atomic uint64_t *n, uint64_t v)
{
	atomic_store_explicit(n, v, memory_order_relaxed);
}

/* n objects of one name. */
static inline void tally(struct tier *t, enum tier_count what, uint32_t name, uint64_t n)
{
	if (n && name && t->meter.counted)
		t->meter.counted(t->meter.ctx, what, name, (uint32_t)n);
}

/* Objects [from, to) of a job, each of its rank's name. */
void tally_job(struct tier *t, const struct job *j, enum tier_count what, uint32_t from, uint32_t to);

static inline uint64_t bytes_of(const struct job *j, uint32_t i)
{
	return j->bytes[(j->rank0 + i) % j->world];
}

/* Any thread, after it has put something where the thread will look. */
void tier_wake(struct tier *t);
/* Where the sums of an object of so many bytes go; NULL: no memory. */
uint32_t *sums_for(struct sums *s, uint64_t bytes);
void sums_free(struct sums *s);
/* l2_io.done of everything. */
void tier_io_done(struct l2_io *io);

/* write.c; the thread's */
int write_create(struct tier *t);
void write_destroy(struct tier *t);
void write_take(struct tier *t, struct item *list, uint64_t now_ns);
void write_pump(struct tier *t, uint64_t now_ns);
void write_done(struct tier *t, struct copy *c, uint64_t now_ns);
/* An adapter that hangs may hold what it has, but not what it has not been given. */
void write_drop_stalled(struct tier *t, uint64_t now_ns);
/* Locks and items go back, in batches. */
void write_give_back(struct tier *t);
/* What is still waiting is not written. */
void write_abandon(struct tier *t);

/* flush.c; the thread's */
/* Under the lock, when the items before them were taken off their list: they wait for those. True: there are new ones. */
bool flush_mark(struct tier *t);
void flush_turn(struct tier *t, uint64_t now_ns);
void flush_done(struct tier *t, struct l2_io *io);
uint64_t flush_next_ns(struct tier *t);
void flush_end_all(struct tier *t);

/* load.c; the thread's */
enum try { TRY_TAKEN, TRY_NO_BUDGET, TRY_CONTENDED, TRY_NO_ROOM };
int load_create(struct tier *t);
void load_destroy(struct tier *t);
/* Gets object i of a job under way. */
enum try load_try(struct tier *t, struct job *j, uint32_t i, uint64_t now_ns);
void load_done(struct tier *t, struct load *l, uint64_t now_ns);
/* The job no longer waits for its object i. */
void load_leave(struct tier *t, struct job *j, uint32_t i);

/* job.c: their memory; any thread */
struct job *job_make(struct tier *t, const struct tier_want *w);
void job_free(struct tier *t, struct job *j);
struct find *find_make(struct tier *t, uint32_t n);
void find_free(struct tier *t, struct find *f);
void job_list_add(struct job_list *l, struct job *j);
void job_list_remove(struct job *j);

/* fetch.c; the thread's */
void fetch_take(struct tier *t, struct job *list, uint64_t now_ns);
void fetch_answer(struct tier *t, struct l2_find *f, uint64_t now_ns);
/* Begins what may begin, loads what the budget allows. */
void fetch_pump(struct tier *t, uint64_t now_ns);
/* Object i arrived or failed; what that means for the job comes with fetch_advance. */
void fetch_arrived(struct tier *t, struct job *j, uint32_t i, enum spot spot, uint64_t now_ns);
void fetch_advance(struct tier *t);
void fetch_cancelled(struct tier *t);
void fetch_deadlines(struct tier *t, uint64_t now_ns);
uint64_t fetch_next_ns(const struct tier *t, uint64_t now_ns);
void fetch_end_all(struct tier *t);

#endif
