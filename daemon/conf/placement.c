/* placement.c - the options about nodes and pages that are little languages of their own, and the rules between them. */
#include "daemon/conf/conf_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define MAX_NODE  1023u /* the most a kernel can be built for */
#define MAP_SLACK (2ull << 20)

enum { PAGE_1G, PAGE_2M, PAGE_THP, PAGE_4K, PAGE_KINDS };
static const char *const page_names[PAGE_KINDS] = {"1g", "2m", "thp", "4k"};

static int page_kind(const char *text, size_t len)
{
	for (int k = 0; k < PAGE_KINDS; k++) {
		if (strlen(page_names[k]) == len && strncasecmp(text, page_names[k], len) == 0)
			return k;
	}
	return -1;
}

int conf_pages_parse(const char *text, struct conf_pages *out, struct why *why)
{
	enum conf_want want[PAGE_KINDS] = {0};
	int last = -1;

	if (strcasecmp(text, "auto") == 0)
		text = "1g,2m,thp,4k";
	for (const char *at = text;; at++) {
		size_t len = strcspn(at, ",");
		int kind = page_kind(at, len);

		if (kind < 0)
			return why_set(why, -EINVAL, "--l1-pages %.60s: '%.*s' is none of auto, 1g, 2m, thp, 4k", text,
				       (int)(len < 20 ? len : 20), at);
		if (kind <= last)
			return why_set(why, -EINVAL, "--l1-pages %.60s: name each size once, the largest first", text);
		last = kind;
		want[kind] = CONF_WANT_TRY;
		at += len;
		if (!*at)
			break;
	}
	want[last] = CONF_WANT_YES;
	*out = (struct conf_pages){want[PAGE_1G], want[PAGE_2M], want[PAGE_THP]};
	return 0;
}

/* Digits at *at; false when there are none or the number is above `max`. */
static bool number(const char **at, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;
	const char *p = *at;

	for (; *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (uint64_t)(*p - '0');
		if (v > max)
			return false;
	}
	if (p == *at)
		return false;
	*at = p;
	*out = v;
	return true;
}

/* "32G", "512M": the unit must be there, since a bare number could mean bytes or GiB. */
static bool size_with_unit(const char **at, uint64_t *out)
{
	static const char units[] = "MGT";
	const char *unit;
	uint64_t v;

	if (!number(at, 1u << 20, &v) || v == 0 || !**at)
		return false;
	unit = strchr(units, **at >= 'a' ? **at - 'a' + 'A' : **at);
	if (!unit)
		return false;
	*out = v << (20 + 10 * (unit - units));
	(*at)++;
	return true;
}

static int map_entry(const char **at, struct conf_map_node *e)
{
	uint64_t node;

	if (!number(at, MAX_NODE, &node))
		return -EINVAL;
	*e = (struct conf_map_node){.node = (uint32_t)node};
	if (**at != '=')
		return 0;
	(*at)++;
	return size_with_unit(at, &e->bytes) ? 0 : -EINVAL;
}

int conf_map_parse(const char *text, struct conf_map_node out[CONF_MAX_MAP], uint32_t *n, struct why *why)
{
	const char *at = text;

	for (*n = 0; *n < CONF_MAX_MAP;) {
		struct conf_map_node *e = &out[*n];

		if (map_entry(&at, e) || (*at && *at != ','))
			return why_set(why, -EINVAL,
				       "--numa-map %.60s: expected NODE=SIZE with M, G or T, as in 0=32G,1=32G", text);
		for (uint32_t i = 0; i < *n; i++) {
			if (out[i].node == e->node)
				return why_set(why, -EINVAL, "--numa-map %.60s: node %u is named twice", text, e->node);
		}
		if (!e->bytes != !out[0].bytes)
			return why_set(why, -EINVAL, "--numa-map %.60s: give every node a size, or none", text);
		(*n)++;
		if (!*at)
			return 0;
		at++;
	}
	return why_set(why, -EINVAL, "--numa-map %.60s: more than %u nodes", text, CONF_MAX_MAP);
}

/* A sum other than --l1-size-gb would leave open which of the two was meant. */
static int check_sum(const struct conf *c, struct why *why)
{
	uint64_t want = (uint64_t)(c->l1_size_gb * 1073741824.0), sum = 0, off;

	for (uint32_t i = 0; i < c->nmap; i++)
		sum += c->map[i].bytes;
	off = sum > want ? sum - want : want - sum;
	if (sum == 0 || off <= MAP_SLACK * c->nmap)
		return 0;
	return why_set(why, -EINVAL, "--numa-map %.60s: the nodes get %.2f GiB together, --l1-size-gb is %g",
		       c->numa_map, (double)sum / 1073741824.0, c->l1_size_gb);
}

static int fill_map(struct conf *c, struct why *why)
{
	int rc;

	if (c->numa_policy == CONF_NUMA_MANUAL && !c->numa_map)
		return why_set(why, -EINVAL, "--numa-policy manual needs --numa-map, as in --numa-map 0=32G,1=32G");
	if (c->numa_policy != CONF_NUMA_MANUAL && c->numa_map)
		return why_set(why, -EINVAL, "--numa-map %.60s: only with --numa-policy manual", c->numa_map);
	if (!c->numa_map)
		return 0;
	rc = conf_map_parse(c->numa_map, c->map, &c->nmap, why);
	return rc ? rc : check_sum(c, why);
}

static int use_hugepages(struct conf *c, struct why *why)
{
	char *two;

	if (!c->l1_use_hugepages)
		return 0;
	if (c->source[CONF_AT_l1_pages] != 'd' && strcasecmp(c->l1_pages, "2m") != 0)
		return why_set(why, -EINVAL, "--l1-use-hugepages means --l1-pages 2m, but --l1-pages is %.60s",
			       c->l1_pages);
	two = mem_strndup("2m", 2);
	if (!two)
		return why_set(why, -ENOMEM, "out of memory");
	mem_free(c->l1_pages);
	c->l1_pages = two;
	return 0;
}

int conf_placement(struct conf *c, struct why *why)
{
	int rc = use_hugepages(c, why);

	if (!rc)
		rc = conf_pages_parse(c->l1_pages, &c->pages, why);
	return rc ? rc : fill_map(c, why);
}
