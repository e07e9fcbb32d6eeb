/* rig_children.c - the daemon under test and the bare echo, each a process of its own. */
#include "tools/rig.h"

#include "tools/session.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define START_MS    60000
#define POPULATE_MS 120000
#define STOP_MS     20000
#define MAX_TAUGHT  32
#define MAX_PARTS   16
#define MAX_PAYLOAD 65536

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* A port nobody listens on now. */
static int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = -1;
	if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	    getsockname(fd, (struct sockaddr *)&a, &len) == 0)
		port = ntohs(a.sin_port);
	if (fd >= 0)
		close(fd);
	return port;
}

/* ---- daemon -------------------------------------------------------------------------------------------------- */

static void exec_daemon(const char *binary, double l1_gb, unsigned workers, int port, int http_port,
			const struct rig_daemon *d)
{
	char gb[32], w[16], p[16], h[16];
	snprintf(gb, sizeof(gb), "%g", l1_gb);
	snprintf(w, sizeof(w), "%u", workers);
	snprintf(p, sizeof(p), "%d", port);
	snprintf(h, sizeof(h), "%d", http_port);
	int fd = open(d->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	execl(binary, binary, "server", "--l1-size-gb", gb, "--eviction-policy", "LRU", "--max-workers", w, "--port", p,
	      "--http-port", h, "--state-dir", d->state, "--no-l1-use-lazy", (char *)NULL);
	_exit(127);
}

static int wait_ready(struct rig_daemon *d, struct why *why)
{
	struct ctl_client *c;
	uint32_t chunk;
	for (int waited = 0; waited < START_MS; waited += 50) {
		int status;
		if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
			d->pid = 0;
			return why_set(why, -ECHILD, "the daemon ended at its start, see %s", d->log);
		}
		if (url_reach(&d->url, 1000, NULL) == 0) {
			int rc = session_open(&d->url, SESSION_DIALECT, 16, START_MS, &c, &chunk, why);
			ctl_client_close(rc ? NULL : c);
			return rc;
		}
		pause_ms(50);
	}
	return why_set(why, -ETIMEDOUT, "the daemon does not answer within %d ms, see %s", START_MS, d->log);
}

/* Ready comes before the arena is populated in the background; what is measured is the steady state behind that. */
static int wait_populated(const struct rig_daemon *d, struct why *why)
{
	char line[1024];
	bool done = false;

	for (int waited = 0; waited < POPULATE_MS && !done; waited += 50) {
		FILE *f = fopen(d->log, "re");
		while (f && !done && fgets(line, sizeof(line), f))
			done = strstr(line, "GiB populated in") != NULL;
		if (f)
			fclose(f);
		pause_ms(50);
	}
	return done ? 0 : why_set(why, -ETIMEDOUT, "the daemon's arena is not populated, see %s", d->log);
}

int rig_daemon_start(const char *binary, double l1_gb, unsigned workers, struct rig_daemon *d, struct why *why)
{
	int port = free_port(), http_port = free_port();
	memset(d, 0, sizeof(*d));
	snprintf(d->state, sizeof(d->state), "/tmp/lmcache-rig-XXXXXX");
	if (port < 0 || http_port < 0 || !mkdtemp(d->state))
		return why_set(why, -errno, "a free port or a folder for the daemon: %s", strerror(errno));
	snprintf(d->log, sizeof(d->log), "%s.log", d->state);
	snprintf(d->zmq, sizeof(d->zmq), "tcp://localhost:%d", port);
	int rc = url_parse(d->zmq, &d->url, why);
	if (rc)
		return rc;
	fflush(NULL);
	d->pid = fork();
	if (d->pid == 0)
		exec_daemon(binary, l1_gb, workers, port, http_port, d);
	if (d->pid < 0)
		return why_set(why, -errno, "fork: %s", strerror(errno));
	rc = wait_ready(d, why);
	return rc ? rc : wait_populated(d, why);
}

static void remove_state(const struct rig_daemon *d)
{
	char command[256];
	snprintf(command, sizeof(command), "rm -rf %s %s", d->state, d->log); /* names of our own making */
	if (system(command) != 0)
		fprintf(stderr, "could not remove %s\n", d->state);
}

/* A daemon that was killed (also by the kernel, for memory) cannot remove its arena. */
static void remove_arena(pid_t pid)
{
	char name[64];
	snprintf(name, sizeof(name), "/lmcache_l1_pool_%d", (int)pid);
	shm_unlink(name);
}

int rig_daemon_stop(struct rig_daemon *d)
{
	int status = 0;
	if (d->pid <= 0)
		return -1;
	kill(d->pid, SIGTERM);
	for (int waited = 0; waitpid(d->pid, &status, WNOHANG) != d->pid; waited += 20) {
		if (waited > STOP_MS) {
			kill(d->pid, SIGKILL);
			waitpid(d->pid, &status, 0);
			break;
		}
		pause_ms(20);
	}
	remove_arena(d->pid);
	remove_state(d);
	d->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- echo ---------------------------------------------------------------------------------------------------- */

struct lesson {
	uint8_t type[64], payload[MAX_PAYLOAD];
	size_t ntype, npayload;
	enum rig_answer how;
};

struct echo {
	void *router;
	zmq_msg_t m[MAX_PARTS];
	int n;
	struct lesson lessons[MAX_TAUGHT];
	int nlessons;
};

static void part(struct echo *e, int i, bool more)
{
	zmq_send(e->router, zmq_msg_data(&e->m[i]), zmq_msg_size(&e->m[i]), more ? ZMQ_SNDMORE : 0);
}

static bool holds(zmq_msg_t *m, const void *p, size_t n)
{
	return zmq_msg_size(m) == n && memcmp(zmq_msg_data(m), p, n) == 0;
}

static void learn(struct echo *e)
{
	struct lesson *l = NULL;
	for (int i = 0; i < e->nlessons && !l; i++)
		if (holds(&e->m[2], e->lessons[i].type, e->lessons[i].ntype))
			l = &e->lessons[i];
	if (!l && e->nlessons < MAX_TAUGHT)
		l = &e->lessons[e->nlessons++];
	if (!l || zmq_msg_size(&e->m[2]) > sizeof(l->type) || zmq_msg_size(&e->m[4]) > sizeof(l->payload))
		return;
	l->ntype = zmq_msg_size(&e->m[2]);
	memcpy(l->type, zmq_msg_data(&e->m[2]), l->ntype);
	l->how = (enum rig_answer) * (uint8_t *)zmq_msg_data(&e->m[3]);
	l->npayload = zmq_msg_size(&e->m[4]);
	memcpy(l->payload, zmq_msg_data(&e->m[4]), l->npayload);
}

static void answer(struct echo *e)
{
	const struct lesson *l = NULL;
	for (int i = 0; i < e->nlessons && !l; i++)
		if (holds(&e->m[2], e->lessons[i].type, e->lessons[i].ntype))
			l = &e->lessons[i];
	enum rig_answer how = l ? l->how : RIG_NO_PAYLOAD;
	part(e, 0, true);
	part(e, 1, true);
	part(e, 2, how != RIG_NO_PAYLOAD && (how == RIG_PAYLOAD || e->n > 3));
	if (how == RIG_PAYLOAD)
		zmq_send(e->router, l->payload, l->npayload, 0);
	for (int i = 3; how == RIG_EVERYTHING && i < e->n; i++)
		part(e, i, i + 1 < e->n);
}

static bool receive(struct echo *e)
{
	int more = 1;
	for (e->n = 0; more && e->n < MAX_PARTS; e->n++) {
		zmq_msg_init(&e->m[e->n]);
		if (zmq_msg_recv(&e->m[e->n], e->router, 0) < 0)
			return false;
		more = zmq_msg_more(&e->m[e->n]);
	}
	return true;
}

static void echo_main(int report_fd)
{
	static struct echo e; /* this process has nothing else */
	char url[64];
	size_t len = sizeof(url);
	int zero = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	e.router = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);
	if (!e.router || zmq_setsockopt(e.router, ZMQ_SNDHWM, &zero, sizeof(zero)) ||
	    zmq_setsockopt(e.router, ZMQ_RCVHWM, &zero, sizeof(zero)) || zmq_bind(e.router, "tcp://127.0.0.1:*") ||
	    zmq_getsockopt(e.router, ZMQ_LAST_ENDPOINT, url, &len) || write(report_fd, url, len) != (ssize_t)len)
		_exit(1);
	close(report_fd);
	while (receive(&e)) {
		if (e.n == 5 && holds(&e.m[1], "\x00TEACH", 6)) {
			learn(&e);
			zmq_msg_close(&e.m[1]);
			zmq_msg_init_size(&e.m[1], 1);
			*(uint8_t *)zmq_msg_data(&e.m[1]) = 0; /* a uid */
			part(&e, 0, true);
			part(&e, 1, true);
			part(&e, 2, false);
		} else if (e.n >= 3) {
			answer(&e);
		}
		for (int i = 0; i < e.n; i++)
			zmq_msg_close(&e.m[i]);
	}
	_exit(0);
}

int rig_echo_start(struct rig_echo *e, struct why *why)
{
	int fds[2];
	char url[64] = "";
	memset(e, 0, sizeof(*e));
	if (pipe2(fds, O_CLOEXEC) != 0)
		return why_set(why, -errno, "pipe: %s", strerror(errno));
	fflush(NULL);
	e->pid = fork();
	if (e->pid == 0)
		echo_main(fds[1]);
	close(fds[1]);
	ssize_t n = e->pid > 0 ? read(fds[0], url, sizeof(url) - 1) : -1;
	close(fds[0]);
	if (n <= 0)
		return why_set(why, -ECHILD, "the echo process does not start");
	return url_parse(url, &e->url, why);
}

void rig_echo_stop(struct rig_echo *e)
{
	if (e->pid <= 0)
		return;
	kill(e->pid, SIGKILL);
	waitpid(e->pid, NULL, 0);
	e->pid = 0;
}
