/* conf_get.c - values of a parsed --l2-adapter. */
#include "daemon/l2/l2_int.h"

#include "daemon/base/check.h"

#include <stdlib.h>
#include <string.h>

static json_t *given(const struct l2_conf *c, const char *key)
{
	json_t *at = c->given, *v;
	const char *dot = strchr(key, '.');
	if (dot) {
		char outer[64];
		check((size_t)(dot - key) < sizeof(outer));
		memcpy(outer, key, (size_t)(dot - key));
		outer[dot - key] = 0;
		at = json_object_get(at, outer);
		key = dot + 1;
	}
	v = json_object_get(at, key);
	return json_is_null(v) ? NULL : v;
}

static const struct l2_key *row(const struct l2_conf *c, const char *key, enum l2_kind kind)
{
	const struct l2_key *k = l2_key_find(c->type, key);
	check(k && k->kind == kind);
	return k;
}

bool l2_conf_has(const struct l2_conf *c, const char *key)
{
	check(l2_key_find(c->type, key));
	return given(c, key) != NULL;
}

bool l2_conf_bool(const struct l2_conf *c, const char *key)
{
	const struct l2_key *k = row(c, key, L2_KIND_BOOL);
	json_t *v = given(c, key);
	return v ? json_is_true(v) : k->def && strcmp(k->def, "true") == 0;
}

int64_t l2_conf_int(const struct l2_conf *c, const char *key)
{
	const struct l2_key *k = row(c, key, L2_KIND_INT);
	json_t *v = given(c, key);
	if (v)
		return json_is_integer(v) ? json_integer_value(v) : (int64_t)json_real_value(v);
	return k->def ? strtoll(k->def, NULL, 10) : 0;
}

double l2_conf_real(const struct l2_conf *c, const char *key)
{
	const struct l2_key *k = row(c, key, L2_KIND_REAL);
	json_t *v = given(c, key);
	if (v)
		return json_number_value(v);
	return k->def ? strtod(k->def, NULL) : 0;
}

const char *l2_conf_text(const struct l2_conf *c, const char *key)
{
	const struct l2_key *k = row(c, key, L2_KIND_TEXT);
	json_t *v = given(c, key);
	return v ? json_string_value(v) : k->def;
}

uint32_t l2_conf_count(const struct l2_conf *c, const char *key)
{
	row(c, key, L2_KIND_LIST);
	return (uint32_t)json_array_size(given(c, key));
}

const char *l2_conf_item(const struct l2_conf *c, const char *key, uint32_t i)
{
	row(c, key, L2_KIND_LIST);
	return json_string_value(json_array_get(given(c, key), i));
}

uint64_t l2_conf_gib(const struct l2_conf *c, const char *key)
{
	return (uint64_t)(l2_conf_real(c, key) * (double)(1u << 30));
}

const char *l2_conf_type(const struct l2_conf *c)
{
	return l2_types[c->type].name;
}

static void redact(const struct l2_conf *c, json_t *object)
{
	for (uint32_t i = 0; i < l2_nkeys; i++)
		if (l2_keys[i].types >> c->type & 1 && l2_keys[i].flags & L2_SECRET && given(c, l2_keys[i].name))
			json_object_set_new(object, l2_keys[i].name, json_string("<redacted>"));
}

json_t *l2_conf_json(const struct l2_conf *c)
{
	json_t *out = json_deep_copy(c->given);
	if (!out)
		return NULL;
	redact(c, out);
	if (c->inner && json_object_set_new(out, "adapter", l2_conf_json(c->inner))) {
		json_decref(out);
		return NULL;
	}
	return out;
}
