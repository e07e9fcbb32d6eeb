#include "tools/tokens.h"

#include "daemon/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX    (128u << 20)
#define PIECE_BYTES 6

static bool separator(char c)
{
	return c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Takes the brackets and the white space around them off. */
static int trim(const char **text, size_t *n, struct why *why)
{
	const char *p = *text, *end = p + *n;
	while (p < end && isspace((unsigned char)*p))
		p++;
	while (end > p && isspace((unsigned char)end[-1]))
		end--;
	bool open = p<end && * p == '[', close = end> p && end[-1] == ']';
	if (open != close || (open && end - p < 2))
		return why_set(why, -EINVAL, "token ids: a bracket without its partner");
	*text = p + open;
	*n = (size_t)(end - p) - (open ? 2 : 0);
	return 0;
}

static int parse_number(const char *text, size_t n, size_t *at, uint32_t *out, struct why *why)
{
	size_t first = *at;
	uint64_t v = 0;
	for (; *at < n && isdigit((unsigned char)text[*at]); ++*at) {
		v = v * 10 + (uint64_t)(text[*at] - '0');
		if (v > UINT32_MAX)
			return why_set(why, -ERANGE, "token id at byte %zu is above %u", first, UINT32_MAX);
	}
	if (*at == first)
		return why_set(why, -EINVAL, "token ids: a number expected at byte %zu", first);
	*out = (uint32_t)v;
	return 0;
}

/* Two numbers are never more than one comma apart. */
static int skip_separators(const char *text, size_t n, size_t *at, struct why *why)
{
	int commas = 0;
	for (; *at < n && separator(text[*at]); ++*at)
		commas += text[*at] == ',';
	return commas > 1 ? why_set(why, -EINVAL, "token ids: an empty place before byte %zu", *at) : 0;
}

static int parse_all(const char *text, size_t n, uint32_t *ids, uint32_t *count, struct why *why)
{
	size_t at = 0;
	uint32_t used = 0;
	int rc = 0;
	while (at < n && isspace((unsigned char)text[at])) /* behind a bracket */
		at++;
	if (at == n)
		return why_set(why, -EINVAL, "no token ids");
	while (at < n && !rc) {
		rc = parse_number(text, n, &at, &ids[used++], why);
		if (!rc && at < n && !separator(text[at]))
			rc = why_set(why, -EINVAL, "token ids: unexpected byte 0x%02x at %zu", (unsigned char)text[at],
				     at);
		size_t before = at;
		if (!rc)
			rc = skip_separators(text, n, &at, why);
		if (!rc && at == n && memchr(text + before, ',', at - before))
			rc = why_set(why, -EINVAL, "token ids: a comma at the end");
	}
	*count = used;
	return rc;
}

int tokens_parse(const char *text, size_t n, uint32_t **ids, uint32_t *count, struct why *why)
{
	int rc = trim(&text, &n, why);
	if (rc)
		return rc;
	if (n == 0)
		return why_set(why, -EINVAL, "no token ids");
	size_t bound = n / 2 + 1; /* a digit and a separator each */
	if (bound > TOKENS_MAX * 6ull)
		return why_set(why, -E2BIG, "more than %u token ids", TOKENS_MAX);
	uint32_t *v = mem_calloc(bound, sizeof(*v)), used = 0;
	if (!v)
		return why_set(why, -ENOMEM, "no memory for %zu token ids", bound);
	rc = parse_all(text, n, v, &used, why);
	if (!rc && used > TOKENS_MAX)
		rc = why_set(why, -E2BIG, "more than %u token ids", TOKENS_MAX);
	if (rc) {
		mem_free(v);
		return rc;
	}
	*ids = v;
	*count = used;
	return 0;
}

/* ---- files --------------------------------------------------------------------------------------------------- */

static int read_open_file(FILE *f, const char *path, size_t max, char **text, size_t *n, struct why *why)
{
	struct stat st;
	if (fstat(fileno(f), &st) != 0)
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return why_set(why, -EINVAL, "%s: not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return why_set(why, -E2BIG, "%s: more than %zu bytes", path, max);
	char *buf = mem_calloc(1, (size_t)st.st_size + 1);
	if (!buf)
		return why_set(why, -ENOMEM, "no memory for %s", path);
	*n = fread(buf, 1, (size_t)st.st_size, f);
	if (ferror(f)) {
		mem_free(buf);
		return why_set(why, -EIO, "%s: cannot be read", path);
	}
	*text = buf;
	return 0;
}

int tokens_read_file(const char *path, size_t max, char **text, size_t *n, struct why *why)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	int rc = read_open_file(f, path, max, text, n, why);
	fclose(f);
	return rc;
}

static bool is_text(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isdigit((unsigned char)p[i]) && !separator(p[i]) && p[i] != '[' && p[i] != ']')
			return false;
	return true;
}

static int from_binary(const char *path, const char *p, size_t n, uint32_t **ids, uint32_t *count, struct why *why)
{
	if (n % 4)
		return why_set(why, -EINVAL, "%s: neither numbers in text nor a whole count of u32 (%zu bytes)", path,
			       n);
	if (n / 4 > TOKENS_MAX)
		return why_set(why, -E2BIG, "%s: more than %u token ids", path, TOKENS_MAX);
	uint32_t *v = mem_calloc(n / 4, sizeof(*v));
	if (!v)
		return why_set(why, -ENOMEM, "no memory for %zu token ids", n / 4);
	for (size_t i = 0; i < n / 4; i++) {
		const unsigned char *b = (const unsigned char *)p + i * 4;
		v[i] = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
	}
	*ids = v;
	*count = (uint32_t)(n / 4);
	return 0;
}

int tokens_load(const char *path, uint32_t **ids, uint32_t *count, struct why *why)
{
	char *text = NULL;
	size_t n = 0;
	int rc = tokens_read_file(path, FILE_MAX, &text, &n, why);
	if (rc)
		return rc;
	if (is_text(text, n)) {
		rc = tokens_parse(text, n, ids, count, why);
		if (rc)
			why_prefix(why, "%s", path);
	} else {
		rc = from_binary(path, text, n, ids, count, why);
	}
	mem_free(text);
	return rc;
}

/* ---- documents ----------------------------------------------------------------------------------------------- */

/* A piece is one leading blank and letters, or digits, or a single other byte. */
static size_t piece_length(const char *p, size_t n)
{
	size_t i = n > 1 && *p == ' ' && isalpha((unsigned char)p[1]) ? 1 : 0;
	if (!isalnum((unsigned char)p[i]))
		return 1;
	bool digits = isdigit((unsigned char)p[i]);
	while (i < n && i < PIECE_BYTES && (digits ? isdigit((unsigned char)p[i]) : isalpha((unsigned char)p[i])))
		i++;
	return i;
}

/* FNV-1a, then a finaliser so that short pieces spread over the whole vocabulary. */
static uint32_t piece_id(const char *p, size_t n, uint32_t vocabulary)
{
	uint64_t h = 0xCBF29CE484222325u;
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)p[i]) * 0x100000001B3u;
	h ^= h >> 33;
	h *= 0xFF51AFD7ED558CCDu;
	h ^= h >> 33;
	return (uint32_t)(h % vocabulary);
}

int tokens_of_document(const char *text, size_t n, uint32_t vocabulary, uint32_t **ids, uint32_t *count,
		       struct why *why)
{
	if (n == 0 || n > FILE_MAX || vocabulary == 0)
		return why_set(why, -EINVAL, "a document of %zu bytes: expected 1 to %u", n, FILE_MAX);
	uint32_t *v = mem_calloc(n, sizeof(*v)), used = 0;
	if (!v)
		return why_set(why, -ENOMEM, "no memory for a document of %zu bytes", n);
	for (size_t at = 0, len; at < n; at += len) {
		len = piece_length(text + at, n - at);
		v[used++] = piece_id(text + at, len, vocabulary);
	}
	*ids = v;
	*count = used;
	return 0;
}
