/* names.h - what objects below L1 belong to, interned: a number for (model, kv_rank, object group, cache salt, layout).
 *
 * The layout digest says what the bytes mean: everything that two engines must agree upon to share an object (dtype, shape of the
 * chunk, tokens per chunk, token hash, version of our object form). An object of another layout is another object, so bytes can
 * never be served to an engine that reads them differently.
 *
 * Threads: any; own lock (LK_NAMES). Names live as long as the table: at most NAMES_MAX, each bounded, so a client that
 * invents models costs a bounded amount of memory and is then not cached below L1.
 */
#ifndef DAEMON_SEG_NAMES_H
#define DAEMON_SEG_NAMES_H

#include "daemon/base/slice.h"

#include <stdint.h>

#define SEG_NAMES_MAX 65535u
#define SEG_MAX_MODEL 1024u /* bytes; longer ones are not cached below L1 */
#define SEG_MAX_SALT  512u
#define SEG_DIGEST    16u

struct seg_name {
	struct slice model, salt;
	uint32_t kv_rank, object_group;
	uint8_t layout[SEG_DIGEST];
};

struct seg_names;

int seg_names_create(struct seg_names **out);
void seg_names_destroy(struct seg_names *t);

/* Its number, from 1; 0: too long, table full, no memory. */
uint32_t seg_name_get(struct seg_names *t, const struct seg_name *name);
/* The same without entering it: 0 when unknown (then no tier can have objects of it, unless it is shared with others). */
uint32_t seg_name_find(struct seg_names *t, const struct seg_name *name);
/* By its digest; 0: unknown. */
uint32_t seg_name_by_digest(struct seg_names *t, const uint8_t digest[SEG_DIGEST]);
/* Numbers run from 1 to this. */
uint32_t seg_names_count(struct seg_names *t);
/* What a number means; constant for the life of the table. The digest identifies a name on a medium. */
const struct seg_name *seg_name_of(const struct seg_names *t, uint32_t id);
const uint8_t *seg_name_digest(const struct seg_names *t, uint32_t id); /* SEG_DIGEST bytes of BLAKE3 over all fields */

#endif
