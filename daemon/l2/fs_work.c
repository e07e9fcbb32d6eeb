/* fs_work.c - what the threads of the fs adapter do.
 *
 * A store reserves its bytes before the first one is written, and a file that goes is counted until it is gone: the directory
 * never holds more than the capacity. Until the scan at start is done stores wait, when there is a capacity.
 */
#include "daemon/l2/fs_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACK_OFF_MIN_MS 1000u
#define BACK_OFF_MAX_MS 60000u
#define ERRORS_IN_A_ROW 3u
#define DIRTY_MAX       (1u << 20)

/* ---- finding: the lock is held ------------------------------------------------------------------------------------------- */

/* The file of a key: of the newer form, else of the older one. */
static uint32_t entry_of(struct fs *f, const struct seg_key *key)
{
	uint32_t id = fs_entry_find(&f->index, fs_stem_of_name(&f->stems, f->names, key->name, false), &key->hash);

	return id ? id : fs_entry_find(&f->index, fs_stem_of_name(&f->stems, f->names, key->name, true), &key->hash);
}

/* Ready, and not known to be of another layout. */
static bool serves(const struct fs *f, uint32_t id, const struct seg_key *key)
{
	const struct fs_entry *e = id ? fs_entry_at(&f->index, id) : NULL;

	return e && e->state == FS_READY && (e->name == 0 || e->name == key->name);
}

/* ---- going ------------------------------------------------------------------------------------------------------------------ */

struct victim {
	char file[FS_NAME_MAX + 1];
	uint32_t id;
};

/* Nobody finds it any more, and nobody takes its place: name and bytes are kept until the file is gone. */
static void take_out(struct fs *f, uint32_t id, struct victim *v)
{
	struct fs_entry *e = fs_entry_at(&f->index, id);

	fs_file_name(fs_stem_at(&f->stems, e->stem), &e->hash, v->file);
	v->id = id;
	e->state = FS_GOING;
	fs_entry_unlist(&f->index, id);
	f->n.objects--;
}

/* A file that cannot be removed keeps its bytes, so that the capacity stays true. */
static void unlink_victim(struct fs *f, const struct victim *v)
{
	bool gone = unlinkat(f->base, v->file, 0) == 0 || errno == ENOENT;

	lk_lock(&f->lk);
	if (gone)
		f->used -= fs_entry_at(&f->index, v->id)->bytes;
	else
		f->n.store_errors++;
	fs_entry_drop(&f->index, v->id);
	lk_unlock(&f->lk);
}

bool fs_make_room(struct fs *f, uint64_t limit, uint64_t room)
{
	struct victim v;

	for (;;) {
		lk_lock(&f->lk);
		bool fits = room <= limit && f->used <= limit - room;
		uint32_t id = fits || f->noop || room > limit ? 0 : f->index.oldest;
		if (id) {
			take_out(f, id, &v);
			f->n.evicted_objects++;
			f->n.evicted_bytes += fs_entry_at(&f->index, id)->bytes;
		} else if (fits) {
			f->used += room;
		}
		lk_unlock(&f->lk);
		if (!id)
			return fits;
		unlink_victim(f, &v);
	}
}

/* What was found to be wrong, unless it is another file by now. */
static void forget(struct fs *f, uint32_t id, uint64_t number)
{
	struct victim v;

	lk_lock(&f->lk);
	bool same = fs_entry_at(&f->index, id)->number == number && fs_entry_at(&f->index, id)->state == FS_READY;
	if (same)
		take_out(f, id, &v);
	lk_unlock(&f->lk);
	if (same)
		unlink_victim(f, &v);
}

/* ---- failing ------------------------------------------------------------------------------------------------------------------ */

static void failed(struct fs *f, int rc)
{
	bool at_once = rc == -EROFS || rc == -ENOSPC || rc == -EDQUOT, closed = false;

	lk_lock(&f->lk);
	f->errors++;
	if (at_once || f->errors >= ERRORS_IN_A_ROW) {
		closed = f->closed_until_ms == 0;
		f->back_off_ms = f->back_off_ms ? f->back_off_ms * 2 : BACK_OFF_MIN_MS;
		if (f->back_off_ms > BACK_OFF_MAX_MS)
			f->back_off_ms = BACK_OFF_MAX_MS;
		f->closed_until_ms = clock_ms() + f->back_off_ms;
		f->error = rc;
	}
	lk_unlock(&f->lk);
	if (closed)
		log_warn("%s: nothing is stored for a while: %s", f->base_path, strerror(-rc));
}

static void succeeded(struct fs *f)
{
	lk_lock(&f->lk);
	bool opened = f->closed_until_ms != 0;
	f->errors = 0;
	f->closed_until_ms = f->back_off_ms = 0;
	lk_unlock(&f->lk);
	if (opened)
		log_info("%s: objects are stored again", f->base_path);
}

/* ---- storing -------------------------------------------------------------------------------------------------------------------- */

/* Enters the object as being written. 0; -EEXIST, -EBUSY, -EINVAL (no such file name), -ENOSPC (no memory); -EAGAIN: what is in its
 * place is taken out and must go first. */
static int enter_locked(struct fs *f, const struct l2_job *job, uint32_t *id, char file[FS_NAME_MAX + 1],
			struct victim *v)
{
	uint32_t stem = fs_stem_of_name(&f->stems, f->names, job->key.name, false);
	uint32_t there = entry_of(f, &job->key);

	if (!stem)
		return -EINVAL;
	if (f->closed_until_ms && clock_ms() < f->closed_until_ms)
		return -EBUSY;
	if (there && fs_entry_at(&f->index, there)->state != FS_READY)
		return -EBUSY;
	if (serves(f, there, &job->key) && fs_entry_at(&f->index, there)->bytes == job->bytes)
		return -EEXIST;
	if (there) {
		take_out(f, there, v);
		return -EAGAIN;
	}
	*id = fs_entry_add(&f->index, stem, &job->key.hash);
	if (!*id)
		return -ENOSPC;
	fs_file_name(fs_stem_at(&f->stems, stem), &job->key.hash, file);
	return 0;
}

static int enter(struct fs *f, const struct l2_job *job, uint32_t *id, char file[FS_NAME_MAX + 1])
{
	struct victim v;
	int rc;

	do {
		lk_lock(&f->lk);
		rc = enter_locked(f, job, id, file, &v);
		lk_unlock(&f->lk);
		if (rc == -EAGAIN)
			unlink_victim(f, &v);
	} while (rc == -EAGAIN);
	return rc;
}

/* Of a list that is bounded; beyond it a flush asks for the whole file system. */
static void add_dirty(struct fs *f, uint32_t id, uint64_t number)
{
	if (f->ndirty == f->dirty_room && !f->sync_all) {
		uint32_t room = f->dirty_room ? f->dirty_room * 2 : 256;
		struct fs_dirty *d = room > DIRTY_MAX ? NULL : mem_realloc(f->dirty, room * sizeof(*d));
		f->sync_all = !d;
		if (d) {
			f->dirty = d;
			f->dirty_room = room;
		}
	}
	if (!f->sync_all)
		f->dirty[f->ndirty++] = (struct fs_dirty){.number = number, .id = id};
}

/* Written, or not. */
static void written(struct fs *f, const struct l2_job *job, uint32_t id, int rc, uint32_t crc)
{
	struct victim v;
	bool cleared;

	lk_lock(&f->lk);
	struct fs_entry *e = fs_entry_at(&f->index, id);
	cleared = rc == 0 && e->removed;
	if (rc) {
		f->used -= job->bytes;
		fs_entry_drop(&f->index, id);
	} else {
		e->state = FS_READY;
		e->bytes = job->bytes;
		e->name = job->key.name;
		e->crc = crc;
		e->crc_known = true;
		f->n.objects++;
		fs_entry_newest(&f->index, id);
		if (f->sync == FS_SYNC_FLUSH)
			add_dirty(f, id, e->number);
		if (cleared)
			take_out(f, id, &v);
	}
	lk_unlock(&f->lk);
	if (cleared)
		unlink_victim(f, &v);
}

static int store(struct fs *f, struct l2_job *job)
{
	char file[FS_NAME_MAX + 1];
	uint32_t id = 0, crc = 0;
	int rc = enter(f, job, &id, file);

	if (rc)
		return rc;
	if (!fs_make_room(f, f->capacity ? f->capacity : UINT64_MAX, job->bytes)) {
		lk_lock(&f->lk);
		fs_entry_drop(&f->index, id);
		lk_unlock(&f->lk);
		return -ENOSPC;
	}
	rc = fs_file_write(f, file, job, &crc);
	written(f, job, id, rc, crc);
	if (rc) {
		failed(f, rc);
		return rc == -ENOSPC || rc == -EDQUOT ? -ENOSPC : -EIO;
	}
	succeeded(f);
	if (f->watermark > 0) {
		lk_lock(&f->lk);
		uint64_t used = f->used;
		lk_unlock(&f->lk);
		if ((double)used >= f->watermark * (double)f->capacity)
			fs_make_room(f, (uint64_t)((1 - f->ratio) * (double)used), 0);
	}
	return 0;
}

/* ---- loading -------------------------------------------------------------------------------------------------------------------- */

/* What we know of a file before it is read. */
struct known {
	char file[FS_NAME_MAX + 1];
	uint64_t number;
	uint32_t id, crc;
	bool crc_known;
};

static int look_up(struct fs *f, const struct l2_job *job, struct known *k)
{
	lk_lock(&f->lk);
	uint32_t id = entry_of(f, &job->key);
	bool ours = serves(f, id, &job->key);
	if (ours) {
		const struct fs_entry *e = fs_entry_at(&f->index, id);
		fs_file_name(fs_stem_at(&f->stems, e->stem), &e->hash, k->file);
		k->number = e->number;
		k->id = id;
		k->crc = e->crc;
		k->crc_known = e->crc_known && !f->shared; /* others may have replaced it */
	}
	lk_unlock(&f->lk);
	return ours ? 0 : -ENOENT;
}

/* The bytes are those that were written, as far as anybody knows. */
static int judge(const struct l2_job *job, const struct known *k, const struct fs_mark *mark)
{
	uint32_t crc = crc32c_join(job->sums, job->bytes);
	bool marked = mark->bytes != 0;

	if (marked && memcmp(mark->digest, job->digest, SEG_DIGEST) != 0)
		return -ENOENT;
	if (k->crc_known ? crc != k->crc : marked && crc != mark->crc)
		return -EILSEQ;
	return 0;
}

static void used_again(struct fs *f, const struct l2_job *job, const struct known *k, const struct fs_mark *mark,
		       int rc)
{
	lk_lock(&f->lk);
	struct fs_entry *e = fs_entry_at(&f->index, k->id);
	if (e->number == k->number && e->state == FS_READY) {
		if (rc == -ENOENT) {
			e->name = FS_OTHER_LAYOUT;
		} else {
			fs_entry_newest(&f->index, k->id);
			if (mark->bytes) {
				e->name = job->key.name;
				e->crc = mark->crc;
				e->crc_known = true;
			}
		}
	}
	lk_unlock(&f->lk);
}

static int load(struct fs *f, struct l2_job *job)
{
	struct known k = {.number = 0};
	struct fs_mark mark = {.bytes = 0};
	int rc = look_up(f, job, &k);

	if (rc)
		return rc;
	rc = fs_file_read(f, k.file, job, &mark);
	if (rc == 0) {
		rc = judge(job, &k, &mark);
		if (rc != -EILSEQ) {
			used_again(f, job, &k, &mark, rc);
			return rc;
		}
	}
	/* vanished, of another length, or changed: whatever it is now is not the object */
	if (rc == -ENOENT || rc == -EMSGSIZE || rc == -EILSEQ)
		forget(f, k.id, k.number);
	else
		rc = -EIO;
	return rc;
}

/* ---- the rest -------------------------------------------------------------------------------------------------------------------- */

static int remove_one(struct fs *f, const struct l2_job *job)
{
	struct victim v;
	bool ready;

	lk_lock(&f->lk);
	uint32_t id = entry_of(f, &job->key);
	struct fs_entry *e = id ? fs_entry_at(&f->index, id) : NULL;
	bool going = !e || e->state == FS_GOING;
	ready = !going && e->state == FS_READY;
	if (ready)
		take_out(f, id, &v);
	else if (!going)
		e->removed = true;
	f->n.removed += !going;
	lk_unlock(&f->lk);
	if (ready)
		unlink_victim(f, &v);
	return going ? -ENOENT : 0;
}

static int clear(struct fs *f)
{
	struct victim v;
	uint32_t id;

	lk_lock(&f->lk);
	for (id = 1; id <= f->index.used; id++)
		fs_entry_at(&f->index, id)->removed |= fs_entry_at(&f->index, id)->state == FS_WRITING;
	lk_unlock(&f->lk);
	do {
		lk_lock(&f->lk);
		id = f->index.oldest;
		if (id)
			take_out(f, id, &v);
		f->n.removed += id != 0;
		lk_unlock(&f->lk);
		if (id)
			unlink_victim(f, &v);
	} while (id);
	return 0;
}

static int sync_one(struct fs *f, const struct fs_dirty *d)
{
	char file[FS_NAME_MAX + 1];

	lk_lock(&f->lk);
	const struct fs_entry *e = fs_entry_at(&f->index, d->id);
	bool there = e->number == d->number && e->state == FS_READY;
	if (there)
		fs_file_name(fs_stem_at(&f->stems, e->stem), &e->hash, file);
	lk_unlock(&f->lk);
	return there ? fs_file_sync(f, file) : 0;
}

static int flush(struct fs *f)
{
	lk_lock(&f->lk);
	struct fs_dirty *list = f->dirty;
	uint32_t n = f->ndirty;
	bool all = f->sync_all, bad = false;
	f->dirty = NULL;
	f->ndirty = f->dirty_room = 0;
	f->sync_all = false;
	lk_unlock(&f->lk);
	if (f->sync == FS_SYNC_FLUSH) {
		for (uint32_t i = 0; i < n; i++)
			bad |= sync_one(f, &list[i]) != 0;
		bad |= all && syncfs(f->base);
		bad |= (n || all) && fs_dir_sync(f);
	}
	mem_free(list);
	return bad ? -EIO : 0;
}

/* ---- finding -------------------------------------------------------------------------------------------------------------------- */

void fs_find(struct fs *f, const struct seg_key *keys, uint32_t n, uint64_t *bytes)
{
	lk_lock(&f->lk);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = entry_of(f, &keys[i]);
		bytes[i] = serves(f, id, &keys[i]) ? fs_entry_at(&f->index, id)->bytes : 0;
	}
	lk_unlock(&f->lk);
}

/* A file that somebody else wrote since the scan. */
static uint64_t look_outside(struct fs *f, const struct seg_key *key, bool old)
{
	char file[FS_NAME_MAX + 1];
	struct stat st;
	uint64_t bytes = 0;

	lk_lock(&f->lk);
	uint32_t stem = fs_stem_of_name(&f->stems, f->names, key->name, old);
	if (stem)
		fs_file_name(fs_stem_at(&f->stems, stem), &key->hash, file);
	lk_unlock(&f->lk);
	if (!stem || !f->persist || fstatat(f->base, file, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode) ||
	    st.st_size <= 0)
		return 0;
	lk_lock(&f->lk);
	if (!entry_of(f, key)) {
		uint32_t id = fs_entry_add(&f->index, stem, &key->hash);
		if (id) {
			struct fs_entry *e = fs_entry_at(&f->index, id);
			e->state = FS_READY;
			e->bytes = bytes = (uint64_t)st.st_size;
			f->used += bytes;
			f->n.objects++;
			fs_entry_newest(&f->index, id);
		}
	}
	lk_unlock(&f->lk);
	return bytes;
}

static int find_job(struct fs *f, struct l2_job *job)
{
	fs_find(f, job->keys, job->n, job->found);
	for (uint32_t i = 0; i < job->n; i++) {
		if (!job->found[i])
			job->found[i] = look_outside(f, &job->keys[i], false);
		if (!job->found[i])
			job->found[i] = look_outside(f, &job->keys[i], true);
	}
	return 0;
}

static void count(struct fs *f, const struct l2_job *job, int rc)
{
	lk_lock(&f->lk);
	if (job->kind == L2_WORK_LOAD) {
		f->n.loads += rc == 0;
		f->n.load_bytes += rc == 0 ? job->bytes : 0;
		f->n.load_misses += rc == -ENOENT;
		f->n.bad_checksums += rc == -EILSEQ;
		f->n.load_errors += rc == -EIO || rc == -EMSGSIZE;
	} else {
		f->n.stores += rc == 0;
		f->n.store_bytes += rc == 0 ? job->bytes : 0;
		f->n.present += rc == -EEXIST;
		f->n.dropped += rc == -ENOSPC || rc == -EBUSY || rc == -EINVAL;
		f->n.store_errors += rc == -EIO;
	}
	lk_unlock(&f->lk);
}

int fs_run(void *ctx, struct l2_job *job)
{
	struct fs *f = ctx;
	int rc;

	switch (job->kind) {
	case L2_WORK_FIND:
		return find_job(f, job);
	case L2_WORK_REMOVE:
		return remove_one(f, job);
	case L2_WORK_CLEAR:
		return clear(f);
	case L2_WORK_FLUSH:
		return flush(f);
	default:
		memcpy(job->digest, seg_name_digest(f->names, job->key.name), SEG_DIGEST);
		rc = job->kind == L2_WORK_LOAD ? load(f, job) : store(f, job);
		count(f, job, rc);
		return rc;
	}
}
