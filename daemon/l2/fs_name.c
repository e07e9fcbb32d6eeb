/* fs_name.c - names of files. */
#include "daemon/l2/fs_int.h"

#include "daemon/base/mem.h"

#include <stdio.h>
#include <string.h>

#define SLAB     256u
#define LONG     (2u * STORE_HASH_BYTES) /* digits */
#define SHORT    16u
#define TAIL     ".data"
#define NOT_ONE  UINT32_MAX
#define NAME_ROW (SEG_NAMES_MAX + 1u)

/* ---- parsing ------------------------------------------------------------------------------------------------------------ */

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint32_t digits(const char *p)
{
	uint32_t n = 0;

	while (digit(p[n]) >= 0)
		n++;
	return n;
}

/* "@0x" and eight digits and "@": where the text behind it begins; NULL: nowhere. */
static const char *after_rank(const char *file)
{
	for (const char *p = file; (p = strstr(p, "@0x")); p++)
		if (digits(p + 3) == 8 && p[11] == '@')
			return p + 12;
	return NULL;
}

bool fs_parse(const char *file, struct fs_parsed *out)
{
	size_t n = strnlen(file, FS_NAME_MAX + 1), tail = sizeof(TAIL) - 1;
	const char *end = file + n - tail, *p = n > tail && n <= FS_NAME_MAX ? after_rank(file) : NULL;

	if (!p || strcmp(end, TAIL) != 0)
		return false;
	uint32_t d = digits(p);
	if (d >= 1 && d <= 8 && p[d] == '@') { /* the object group, which older forms lack */
		p += d + 1;
		d = digits(p);
	}
	if ((d != LONG && d != SHORT) || p + d > end || (p + d != end && p[d] != '@'))
		return false;
	out->prefix_bytes = (uint32_t)(p - file);
	memset(&out->hash, 0, sizeof(out->hash));
	for (uint32_t i = 0; i < d; i += 2)
		out->hash.b[i / 2] = (uint8_t)((unsigned)digit(p[i]) << 4 | (unsigned)digit(p[i + 1]));
	p += d;
	out->salt = p < end ? p + 1 : end;
	out->salt_bytes = (uint32_t)(end - out->salt);
	/* "@" and an empty salt, or a long hash that we would write as a short one, would not get the same name again */
	return (p == end || out->salt_bytes > 0) && (d == SHORT) == fs_short_hash(&out->hash);
}

void fs_file_name(const struct fs_stem *s, const struct store_hash *hash, char out[FS_NAME_MAX + 1])
{
	static const char hex[] = "0123456789abcdef";
	uint32_t bytes = fs_short_hash(hash) ? SHORT / 2 : STORE_HASH_BYTES;
	const char *salt = s->text + s->prefix_bytes + 1;
	char text[LONG + 1];

	for (uint32_t i = 0; i < bytes; i++) {
		text[2 * i] = hex[hash->b[i] >> 4];
		text[2 * i + 1] = hex[hash->b[i] & 15];
	}
	text[2 * bytes] = 0;
	/* the stem was refused when this does not fit */
	snprintf(out, FS_NAME_MAX + 1, "%s%s%s%s" TAIL, s->text, text, *salt ? "@" : "", salt);
}

/* ---- stems --------------------------------------------------------------------------------------------------------------- */

void fs_stems_free(struct fs_stems *t)
{
	for (uint32_t id = 1; id <= t->n; id++)
		mem_free(t->slab[id / SLAB][id % SLAB].text);
	for (uint32_t i = 0; i < sizeof(t->slab) / sizeof(t->slab[0]); i++)
		mem_free(t->slab[i]);
	mem_free(t->of_name[0]);
	mem_free(t->of_name[1]);
}

const struct fs_stem *fs_stem_at(const struct fs_stems *t, uint32_t id)
{
	return &t->slab[id / SLAB][id % SLAB];
}

static uint64_t mix(uint64_t h, const char *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)p[i]) * 0x100000001b3u;
	return (h ^ n) * 0x9e3779b97f4a7c15u;
}

uint32_t fs_stem_intern(struct fs_stems *t, const char *prefix, uint32_t prefix_bytes, const char *salt,
			uint32_t salt_bytes)
{
	uint64_t h = mix(mix(t->seed, prefix, prefix_bytes), salt, salt_bytes);
	uint32_t *head = &t->buckets[(h >> 32) % (sizeof(t->buckets) / sizeof(t->buckets[0]))];

	for (uint32_t id = *head; id; id = fs_stem_at(t, id)->chain) {
		const struct fs_stem *s = fs_stem_at(t, id);
		const char *its_salt = s->text + s->prefix_bytes + 1;
		if (s->prefix_bytes == prefix_bytes && memcmp(s->text, prefix, prefix_bytes) == 0 &&
		    strlen(its_salt) == salt_bytes && memcmp(its_salt, salt, salt_bytes) == 0)
			return id;
	}
	if (t->n == FS_STEMS_MAX)
		return 0;
	uint32_t id = t->n + 1;
	struct fs_stem **slab = &t->slab[id / SLAB];
	char *text = mem_calloc(1, (size_t)prefix_bytes + salt_bytes + 2);
	if (!*slab)
		*slab = mem_calloc(SLAB, sizeof(**slab));
	if (!text || !*slab) {
		mem_free(text);
		return 0;
	}
	memcpy(text, prefix, prefix_bytes);
	memcpy(text + prefix_bytes + 1, salt, salt_bytes);
	(*slab)[id % SLAB] = (struct fs_stem){.text = text, .prefix_bytes = prefix_bytes, .chain = *head};
	*head = id;
	t->n = id;
	return id;
}

static bool put(char *out, uint32_t *at, const char *p, size_t n)
{
	if (n > FS_NAME_MAX - *at)
		return false;
	memcpy(out + *at, p, n);
	*at += (uint32_t)n;
	return true;
}

static bool put_model(char *out, uint32_t *at, struct slice model)
{
	const char *p = model.p;

	for (size_t i = 0; i < model.n; i++)
		if (!p[i] || !(p[i] == '/' ? put(out, at, "-SEP-", 5) : put(out, at, &p[i], 1)))
			return false;
	return true;
}

/* The stem of a name, when a file of that name is found again as the same one: a model may contain what looks like a rank. */
static uint32_t stem_of(struct fs_stems *t, const struct seg_name *n, bool old)
{
	struct fs_stem stem = {0};
	struct fs_parsed back;
	struct store_hash hash;
	char text[2 * FS_NAME_MAX + 2] = {0}, rank[32], file[FS_NAME_MAX + 1];
	uint32_t at = 0;
	int k = old ? snprintf(rank, sizeof(rank), "@0x%08x@", n->kv_rank)
		    : snprintf(rank, sizeof(rank), "@0x%08x@%x@", n->kv_rank, n->object_group);

	if (!put_model(text, &at, n->model) || !put(text, &at, rank, (size_t)k))
		return 0;
	if (at + LONG + 1 + n->salt.n + sizeof(TAIL) - 1 > FS_NAME_MAX)
		return 0;
	if (n->salt.n && (memchr(n->salt.p, '/', n->salt.n) || memchr(n->salt.p, 0, n->salt.n)))
		return 0;
	if (n->salt.n)
		memcpy(text + at + 1, n->salt.p, n->salt.n);
	stem.text = text;
	stem.prefix_bytes = at;
	memset(&hash, 0x5a, sizeof(hash));
	fs_file_name(&stem, &hash, file);
	if (!fs_parse(file, &back) || back.prefix_bytes != at || back.salt_bytes != n->salt.n ||
	    memcmp(&back.hash, &hash, sizeof(hash)) != 0)
		return 0;
	return fs_stem_intern(t, text, at, text + at + 1, (uint32_t)n->salt.n);
}

uint32_t fs_stem_of_name(struct fs_stems *t, const struct seg_names *names, uint32_t name, bool old)
{
	const struct seg_name *n = seg_name_of(names, name);
	uint32_t **row = &t->of_name[old];

	if (!n || name > SEG_NAMES_MAX || (old && n->object_group != 0))
		return 0;
	if (!*row)
		*row = mem_calloc(NAME_ROW, sizeof(**row));
	if (!*row)
		return 0;
	if ((*row)[name] == 0) {
		uint32_t id = stem_of(t, n, old);
		(*row)[name] = id ? id : NOT_ONE;
		if (id)
			t->slab[id / SLAB][id % SLAB].name = name;
	}
	return (*row)[name] == NOT_ONE ? 0 : (*row)[name];
}
