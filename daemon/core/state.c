/* state.c - the durable record: which dialects clients of this port spoke last, so that clients whose connection comes back after
 * a restart are understood. One small file, replaced by rename; without a place to write it the server runs on without.
 */
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_dir(const char *path)
{
	char part[512];

	if (strlen(path) >= sizeof(part))
		return -ENAMETOOLONG;
	for (size_t i = 1; path[i - 1]; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0700) != 0 && errno != EEXIST)
			return -errno;
	}
	return access(path, W_OK) == 0 ? 0 : -errno;
}

static int choose_dir(const struct conf *conf, char *out, size_t cap)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

	if (conf->state_dir) {
		snprintf(out, cap, "%s", conf->state_dir);
		return make_dir(out);
	}
	snprintf(out, cap, "/var/lib/lmcache-appliance");
	if (make_dir(out) == 0)
		return 0;
	if (xdg && *xdg)
		snprintf(out, cap, "%s/lmcache-appliance", xdg);
	else if (home && *home)
		snprintf(out, cap, "%s/.local/state/lmcache-appliance", home);
	else
		return -ENOENT;
	return make_dir(out);
}

static wire_dialect_set parse(char *text)
{
	wire_dialect_set set = 0;
	enum wire_dialect d;
	char *save = NULL;

	for (char *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		if (wire_dialect_parse(slice_str(w), &d) == 0)
			set |= 1u << d;
	}
	return set;
}

int state_open(struct server *srv, struct why *why)
{
	char dir[400], text[256];
	int err = choose_dir(&srv->conf, dir, sizeof(dir));
	ssize_t n;
	int fd;

	if (err && srv->conf.state_dir)
		return why_set(why, err, "--state-dir %s: %s", srv->conf.state_dir, strerror(-err));
	if (err) {
		log_warn("no directory for the durable record (%s): clients that reconnect after a restart are "
			 "understood only after GET_CHUNK_SIZE; see --state-dir",
			 strerror(-err));
		return 0;
	}
	snprintf(srv->state_path, sizeof(srv->state_path), "%s/dialects-%u", dir, srv->conf.port);
	fd = open(srv->state_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n > 0) {
		text[n] = '\0';
		srv->saved_dialects = srv->previous_dialects = parse(text);
	}
	return 0;
}

/* Control thread. One write when clients of another generation appear, not one per client. */
void state_save_dialects(struct server *srv, wire_dialect_set set)
{
	char text[256] = "", tmp[540];
	size_t n = 0;
	int fd;

	if (srv->saved_dialects == set)
		return;
	srv->saved_dialects = set;
	if (!srv->state_path[0])
		return;
	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT && n < sizeof(text) - 8; d++) {
		if (set >> d & 1)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s ",
					      wire_dialect_name((enum wire_dialect)d));
	}
	snprintf(tmp, sizeof(tmp), "%s.tmp", srv->state_path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, text, n) == (ssize_t)n && close(fd) == 0 && rename(tmp, srv->state_path) == 0)
		return;
	log_warn("cannot write %s: %s", srv->state_path, strerror(errno));
}
