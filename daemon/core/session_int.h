/* session_int.h - inside daemon/core: the table of sessions (session_table.c), for the requests on it (session.c). Everything
 * here needs LK_SESSIONS.
 */
#ifndef DAEMON_CORE_SESSION_INT_H
#define DAEMON_CORE_SESSION_INT_H

#include "daemon/base/lock.h"
#include "daemon/core/session.h"

#define SESSION_BUCKETS 65536u
#define SESSION_IDLE_MS 600000u     /* upstream's session life */
#define SESSION_WORLD   255u        /* ranks of a key */
#define PROMPTS_MAX     (8u << 20)  /* hashes remembered by all sessions: 256 MiB; beyond, prompts age by their parts */
#define LOCKS_MAX       (32u << 20) /* objects locked by all sessions: 192 MiB; beyond, lookups find nothing */

struct session {
	struct session *next, *job_next; /* hash chains */
	struct session *older, *younger; /* by last use */
	char *id;
	size_t id_bytes, id_cap;
	uint64_t used_ms;
	uint64_t owner;
	/* job */
	bool job;
	uint64_t job_id;
	uint32_t hits;
	bool pending;          /* the tier below works for it */
	bool found_known;      /* `hits` is what L1 and the tier have */
	uint32_t first, asked; /* objects: where the tier's work begins, and all of them */
	uint16_t locks;        /* per object */
	/* the namespaces by name: a lookup must not keep one alive that holds nothing */
	char *names; /* model, then salt, then the layouts of its forms */
	size_t model_bytes, salt_bytes, names_cap;
	uint32_t nforms;
	uint32_t world_size;
	/* prompt */
	struct store_hash *hashes;
	uint32_t nchunks, hash_cap;
	/* locks: objs[chunk * world_size + rank], left[] how many of ours remain on it */
	store_obj *objs;
	uint16_t *left;
	uint32_t nobjs, obj_cap, left_cap;
	uint64_t held; /* sum of left[] */
};

struct sessions {
	struct lk lk;
	struct store *store;
	uint64_t read_ttl_ms, next_job, seed;
	struct session *bucket[SESSION_BUCKETS], *job_bucket[SESSION_BUCKETS];
	struct session *oldest, *youngest, *spare;
	uint32_t count, jobs, pending, nspare;
	uint64_t nhashes, nobjs; /* sums over the sessions */
	uint64_t locks_expired;
	bool has_tier;
	struct sessions_tier tier;
	uint32_t names[SESSION_WORLD];
	uint64_t bytes[SESSION_WORLD]; /* per rank, of what is asked of the tier */
	/* work space of one lookup */
	store_ns ns[SESSION_WORLD];
	uint8_t form[SESSION_WORLD]; /* of each rank, when there is more than one */
	store_obj *objs;             /* SESSION_LOOKUP_OBJECTS */
	uint16_t *counts;
	store_obj *spread; /* of one rank */
};

/* The owner's session of that id; without one, any (`strict`: none). NULL when there is none. */
struct session *session_find(struct sessions *s, struct slice id, uint64_t owner, bool strict);
/* The next session with the id of `x`. */
struct session *session_next_alike(struct session *x);
/* The owner's own, made when there is none. 0, -ENOMEM, -ENOSPC (id too long). */
int session_obtain(struct sessions *s, struct slice id, uint64_t owner, uint64_t now_ms, struct session **out);
void session_renew(struct sessions *s, struct session *x, uint64_t now_ms);
void session_release_all(struct sessions *s, struct session *x, uint64_t now_ms);
void session_forget_prompt(struct sessions *s, struct session *x);
void session_new_job(struct sessions *s, struct session *x);
void session_drop_job(struct sessions *s, struct session *x);
/* The layout that a rank's objects have; NULL: none. And their size. */
const uint8_t *session_layout(const struct sessions *s, const struct session_lookup *l, uint32_t rank);
uint64_t session_bytes(const struct sessions *s, const struct session_lookup *l, uint32_t rank);
/* session_forms.c: with several forms, chooses one for each rank (s->form) and takes references to its namespaces (s->ns). */
void session_choose(struct sessions *s, const struct session_lookup *l, uint32_t nchunks);
/* session_tier.c: whether the tier may have that object of the rank. */
bool session_below_has(struct sessions *s, const struct session_lookup *l, const struct session_form *f, uint32_t rank,
		       const struct store_hash *hash);
/* session_tier.c: starts a job for what is missing behind x->objs, `found` objects of the prompt. False: there is nothing to wait for. */
bool session_ask_tier(struct sessions *s, struct session *x, const struct session_lookup *l, uint32_t found);
/* The tier hears which objects of the prompt were hit, if it wants to. */
void session_tell_hits(struct sessions *s, const struct session_lookup *l, uint32_t nchunks);
/* Ends a pending job with what is there: hits 0. */
void session_cancel(struct sessions *s, struct session *x);
/* After a job that is over: objects of a chunk that is not complete on all ranks go back. Sets hits. */
void session_settle(struct sessions *s, struct session *x, uint64_t now_ms);
struct session *session_of_job(struct sessions *s, uint64_t job_id);
struct slice session_model(const struct session *x);
struct slice session_salt(const struct session *x);
uint32_t session_kv_rank(uint32_t world_size, uint32_t rank);
/* Gives its locks back and removes it. */
void session_remove(struct sessions *s, struct session *x, uint64_t now_ms);
/* Grows an array to hold `n` elements. 0 or -ENOMEM; the old block stays valid. */
int session_reserve(void *array, uint32_t *cap, uint32_t n, size_t element);

#endif
