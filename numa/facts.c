#include "numa/facts.h"

#include "daemon/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_CAP 1024

struct facts {
	const char *root; /* NULL: no files but the record */
	char root_buf[PATH_CAP];
	bool live, record, oom;
	json_t *files, *dirs, *links, *values; /* the record, or the capture that is replayed */
	char scratch[FACTS_TEXT_MAX + 1];
};

static int make_record(struct facts *f)
{
	f->files = json_object();
	f->dirs = json_object();
	f->links = json_object();
	f->values = json_object();
	return f->files && f->dirs && f->links && f->values ? 0 : -ENOMEM;
}

int facts_open(const char *root, bool record, struct facts **out, struct why *why)
{
	struct facts *f = mem_calloc(1, sizeof(*f));

	if (!f || make_record(f)) {
		facts_close(f);
		return why_set(why, -ENOMEM, "machine: out of memory");
	}
	if (root) {
		if (strlen(root) >= sizeof(f->root_buf) / 2) {
			facts_close(f);
			return why_set(why, -ENAMETOOLONG, "machine: the root directory's name is too long");
		}
		snprintf(f->root_buf, sizeof(f->root_buf), "%s", root);
		f->root = f->root_buf;
		f->live = root[0] == '\0';
	}
	f->record = record;
	*out = f;
	return 0;
}

void facts_close(struct facts *f)
{
	if (!f)
		return;
	json_decref(f->files);
	json_decref(f->dirs);
	json_decref(f->links);
	json_decref(f->values);
	mem_free(f);
}

static int check_strings(json_t *map, const char *what, struct why *why)
{
	const char *key;
	json_t *v;

	json_object_foreach(map, key, v)
	{
		if (!json_is_string(v))
			return why_set(why, -EPROTO, "capture: in \"%s\" something is not text", what);
		if (json_string_length(v) > FACTS_TEXT_MAX)
			return why_set(why, -E2BIG, "capture: in \"%s\" a text is longer than %zu bytes", what,
				       FACTS_TEXT_MAX);
	}
	return 0;
}

static int check_lists(json_t *map, struct why *why)
{
	const char *key;
	json_t *list, *v;
	size_t i;

	json_object_foreach(map, key, list)
	{
		if (!json_is_array(list))
			return why_set(why, -EPROTO, "capture: in \"dirs\" something is not a list");
		if (json_array_size(list) > FACTS_NAMES)
			return why_set(why, -E2BIG, "capture: a directory has more than %u names", FACTS_NAMES);
		json_array_foreach(list, i, v)
		{
			if (!json_is_string(v) || json_string_length(v) > 255)
				return why_set(why, -EPROTO, "capture: in \"dirs\" a name is not a file name");
		}
	}
	return 0;
}

/* A part may be missing, then nothing is known of it. */
static int take(json_t *capture, const char *what, json_t **into, struct why *why)
{
	json_t *map = json_object_get(capture, what);

	if (!map)
		return 0;
	if (!json_is_object(map))
		return why_set(why, -EPROTO, "capture: \"%s\" is not an object", what);
	json_decref(*into);
	*into = json_incref(map);
	return strcmp(what, "dirs") == 0 ? check_lists(map, why) : check_strings(map, what, why);
}

int facts_replay(json_t *capture, struct facts **out, struct why *why)
{
	struct facts *f;
	int r = facts_open(NULL, false, &f, why);

	if (r)
		return r;
	r = take(capture, "files", &f->files, why);
	if (r == 0)
		r = take(capture, "dirs", &f->dirs, why);
	if (r == 0)
		r = take(capture, "links", &f->links, why);
	if (r == 0)
		r = take(capture, "values", &f->values, why);
	if (r)
		facts_close(f);
	else
		*out = f;
	return r;
}

bool facts_live(const struct facts *f)
{
	return f->live;
}

bool facts_oom(const struct facts *f)
{
	return f->oom;
}

int facts_save(const struct facts *f, json_t *capture)
{
	if (json_object_set(capture, "values", f->values) || json_object_set(capture, "files", f->files) ||
	    json_object_set(capture, "dirs", f->dirs) || json_object_set(capture, "links", f->links))
		return -ENOMEM;
	return 0;
}

/* What is shown to people must not carry control characters, whoever wrote the file. */
static size_t clean(char *text, size_t n)
{
	while (n && (unsigned char)text[n - 1] <= ' ')
		n--;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		if ((c < ' ' && c != '\n' && c != '\t') || c >= 0x7f)
			text[i] = '?';
	}
	text[n] = '\0';
	return n;
}

static ssize_t read_live(struct facts *f, const char *path)
{
	char full[PATH_CAP * 2];
	size_t n = 0;
	int fd, err = 0;

	snprintf(full, sizeof(full), "%s%s", f->root, path);
	fd = open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	while (n < FACTS_TEXT_MAX) {
		ssize_t got = read(fd, f->scratch + n, FACTS_TEXT_MAX - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			err = -errno;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	close(fd);
	return err ? err : (ssize_t)n;
}

static ssize_t from_record(struct facts *f, json_t *map, const char *path)
{
	json_t *v = json_object_get(map, path);
	size_t n = json_string_length(v);

	if (!v || n > FACTS_TEXT_MAX)
		return -ENOENT;
	memcpy(f->scratch, json_string_value(v), n);
	return (ssize_t)clean(f->scratch, n);
}

static void put(struct facts *f, json_t *map, const char *path, const char *text)
{
	if (f->record && json_object_set_new(map, path, json_string(text)))
		f->oom = true;
}

/* The file's text is in f->scratch. */
static ssize_t get(struct facts *f, const char *path)
{
	ssize_t n;

	if (!path[0])
		return -ENOENT;
	if (!f->root)
		return from_record(f, f->files, path);
	n = read_live(f, path);
	if (n < 0)
		return n;
	n = (ssize_t)clean(f->scratch, (size_t)n);
	put(f, f->files, path, f->scratch);
	return n;
}

#define format_path(path, fmt)                                                                                \
	do {                                                                                                  \
		va_list ap_;                                                                                  \
		int n_;                                                                                       \
                                                                                                              \
		va_start(ap_, fmt);                                                                           \
		n_ = vsnprintf(path, sizeof(path), fmt, ap_);                                                 \
		va_end(ap_);                                                                                  \
		if (n_ < 0 || (size_t)n_ >= sizeof(path))                                                     \
			(path)[0] = '\0'; /* cut short it would name another file; the empty name has none */ \
	} while (0)

static ssize_t hand_out(const struct facts *f, ssize_t n, char *buf, size_t cap)
{
	buf[0] = '\0';
	if (n < 0)
		return n;
	if ((size_t)n >= cap)
		return -E2BIG;
	memcpy(buf, f->scratch, (size_t)n + 1);
	return n;
}

ssize_t facts_read(struct facts *f, char *buf, size_t cap, const char *fmt, ...)
{
	char path[PATH_CAP];

	format_path(path, fmt);
	return hand_out(f, get(f, path), buf, cap);
}

char *facts_text(struct facts *f, const char *fmt, ...)
{
	char path[PATH_CAP], *text;
	ssize_t n;

	format_path(path, fmt);
	n = get(f, path);
	if (n < 0)
		return NULL;
	text = mem_strndup(f->scratch, (size_t)n);
	f->oom |= !text;
	return text;
}

int facts_u64(struct facts *f, uint64_t *out, const char *fmt, ...)
{
	char path[PATH_CAP], text[32], *end;
	ssize_t n;

	format_path(path, fmt);
	n = hand_out(f, get(f, path), text, sizeof(text));
	if (n < 0)
		return (int)n;
	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
	return *end ? -EINVAL : -errno;
}

ssize_t facts_link(struct facts *f, char *buf, size_t cap, const char *fmt, ...)
{
	char path[PATH_CAP], full[PATH_CAP * 2];
	ssize_t n;

	format_path(path, fmt);
	if (!f->root)
		return hand_out(f, from_record(f, f->links, path), buf, cap);
	snprintf(full, sizeof(full), "%s%s", f->root, path);
	n = readlink(full, f->scratch, 4096);
	if (n < 0) {
		buf[0] = '\0';
		return -errno;
	}
	n = (ssize_t)clean(f->scratch, (size_t)n);
	put(f, f->links, path, f->scratch);
	return hand_out(f, n, buf, cap);
}

static bool plain_name(const char *name)
{
	for (const char *c = name; *c; c++) {
		if (*c <= ' ' || *c >= 0x7f || *c == '/')
			return false;
	}
	return name[0] && name[0] != '.';
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(struct facts_dir *d, const char *name)
{
	if (!plain_name(name) || d->n == FACTS_NAMES)
		return 0;
	if (d->n % 64 == 0) {
		char **names = mem_realloc(d->names, (d->n + 64) * sizeof(*names));

		if (!names)
			return -ENOMEM;
		d->names = names;
	}
	d->names[d->n] = mem_strndup(name, strlen(name));
	if (!d->names[d->n])
		return -ENOMEM;
	d->n++;
	return 0;
}

static int list_live(const struct facts *f, const char *path, struct facts_dir *out)
{
	char full[PATH_CAP * 2];
	struct dirent *e;
	DIR *dir;
	int r = 0;

	snprintf(full, sizeof(full), "%s%s", f->root, path);
	dir = opendir(full);
	if (!dir)
		return -errno;
	while (r == 0 && (e = readdir(dir)))
		r = add_name(out, e->d_name);
	closedir(dir);
	return r;
}

static int list_record(const struct facts *f, const char *path, struct facts_dir *out)
{
	json_t *list = json_object_get(f->dirs, path), *v;
	size_t i;
	int r = 0;

	if (!list)
		return -ENOENT;
	json_array_foreach(list, i, v)
	{
		r = add_name(out, json_string_value(v));
		if (r)
			break;
	}
	return r;
}

int facts_list(struct facts *f, struct facts_dir *out, const char *fmt, ...)
{
	char path[PATH_CAP];
	json_t *list;
	int r;

	format_path(path, fmt);
	*out = (struct facts_dir){0};
	r = f->root ? list_live(f, path, out) : list_record(f, path, out);
	if (r) {
		facts_dir_free(out);
		f->oom |= r == -ENOMEM;
		return r;
	}
	if (out->n)
		qsort(out->names, out->n, sizeof(*out->names), by_name);
	if (!f->record)
		return 0;
	list = json_array();
	for (uint32_t i = 0; i < out->n; i++)
		f->oom |= json_array_append_new(list, json_string(out->names[i])) != 0;
	f->oom |= json_object_set_new(f->dirs, path, list) != 0;
	return 0;
}

void facts_dir_free(struct facts_dir *d)
{
	for (uint32_t i = 0; i < d->n; i++)
		mem_free(d->names[i]);
	mem_free(d->names);
	*d = (struct facts_dir){0};
}

int facts_value(const struct facts *f, const char *key, char *buf, size_t cap)
{
	const char *text = json_string_value(json_object_get(f->values, key));

	buf[0] = '\0';
	if (!text || strlen(text) >= cap)
		return -ENOENT;
	memcpy(buf, text, strlen(text) + 1);
	clean(buf, strlen(buf));
	return 0;
}

void facts_note(struct facts *f, const char *key, const char *text)
{
	f->oom |= json_object_set_new(f->values, key, json_string(text)) != 0;
}

void facts_copy(char *out, size_t cap, const char *text)
{
	size_t n = 0;

	while (text && *text == ' ')
		text++;
	for (; text && text[n] && n + 1 < cap; n++)
		out[n] = text[n] >= ' ' && text[n] < 0x7f ? text[n] : '?';
	while (n && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
}
