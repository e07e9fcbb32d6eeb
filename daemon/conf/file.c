/* The config file: "key = value" lines, or one flat JSON object when the first character is '{'. */
#include "daemon/conf/conf_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE  (1u << 20)
#define WHERE_CAP 256

struct parse {
	struct conf *conf;
	const char *path;
	unsigned line;
	unsigned given_on[CONF_OPTIONS]; /* line, 0 = not yet */
	struct why *why;
};

static int set_key(struct parse *p, const char *key, size_t len, const char *text)
{
	struct conf_match m = conf_match(key, len);
	char where[WHERE_CAP];
	int shown = (int)(len > 64 ? 64 : len);

	snprintf(where, sizeof(where), "%.128s:%u: %.*s", p->path, p->line, shown, key);
	if (m.is == CONF_IS_UNKNOWN || m.is == CONF_IS_NEGATION || m.no) {
		const char *near = m.is == CONF_IS_NEGATION ? conf_options[m.index].flag : conf_nearest(key, len);
		return why_set(p->why, -EINVAL, "%s: unknown key%s%s%s", where, near ? " (did you mean " : "",
			       near ? near : "", near ? "?)" : "");
	}
	if (m.is == CONF_IS_OPTION) {
		if (conf_options[m.index].not_in_file)
			return why_set(p->why, -EINVAL, "%s: not a key of a config file", where);
		if (p->given_on[m.index] && conf_options[m.index].type != CONF_LIST)
			return why_set(p->why, -EINVAL, "%s: given before, on line %u", where, p->given_on[m.index]);
		p->given_on[m.index] = p->line;
	}
	return conf_apply(p->conf, m, text, 'f', where, p->why);
}

/* ---- key = value ------------------------------------------------------------------------------------------------- */

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static char *trim(char *s)
{
	size_t len;

	while (blank(*s))
		s++;
	len = strlen(s);
	while (len && blank(s[len - 1]))
		s[--len] = '\0';
	return s;
}

/* Cuts a comment off: '#' at the start or behind white space, outside of quotes. */
static void cut_comment(char *s)
{
	bool quoted = false;

	for (size_t i = 0; s[i]; i++) {
		if (s[i] == '"')
			quoted = !quoted;
		if (s[i] == '#' && !quoted && (i == 0 || blank(s[i - 1]))) {
			s[i] = '\0';
			return;
		}
	}
}

static int unquote(struct parse *p, char **text)
{
	size_t len = strlen(*text);

	if ((*text)[0] != '"')
		return 0;
	if (len < 2 || (*text)[len - 1] != '"' || memchr(*text + 1, '"', len - 2))
		return why_set(p->why, -EINVAL, "%.128s:%u: quotes do not match", p->path, p->line);
	(*text)[len - 1] = '\0';
	++*text;
	return 0;
}

static int parse_line(struct parse *p, char *line)
{
	char *key, *text, *equals;
	int rc;

	cut_comment(line);
	key = trim(line);
	if (!*key)
		return 0;
	equals = strchr(key, '=');
	if (!equals)
		return why_set(p->why, -EINVAL, "%.128s:%u: expected \"key = value\"%s", p->path, p->line,
			       *key == '[' ? ", there are no sections" : "");
	*equals = '\0';
	key = trim(key);
	text = trim(equals + 1);
	rc = unquote(p, &text);
	return rc ? rc : set_key(p, key, strlen(key), text);
}

static int parse_lines(struct parse *p, char *text)
{
	char *next = text;

	while (next) {
		char *line = next;
		int rc;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		p->line++;
		rc = parse_line(p, line);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- JSON --------------------------------------------------------------------------------------------------------- */

/* jansson does not say where a key stood: the line of its first occurrence in quotes. */
static unsigned line_of_key(const char *text, const char *key)
{
	size_t len = strlen(key);
	unsigned line = 1;

	for (const char *s = text; *s; s++) {
		if (*s == '\n')
			line++;
		if (*s == '"' && strncmp(s + 1, key, len) == 0 && s[len + 1] == '"')
			return line;
	}
	return 1;
}

static bool is_list(const char *key)
{
	struct conf_match m = conf_match(key, strlen(key));

	return m.is == CONF_IS_OPTION && conf_options[m.index].type == CONF_LIST;
}

/* An object, or an array of them, where the option's value is JSON itself. */
static int set_value(struct parse *p, const char *key, const json_t *v)
{
	char *text = json_dumps(v, JSON_COMPACT);
	int rc = text ? set_key(p, key, strlen(key), text) : why_set(p->why, -ENOMEM, "%.128s: out of memory", p->path);

	free(text);
	return rc;
}

static int set_json(struct parse *p, const char *key, const json_t *v)
{
	char number[64];
	const char *text = number;

	if (is_list(key) && (json_is_object(v) || json_is_array(v)))
		return set_value(p, key, v);
	if (json_is_string(v))
		text = json_string_value(v);
	else if (json_is_boolean(v))
		text = json_is_true(v) ? "true" : "false";
	else if (json_is_integer(v))
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else if (json_is_real(v))
		snprintf(number, sizeof(number), "%.15g", json_real_value(v));
	else
		return why_set(p->why, -EINVAL, "%.128s:%u: %.64s: expected a string, a number or a boolean", p->path,
			       p->line, key);
	return set_key(p, key, strlen(key), text);
}

static int parse_json(struct parse *p, const char *text, size_t len)
{
	json_error_t e;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e), *v;
	const char *key;
	int rc = 0;

	if (!root)
		return why_set(p->why, -EINVAL, "%.128s:%d: not valid JSON: %.160s", p->path, e.line, e.text);
	json_object_foreach(root, key, v)
	{
		p->line = line_of_key(text, key);
		rc = set_json(p, key, v);
		if (rc)
			break;
	}
	json_decref(root);
	return rc;
}

/* ---- file --------------------------------------------------------------------------------------------------------- */

int conf_file_parse(struct conf *c, const char *path, const char *text, size_t len, struct why *why)
{
	struct parse p = {.conf = c, .path = path, .why = why};
	char *copy;
	int rc;

	if (memchr(text, '\0', len))
		return why_set(why, -EINVAL, "%.128s: contains a NUL byte, not a text file", path);
	copy = mem_strndup(text, len);
	if (!copy)
		return why_set(why, -ENOMEM, "%.128s: out of memory", path);
	rc = copy[strspn(copy, " \t\r\n")] == '{' ? parse_json(&p, copy, len) : parse_lines(&p, copy);
	mem_free(copy);
	return rc;
}

int conf_file_read(struct conf *c, const char *path, struct why *why)
{
	char *text;
	size_t len;
	FILE *f = fopen(path, "re");
	int rc;

	if (!f)
		return why_set(why, -errno, "config file %.128s: %s", path, strerror(errno));
	text = mem_calloc(1, MAX_FILE + 1);
	if (!text) {
		rc = why_set(why, -ENOMEM, "config file %.128s: out of memory", path);
		goto close;
	}
	errno = 0;
	len = fread(text, 1, MAX_FILE + 1, f);
	if (ferror(f))
		rc = why_set(why, errno ? -errno : -EIO, "config file %.128s: %s", path, strerror(errno ? errno : EIO));
	else if (len > MAX_FILE)
		rc = why_set(why, -EFBIG, "config file %.128s: larger than 1 MiB", path);
	else
		rc = conf_file_parse(c, path, text, len, why);
	mem_free(text);
close:
	fclose(f);
	return rc;
}
