/* session_table.c - the sessions by id and by age, their memory, their jobs. */
#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/core/session_int.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define SPARE_MAX   256u  /* finished sessions kept for their memory ... */
#define SPARE_ITEMS 4096u /* ... unless they hold arrays longer than this */
#define MAX_ID      1024u

static void *map_array(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int sessions_create(struct store *store, uint64_t read_ttl_ms, struct sessions **out)
{
	struct sessions *s = mem_calloc(1, sizeof(*s));
	int err = 0;

	if (!s)
		return -ENOMEM;
	lk_init(&s->lk, LK_SESSIONS);
	s->store = store;
	s->read_ttl_ms = read_ttl_ms;
	s->next_job = 1;
	s->objs = map_array(SESSION_LOOKUP_OBJECTS * sizeof(*s->objs));
	s->counts = map_array(SESSION_LOOKUP_OBJECTS * sizeof(*s->counts));
	s->spread = map_array(SESSION_LOOKUP_OBJECTS * sizeof(*s->spread));
	if (!s->objs || !s->counts || !s->spread)
		err = -ENOMEM;
	else if (getrandom(&s->seed, sizeof(s->seed), 0) != sizeof(s->seed))
		err = -EIO;
	if (err) {
		sessions_destroy(s);
		return err;
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
	return (uint32_t)((h * 0x9e3779b97f4a7c15ull) >> 48) % SESSION_BUCKETS;
}

static bool has_id(const struct session *x, struct slice id)
{
	return x->id_bytes == id.n && memcmp(x->id, id.p, id.n) == 0;
}

static struct session *first_alike(struct session *x, struct slice id)
{
	while (x && !has_id(x, id))
		x = x->next;
	return x;
}

struct session *session_next_alike(struct session *x)
{
	return first_alike(x->next, slice_of(x->id, x->id_bytes));
}

struct session *session_find(struct sessions *s, struct slice id, uint64_t owner, bool strict)
{
	struct session *first = first_alike(s->bucket[bucket_of(s, id)], id), *x = first;

	while (x && x->owner != owner)
		x = session_next_alike(x);
	return x || strict ? x : first;
}

/* ---- age ------------------------------------------------------------------------------------------------------- */

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

void session_renew(struct sessions *s, struct session *x, uint64_t now_ms)
{
	x->used_ms = now_ms;
	age_unlink(s, x);
	age_append(s, x);
}

/* ---- what a session holds ---------------------------------------------------------------------------------------- */

void session_drop_job(struct sessions *s, struct session *x)
{
	struct session **link = &s->job_bucket[x->job_id % SESSION_BUCKETS];

	if (!x->job)
		return;
	session_cancel(s, x);
	while (*link != x)
		link = &(*link)->job_next;
	*link = x->job_next;
	x->job = false;
	s->jobs--;
}

void session_new_job(struct sessions *s, struct session *x)
{
	session_drop_job(s, x);
	x->job = true;
	x->hits = 0;
	x->job_id = s->next_job++;
	x->job_next = s->job_bucket[x->job_id % SESSION_BUCKETS];
	s->job_bucket[x->job_id % SESSION_BUCKETS] = x;
	s->jobs++;
}

struct session *session_of_job(struct sessions *s, uint64_t job_id)
{
	struct session *x = s->job_bucket[job_id % SESSION_BUCKETS];

	while (x && x->job_id != job_id)
		x = x->job_next;
	return x;
}

/* Nobody waits for more then, either. Objects with nothing left are not ours any more, whatever their ids mean now: store_unlock skips zeros. */
void session_release_all(struct sessions *s, struct session *x, uint64_t now_ms)
{
	session_cancel(s, x);
	if (x->held) {
		for (uint32_t i = 0; i < x->nobjs; i++) {
			if (x->left[i] == 0)
				x->objs[i] = 0;
		}
		store_unlock(s->store, x->objs, x->left, x->nobjs, now_ms);
	}
	s->nobjs -= x->nobjs;
	x->held = 0;
	x->nobjs = 0;
}

void session_forget_prompt(struct sessions *s, struct session *x)
{
	s->nhashes -= x->nchunks;
	x->nchunks = 0;
}

int session_reserve(void *array, uint32_t *cap, uint32_t n, size_t element)
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

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void free_session(struct session *x)
{
	mem_free(x->id);
	mem_free(x->names);
	mem_free(x->hashes);
	mem_free(x->objs);
	mem_free(x->left);
	mem_free(x);
}

void session_remove(struct sessions *s, struct session *x, uint64_t now_ms)
{
	struct session **link = &s->bucket[bucket_of(s, slice_of(x->id, x->id_bytes))];

	session_release_all(s, x, now_ms);
	session_drop_job(s, x);
	session_forget_prompt(s, x);
	while (*link != x)
		link = &(*link)->next;
	*link = x->next;
	age_unlink(s, x);
	s->count--;
	if (s->nspare < SPARE_MAX && x->hash_cap <= SPARE_ITEMS && x->obj_cap <= SPARE_ITEMS) {
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
		session_remove(s, s->oldest, 0);
	lk_unlock(&s->lk);
	while (s->spare) {
		struct session *x = s->spare;
		s->spare = x->next;
		free_session(x);
	}
	if (s->objs)
		munmap(s->objs, SESSION_LOOKUP_OBJECTS * sizeof(*s->objs));
	if (s->counts)
		munmap(s->counts, SESSION_LOOKUP_OBJECTS * sizeof(*s->counts));
	if (s->spread)
		munmap(s->spread, SESSION_LOOKUP_OBJECTS * sizeof(*s->spread));
	lk_destroy(&s->lk);
	mem_free(s);
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
	if (id.n)
		memcpy(x->id, id.p, id.n);
	x->id[id.n] = '\0';
	x->id_bytes = id.n;
	return 0;
}

static struct session *take_spare(struct sessions *s)
{
	struct session *x = s->spare;

	if (!x)
		return mem_calloc(1, sizeof(*x));
	s->spare = x->next;
	s->nspare--;
	return x;
}

int session_obtain(struct sessions *s, struct slice id, uint64_t owner, uint64_t now_ms, struct session **out)
{
	struct session *x = session_find(s, id, owner, true);
	uint32_t b = bucket_of(s, id);

	*out = x;
	if (x) {
		session_renew(s, x, now_ms);
		return 0;
	}
	if (id.n > MAX_ID)
		return -ENOSPC;
	if (s->count >= SESSIONS_MAX)
		session_remove(s, s->oldest, now_ms);
	x = take_spare(s);
	if (!x)
		return -ENOMEM;
	if (set_id(x, id)) {
		free_session(x);
		return -ENOMEM;
	}
	x->next = s->bucket[b];
	s->bucket[b] = x;
	x->owner = owner;
	x->used_ms = now_ms;
	age_append(s, x);
	s->count++;
	*out = x;
	return 0;
}

/* By last use, so that only sessions which may have run out of time are looked at. */
uint32_t sessions_sweep(struct sessions *s, uint64_t now_ms)
{
	uint64_t least = s->read_ttl_ms < SESSION_IDLE_MS ? s->read_ttl_ms : SESSION_IDLE_MS;
	uint32_t expired = 0;

	lk_lock(&s->lk);
	for (struct session *x = s->oldest, *next; x && now_ms > x->used_ms && now_ms - x->used_ms > least; x = next) {
		next = x->younger;
		if ((x->held || x->pending) && now_ms - x->used_ms > s->read_ttl_ms) {
			session_release_all(s, x, now_ms);
			expired++;
		}
		if (!x->held && now_ms - x->used_ms > SESSION_IDLE_MS)
			session_remove(s, x, now_ms);
	}
	s->locks_expired += expired;
	lk_unlock(&s->lk);
	return expired;
}

void sessions_stats(struct sessions *s, struct sessions_stats *out)
{
	lk_lock(&s->lk);
	*out = (struct sessions_stats){
		.active = s->count, .jobs = s->jobs, .pending = s->pending, .locks_expired = s->locks_expired};
	lk_unlock(&s->lk);
}
