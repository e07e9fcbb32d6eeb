/* liveness.c - knowing at once that an engine died.
 *
 * Upstream's instance ids are worker pids (until S3). When such a pid is a living process of this machine that really is our
 * client (it owns a connection to our port), a pidfd tells its end exactly and its age is never judged. Later ids are random numbers; of an
 * engine with GPU memory, which a mapping of ours would keep from its successor, the process is found by the connection that registered.
 * Everyone else (other machines, other pid namespaces) is judged by PING age.
 */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PID_LIMIT  4194304u /* PID_MAX_LIMIT, linux/threads.h */
#define MAX_INODES 4096

/* Inodes of TCP sockets connected to `port` from this machine's side; of the one at `from` only, if that is given. */
static int client_inodes(const char *table, uint32_t port, const char *from, unsigned long *out, int max)
{
	FILE *f = fopen(table, "re");
	char line[512], local[LIVENESS_ORIGIN];
	int n = 0;

	if (!f)
		return 0;
	while (n < max && fgets(line, sizeof(line), f)) {
		unsigned remote;
		unsigned long inode;

		if (sscanf(line, " %*d: %47[0-9A-Fa-f:] %*[0-9A-Fa-f]:%x %*x %*x:%*x %*x:%*x %*x %*u %*u %lu", local,
			   &remote, &inode) == 3 &&
		    remote == port && inode && (!from || strcmp(from, local) == 0))
			out[n++] = inode;
	}
	fclose(f);
	return n;
}

static bool owns_socket(uint32_t pid, const unsigned long *inodes, int n)
{
	char path[64], link[64], full[400];
	struct dirent *de;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%u/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (de = readdir(dir))) {
		unsigned long inode;
		ssize_t len;

		snprintf(full, sizeof(full), "%s/%s", path, de->d_name);
		len = readlink(full, link, sizeof(link) - 1);
		if (len <= 0)
			continue;
		link[len] = '\0';
		if (sscanf(link, "socket:[%lu]", &inode) != 1)
			continue;
		for (int i = 0; i < n; i++)
			found |= inodes[i] == inode;
	}
	closedir(dir);
	return found;
}

static bool is_our_client(struct server *srv, uint32_t pid)
{
	unsigned long inodes[MAX_INODES];
	uint32_t port = control_port(srv->control);
	int n = client_inodes("/proc/net/tcp", port, NULL, inodes, MAX_INODES);

	n += client_inodes("/proc/net/tcp6", port, NULL, inodes + n, MAX_INODES - n);
	return owns_socket(pid, inodes, n);
}

/* ---- by the connection -------------------------------------------------------------------------------------------- */

void liveness_origin(zmq_msg_t *m, char out[LIVENESS_ORIGIN])
{
	struct sockaddr_storage a = {0};
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	socklen_t n = sizeof(a);
	uint32_t w[4];

	out[0] = '\0';
	if (getpeername(zmq_msg_get(m, ZMQ_SRCFD), (struct sockaddr *)&a, &n))
		return;
	if (a.ss_family == AF_INET) {
		memcpy(&v4, &a, sizeof(v4));
		snprintf(out, LIVENESS_ORIGIN, "%08X:%04X", v4.sin_addr.s_addr, ntohs(v4.sin_port));
	} else if (a.ss_family == AF_INET6) {
		memcpy(&v6, &a, sizeof(v6));
		memcpy(w, &v6.sin6_addr, sizeof(w));
		snprintf(out, LIVENESS_ORIGIN, "%08X%08X%08X%08X:%04X", w[0], w[1], w[2], w[3], ntohs(v6.sin6_port));
	}
}

/* The process at the other end; forked children have its socket too, and are younger. 0: none of this machine that we may look at. */
static uint32_t pid_of(struct server *srv, const char *from, unsigned long *inode)
{
	uint32_t port = control_port(srv->control), best = 0;
	struct dirent *de;
	DIR *dir;

	if (!*from || (client_inodes("/proc/net/tcp", port, from, inode, 1) != 1 &&
		       client_inodes("/proc/net/tcp6", port, from, inode, 1) != 1))
		return 0;
	dir = opendir("/proc");
	while (dir && (de = readdir(dir))) {
		unsigned long pid = strtoul(de->d_name, NULL, 10);

		if (pid && pid <= PID_LIMIT && (!best || pid < best) && owns_socket((uint32_t)pid, inode, 1))
			best = (uint32_t)pid;
	}
	if (dir)
		closedir(dir);
	return best;
}

static void open_by_connection(struct server *srv, struct ctx *c, const char *from)
{
	unsigned long inode;
	uint32_t pid = pid_of(srv, from, &inode);
	int fd = pid && pid != (uint32_t)getpid() ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;

	if (fd < 0)
		return;
	if (owns_socket(pid, &inode, 1)) { /* open first, look second */
		c->pidfd = fd;
		c->pid = pid;
	} else {
		close(fd);
	}
}

/* ---- by the instance id ------------------------------------------------------------------------------------------- */

static void open_by_id(struct server *srv, struct ctx *c)
{
	int fd;

	if (c->instance_id == 0 || c->instance_id > PID_LIMIT || c->instance_id == (uint64_t)getpid())
		return;
	fd = (int)syscall(SYS_pidfd_open, (pid_t)c->instance_id, 0);
	if (fd < 0)
		return;
	/* Open first, look second: the process looked at is the one the fd means, or it is gone and the fd says so. */
	if (is_our_client(srv, (uint32_t)c->instance_id)) {
		c->pidfd = fd;
		c->pid = (uint32_t)c->instance_id;
	} else {
		close(fd);
	}
}

void liveness_open(struct server *srv, struct ctx *c, const char *from)
{
	open_by_id(srv, c);
	if (c->gpu && c->pidfd < 0 && c->instance_id <= INT64_MAX) /* larger ones are tags of our own events */
		open_by_connection(srv, c, from);
}

uint32_t liveness_pid(void *srv, uint64_t instance_id)
{
	bool proven = instance_id && instance_id <= PID_LIMIT && is_our_client(srv, (uint32_t)instance_id);

	return proven ? (uint32_t)instance_id : 0;
}

void liveness_watch(struct server *srv, struct ctx *c)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = c->instance_id};

	if (c->pidfd < 0)
		return;
	if (epoll_ctl(srv->epoll_fd, EPOLL_CTL_ADD, c->pidfd, &ev) == 0)
		atomic_store(&c->watched, true);
	else
		log_warn("instance %llu cannot be watched, it is judged by its PINGs: %s",
			 (unsigned long long)c->instance_id, strerror(errno));
}

void liveness_dead(void *arg, const struct ctx *c)
{
	struct server *srv = arg;
	struct slice model = slice_str(c->model);
	uint32_t n;

	if (ctx_object_bytes(srv->contexts, model, c->world_size))
		model.n = 0; /* other instances serve it: their requests go on */
	n = sessions_orphan(srv->sessions, c->owner, model, c->world_size, clock_ms());
	if (n)
		log_info("%u request(s) of the dead engine gave their lookup locks back", n);
}

void liveness_event(struct server *srv, uint64_t instance_id)
{
	struct ctx *c = ctx_get(srv->contexts, instance_id);

	if (!c)
		return;
	struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
	if (c->pidfd >= 0 && poll(&p, 1, 0) == 1 && ctx_drop_this(srv->contexts, c)) {
		count(srv, COUNT_REAPED_PIDFD, 1);
		log_warn("instance %llu (%s): its process ended; everything it held is free",
			 (unsigned long long)instance_id, c->model);
	}
	ctx_put(srv->contexts, c);
}
