/* resp_key.c - keys and commands as bytes. */
#include "daemon/l2/resp_int.h"

#include <stdio.h>
#include <string.h>

#define MARK_HEAD "lmca:mark:"

static uint32_t hash_text(const struct store_hash *h, char out[2 * STORE_HASH_BYTES + 1])
{
	static const char hex[] = "0123456789abcdef";
	uint32_t n = STORE_HASH_BYTES;

	/* one of eight bytes has the others zero */
	while (n > 8 && h->b[n - 1] == 0)
		n--;
	n = n > 8 ? STORE_HASH_BYTES : 8;
	for (uint32_t i = 0; i < n; i++) {
		out[2 * i] = hex[h->b[i] >> 4];
		out[2 * i + 1] = hex[h->b[i] & 15];
	}
	return 2 * n;
}

void resp_key(struct resp_key *k, const struct seg_names *names, const struct seg_key *key)
{
	const struct seg_name *n = seg_name_of(names, key->name);
	char *p = k->mark + sizeof(MARK_HEAD) - 1;

	memcpy(k->mark, MARK_HEAD, sizeof(MARK_HEAD) - 1);
	k->text = p;
	memcpy(p, n->model.p, n->model.n); /* bounded by the names table */
	p += n->model.n;
	p += snprintf(p, 32, "@%08x@%x@", n->kv_rank, n->object_group);
	p += hash_text(&key->hash, p);
	if (n->salt.n) {
		*p++ = '@';
		memcpy(p, n->salt.p, n->salt.n);
		p += n->salt.n;
	}
	k->bytes = (uint32_t)(p - k->text);
	k->mark_bytes = (uint32_t)(p - k->mark);
}

static uint32_t digits(const char *p, const char *end)
{
	uint32_t n = 0;

	while (p + n < end && ((p[n] >= '0' && p[n] <= '9') || (p[n] >= 'a' && p[n] <= 'f')))
		n++;
	return n;
}

/* What follows "@": eight digits, perhaps a group, a hash, perhaps a salt. */
static bool rank_and_hash(const char *p, const char *end)
{
	uint32_t n = digits(p, end);

	if (n != 8 || p + n == end || p[n] != '@')
		return false;
	p += n + 1;
	n = digits(p, end);
	if (n >= 1 && n <= 8 && p + n < end && p[n] == '@') {
		p += n + 1;
		n = digits(p, end);
	}
	return (n == 16 || n == 2 * STORE_HASH_BYTES) && (p + n == end || p[n] == '@');
}

bool resp_key_is_ours(const char *text, uint64_t n)
{
	const char *end = text + n;

	for (const char *p = text; (p = memchr(p, '@', (size_t)(end - p))); p++)
		if (rank_and_hash(p + 1, end))
			return true;
	return false;
}

bool resp_add(struct resp_text *t, const char *verb, const void *arg, uint64_t n)
{
	uint64_t need = n + strlen(verb) + 64;

	if (need > t->room - t->n)
		return false;
	t->n += (uint64_t)snprintf(t->p + t->n, t->room - t->n, "*2\r\n$%zu\r\n%s\r\n$%llu\r\n", strlen(verb), verb,
				   (unsigned long long)n);
	memcpy(t->p + t->n, arg, n);
	memcpy(t->p + t->n + n, "\r\n", 2);
	t->n += n + 2;
	return true;
}
