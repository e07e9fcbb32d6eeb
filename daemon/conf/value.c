#include "daemon/conf/conf_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_STR 4096 /* bytes of a string value: a path */

int conf_bool_parse(const char *text, bool *out)
{
	static const char *const yes[] = {"true", "yes", "on", "1"};
	static const char *const no[] = {"false", "no", "off", "0"};

	for (int i = 0; i < 4; i++) {
		if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
			*out = strcasecmp(text, yes[i]) == 0;
			return 0;
		}
	}
	return -EINVAL;
}

static void names_text(const struct conf_name *names, char *buf, size_t cap)
{
	size_t len = 0;

	for (const struct conf_name *n = names; n->text; n++) {
		bool alias = false;

		for (const struct conf_name *before = names; before < n; before++)
			alias |= before->value == n->value;
		if (!alias && n->value != CONF_NAME_ABSENT && len < cap)
			len += (size_t)snprintf(buf + len, cap - len, "%s%s", len ? ", " : "", n->text);
	}
}

void conf_range_text(const struct conf_option *o, char *buf, size_t cap)
{
	buf[0] = '\0';
	if (o->type == CONF_ENUM)
		names_text(o->names, buf, cap);
	if (o->type == CONF_U32 || o->type == CONF_DOUBLE)
		snprintf(buf, cap, "%s%s%.10g to %.10g", o->zero_ok ? "0 or " : "", o->pow2 ? "power of two, " : "",
			 o->min, o->max);
}

static void *field_of(struct conf *c, const struct conf_option *o)
{
	return (char *)c + o->offset;
}

static int bad_value(const struct conf_option *o, const char *text, const char *where, const char *what,
		     struct why *why)
{
	char range[256], shown[81];
	size_t n = 0;

	/* The message ends on a terminal. */
	for (; n < sizeof(shown) - 1 && text[n]; n++)
		shown[n] = (char)((unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n]);
	shown[n] = '\0';
	conf_range_text(o, range, sizeof(range));
	return why_set(why, -EINVAL, "%s %s: %s%s%s%s", where, n ? shown : "\"\"", what, range[0] ? " (" : "", range,
		       range[0] ? ")" : "");
}

static int check_range(const struct conf_option *o, double v, const char *text, const char *where, struct why *why)
{
	if (v == 0 && o->zero_ok)
		return 0;
	if (v < o->min || v > o->max || (o->pow2 && ((uint64_t)v & ((uint64_t)v - 1)) != 0))
		return bad_value(o, text, where, "out of range", why);
	return 0;
}

static int set_u32(void *field, const struct conf_option *o, const char *text, const char *where, struct why *why)
{
	size_t digits = strspn(text, "0123456789");
	uint64_t v = 0;
	uint32_t narrow;
	int rc;

	if (digits == 0 || text[digits])
		return bad_value(o, text, where, "not a whole number", why);
	for (size_t i = 0; i < digits && v <= UINT32_MAX; i++)
		v = v * 10 + (uint64_t)(text[i] - '0');
	rc = check_range(o, (double)v, text, where, why);
	if (rc)
		return rc;
	narrow = (uint32_t)v;
	memcpy(field, &narrow, sizeof(narrow));
	return 0;
}

static int set_double(void *field, const struct conf_option *o, const char *text, const char *where, struct why *why)
{
	char *end;
	double v;
	int rc;

	/* strtod would also take "inf", "nan" and hexadecimal. */
	if (!*text || text[strspn(text, "0123456789.eE+-")])
		return bad_value(o, text, where, "not a number", why);
	v = strtod(text, &end);
	if (*end || end == text || !isfinite(v))
		return bad_value(o, text, where, "not a number", why);
	rc = check_range(o, v, text, where, why);
	if (rc == 0)
		memcpy(field, &v, sizeof(v));
	return rc;
}

static int set_bool(void *field, const struct conf_option *o, const char *text, const char *where, struct why *why)
{
	bool v;

	if (conf_bool_parse(text, &v))
		return bad_value(o, text, where, "neither true nor false", why);
	memcpy(field, &v, sizeof(v));
	return 0;
}

static int set_enum(void *field, const struct conf_option *o, const char *text, const char *where, struct why *why)
{
	for (const struct conf_name *n = o->names; n->text; n++) {
		if (strcasecmp(n->text, text) != 0)
			continue;
		if (n->value == CONF_NAME_ABSENT)
			return bad_value(o, text, where, "this build does not have it", why);
		_Static_assert(sizeof(enum conf_hash) == sizeof(int), "enums of the conf are ints");
		memcpy(field, &n->value, sizeof(n->value));
		return 0;
	}
	return bad_value(o, text, where, "unknown value", why);
}

static int set_str(void *field, const struct conf_option *o, const char *text, const char *where, struct why *why)
{
	size_t len = strlen(text);
	char *copy, *old;

	if (len == 0 && !o->empty_ok)
		return bad_value(o, text, where, "must not be empty", why);
	if (len > (o->max > 0 ? (size_t)o->max : MAX_STR))
		return bad_value(o, text, where, "too long", why);
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return bad_value(o, text, where, "contains a control character", why);
	}
	copy = mem_strndup(text, len);
	if (!copy)
		return why_set(why, -ENOMEM, "%s: out of memory", where);
	memcpy(&old, field, sizeof(old));
	mem_free(old);
	memcpy(field, &copy, sizeof(copy));
	return 0;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

void conf_list_free(struct conf_list *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		mem_free(l->v[i]);
	mem_free(l->v);
	*l = (struct conf_list){0};
}

static int append(struct conf_list *l, const struct conf_option *o, const char *text, const char *where,
		  struct why *why)
{
	size_t len = strlen(text);

	if (len == 0)
		return bad_value(o, text, where, "must not be empty", why);
	if (len > (size_t)o->max)
		return bad_value(o, text, where, "too long", why);
	if (l->n == CONF_LIST_MAX)
		return why_set(why, -E2BIG, "%s: more than %u of them", where, CONF_LIST_MAX);
	if (!l->v)
		l->v = mem_calloc(CONF_LIST_MAX, sizeof(*l->v));
	if (!l->v || !(l->v[l->n] = mem_strndup(text, len)))
		return why_set(why, -ENOMEM, "%s: out of memory", where);
	l->n++;
	return 0;
}

/* Environment and file can name an option once only, so an array stands for several. What is no JSON is kept as it is: whoever knows
 * what it should be says what is wrong with it. */
static int append_all(struct conf_list *l, const struct conf_option *o, const char *text, const char *where,
		      struct why *why)
{
	json_t *root = text[strspn(text, " \t\r\n")] == '[' ? json_loads(text, 0, NULL) : NULL, *v;
	size_t i;
	int rc = 0;

	if (!root)
		return append(l, o, text, where, why);
	json_array_foreach(root, i, v)
	{
		char *one = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);

		rc = one ? append(l, o, one, where, why) : why_set(why, -ENOMEM, "%s: out of memory", where);
		free(one);
		if (rc)
			break;
	}
	json_decref(root);
	return rc;
}

static int set_list(struct conf *c, unsigned option, const char *text, uint8_t source, const char *where,
		    struct why *why)
{
	const struct conf_option *o = &conf_options[option];
	struct conf_list *l = field_of(c, o);
	int rc;

	if (c->source[option] != source)
		conf_list_free(l);
	rc = source == 'c' ? append(l, o, text, where, why) : append_all(l, o, text, where, why);
	if (rc == 0)
		c->source[option] = source;
	return rc;
}

int conf_set(struct conf *c, unsigned option, const char *text, uint8_t source, const char *where, struct why *why)
{
	static int (*const setters[])(void *, const struct conf_option *, const char *, const char *, struct why *) = {
		[CONF_STR] = set_str,   [CONF_U32] = set_u32,   [CONF_DOUBLE] = set_double,
		[CONF_FLAG] = set_bool, [CONF_PAIR] = set_bool, [CONF_ENUM] = set_enum};
	const struct conf_option *o = &conf_options[option];
	int rc;

	check(option < CONF_OPTIONS);
	if (o->type == CONF_LIST)
		return set_list(c, option, text, source, where, why);
	rc = setters[o->type](field_of(c, o), o, text, where, why);
	if (rc == 0)
		c->source[option] = source;
	return rc;
}

const char *conf_enum_text(const struct conf_option *o, const struct conf *c)
{
	int v;

	memcpy(&v, (const char *)c + o->offset, sizeof(v));
	for (const struct conf_name *n = o->names; n->text; n++) {
		if (n->value == v)
			return n->text;
	}
	return "";
}

int conf_warn_deprecated(unsigned index, const char *where)
{
	const struct conf_deprecated *d = &conf_deprecateds[index];

	if (!d->now) {
		log_warn("%s is accepted and has no effect: %s", where, d->text);
		return -1;
	}
	log_warn("%s is deprecated, use --%s", where, d->now);
	return (int)conf_match(d->now, strlen(d->now)).index;
}

int conf_refuse_absent(unsigned index, const char *where, struct why *why)
{
	return why_set(why, -EINVAL, "%s: this build does not have %s; remove the option", where,
		       conf_absents[index].feature);
}

int conf_apply(struct conf *c, struct conf_match m, const char *text, uint8_t source, const char *where,
	       struct why *why)
{
	bool on;
	int now;

	switch (m.is) {
	case CONF_IS_OPTION:
		return conf_set(c, m.index, text, source, where, why);
	case CONF_IS_DEPRECATED:
		now = conf_warn_deprecated(m.index, where);
		return now < 0 ? 0 : conf_set(c, (unsigned)now, text, source, where, why);
	case CONF_IS_ABSENT:
		if (conf_absents[m.index].kind != CONF_KIND_V && conf_bool_parse(text, &on) == 0 && on == m.no)
			return 0;
		return conf_refuse_absent(m.index, where, why);
	default:
		return why_set(why, -EINVAL, "%s: unknown option", where);
	}
}
