/* conf.c - parsing and checking one --l2-adapter. */
#include "daemon/l2/l2_int.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL 64 /* bytes of somebody else's text in a message */

/* A list of words in a text of fixed size; what does not fit is left out, and "..." says so. */
struct words {
	char text[360];
	size_t n;
	bool full;
};

static void add_word(struct words *w, const char *word)
{
	size_t need = strlen(word) + (w->n ? 2 : 0);
	if (w->full || w->n + need + 6 > sizeof(w->text)) {
		if (!w->full)
			memcpy(w->text + w->n, ", ...", 6);
		w->full = true;
		return;
	}
	w->n += (size_t)snprintf(w->text + w->n, sizeof(w->text) - w->n, "%s%s", w->n ? ", " : "", word);
}

/* ---- text to object -------------------------------------------------------------------------------------------------- */

/* The parser recurses: how deep is decided here. */
static bool too_deep(const char *json)
{
	uint32_t depth = 0;
	bool quoted = false;
	for (const char *p = json; *p; p++) {
		if (quoted && *p == '\\' && p[1])
			p++;
		else if (*p == '"')
			quoted = !quoted;
		else if (!quoted && (*p == '{' || *p == '[') && ++depth > L2_CONF_DEPTH)
			return true;
		else if (!quoted && (*p == '}' || *p == ']') && depth)
			depth--;
	}
	return false;
}

int l2_conf_parse(const char *json, uint32_t index, struct l2_conf **out, struct why *why)
{
	json_error_t err;
	if (strnlen(json, L2_CONF_MAX + 1) > L2_CONF_MAX)
		return why_set(why, -EINVAL, "Invalid JSON for --l2-adapter #%u: longer than %u bytes", index,
			       L2_CONF_MAX);
	if (too_deep(json))
		return why_set(why, -EINVAL, "Invalid JSON for --l2-adapter #%u: nested deeper than %u", index,
			       L2_CONF_DEPTH);
	json_t *object = json_loads(json, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &err);
	if (!object)
		return why_set(why, -EINVAL, "Invalid JSON for --l2-adapter #%u: %.160s (line %d, column %d)", index,
			       err.text, err.line, err.column);
	int rc = l2_conf_from(object, index, out, why);
	json_decref(object);
	return rc;
}

/* ---- type ------------------------------------------------------------------------------------------------------------- */

static int find_type(const char *name, enum l2_type *out, struct why *why)
{
	struct words w = {.n = 0};
	for (uint32_t i = 0; i < L2_TYPES; i++) {
		if (strcmp(name, l2_types[i].name) == 0) {
			*out = (enum l2_type)i;
			return 0;
		}
		add_word(&w, l2_types[i].name);
	}
	const char *reason = l2_unserved(name);
	if (reason)
		return why_set(why, -ENOTSUP, "type '%s' is not served: %s. Served: %s", name, reason, w.text);
	return why_set(why, -EINVAL, "unknown type '%.*s'; known: %s", TELL, name, w.text);
}

/* ---- one value -------------------------------------------------------------------------------------------------------- */

static const char *kind_name(enum l2_kind kind)
{
	static const char *const names[] = {
		[L2_KIND_BOOL] = "true or false", [L2_KIND_INT] = "an integer",   [L2_KIND_REAL] = "a number",
		[L2_KIND_TEXT] = "a text",        [L2_KIND_OBJECT] = "an object", [L2_KIND_LIST] = "a list of texts",
	};
	return names[kind];
}

static bool kind_fits(enum l2_kind kind, const json_t *v)
{
	switch (kind) {
	case L2_KIND_BOOL:
		return json_is_boolean(v);
	case L2_KIND_INT:
		return json_is_integer(v) || (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)));
	case L2_KIND_REAL:
		return json_is_number(v);
	case L2_KIND_TEXT:
		return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v);
	case L2_KIND_OBJECT:
		return json_is_object(v);
	case L2_KIND_LIST:
		for (size_t i = 0; i < json_array_size(v); i++)
			if (!kind_fits(L2_KIND_TEXT, json_array_get(v, i)))
				return false;
		return json_is_array(v);
	}
	return false;
}

static bool is_choice(const char *choices, const char *text)
{
	size_t n = strlen(text);
	for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (strncmp(p, text, n) == 0 && (p[n] == 0 || p[n] == '|') && n)
			return true;
	return false;
}

static int check_range(const struct l2_key *k, const json_t *v, struct why *why)
{
	double x;
	switch (k->kind) {
	case L2_KIND_INT:
	case L2_KIND_REAL:
		x = json_number_value(v);
		if (x < k->min || x > k->max)
			return why_set(why, -EINVAL, "%s: %.17g is out of range (%.15g to %.15g)", k->name, x, k->min,
				       k->max);
		return 0;
	case L2_KIND_TEXT:
		if (k->choices && !is_choice(k->choices, json_string_value(v)))
			return why_set(why, -EINVAL, "%s: '%.*s' is none of %s", k->name, TELL, json_string_value(v),
				       k->choices);
		if ((double)json_string_length(v) < k->min || json_string_length(v) > 4095)
			return why_set(why, -EINVAL, "%s: %s", k->name, json_string_length(v) ? "too long" : "empty");
		return 0;
	case L2_KIND_LIST:
		if (k->max > 0 && ((double)json_array_size(v) < k->min || (double)json_array_size(v) > k->max))
			return why_set(why, -EINVAL, "%s: %zu entries, expected %g to %g", k->name, json_array_size(v),
				       k->min, k->max);
		return 0;
	case L2_KIND_BOOL:
	case L2_KIND_OBJECT:
		return 0;
	}
	return 0;
}

/* Whether a value says what happens anyway. */
static bool is_default(const struct l2_key *k, const json_t *v)
{
	if (!k->def)
		return false;
	switch (k->kind) {
	case L2_KIND_BOOL:
		return json_is_true(v) == (strcmp(k->def, "true") == 0);
	case L2_KIND_INT:
	case L2_KIND_REAL:
		return json_number_value(v) == strtod(k->def, NULL);
	case L2_KIND_TEXT:
		return strcmp(json_string_value(v), k->def) == 0;
	case L2_KIND_OBJECT:
	case L2_KIND_LIST:
		return false;
	}
	return false;
}

static int check_value(const struct l2_conf *c, const struct l2_key *k, const json_t *v, struct why *why)
{
	if (!kind_fits(k->kind, v))
		return why_set(why, -EINVAL, "%s: expected %s", k->name, kind_name(k->kind));
	int rc = check_range(k, v, why);
	if (rc || k->use == L2_KEY_USED || is_default(k, v))
		return rc;
	if (k->use == L2_KEY_REFUSED)
		return why_set(why, -ENOTSUP, "%s is refused: %s", k->name, k->what);
	if (!strchr(k->name, '.'))
		log_info("--l2-adapter #%u (%s): %s has no effect here: %s", c->index, l2_types[c->type].name, k->name,
			 k->what);
	return 0;
}

/* ---- the object ---------------------------------------------------------------------------------------------------------- */

static int unknown_key(const struct l2_conf *c, const char *outer, const char *key, struct why *why)
{
	struct words w = {.n = 0};
	size_t skip = outer ? strlen(outer) + 1 : 0;
	for (uint32_t i = 0; i < l2_nkeys; i++) {
		const char *dot = strchr(l2_keys[i].name, '.');
		bool here = outer ? dot && strncmp(l2_keys[i].name, outer, skip - 1) == 0 : !dot;
		if (here && l2_keys[i].types >> c->type & 1 && l2_keys[i].use == L2_KEY_USED)
			add_word(&w, l2_keys[i].name + skip);
	}
	if (outer && !w.n)
		return why_set(why, -EINVAL, "unknown key '%.*s' of %s", TELL, key, outer);
	return why_set(why, -EINVAL, "unknown key '%.*s'%s%s; known: %s", TELL, key, outer ? " of " : "",
		       outer ? outer : "", w.text);
}

/* An object that has keys in the table may have no others; one that has none holds what its reader wants (fault_inject's adapter). */
static bool has_rows(const struct l2_conf *c, const char *outer)
{
	size_t n = strlen(outer);
	for (uint32_t i = 0; i < l2_nkeys; i++)
		if (l2_keys[i].types >> c->type & 1 && strncmp(l2_keys[i].name, outer, n) == 0 &&
		    l2_keys[i].name[n] == '.')
			return true;
	return false;
}

static int check_object(const struct l2_conf *c, const char *outer, json_t *object, struct why *why)
{
	const char *key;
	json_t *v;
	json_object_foreach(object, key, v)
	{
		char name[128];
		int n = snprintf(name, sizeof(name), "%s%s%s", outer ? outer : "", outer ? "." : "", key);
		/* A dot in a key of theirs is no path of ours. */
		const struct l2_key *k = n < (int)sizeof(name) && !strchr(key, '.') ? l2_key_find(c->type, name) : NULL;
		int rc = 0;
		if (!k)
			return unknown_key(c, outer, key, why);
		if (json_is_null(v))
			continue;
		rc = check_value(c, k, v, why);
		if (!rc && k->kind == L2_KIND_OBJECT && !outer && has_rows(c, key))
			rc = check_object(c, key, v, why);
		if (rc)
			return rc;
	}
	return 0;
}

static int check_required(const struct l2_conf *c, struct why *why)
{
	for (uint32_t i = 0; i < l2_nkeys; i++)
		if (l2_keys[i].types >> c->type & 1 && l2_keys[i].flags & L2_REQUIRED &&
		    !l2_conf_has(c, l2_keys[i].name))
			return why_set(why, -EINVAL, "missing required key '%s' of type %s (%s)", l2_keys[i].name,
				       l2_types[c->type].name, l2_keys[i].what);
	if (c->type == L2_RAW_BLOCK && !l2_conf_has(c, "device_path") && !l2_conf_has(c, "device_paths"))
		return why_set(why, -EINVAL,
			       "missing required key 'device_path' of type raw_block (or device_paths for several)");
	if (c->type == L2_RAW_BLOCK && l2_conf_has(c, "device_path") && l2_conf_has(c, "device_paths"))
		return why_set(why, -EINVAL, "device_path and device_paths exclude each other");
	return 0;
}

static int fill(struct l2_conf *c, json_t *object, struct why *why)
{
	if (!json_is_object(object))
		return why_set(why, -EINVAL, "expected a JSON object");
	json_t *type = json_object_get(object, "type");
	if (!type)
		return why_set(why, -EINVAL, "missing required key 'type'");
	if (!kind_fits(L2_KIND_TEXT, type))
		return why_set(why, -EINVAL, "type: expected a text");
	int rc = find_type(json_string_value(type), &c->type, why);
	if (rc)
		return rc;
	c->given = json_deep_copy(object);
	if (!c->given)
		return why_set(why, -ENOMEM, "out of memory");
	rc = check_object(c, NULL, c->given, why);
	if (!rc)
		rc = check_required(c, why);
	if (!rc && c->type == L2_FAULT_INJECT)
		rc = l2_conf_from(json_object_get(c->given, "adapter"), c->index, &c->inner, why);
	return rc;
}

int l2_conf_from(json_t *object, uint32_t index, struct l2_conf **out, struct why *why)
{
	char prefix[48];
	struct l2_conf *c = mem_calloc(1, sizeof(*c));
	if (!c)
		return why_set(why, -ENOMEM, "out of memory");
	c->index = index;
	int rc = fill(c, object, why);
	if (rc) {
		l2_conf_free(c);
		/* Of a wrapped adapter the prefix is there already. */
		snprintf(prefix, sizeof(prefix), "--l2-adapter #%u: ", index);
		if (why && strncmp(why->text, prefix, strlen(prefix)) != 0)
			why_prefix(why, "--l2-adapter #%u", index);
		return rc;
	}
	*out = c;
	return 0;
}

void l2_conf_free(struct l2_conf *c)
{
	if (!c)
		return;
	l2_conf_free(c->inner);
	json_decref(c->given);
	mem_free(c);
}
