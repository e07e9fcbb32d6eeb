/* The three ways to a snapshot, and the one back: this system, an hwloc XML, a capture. */
#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX        ((size_t)32 << 20)
#define XML_MAX         ((size_t)16 << 20)
#define CAPTURE_KEY     "lmcache-appliance capture"
#define CAPTURE_VERSION 1

/* What hwloc was told to look at instead of this system, by its own environment. */
static const char *facts_root(hwloc_topology_t hw)
{
	const char *root = getenv("HWLOC_FSROOT");

	if (hwloc_topology_is_thissystem(hw))
		return "";
	return root && root[0] && strcmp(root, "/") != 0 ? root : NULL;
}

static int fill(hwloc_topology_t hw, struct facts *facts, struct machine **out, struct why *why)
{
	struct build b = {.hw = hw, .facts = facts, .m = mem_calloc(1, sizeof(*b.m))};
	int r = b.m ? machine_fill(&b) : -ENOMEM;

	if (r) {
		machine_destroy(b.m);
		return why_set(why, r, "machine: %s", r == -ENOMEM ? "out of memory" : strerror(-r));
	}
	*out = b.m;
	return 0;
}

static int load_live(bool record, struct machine **out, struct facts **facts, hwloc_topology_t *hw, struct why *why)
{
	int r = machine_hwloc_load(NULL, 0, hw, why);

	if (r)
		return r;
	r = facts_open(facts_root(*hw), record, facts, why);
	if (r == 0) {
		r = fill(*hw, *facts, out, why);
		if (r)
			facts_close(*facts);
	}
	if (r) {
		hwloc_topology_destroy(*hw);
		return r;
	}
	(*out)->this_system = facts_live(*facts);
	snprintf((*out)->source, sizeof((*out)->source), "%s",
		 (*out)->this_system ? "this system" : "what hwloc's environment variables name");
	return 0;
}

static int read_whole(const char *path, char **out, size_t *bytes, struct why *why)
{
	size_t n = 0, cap = 0;
	char *buf = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return why_set(why, -errno, "machine: cannot open %.200s: %s", path, strerror(errno));
	for (;;) {
		ssize_t got;

		if (cap - n < 2) {
			char *more = cap < FILE_MAX ? mem_realloc(buf, cap ? cap * 2 : 1 << 16) : NULL;

			if (!more) {
				err = cap < FILE_MAX ? -ENOMEM : -EFBIG;
				break;
			}
			buf = more;
			cap = cap ? cap * 2 : 1 << 16;
		}
		got = read(fd, buf + n, cap - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			err = -errno;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	close(fd);
	if (err) {
		mem_free(buf);
		return why_set(why, err, "machine: cannot read %.200s: %s", path, strerror(-err));
	}
	buf[n] = '\0';
	*out = buf;
	*bytes = n;
	return 0;
}

static int load_xml(const char *text, size_t bytes, struct machine **out, struct why *why)
{
	struct facts *facts;
	hwloc_topology_t hw;
	int r;

	if (bytes > XML_MAX)
		return why_set(why, -EFBIG, "machine: an XML of more than %zu MiB", XML_MAX >> 20);
	r = machine_hwloc_load(text, bytes + 1, &hw, why);
	if (r)
		return r;
	r = facts_open(NULL, false, &facts, why);
	if (r == 0) {
		r = fill(hw, facts, out, why);
		facts_close(facts);
	}
	hwloc_topology_destroy(hw);
	return r;
}

int capture_open(json_t *root, struct facts **out, const char **xml, struct why *why)
{
	json_t *version = json_object_get(root, CAPTURE_KEY), *text = json_object_get(root, "hwloc");

	if (!json_is_integer(version))
		return why_set(why, -EPROTO, "capture: it does not say \"" CAPTURE_KEY "\": no capture of ours");
	if (json_integer_value(version) != CAPTURE_VERSION)
		return why_set(why, -EPROTO, "capture: version %lld, this build reads version %d",
			       (long long)json_integer_value(version), CAPTURE_VERSION);
	if (!json_is_string(text))
		return why_set(why, -EPROTO, "capture: \"hwloc\" is missing or not text");
	if (json_string_length(text) > XML_MAX)
		return why_set(why, -EFBIG, "capture: the XML in it is longer than %zu MiB", XML_MAX >> 20);
	*xml = json_string_value(text);
	return facts_replay(root, out, why);
}

static int load_capture(const char *text, size_t bytes, struct machine **out, struct why *why)
{
	json_error_t e;
	json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &e);
	struct facts *facts;
	hwloc_topology_t hw;
	const char *xml;
	int r;

	if (!root)
		return why_set(why, -EPROTO, "capture: line %d: %s", e.line, e.text);
	r = capture_open(root, &facts, &xml, why);
	if (r == 0) {
		r = machine_hwloc_load(xml, strlen(xml) + 1, &hw, why);
		if (r == 0) {
			r = fill(hw, facts, out, why);
			hwloc_topology_destroy(hw);
		}
		facts_close(facts);
	}
	json_decref(root);
	return r;
}

int machine_load_text(const char *text, size_t bytes, const char *path, struct machine **out, struct why *why)
{
	size_t at = strspn(text, " \t\r\n");
	const char *base = strrchr(path, '/');
	char name[200];
	bool json = text[at] == '{';
	int r;

	if (!json && text[at] != '<')
		return why_set(why, -EPROTO, "it is neither a capture (JSON) nor an hwloc XML");
	r = json ? load_capture(text, bytes, out, why) : load_xml(text, bytes, out, why);
	if (r == 0) {
		facts_copy(name, sizeof(name), base ? base + 1 : path);
		snprintf((*out)->source, sizeof((*out)->source), "%s %s", json ? "capture" : "XML file", name);
	}
	return r;
}

int machine_load(const char *path, struct machine **out, struct why *why)
{
	struct facts *facts;
	hwloc_topology_t hw;
	char *text = NULL;
	size_t bytes = 0;
	int r;

	*out = NULL;
	if (!path) {
		r = load_live(false, out, &facts, &hw, why);
		if (r == 0) {
			facts_close(facts);
			hwloc_topology_destroy(hw);
		}
		return r;
	}
	r = read_whole(path, &text, &bytes, why);
	if (!text)
		return r;
	r = machine_load_text(text, bytes, path, out, why);
	if (r)
		why_prefix(why, "%.200s", path);
	mem_free(text);
	return r;
}

static int write_capture(FILE *out, struct facts *facts, hwloc_topology_t hw, struct why *why)
{
	json_t *root = json_object();
	char *xml = NULL;
	int len = 0, r = -ENOMEM;

	if (hwloc_topology_export_xmlbuffer(hw, &xml, &len, HWLOC_API_VERSION >= 0x30000 ? 1UL << 1 : 0)) {
		json_decref(root);
		return why_set(why, -EIO, "capture: hwloc cannot write its XML");
	}
	/* One file per line: a capture is read, compared and cut by people. */
	if (root && json_object_set_new(root, CAPTURE_KEY, json_integer(CAPTURE_VERSION)) == 0 &&
	    facts_save(facts, root) == 0 && json_object_set_new(root, "hwloc", json_string(xml)) == 0)
		r = json_dumpf(root, out, JSON_INDENT(1)) || fputc('\n', out) == EOF || fflush(out) ? -EIO : 0;
	hwloc_free_xmlbuffer(hw, xml);
	json_decref(root);
	return r ? why_set(why, r, "capture: %s", r == -ENOMEM ? "out of memory" : "cannot write it") : 0;
}

int machine_capture(FILE *out, struct why *why)
{
	struct machine *m;
	struct facts *facts;
	hwloc_topology_t hw;
	int r = load_live(true, &m, &facts, &hw, why);

	if (r)
		return r;
	r = m->this_system ? write_capture(out, facts, hw, why)
			   : why_set(why, -EXDEV, "capture: hwloc's environment variables name another machine");
	machine_destroy(m);
	facts_close(facts);
	hwloc_topology_destroy(hw);
	return r;
}
