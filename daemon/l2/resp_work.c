/* resp_work.c - what the threads of the resp adapter do: objects as values of a Redis or Valkey server.
 *
 * The value is the bare payload, as upstream's. Beside it lies a small key with checksum, length and layout, set in the same
 * packet; where it is missing (upstream wrote the value, or the server evicted it) the length decides. What this server stored is
 * remembered, for its limit and its checksums.
 */
#include "daemon/l2/resp_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BACK_OFF_MIN_MS 100u
#define BACK_OFF_MAX_MS 10000u
#define REMEMBERED      (4u << 20) /* keys; beyond that the oldest are forgotten, not removed */
#define SCAN_COUNT      "64"
#define SCAN_MAX        (1u << 20) /* keys of one answer that we believe */

/* ---- connections -------------------------------------------------------------------------------------------------------- */

static void note_failure(struct resp *r, const char *text)
{
	lk_lock(&r->lk);
	uint64_t now = clock_ms();
	bool first = !r->failed;
	if (now >= r->closed_until_ms) { /* several connections fail at once */
		r->back_off_ms = r->back_off_ms ? r->back_off_ms * 2 : BACK_OFF_MIN_MS;
		if (r->back_off_ms > BACK_OFF_MAX_MS)
			r->back_off_ms = BACK_OFF_MAX_MS;
		r->closed_until_ms = now + r->back_off_ms;
	}
	r->failed = true;
	snprintf(r->error, sizeof(r->error), "%.*s", (int)sizeof(r->error) - 1, text);
	lk_unlock(&r->lk);
	if (first)
		log_warn("%s; trying again now and then", text);
}

static void note_success(struct resp *r)
{
	lk_lock(&r->lk);
	bool again = r->failed;
	r->failed = false;
	r->connected = true;
	r->back_off_ms = r->closed_until_ms = 0;
	lk_unlock(&r->lk);
	if (again)
		log_info("%s: connected again", r->server.host);
}

static int connect_worker(struct resp *r, struct resp_conn *c)
{
	struct why why = {0};

	lk_lock(&r->lk);
	bool closed = r->closed_until_ms && clock_ms() < r->closed_until_ms;
	lk_unlock(&r->lk);
	if (closed)
		return -EBUSY;
	if (resp_open(c, &r->server, &why)) {
		note_failure(r, why.text);
		return -EBUSY;
	}
	note_success(r);
	return 0;
}

/* The server's word, in ours; the connection is in order. */
static int refused(struct resp *r, const struct resp_conn *c)
{
	if (strncmp(c->error, "OOM", 3) == 0)
		return -ENOSPC;
	if (strncmp(c->error, "WRONGTYPE", 9) == 0)
		return -ENOENT;
	note_failure(r, c->error);
	return -EIO;
}

static bool in_order(int rc)
{
	return rc == 0 || rc == -ENOENT || rc == -EEXIST || rc == -ENOSPC || rc == -EILSEQ || rc == -ECANCELED ||
	       rc == RESP_REFUSED;
}

/* Runs `op` on the worker's connection. One that was idle may have been closed by the server meanwhile: then once more. */
static int with_connection(struct resp *r, struct l2_job *job,
			   int (*op)(struct resp *, struct resp_worker *, struct l2_job *))
{
	struct resp_worker *w = &r->w[job->worker];

	for (;;) {
		bool fresh = !w->conn.ctx;
		int rc = fresh ? connect_worker(r, &w->conn) : 0;
		if (rc)
			return rc;
		w->conn.heard = false;
		rc = op(r, w, job);
		if (in_order(rc))
			return rc == RESP_REFUSED ? refused(r, &w->conn) : rc;
		bool heard = w->conn.heard;
		resp_close(&w->conn);
		if (rc == -EMSGSIZE)
			return rc;
		if (!fresh && !heard && rc != -ETIMEDOUT)
			continue;
		char text[96];
		snprintf(text, sizeof(text), "%.40s: %s", r->server.host,
			 rc == -EPROTO ? "not an answer" : strerror(-rc));
		note_failure(r, text);
		return -EIO;
	}
}

/* ---- what we stored --------------------------------------------------------------------------------------------------------- */

static void forget_locked(struct resp *r, uint32_t id)
{
	r->used -= fs_entry_at(&r->index, id)->bytes;
	fs_entry_drop(&r->index, id);
	r->n.objects--;
}

static void forget(struct resp *r, const struct seg_key *key)
{
	lk_lock(&r->lk);
	uint32_t id = fs_entry_find(&r->index, key->name, &key->hash);
	if (id)
		forget_locked(r, id);
	lk_unlock(&r->lk);
}

/* Its bytes were reserved in `used`. */
static void remember(struct resp *r, const struct l2_job *job, uint32_t crc)
{
	lk_lock(&r->lk);
	uint32_t id = fs_entry_find(&r->index, job->key.name, &job->key.hash);
	if (id)
		forget_locked(r, id);
	if (r->index.objects >= REMEMBERED && r->index.oldest)
		forget_locked(r, r->index.oldest);
	id = fs_entry_add(&r->index, job->key.name, &job->key.hash);
	if (id) {
		struct fs_entry *e = fs_entry_at(&r->index, id);
		e->state = FS_READY;
		e->bytes = job->bytes;
		e->crc = crc;
		e->crc_known = true;
		fs_entry_newest(&r->index, id);
		r->n.objects++;
	} else {
		r->used -= job->bytes;
	}
	lk_unlock(&r->lk);
}

/* The key and its neighbour. *gone: how many there were. */
static int delete_key(struct resp *r, struct resp_worker *w, const struct seg_key *key, uint64_t *gone)
{
	struct resp_key k = {.bytes = 0};
	uint64_t mark;

	resp_key(&k, r->names, key);
	w->text.n = 0;
	resp_add(&w->text, "DEL", k.mark, k.mark_bytes);
	resp_add(&w->text, "DEL", k.text, k.bytes);
	struct iovec iov = {w->text.p, w->text.n};
	int rc = resp_send(&w->conn, &r->server, &iov, 1, 0);
	if (!rc)
		rc = resp_read_number(&w->conn, &mark);
	return rc ? rc : resp_read_number(&w->conn, gone);
}

/* Reserves `room`, removing the least recently used of ours; -ENOSPC: it does not fit. Limit 0: everything of ours goes. */
static int make_room(struct resp *r, struct resp_worker *w, uint64_t limit, uint64_t room)
{
	for (;;) {
		struct seg_key victim = {0};
		uint64_t gone;
		lk_lock(&r->lk);
		bool fits = room <= limit && r->used <= limit - room;
		uint32_t id = fits || (r->noop && limit) || room > limit ? 0 : r->index.oldest;
		if (id) {
			const struct fs_entry *e = fs_entry_at(&r->index, id);
			victim = (struct seg_key){e->stem, e->hash};
			r->n.evicted_objects++;
			r->n.evicted_bytes += e->bytes;
			forget_locked(r, id);
		} else if (fits) {
			r->used += room;
		}
		lk_unlock(&r->lk);
		if (!id)
			return fits ? 0 : -ENOSPC;
		int rc = delete_key(r, w, &victim, &gone);
		if (rc)
			return rc;
	}
}

/* ---- operations on a connection ------------------------------------------------------------------------------------------------ */

static int send_value(struct resp *r, struct resp_worker *w, const struct l2_job *job, uint32_t crc)
{
	struct resp_key k = {.bytes = 0};
	char mark[FS_MARK_ROOM], head[256], middle[64];
	struct fs_mark m = {.crc = crc, .bytes = job->bytes};

	memcpy(m.digest, job->digest, SEG_DIGEST);
	int n = fs_mark_text(&m, mark);
	resp_key(&k, r->names, &job->key);
	int h = snprintf(head, sizeof(head), "*3\r\n$3\r\nSET\r\n$%u\r\n", k.mark_bytes);
	w->text.n = (uint64_t)snprintf(w->text.p, w->text.room, "\r\n$%d\r\n%s\r\n*3\r\n$3\r\nSET\r\n$%u\r\n", n, mark,
				       k.bytes);
	int d = snprintf(middle, sizeof(middle), "\r\n$%" PRIu64 "\r\n", job->bytes);
	struct iovec iov[] = {{head, (size_t)h},         {k.mark, k.mark_bytes}, {w->text.p, w->text.n},
			      {(void *)k.text, k.bytes}, {middle, (size_t)d},    {job->mem, job->bytes},
			      {(void *)"\r\n", 2}};
	return resp_send(&w->conn, &r->server, iov, 7, job->bytes);
}

static int store_op(struct resp *r, struct resp_worker *w, struct l2_job *job)
{
	uint32_t crc = crc32c_join(job->sums, job->bytes);
	int mark, rc = make_room(r, w, r->capacity ? r->capacity : UINT64_MAX, job->bytes);

	if (rc)
		return rc;
	rc = send_value(r, w, job, crc);
	mark = rc ? rc : resp_read_ok(&w->conn);
	rc = mark == 0 || mark == RESP_REFUSED ? resp_read_ok(&w->conn) : mark;
	if (rc == 0) {
		remember(r, job, crc);
	} else {
		lk_lock(&r->lk);
		r->used -= job->bytes;
		lk_unlock(&r->lk);
	}
	return rc;
}

static int store(struct resp *r, struct l2_job *job)
{
	lk_lock(&r->lk);
	uint32_t id = fs_entry_find(&r->index, job->key.name, &job->key.hash);
	bool there = id && fs_entry_at(&r->index, id)->bytes == job->bytes;
	lk_unlock(&r->lk);
	if (there)
		return -EEXIST;
	if (!job->have_sums)
		crc32c_blocks(job->mem, job->bytes, job->sums);
	int rc = with_connection(r, job, store_op);
	if (rc == 0 && r->watermark > 0) {
		lk_lock(&r->lk);
		uint64_t used = r->used;
		lk_unlock(&r->lk);
		struct resp_worker *w = &r->w[job->worker];
		if ((double)used >= r->watermark * (double)r->capacity &&
		    make_room(r, w, (uint64_t)((1 - r->ratio) * (double)used), 0))
			resp_close(&w->conn);
	}
	return rc;
}

/* What the neighbour says; *has: there is one in our form and of this length. */
static int read_mark(struct resp_worker *w, const struct l2_job *job, struct fs_mark *m, bool *has)
{
	char text[FS_MARK_ROOM];
	uint64_t n;
	int rc = resp_read_bulk(&w->conn, text, sizeof(text), &n, true);

	*has = rc == 0 && fs_mark_parse(text, n, m) == 0 && m->bytes == job->bytes;
	return rc == -ENOENT || rc == -ENOBUFS || rc == RESP_REFUSED ? 0 : rc;
}

static int load_op(struct resp *r, struct resp_worker *w, struct l2_job *job)
{
	struct resp_key k = {.bytes = 0};
	struct fs_mark m;
	bool has;
	uint64_t got;

	resp_key(&k, r->names, &job->key);
	w->text.n = 0;
	resp_add(&w->text, "GET", k.mark, k.mark_bytes);
	resp_add(&w->text, "GET", k.text, k.bytes);
	struct iovec iov = {w->text.p, w->text.n};
	int rc = resp_send(&w->conn, &r->server, &iov, 1, job->bytes);
	if (!rc)
		rc = read_mark(w, job, &m, &has);
	if (!rc)
		rc = resp_read_bulk(&w->conn, job->mem, job->bytes, &got, false);
	if (rc)
		return rc;
	crc32c_blocks(job->mem, job->bytes, job->sums);
	uint32_t crc = crc32c_join(job->sums, job->bytes);
	if (has && memcmp(m.digest, job->digest, SEG_DIGEST) != 0)
		return -ENOENT;
	lk_lock(&r->lk);
	uint32_t id = fs_entry_find(&r->index, job->key.name, &job->key.hash);
	bool known = id && !r->shared && fs_entry_at(&r->index, id)->bytes == job->bytes;
	uint32_t want = known ? fs_entry_at(&r->index, id)->crc : has ? m.crc : crc;
	if (id && crc == want)
		fs_entry_newest(&r->index, id);
	lk_unlock(&r->lk);
	if (crc == want)
		return 0;
	rc = delete_key(r, w, &job->key, &got);
	return rc ? rc : -EILSEQ;
}

static int load(struct resp *r, struct l2_job *job)
{
	int rc = with_connection(r, job, load_op);

	if (rc == -ENOENT || rc == -EILSEQ || rc == -EMSGSIZE)
		forget(r, &job->key);
	return rc;
}

static int remove_op(struct resp *r, struct resp_worker *w, struct l2_job *job)
{
	uint64_t gone;
	int rc = delete_key(r, w, &job->key, &gone);

	return rc ? rc : gone ? 0 : -ENOENT;
}

/* As many questions in one packet as fit; the lengths are the answers. */
static int find_op(struct resp *r, struct resp_worker *w, struct l2_job *job)
{
	struct resp_key k = {.bytes = 0};

	for (uint32_t first = 0, i = 0; first < job->n; first = i) {
		w->text.n = 0;
		for (i = first; i < job->n; i++) {
			resp_key(&k, r->names, &job->keys[i]);
			if (!resp_add(&w->text, "STRLEN", k.text, k.bytes))
				break;
		}
		struct iovec iov = {w->text.p, w->text.n};
		int rc = resp_send(&w->conn, &r->server, &iov, 1, 0);
		for (uint32_t j = first; j < i && !rc; j++) {
			rc = resp_read_number(&w->conn, &job->found[j]);
			if (rc == RESP_REFUSED)
				rc = 0; /* something else under that key */
		}
		if (rc)
			return rc;
	}
	return 0;
}

static int find(struct resp *r, struct l2_job *job)
{
	if (with_connection(r, job, find_op)) {
		memset(job->found, 0, sizeof(job->found));
		return 0;
	}
	for (uint32_t i = 0; i < job->n; i++)
		if (!job->found[i])
			forget(r, &job->keys[i]); /* the server evicted it */
	return 0;
}

/* ---- clearing ------------------------------------------------------------------------------------------------------------------ */

struct scan {
	char cursor[24];
	uint64_t asked, removed; /* of this answer; in all */
	bool more;               /* an answer had more of ours than one packet takes */
};

static int scan_some(struct resp *r, struct resp_worker *w, struct scan *s)
{
	char head[128], key[RESP_KEY_MAX + 16];
	uint64_t n, got;
	int k = snprintf(head, sizeof(head), "*4\r\n$4\r\nSCAN\r\n$%zu\r\n%s\r\n$5\r\nCOUNT\r\n$%zu\r\n%s\r\n",
			 strlen(s->cursor), s->cursor, sizeof(SCAN_COUNT) - 1, SCAN_COUNT);
	struct iovec iov = {head, (size_t)k};
	int rc = resp_send(&w->conn, &r->server, &iov, 1, 0);

	if (!rc)
		rc = resp_read_list(&w->conn, &n);
	if (!rc)
		rc = n == 2 ? resp_read_bulk(&w->conn, s->cursor, sizeof(s->cursor) - 1, &got, true) : -EPROTO;
	if (rc)
		return rc == -ENOBUFS || rc == -ENOENT ? -EPROTO : rc;
	s->cursor[got] = 0;
	if (got == 0 || strspn(s->cursor, "0123456789") != got)
		return -EPROTO;
	rc = resp_read_list(&w->conn, &n);
	if (!rc && n > SCAN_MAX)
		rc = -EPROTO;
	w->text.n = 0;
	for (s->asked = 0; n > 0 && !rc; n--) {
		rc = resp_read_bulk(&w->conn, key, sizeof(key), &got, true);
		if (rc == -ENOBUFS || rc == -ENOENT) {
			rc = 0;
		} else if (!rc && resp_key_is_ours(key, got)) {
			bool fits = resp_add(&w->text, "DEL", key, got);
			s->asked += fits;
			s->more |= !fits;
		}
	}
	return rc;
}

static int remove_found(struct resp *r, struct resp_worker *w, struct scan *s)
{
	struct iovec iov = {w->text.p, w->text.n};
	uint64_t gone;
	int rc = s->asked ? resp_send(&w->conn, &r->server, &iov, 1, 0) : 0;

	for (; s->asked > 0 && !rc; s->asked--) {
		rc = resp_read_number(&w->conn, &gone);
		s->removed += rc ? 0 : gone;
	}
	return rc;
}

/* Every key that looks like one of ours, also those of earlier runs. */
static int clear_all_op(struct resp *r, struct resp_worker *w, struct l2_job *job)
{
	struct scan s = {.cursor = "0"};
	uint64_t before;

	(void)job;
	do {
		before = s.removed;
		s.more = false;
		do {
			int rc = scan_some(r, w, &s);
			if (!rc)
				rc = remove_found(r, w, &s);
			if (!rc && l2_pool_stopping(r->on.pool))
				rc = -ECANCELED;
			if (rc)
				return rc;
		} while (strcmp(s.cursor, "0") != 0);
	} while (s.more && s.removed > before);
	return 0;
}

/* Where others store, too: what this server stored. */
static int clear_own_op(struct resp *r, struct resp_worker *w, struct l2_job *job)
{
	(void)job;
	return make_room(r, w, 0, 0);
}

static int clear(struct resp *r, struct l2_job *job)
{
	int rc = with_connection(r, job, r->shared ? clear_own_op : clear_all_op);

	lk_lock(&r->lk);
	while (rc == 0 && r->index.oldest)
		forget_locked(r, r->index.oldest);
	lk_unlock(&r->lk);
	return rc;
}

/* ---- all of them ---------------------------------------------------------------------------------------------------------------- */

static void count(struct resp *r, const struct l2_job *job, int rc)
{
	lk_lock(&r->lk);
	if (job->kind == L2_WORK_LOAD) {
		r->n.loads += rc == 0;
		r->n.load_bytes += rc == 0 ? job->bytes : 0;
		r->n.load_misses += rc == -ENOENT;
		r->n.bad_checksums += rc == -EILSEQ;
		r->n.load_errors += rc == -EIO || rc == -EMSGSIZE || rc == -EBUSY;
	} else if (job->kind == L2_WORK_STORE) {
		r->n.stores += rc == 0;
		r->n.store_bytes += rc == 0 ? job->bytes : 0;
		r->n.present += rc == -EEXIST;
		r->n.dropped += rc == -ENOSPC || rc == -EBUSY;
		r->n.store_errors += rc == -EIO;
	} else if (job->kind == L2_WORK_REMOVE) {
		r->n.removed += rc == 0;
	}
	lk_unlock(&r->lk);
}

int resp_run(void *ctx, struct l2_job *job)
{
	struct resp *r = ctx;
	int rc = 0;

	if (job->kind == L2_WORK_LOAD || job->kind == L2_WORK_STORE)
		memcpy(job->digest, seg_name_digest(r->names, job->key.name), SEG_DIGEST);
	switch (job->kind) {
	case L2_WORK_FIND:
		return find(r, job);
	case L2_WORK_LOAD:
		rc = load(r, job);
		break;
	case L2_WORK_STORE:
		rc = store(r, job);
		break;
	case L2_WORK_REMOVE:
		forget(r, &job->key);
		rc = with_connection(r, job, remove_op);
		break;
	case L2_WORK_CLEAR:
		rc = clear(r, job);
		break;
	case L2_WORK_FLUSH: /* what the server does with what it has is its own affair */
		break;
	}
	count(r, job, rc);
	return rc;
}
