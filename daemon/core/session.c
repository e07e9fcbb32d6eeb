#include "daemon/core/session.h"

#include "daemon/base/check.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS 8192u
#define IDLE_MS   600000u /* upstream's session life */
#define SPARE_MAX 256u    /* finished sessions kept for their memory */
#define MAX_ID    1024u

struct session {
	struct session *next, *job_next; /* hash chains */
	struct session *older, *younger; /* by last use */
	char *id;
	size_t id_bytes, id_cap;
	uint64_t created_ms, used_ms, locked_ms;
	uint64_t owner, model_id;
	/* job */
	bool job;
	uint64_t job_id;
	uint32_t hits;
	/* names */
	store_ns *ns; /* one per rank, each a reference */
	uint32_t world_size, ns_cap;
	/* prompt */
	struct store_hash *hashes;
	uint32_t nchunks, hash_cap;
	/* locks: objs[chunk * world_size + rank], left[] how many of ours remain on it */
	store_obj *objs;
	uint16_t *left;
	uint32_t nobjs, obj_cap;
	uint64_t held; /* sum of left[] */
};

struct sessions {
	struct lk lk;
	struct store *store;
	uint64_t read_ttl_ms, next_job, seed;
	struct session *bucket[BUCKETS], *job_bucket[BUCKETS];
	struct session *oldest, *youngest, *spare;
	uint32_t count, jobs, nspare;
	uint64_t locks_expired;
};

int sessions_create(struct store *store, uint64_t read_ttl_ms, struct sessions **out)
{
	struct sessions *s = mem_calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	lk_init(&s->lk, LK_SESSIONS);
	s->store = store;
	s->read_ttl_ms = read_ttl_ms;
	s->next_job = 1;
	if (getrandom(&s->seed, sizeof(s->seed), 0) != sizeof(s->seed)) {
		mem_free(s);
		return -EIO;
	}
	*out = s;
	return 0;
}

static uint32_t bucket_of(const struct sessions *s, struct slice id)
{
	const uint8_t *p = id.p;
	uint64_t h = s->seed;

	for (size_t i = 0; i < id.n; i++)
		h = (h ^ p[i]) * 0x100000001b3ull;
	return (uint32_t)((h * 0x9e3779b97f4a7c15ull) >> 48) % BUCKETS;
}

static struct session *find(struct sessions *s, struct slice id)
{
	struct session *x = s->bucket[bucket_of(s, id)];

	while (x && !(x->id_bytes == id.n && memcmp(x->id, id.p, id.n) == 0))
		x = x->next;
	return x;
}

static uint64_t model_id(const struct sessions *s, struct slice model, uint32_t world_size)
{
	const uint8_t *p = model.p;
	uint64_t h = s->seed ^ world_size;

	for (size_t i = 0; i < model.n; i++)
		h = (h ^ p[i]) * 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 31);
}

static void age_unlink(struct sessions *s, struct session *x)
{
	*(x->older ? &x->older->younger : &s->oldest) = x->younger;
	*(x->younger ? &x->younger->older : &s->youngest) = x->older;
}

static void age_append(struct sessions *s, struct session *x)
{
	x->older = s->youngest;
	x->younger = NULL;
	*(s->youngest ? &s->youngest->younger : &s->oldest) = x;
	s->youngest = x;
}

static void renew(struct sessions *s, struct session *x, uint64_t now_ms)
{
	x->used_ms = now_ms;
	age_unlink(s, x);
	age_append(s, x);
}

/* Needs LK_SESSIONS. */
static void drop_job(struct sessions *s, struct session *x)
{
	struct session **link = &s->job_bucket[x->job_id % BUCKETS];

	if (!x->job)
		return;
	while (*link != x)
		link = &(*link)->job_next;
	*link = x->job_next;
	x->job = false;
	s->jobs--;
}

/* Needs LK_SESSIONS. Zero counts release nothing: store_unlock skips zero objects. */
static void release_all(struct sessions *s, struct session *x, uint64_t now_ms)
{
	if (x->held) {
		for (uint32_t i = 0; i < x->nobjs; i++) {
			if (x->left[i] == 0)
				x->objs[i] = 0;
		}
		store_unlock(s->store, x->objs, x->left, x->nobjs, now_ms);
	}
	x->held = 0;
	x->nobjs = 0;
}

static void drop_names(struct sessions *s, struct session *x)
{
	for (uint32_t i = 0; i < x->world_size; i++)
		store_ns_put(s->store, x->ns[i]);
	x->world_size = 0;
}

static void free_session(struct session *x)
{
	mem_free(x->id);
	mem_free(x->ns);
	mem_free(x->hashes);
	mem_free(x->objs);
	mem_free(x->left);
	mem_free(x);
}

/* Needs LK_SESSIONS. */
static void end(struct sessions *s, struct session *x, uint64_t now_ms)
{
	struct session **link = &s->bucket[bucket_of(s, slice_of(x->id, x->id_bytes))];

	release_all(s, x, now_ms);
	drop_job(s, x);
	drop_names(s, x);
	while (*link != x)
		link = &(*link)->next;
	*link = x->next;
	age_unlink(s, x);
	s->count--;
	x->nchunks = 0;
	if (s->nspare < SPARE_MAX) {
		x->next = s->spare;
		s->spare = x;
		s->nspare++;
	} else {
		free_session(x);
	}
}

void sessions_destroy(struct sessions *s)
{
	if (!s)
		return;
	lk_lock(&s->lk);
	while (s->oldest)
		end(s, s->oldest, 0);
	lk_unlock(&s->lk);
	while (s->spare) {
		struct session *x = s->spare;
		s->spare = x->next;
		free_session(x);
	}
	lk_destroy(&s->lk);
	mem_free(s);
}

/* Grows an array to hold `n` elements. The old block stays valid on failure. */
static int reserve(void *array, uint32_t *cap, uint32_t n, size_t element)
{
	void **p = array;
	uint32_t want = *cap ? *cap : 16;

	if (n <= *cap)
		return 0;
	while (want < n)
		want *= 2;
	void *grown = mem_realloc(*p, want * element);
	if (!grown)
		return -ENOMEM;
	*p = grown;
	*cap = want;
	return 0;
}

static int set_id(struct session *x, struct slice id)
{
	if (id.n + 1 > x->id_cap) {
		char *grown = mem_realloc(x->id, id.n + 1);
		if (!grown)
			return -ENOMEM;
		x->id = grown;
		x->id_cap = id.n + 1;
	}
	memcpy(x->id, id.p, id.n);
	x->id[id.n] = '\0';
	x->id_bytes = id.n;
	return 0;
}

/* Needs LK_SESSIONS. */
static int obtain(struct sessions *s, struct slice id, uint64_t now_ms, struct session **out)
{
	struct session *x = find(s, id);
	uint32_t b;

	if (x) {
		renew(s, x, now_ms);
		*out = x;
		return 0;
	}
	if (s->count >= SESSIONS_MAX || id.n > MAX_ID)
		return -ENOSPC;
	x = s->spare;
	if (x) {
		s->spare = x->next;
		s->nspare--;
	} else if (!(x = mem_calloc(1, sizeof(*x)))) {
		return -ENOMEM;
	}
	if (set_id(x, id)) {
		free_session(x);
		return -ENOMEM;
	}
	b = bucket_of(s, id);
	x->next = s->bucket[b];
	s->bucket[b] = x;
	x->created_ms = x->used_ms = now_ms;
	age_append(s, x);
	s->count++;
	*out = x;
	return 0;
}

static uint32_t kv_rank_of(uint32_t world_size, uint32_t rank)
{
	return world_size << 24 | rank << 16 | world_size << 8 | rank;
}

/* Needs LK_SESSIONS. */
static int take_names(struct sessions *s, struct session *x, const struct session_lookup *l)
{
	drop_names(s, x);
	if (reserve(&x->ns, &x->ns_cap, l->world_size, sizeof(*x->ns)))
		return -ENOMEM;
	for (uint32_t r = 0; r < l->world_size; r++) {
		x->ns[r] = store_ns_get(s->store, l->model, kv_rank_of(l->world_size, r), 0, l->salt);
		x->world_size = r + 1;
		if (!x->ns[r])
			return -ENOSPC;
	}
	return 0;
}

static int take_prompt(struct session *x, const struct store_hash *hashes, uint32_t nchunks)
{
	if (reserve(&x->hashes, &x->hash_cap, nchunks, sizeof(*x->hashes)))
		return -ENOMEM;
	if (nchunks)
		memcpy(x->hashes, hashes, nchunks * sizeof(*hashes));
	x->nchunks = nchunks;
	return 0;
}

/* Needs LK_SESSIONS. Locks the hit prefix; objects of a chunk that is not complete on all ranks are released at once. */
static int take_locks(struct sessions *s, struct session *x, const struct session_lookup *l, struct session_hits *out)
{
	uint64_t total = (uint64_t)l->nchunks * l->world_size;
	uint32_t cap = x->obj_cap, keep;

	if (total > UINT32_MAX / 2)
		return -ENOSPC;
	if (reserve(&x->left, &cap, (uint32_t)total, sizeof(*x->left)) ||
	    reserve(&x->objs, &x->obj_cap, (uint32_t)total, sizeof(*x->objs)))
		return -ENOMEM;
	out->objects = store_lock_prefix(s->store, x->ns, l->world_size, l->hashes, l->nchunks, l->locks,
					 l->object_bytes == SESSION_ANY_SIZE ? 0 : l->object_bytes, l->now_ms, x->objs);
	out->chunks = out->objects / l->world_size;
	keep = out->chunks * l->world_size;
	for (uint32_t i = 0; i < out->objects; i++)
		x->left[i] = l->locks;
	store_unlock(s->store, x->objs + keep, x->left + keep, out->objects - keep, l->now_ms);
	x->nobjs = keep;
	x->held = (uint64_t)keep * l->locks;
	x->locked_ms = l->now_ms;
	return 0;
}

static void new_job(struct sessions *s, struct session *x, uint32_t hits)
{
	drop_job(s, x);
	x->job = true;
	x->hits = hits;
	x->job_id = s->next_job++;
	x->job_next = s->job_bucket[x->job_id % BUCKETS];
	s->job_bucket[x->job_id % BUCKETS] = x;
	s->jobs++;
}

int sessions_lookup(struct sessions *s, const struct session_lookup *l, struct session_hits *out)
{
	struct session *x;
	int err;

	*out = (struct session_hits){0};
	lk_lock(&s->lk);
	err = obtain(s, l->request_id, l->now_ms, &x);
	if (!err) {
		release_all(s, x, l->now_ms);
		x->nchunks = 0;
		x->owner = l->owner;
		x->model_id = model_id(s, l->model, l->world_size);
		err = take_names(s, x, l);
		if (!err)
			err = take_prompt(x, l->hashes, l->nchunks);
		if (!err && l->object_bytes && l->nchunks)
			err = take_locks(s, x, l, out);
		new_job(s, x, out->chunks);
		out->job_id = x->job_id;
	}
	lk_unlock(&s->lk);
	return err;
}

static uint32_t query(struct sessions *s, struct session *x, bool take)
{
	uint32_t hits = x && x->job ? x->hits : 0;

	if (x && take)
		drop_job(s, x);
	return hits;
}

uint32_t sessions_query(struct sessions *s, struct slice request_id, bool take)
{
	lk_lock(&s->lk);
	uint32_t hits = query(s, find(s, request_id), take);
	lk_unlock(&s->lk);
	return hits;
}

uint32_t sessions_query_job(struct sessions *s, uint64_t job_id, bool take)
{
	lk_lock(&s->lk);
	struct session *x = s->job_bucket[job_id % BUCKETS];
	while (x && x->job_id != job_id)
		x = x->job_next;
	uint32_t hits = query(s, x, take);
	lk_unlock(&s->lk);
	return hits;
}

/* Needs LK_SESSIONS. */
static uint32_t release_one(struct sessions *s, struct session *x, uint32_t i, uint16_t count, uint64_t now_ms)
{
	uint16_t give = x->left[i] < count ? x->left[i] : count;

	if (!give)
		return 0;
	store_unlock(s->store, &x->objs[i], &give, 1, now_ms);
	x->left[i] = (uint16_t)(x->left[i] - give);
	x->held -= give;
	return 1;
}

uint32_t sessions_release(struct sessions *s, struct slice request_id, uint32_t first, uint32_t n, int rank,
			  uint16_t count, uint64_t now_ms)
{
	struct session *x;
	uint32_t done = 0;

	lk_lock(&s->lk);
	x = find(s, request_id);
	if (x && x->held && rank < (int)x->world_size) {
		uint32_t ws = x->world_size, chunks = x->nobjs / ws;
		uint32_t end_chunk = n < chunks && first < chunks - n ? first + n : chunks;

		renew(s, x, now_ms);
		/* tail first: what becomes free last is the youngest */
		for (uint32_t c = end_chunk; c-- > first;) {
			for (uint32_t r = rank < 0 ? 0 : (uint32_t)rank; r < (rank < 0 ? ws : (uint32_t)rank + 1); r++)
				done += release_one(s, x, c * ws + r, count, now_ms);
		}
	}
	lk_unlock(&s->lk);
	return done;
}

bool sessions_holds(struct sessions *s, struct slice request_id, uint32_t first, uint32_t n, uint32_t rank,
		    const store_obj *objs)
{
	struct session *x;
	bool ok;

	lk_lock(&s->lk);
	x = find(s, request_id);
	ok = x && x->held && rank < x->world_size && n <= x->nobjs / x->world_size &&
	     first <= x->nobjs / x->world_size - n;
	for (uint32_t i = 0; ok && i < n; i++) {
		uint32_t at = (first + i) * x->world_size + rank;

		ok = x->left[at] > 0 && x->objs[at] == objs[i];
	}
	lk_unlock(&s->lk);
	return ok;
}

void sessions_extend(struct sessions *s, struct slice request_id, const struct store_hash *hashes, uint32_t nchunks)
{
	struct session *x;

	lk_lock(&s->lk);
	x = find(s, request_id);
	if (x && nchunks > x->nchunks)
		(void)take_prompt(x, hashes, nchunks); /* without memory the prompt merely ages by its parts */
	lk_unlock(&s->lk);
}

bool sessions_end(struct sessions *s, struct slice request_id, uint64_t now_ms)
{
	struct session *x;

	lk_lock(&s->lk);
	x = find(s, request_id);
	if (x) {
		release_all(s, x, now_ms);
		store_touch(s->store, x->ns, x->world_size, x->hashes, x->nchunks, now_ms);
		end(s, x, now_ms);
	}
	lk_unlock(&s->lk);
	return x != NULL;
}

uint32_t sessions_orphan(struct sessions *s, uint64_t owner, struct slice model, uint32_t world_size, uint64_t now_ms)
{
	uint64_t id = model_id(s, model, world_size);
	uint32_t n = 0;

	lk_lock(&s->lk);
	for (struct session *x = s->oldest; x; x = x->younger) {
		if (x->held && (x->owner == owner || (model.n && x->model_id == id))) {
			release_all(s, x, now_ms);
			n++;
		}
	}
	lk_unlock(&s->lk);
	return n;
}

/* The sweeper read the clock before it got the lock: what it finds may be younger than its "now". */
static bool is_older(uint64_t since_ms, uint64_t limit_ms, uint64_t now_ms)
{
	return now_ms > since_ms && now_ms - since_ms > limit_ms;
}

uint32_t sessions_sweep(struct sessions *s, uint64_t now_ms)
{
	uint32_t expired = 0;

	lk_lock(&s->lk);
	for (struct session *x = s->oldest, *next; x; x = next) {
		next = x->younger;
		if (x->held && is_older(x->locked_ms, s->read_ttl_ms, now_ms) &&
		    is_older(x->used_ms, s->read_ttl_ms, now_ms)) {
			release_all(s, x, now_ms);
			expired++;
		}
		if (!x->held && is_older(x->used_ms, IDLE_MS, now_ms))
			end(s, x, now_ms);
	}
	s->locks_expired += expired;
	lk_unlock(&s->lk);
	return expired;
}

void sessions_stats(struct sessions *s, struct sessions_stats *out)
{
	lk_lock(&s->lk);
	*out = (struct sessions_stats){.active = s->count, .jobs = s->jobs, .locks_expired = s->locks_expired};
	lk_unlock(&s->lk);
}
