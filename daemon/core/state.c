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
	struct stat st;

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
	if (stat(path, &st) != 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return access(path, W_OK | X_OK) == 0 ? 0 : -errno;
}

static int choose_dir(const struct conf *conf, char *out, size_t cap)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int n;

	if (conf->state_dir) {
		if (snprintf(out, cap, "%s", conf->state_dir) >= (int)cap)
			return -ENAMETOOLONG;
		return make_dir(out);
	}
	snprintf(out, cap, "/var/lib/lmcache-appliance");
	if (make_dir(out) == 0)
		return 0;
	if (xdg && *xdg)
		n = snprintf(out, cap, "%s/lmcache-appliance", xdg);
	else if (home && *home)
		n = snprintf(out, cap, "%s/.local/state/lmcache-appliance", home);
	else
		return -ENOENT;
	return n < (int)cap ? make_dir(out) : -ENAMETOOLONG;
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

/* Whoever else may write to the folder must not make us wait (a FIFO) or read another file (a link). */
static wire_dialect_set load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char text[256];
	struct stat st;
	ssize_t n = -1;

	if (fd < 0)
		return 0;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return parse(text);
}

int state_open(struct server *srv, struct why *why)
{
	char dir[400];
	int err = choose_dir(&srv->conf, dir, sizeof(dir));

	if (err && srv->conf.state_dir)
		return why_set(why, err, "--state-dir %s: %s", srv->conf.state_dir, strerror(-err));
	if (err) {
		log_warn("no directory for the durable record (%s): clients that reconnect after a restart are "
			 "understood only after GET_CHUNK_SIZE; see --state-dir",
			 strerror(-err));
		return 0;
	}
	snprintf(srv->state_path, sizeof(srv->state_path), "%s/dialects-%u", dir, srv->conf.port);
	srv->saved_dialects = srv->previous_dialects = load(srv->state_path);
	return 0;
}

/* A new file beside the old one, then renamed: never half a record, and never through a link. */
static int save(const char *path, const char *text, size_t n)
{
	char tmp[540];
	int fd, err = 0;

	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, text, n) != (ssize_t)n)
		err = -EIO;
	if (close(fd) != 0 && !err)
		err = -errno;
	if (!err && rename(tmp, path) != 0)
		err = -errno;
	if (err)
		unlink(tmp);
	return err;
}

/* Control thread. All generations seen since the start: after a restart a request of one must not be taken for another's. Written
 * when clients of another generation appear, not once per client. */
void state_save_dialects(struct server *srv, wire_dialect_set set)
{
	char text[256] = "";
	size_t n = 0;
	int err;

	srv->seen_dialects |= set;
	if (srv->saved_dialects == srv->seen_dialects)
		return;
	srv->saved_dialects = srv->seen_dialects;
	if (!srv->state_path[0])
		return;
	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT && n < sizeof(text) - 8; d++) {
		if (srv->saved_dialects >> d & 1)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s ",
					      wire_dialect_name((enum wire_dialect)d));
	}
	err = save(srv->state_path, text, n);
	if (err)
		log_warn("cannot write %s: %s", srv->state_path, strerror(-err));
}
