/* names_int.h - namespaces and salts, interned.
 *
 * A namespace is (model, kv_rank, object group, salt); objects carry its number. It lives while somebody holds a
 * reference or it has objects. A salt lives while a namespace uses it or it has a quota; it carries what IsolatedLRU
 * needs: bytes, limit, its own eviction list, and its place in the order of salts (see eviction.c).
 * The texts come from clients: their length is bounded and the hash is keyed.
 * Threads: under the store's lock.
 */
#ifndef DAEMON_STORE_NAMES_INT_H
#define DAEMON_STORE_NAMES_INT_H

#include "daemon/store/store.h"

#define NAMES_MAX_NS    65536u
#define NAMES_MAX_SALTS 131072u /* every namespace its own, and as many again with a quota only */
#define NAMES_MAX_QUOTA 4096u   /* walked when room is short */
#define NAMES_MAX_MODEL 4096u   /* bytes */
#define NAMES_MAX_SALT  512u    /* bytes: the protocol's 128 characters, each of up to four */

struct lru {
	uint32_t oldest, youngest;
	uint32_t n;
	uint64_t units;
};

struct ns {
	char *model; /* NULL: not in use */
	uint32_t model_len;
	uint32_t kv_rank, object_group;
	uint32_t salt;
	uint32_t refs, objects;
	uint32_t chain;
	uint8_t layout[STORE_LAYOUT_BYTES];
};

struct salt {
	uint32_t refs; /* namespaces, and one for a quota; 0: not in use */
	uint32_t chain;
	uint64_t used_bytes, limit_bytes; /* UINT64_MAX: no quota */
	struct lru lru;
	uint64_t heap_key;
	uint32_t heap_at; /* position + 1 in the order of salts; 0 = not in it */
	uint16_t len;
	char *text;
};

struct names {
	struct ns *ns;     /* by number, 0 is not used */
	struct salt *salt; /* likewise */
	uint32_t *ns_bucket, *salt_bucket;
	uint32_t ns_hi, ns_unused, salt_hi, salt_unused;
	uint32_t *quota; /* salts that have one */
	uint32_t nquota;
	uint64_t seed[2];
};

int names_create(struct names *t);
void names_destroy(struct names *t);

/* With `make` false only finds. 0: not there, the table full, a text too long, or no memory. Takes no reference. */
uint32_t names_ns(struct names *t, struct slice model, uint32_t kv_rank, uint32_t object_group, struct slice salt,
		  const uint8_t *layout, bool make);
/* The next one of that name after number `after`, whatever its layout; 0: no more. */
uint32_t names_next(const struct names *t, struct slice model, uint32_t kv_rank, uint32_t object_group,
		    struct slice salt, uint32_t after);
/* Frees the namespace, and its salt with it, when nothing holds it any more. */
void names_ns_release(struct names *t, uint32_t ns_id);

/* 0 or -EINVAL, -ENOSPC; *salt_id is 0 when a salt nobody uses lost its quota. */
int names_quota_set(struct names *t, struct slice salt, uint64_t bytes, uint32_t *salt_id);

void names_check(const struct names *t);

#endif
