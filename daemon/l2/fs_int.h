/* fs_int.h - what the files of the fs adapter share.
 *
 *   fs_name.c    file names: building, parsing, the table of stems      fs_index.c  what files there are, by use
 *   fs_scan.c    what is found at start; temporary files of a crash     fs_file.c   one file: reading, writing, its mark
 *   fs_work.c    what the threads do                               fs.c         the adapter
 *
 * The directory is somebody else's, too: names that are not of our form are left alone, and a file may vanish or change at any time.
 */
#ifndef DAEMON_L2_FS_INT_H
#define DAEMON_L2_FS_INT_H

#include "daemon/base/lock.h"
#include "daemon/l2/l2_int.h"
#include "daemon/l2/pool.h"

/* ---- names: <model, / as -SEP->@0x<kv_rank>[@<object group>]@<hash>[@<salt>].data --------------------------------------- */

#define FS_NAME_MAX  255u /* bytes of a file name */
#define FS_STEMS_MAX 65535u
#define FS_TMP_HEAD  ".lmca-"
#define FS_TMP_TAIL  ".tmp"

/* All of a name but the hash. `old`: without object group. */
struct fs_stem {
	char *text; /* prefix, NUL, salt, NUL */
	uint32_t prefix_bytes, chain;
	uint32_t name; /* of the names table, the last one that asked; 0: none yet */
};

struct fs_stems {
	uint32_t n, buckets[4096];
	uint64_t seed;
	struct fs_stem *slab[(FS_STEMS_MAX + 256u) / 256u];
	uint32_t *of_name[2]; /* [new, old form], by number of the names table; UINT32_MAX: cannot be a file name */
};

struct fs_parsed {
	uint32_t prefix_bytes; /* of the file name, up to the '@' before the hash */
	const char *salt;      /* "" */
	uint32_t salt_bytes;
	struct store_hash hash;
};

/* A hash of eight bytes is one whose other bytes are zero. */
static inline bool fs_short_hash(const struct store_hash *h)
{
	for (uint32_t i = 8; i < STORE_HASH_BYTES; i++)
		if (h->b[i])
			return false;
	return true;
}

bool fs_parse(const char *file, struct fs_parsed *out);
void fs_stems_free(struct fs_stems *t);
/* Its number from 1; 0: table full, no memory. */
uint32_t fs_stem_intern(struct fs_stems *t, const char *prefix, uint32_t prefix_bytes, const char *salt,
			uint32_t salt_bytes);
const struct fs_stem *fs_stem_at(const struct fs_stems *t, uint32_t id);
/* Of a number of the names table; 0: cannot be a file name. `old`: without object group, 0 unless that is 0. */
uint32_t fs_stem_of_name(struct fs_stems *t, const struct seg_names *names, uint32_t name, bool old);
void fs_file_name(const struct fs_stem *s, const struct store_hash *hash, char out[FS_NAME_MAX + 1]);

/* ---- index ------------------------------------------------------------------------------------------------------------------ */

#define FS_OTHER_LAYOUT UINT32_MAX

enum fs_state { FS_FREE, FS_WRITING, FS_READY, FS_GOING }; /* GOING: its file is being removed */

struct fs_entry {
	struct store_hash hash;
	uint64_t bytes, number; /* number: no other entry ever has it */
	uint32_t stem;
	uint32_t name; /* 0: the file does not say; FS_OTHER_LAYOUT: it says one nobody here has asked for */
	uint32_t crc;
	uint32_t chain, older, newer;
	uint8_t state;
	bool crc_known, removed,
		untouched; /* removed: while it was being written. untouched: found at start, not used since */
};

struct fs_index {
	struct fs_entry **slab;
	uint32_t nslabs, used, free, oldest, newest;
	uint32_t *bucket, nbuckets;
	uint64_t seed, numbers, objects;
};

int fs_index_init(struct fs_index *ix, uint64_t seed);
void fs_index_free(struct fs_index *ix);
struct fs_entry *fs_entry_at(const struct fs_index *ix, uint32_t id); /* id from 1 */
uint32_t fs_entry_find(const struct fs_index *ix, uint32_t stem, const struct store_hash *hash);
/* 0: no memory. Not yet listed by use. */
uint32_t fs_entry_add(struct fs_index *ix, uint32_t stem, const struct store_hash *hash);
void fs_entry_newest(struct fs_index *ix, uint32_t id); /* to the young end; it is READY */
void fs_entry_unlist(struct fs_index *ix, uint32_t id);
void fs_entry_oldest(struct fs_index *ix, uint32_t id);
void fs_entry_drop(struct fs_index *ix, uint32_t id);

/* ---- the adapter ------------------------------------------------------------------------------------------------------------ */

enum fs_sync { FS_SYNC_NEVER, FS_SYNC_FLUSH, FS_SYNC_ALWAYS };

struct fs {
	struct l2_pooled on;
	struct l2_ops ops;
	struct lk lk; /* LK_L2: everything below, but what is constant */
	pthread_t scanner;
	/* constant */
	struct seg_names *names;
	char *base_path;
	int base, tmp; /* directories */
	bool direct, shared, noop, persist, has_scanner;
	enum fs_sync sync;
	uint64_t capacity;
	double watermark, ratio; /* 0: nothing goes before it must */
	char session[17];
	/* under lk */
	struct fs_stems stems;
	struct fs_index index;
	uint64_t used; /* bytes of files, written ones and those being written */
	uint64_t tmp_number, found;
	bool scanning, no_marks;
	struct fs_dirty {
		uint64_t number;
		uint32_t id;
	} * dirty; /* written and not yet made durable; entries may be gone meanwhile */
	uint32_t ndirty, dirty_room;
	bool sync_all; /* the list did not fit */
	/* failing: stores are dropped until then */
	uint64_t closed_until_ms, back_off_ms;
	uint32_t errors;
	int error;
	struct l2_stats n;
	_Atomic bool stopping; /* the scan shall end */
};

/* ---- one file (fs_file.c); no lock held ----------------------------------------------------------------------------------- */

#define FS_PIECE CRC_BLOCK

/* What is written beside the payload, in an extended attribute. */
#define FS_MARK "user.lmca.crc32c"
struct fs_mark {
	uint32_t crc;
	uint64_t bytes;
	uint8_t digest[SEG_DIGEST];
};
#define FS_MARK_ROOM 64u
/* Its text, also used elsewhere; returns its length. */
int fs_mark_text(const struct fs_mark *m, char out[FS_MARK_ROOM]);
/* 0, -ENODATA (not in a form we know). */
int fs_mark_parse(const char *text, uint64_t n, struct fs_mark *out);
/* 0, -ENODATA (none, or not in a form we know). */
int fs_mark_read(int fd, struct fs_mark *out);
int fs_mark_write(int fd, const struct fs_mark *m);

/* 0; -ENOENT; -EMSGSIZE (it has another length than `bytes`); -EIO and others. *mark.bytes is 0 where there is none. */
int fs_file_read(struct fs *f, const char *file, const struct l2_job *job, struct fs_mark *mark);
/* To a temporary name, then to its own. Sums are filled in unless job->have_sums. */
int fs_file_write(struct fs *f, const char *file, const struct l2_job *job, uint32_t *crc);
int fs_file_sync(struct fs *f, const char *file);
int fs_dir_sync(struct fs *f);

/* ---- start (fs_scan.c) ------------------------------------------------------------------------------------------------------ */

int fs_scan_start(struct fs *f, struct why *why);
/* Waits for it; false: it hangs, and f must never be freed. */
bool fs_scan_stop(struct fs *f, uint32_t wait_ms);

/* ---- work (fs_work.c) ------------------------------------------------------------------------------------------------------- */

int fs_run(void *ctx, struct l2_job *job);
void fs_find(struct fs *f, const struct seg_key *keys, uint32_t n, uint64_t *bytes);
/* Removes least recently used files until `room` more bytes fit, and counts those as used; false: they do not. */
bool fs_make_room(struct fs *f, uint64_t limit, uint64_t room);

#endif
