/* l2.h - adapters: the kinds of second tier, behind one interface.
 *
 * An adapter is made from one --l2-adapter JSON object (upstream's types and keys, surface reference 6.5 to 6.8). Types: raw_block (segment
 * stores on one or several devices, one thread and one ring each), fs and fs_native (one file per object, upstream's names), mock,
 * fault_inject (wraps another), resp (Valkey, Redis). What upstream knows and we do not serve is refused by name.
 *
 * Objects move between the adapter and memory of the arena that the caller owns and keeps until `done`. Nothing here blocks the
 * caller; `done` runs on a thread of the adapter, once per io, in any order, and must be quick and not call the adapter's close. A load
 * that is done with 0 was checked: its bytes are the ones that were stored, or (fs, resp: no checksum of ours on the medium unless
 * written by us) have at least the right length.
 *
 * Threads: everything may be called from any thread between create and close, concurrently.
 */
#ifndef DAEMON_L2_L2_H
#define DAEMON_L2_L2_H

#include "daemon/base/crc32c.h"
#include "daemon/seg/names.h"
#include "daemon/seg/seg.h"
#include "daemon/store/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct l2;

/* ---- moving objects -------------------------------------------------------------------------------------------------- */

struct l2_io {
	struct seg_key key;
	void *mem;
	uint64_t bytes; /* STORE: of the object; LOAD: what it must have */
	uint32_t *
		sums; /* crc_blocks(bytes): LOAD fills it in; STORE: taken when sums[0] is not 0, else computed and filled in */
	int result; /* 0; -ENOENT, -EILSEQ, -EMSGSIZE, -EEXIST (there already: as good as stored), -ENOSPC (dropped),
			  * -EBUSY (queue full, breaker open: dropped), -EIO, -ECANCELED (closing) */
	void (*done)(struct l2_io *io);
	void *owner;
	uint64_t tag;
	uint64_t submitted_ns;
	struct l2_io *next; /* the owner's before and after, the adapter's between */
	union {
		struct seg_op op; /* raw_block */
		void *priv[8];
	};
};

/* Presence of keys. bytes[i]: 0 absent, size, or L2_SOME_SIZE where it is not known before loading. */
#define L2_SOME_SIZE UINT64_MAX
struct l2_find {
	const struct seg_key *keys;
	uint64_t *bytes;
	uint32_t n;
	void (*done)(struct l2_find *f); /* adapters that are `local` call it before l2_find returns */
	void *owner;
	struct l2_find *next;
};

struct l2_list_entry {
	struct seg_key key;
	uint64_t bytes;
};

struct l2_stats {
	uint64_t objects, used_bytes, capacity_bytes; /* capacity 0: unbounded */
	uint64_t loads, load_bytes, load_errors, load_misses, bad_checksums;
	uint64_t stores, store_bytes, store_errors, dropped, present;
	uint64_t removed, evicted_objects, evicted_bytes;
	uint64_t in_flight_loads, in_flight_stores, queued;
	bool healthy;
	char state[96]; /* "ok"; "1 of 2 devices open: I/O errors"; "recovering, 34 of 120 segments" */
};

struct l2_ops {
	const char *type; /* "raw_block" */
	bool local;       /* find answers at once, from memory */
	void (*find)(struct l2 *a, struct l2_find *f);
	void (*load)(struct l2 *a, struct l2_io *io);
	void (*store)(struct l2 *a, struct l2_io *io);
	void (*remove)(struct l2 *a, struct l2_io *io); /* key only */
	void (*clear)(struct l2 *a, struct l2_io *io);
	/* done when every store that was done before is durable (or has failed since: -EIO) */
	void (*flush)(struct l2 *a, struct l2_io *io);
	/* As seg_list. NULL: this type cannot list. */
	uint32_t (*list)(struct l2 *a, uint64_t *cursor, struct l2_list_entry *out, uint32_t max);
	void (*stats)(struct l2 *a, struct l2_stats *out);
	/* Devices, breaker, engine ... for /status: new reference or NULL. */
	json_t *(*describe)(struct l2 *a);
	/* Pending io ends within wait_ms (-ECANCELED at the latest; buffers a device still owns are leaked, not reused). */
	void (*close)(struct l2 *a, uint32_t wait_ms);
};

struct l2 {
	const struct l2_ops *ops;
};

/* ---- making them ------------------------------------------------------------------------------------------------------ */

/* What the server lends to adapters. */
struct l2_env {
	struct seg_names *names;
	const struct disk_buffer *
		buffers; /* the arena, to be registered as it grows; the list is copied, what it points to stays until close */
	uint32_t nbuffers;
	uint32_t chunk_tokens;
	/* Called by a thread of an adapter for itself, first and last: names it and keeps it near `node`. Each may be NULL. */
	void *ctx;
	int (*enter)(void *ctx, node_id node, const char *name);
	void (*leave)(void *ctx);
};

struct l2_conf; /* one parsed --l2-adapter */

/* Parses and checks one --l2-adapter value; `index` is for the messages ("Invalid JSON for --l2-adapter #0: ..."). Touches no device.
 * Unknown types, unknown keys, values out of range, and keys whose feature is not here are refused with the reason. */
int l2_conf_parse(const char *json, uint32_t index, struct l2_conf **out, struct why *why);
void l2_conf_free(struct l2_conf *c);
/* For GET /conf and the plugin blob: as given, with secrets redacted. New reference. */
json_t *l2_conf_json(const struct l2_conf *c);
const char *l2_conf_type(const struct l2_conf *c);

/* Writes docs/l2-adapters.md from the tables of types and keys. */
void l2_conf_write_docs(FILE *out);

/* Starts it: devices opened, threads running; recovery may still go on. */
int l2_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);

#endif
