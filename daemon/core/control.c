/* control.c - the thread that owns the ROUTER socket.
 *
 * It receives, recognises dialects, answers at once whatever needs no data and little work, and hands the rest to workers. It
 * never copies KV, never hashes more than INLINE_BYTES of new tokens, never waits for a worker: PING and GET_CHUNK_SIZE are
 * never behind a transfer. Messages that cannot be understood are dropped with one rate-limited line.
 */
#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/peer.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#define INLINE_BYTES 8192u /* unknown token bytes the control thread decodes and hashes itself: below 100 us */
#define BURST        64    /* messages received between two looks at the completions */
#define MAX_WARNINGS 8u    /* unknown requests logged per peer */

struct control {
	struct server *srv;
	struct router router;
	int wake_fd;
	pthread_t thread;
	bool started;
	struct exec *exec;
	struct peers *peers;
	struct task *tasks, *free;
	struct waiting waiting;
	struct lk lk; /* guards done */
	struct task *done, **done_tail;
	_Atomic bool has_done; /* spares the lock on every turn of the loop */
	_Atomic uint64_t npeers, dropped, bad, progress_ms;
	_Atomic int cpu;
};

/* ---- tasks ----------------------------------------------------------------------------------------------------- */

static struct task *take_task(struct control *c)
{
	struct task *t = c->free;

	if (t)
		c->free = t->next;
	return t;
}

static void free_task(struct control *c, struct task *t)
{
	zmq_msg_close(&t->id);
	zmq_msg_close(&t->uid);
	zmq_msg_close(&t->type);
	for (uint32_t i = 0; i < t->nframes; i++)
		zmq_msg_close(&t->payload[i]);
	t->nframes = 0;
	t->next = c->free;
	c->free = t;
}

static void push_done(struct control *c, struct task *t)
{
	uint64_t one = 1;
	bool first;

	t->next = NULL;
	lk_lock(&c->lk);
	first = c->done == NULL;
	*c->done_tail = t;
	c->done_tail = &t->next;
	atomic_store_explicit(&c->has_done, true, memory_order_release);
	lk_unlock(&c->lk);
	if (first && write(c->wake_fd, &one, sizeof(one)) < 0)
		log_error("cannot wake the control thread: %s", strerror(errno));
}

void control_reply_early(struct control *c, struct task *t)
{
	t->early = true;
	push_done(c, t);
}

void control_reply_ready(struct control *c, struct task *t)
{
	push_done(c, t);
}

/* Of an early reply, whoever comes second (the sender or the worker) gives the task back. */
void control_complete(struct control *c, struct task *t)
{
	if (!t->early || (atomic_fetch_or(&t->parts_done, TASK_RELEASED) & TASK_SENT))
		push_done(c, t);
}

static struct task *take_done(struct control *c)
{
	struct task *t;

	if (!atomic_load_explicit(&c->has_done, memory_order_acquire))
		return NULL;
	lk_lock(&c->lk);
	atomic_store_explicit(&c->has_done, false, memory_order_relaxed);
	t = c->done;
	c->done = NULL;
	c->done_tail = &c->done;
	lk_unlock(&c->lk);
	return t;
}

/* ---- replies --------------------------------------------------------------------------------------------------- */

static void send_reply(struct control *c, struct task *t)
{
	bool payload = zmq_msg_size(&t->reply) > 0;

	if (zmq_msg_send(&t->id, c->router.socket, ZMQ_SNDMORE) < 0 ||
	    zmq_msg_send(&t->uid, c->router.socket, ZMQ_SNDMORE) < 0 ||
	    zmq_msg_send(&t->type, c->router.socket, payload ? ZMQ_SNDMORE : 0) < 0 ||
	    (payload && zmq_msg_send(&t->reply, c->router.socket, 0) < 0))
		atomic_fetch_add(&c->dropped, 1);
	zmq_msg_close(&t->reply);
}

/* Its own from its first registration on. By turns of all connections would not do: an engine has two, one of which copies nothing,
 * so with two workers one would get every copy. */
static uint32_t choose_worker(struct control *c, node_id node)
{
	uint32_t engines[MAX_THREADS] = {0};

	peers_count_engines(c->peers, c->srv->contexts, c->srv->ntransfer, engines);
	return worker_near(c->srv, node, engines);
}

/* Needs the control thread: peers are its own. */
static void learn(struct control *c, struct task *t)
{
	struct peer *p = t->peer;

	lane_answered(c->srv, t);
	if (!t->decoded) {
		atomic_fetch_add(&c->bad, 1);
		return;
	}
	p->candidates &= t->candidates;
	p->dialect = t->dialect;
	if (t->registered_instance && p->ninstances < PEER_INSTANCES)
		p->instance[p->ninstances++] = t->registered_instance;
	if (t->registered_instance && p->transfer_worker == WORKER_NONE && p->next_worker == WORKER_NONE)
		p->next_worker = choose_worker(c, t->registered_node);
}

static void finish(struct control *c, struct task *t)
{
	bool sent = t->early && (atomic_load(&t->parts_done) & TASK_SENT);

	if (sent) {
		free_task(c, t);
		return;
	}
	learn(c, t);
	if (t->wait_job && waiting_add(&c->waiting, c->srv, t))
		return;
	count_request(c->srv, t->def->op, clock_ns() - t->received_ns);
	if (t->has_reply)
		send_reply(c, t);
	if (t->early && !(atomic_fetch_or(&t->parts_done, TASK_SENT) & TASK_RELEASED))
		return; /* the worker still reads the frames */
	if (!t->queued)
		exec_remember(c->exec);
	free_task(c, t);
}

/* ---- waiting requests ------------------------------------------------------------------------------------------ */

static void answer_ready(struct control *c, struct task *list)
{
	for (struct task *t = list, *next; t; t = next) {
		next = t->next;
		count_request(c->srv, t->def->op, clock_ns() - t->received_ns);
		if (t->has_reply)
			send_reply(c, t);
		free_task(c, t);
	}
}

void control_job_done(struct control *c)
{
	uint64_t one = 1;

	if (waiting_job_done(&c->waiting) && write(c->wake_fd, &one, sizeof(one)) < 0)
		log_error("cannot wake the control thread: %s", strerror(errno));
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* Reads one multipart message into t. 1: a request; 0: nothing there; -1: dropped (it was read to its end). */
static int receive(struct control *c, struct task *t)
{
	zmq_msg_t *head[3] = {&t->id, &t->uid, &t->type}, rest;
	bool more;
	uint32_t n = 0, extra = 0;

	for (int i = 0; i < 3; i++)
		zmq_msg_init(head[i]);
	if (zmq_msg_recv(&t->id, c->router.socket, ZMQ_DONTWAIT) < 0)
		return 0;
	t->received_ns = clock_ns();
	more = zmq_msg_more(&t->id);
	while (more) {
		zmq_msg_t *m = &rest;

		if (n < 2)
			m = head[n + 1];
		else if (n - 2 < WIRE_MAX_PAYLOAD_FRAMES)
			m = &t->payload[n - 2];
		else
			extra++;
		zmq_msg_init(m);
		if (zmq_msg_recv(m, c->router.socket, ZMQ_DONTWAIT) < 0)
			break;
		more = zmq_msg_more(m);
		if (m == &rest)
			zmq_msg_close(m);
		else
			n++;
	}
	t->nframes = n > 2 ? n - 2 : 0;
	for (uint32_t i = 0; i < t->nframes; i++)
		t->frames[i] = slice_of(zmq_msg_data(&t->payload[i]), zmq_msg_size(&t->payload[i]));
	return n >= 2 && !extra ? 1 : -1;
}

static void drop(struct control *c, struct task *t, const char *reason)
{
	static struct log_limit limit;
	uint64_t dropped;
	const uint8_t *id = zmq_msg_data(&t->id);
	char peer[24] = "";

	atomic_fetch_add(&c->dropped, 1);
	count(c->srv, COUNT_DROP_NO_REQUEST, 1);
	for (size_t i = 0; i < zmq_msg_size(&t->id) && i < 5; i++)
		snprintf(peer + 2 * i, sizeof(peer) - 2 * i, "%02x", id[i]);
	if (log_limit_pass(&limit, 200, &dropped))
		log_warn("message of %u payload frames from peer %s dropped: %s (%llu more since the last line)",
			 t->nframes, peer, reason, (unsigned long long)dropped);
	free_task(c, t);
}

/* ---- dispatch -------------------------------------------------------------------------------------------------- */

/* Little new to decode and hash, and nothing to copy. The walk done here is reused by the decoder. */
static bool cheap(struct control *c, const struct task *t)
{
	const uint8_t *raw;
	uint32_t count;
	size_t avail;

	if (t->def->heavy)
		return false;
	if (!t->def->keyed)
		return true;
	if (t->def->lane == LANE_TRANSFER && (!c->srv->slots || (t->nframes > 2 && t->frames[2].n > 16)))
		return false; /* bytes in messages are copied by a worker */
	if (t->nframes == 0 || t->frames[0].n <= INLINE_BYTES)
		return true;
	if (!key_find_tokens(t->frames[0], &raw, &count))
		return true; /* malformed: the decoder stops there, too */
	avail = t->frames[0].n - (size_t)(raw - (const uint8_t *)t->frames[0].p);
	if (avail - prefix_probe(c->exec->walk, raw, avail, count) <= INLINE_BYTES)
		return true;
	prefix_abandon(c->exec->walk);
	return false;
}

static void note_seen(struct control *c, struct peer *p, enum wire_op op)
{
	uint64_t now = clock_ms();

	if (op != WIRE_PING && now - p->seen_ms < 1000)
		return;
	p->seen_ms = now;
	for (uint32_t i = 0; i < p->ninstances; i++) {
		struct ctx *x = ctx_get(c->srv->contexts, p->instance[i]);
		if (x)
			ctx_seen(x, now, op == WIRE_PING);
		ctx_put(c->srv->contexts, x);
	}
}

/* The operation by the best dialect that has it and is served; the numbers of a family differ only behind CLEAR. */
static enum wire_op op_of(struct peer *p, uint64_t number)
{
	enum wire_op op = wire_dialect_op(p->dialect, number);

	for (uint32_t d = WIRE_DIALECT_COUNT; !op_def(op) && d-- > 0;) {
		enum wire_op other = wire_dialect_op((enum wire_dialect)d, number);

		if ((p->candidates >> d & 1) && op_def(other)) {
			op = other;
			p->dialect = (enum wire_dialect)d;
		}
	}
	return op;
}

static void unserved(struct control *c, struct peer *p, struct task *t, enum wire_op op, uint64_t number)
{
	atomic_fetch_add(&c->bad, 1);
	count(c->srv, COUNT_DROP_NOT_SERVED, 1);
	if (p->warned++ < MAX_WARNINGS)
		log_warn("request %llu (%s, %s) is not served by this build: ignored", (unsigned long long)number,
			 op ? wire_op_name(op) : "unknown", wire_dialect_name(p->dialect));
	free_task(c, t);
}

static void dispatch(struct control *c, struct task *t)
{
	struct peer *p = t->peer;

	t->lane = t->def->lane;
	t->dialect = p->dialect;
	t->candidates = p->candidates;
	t->bound = p->bound;
	t->owner = p->serial;
	t->has_reply = t->decoded = t->queued = t->admit = t->early = false;
	t->wait_job = 0;
	atomic_store_explicit(&t->parts_done, 0, memory_order_relaxed);
	t->registered_instance = 0;
	t->from[0] = '\0';
	if (t->def->op == WIRE_REGISTER_KV_CACHE)
		liveness_origin(&t->uid, t->from);
	note_seen(c, p, t->def->op);
	if (t->lane == LANE_CONTROL || (p->pending[t->lane] == 0 && cheap(c, t))) {
		task_run(c->exec, t);
		finish(c, t);
		return;
	}
	lane_send(c->srv, t);
}

static void handle(struct control *c, struct task *t)
{
	struct slice uid = slice_of(zmq_msg_data(&t->uid), zmq_msg_size(&t->uid));
	struct slice type = slice_of(zmq_msg_data(&t->type), zmq_msg_size(&t->type));
	struct slice id = slice_of(zmq_msg_data(&t->id), zmq_msg_size(&t->id)), name;
	uint64_t number, u;
	enum wire_op op;

	if (wire_uid_decode(uid, &u) || wire_type_decode(type, &number, &name)) {
		drop(c, t, "uid or request type is not readable");
		return;
	}
	t->peer = peers_get(c->peers, id);
	if (!t->peer) {
		drop(c, t, "too many peers with requests in flight");
		return;
	}
	atomic_store_explicit(&c->npeers, peers_count(c->peers), memory_order_relaxed);
	if (name.p) {
		unserved(c, t->peer, t, WIRE_UNKNOWN, 0);
		return;
	}
	if (!recognise(c->srv, c->exec, t->peer, t, number)) {
		drop(c, t, "the peer's dialect is unknown (no GET_CHUNK_SIZE came first; see --dialect)");
		return;
	}
	op = op_of(t->peer, number);
	t->def = op_def(op);
	if (!t->def)
		unserved(c, t->peer, t, op, number);
	else
		dispatch(c, t);
}

/* False: nothing is left to read, and libzmq has just looked, so that its descriptor tells of anything newer. */
static bool receive_burst(struct control *c)
{
	for (int i = 0; i < BURST; i++) {
		struct task *t = take_task(c);
		int got;

		if (!t)
			return false; /* every task is in flight: back-pressure */
		got = receive(c, t);
		if (got == 0) {
			free_task(c, t);
			return false;
		}
		if (got < 0)
			drop(c, t, "wrong number of frames");
		else
			handle(c, t);
	}
	return true;
}

/* Sleeps until a worker finished something or the socket's descriptor speaks. That descriptor is edge-triggered: only after a
 * failed receive, with no send in between, may one wait for it (zmq_getsockopt(3), ZMQ_FD). zmq_poll would do the same with
 * two more system calls a message. */
static void wait_for_work(struct control *c)
{
	struct pollfd fds[2] = {{c->wake_fd, POLLIN, 0}, {c->router.fd, POLLIN, 0}};
	uint64_t n;

	poll(fds, c->free ? 2 : 1, waiting_ms(&c->waiting, 1000));
	if ((fds[0].revents & POLLIN) && read(c->wake_fd, &n, sizeof(n)) < 0)
		log_debug("spurious wake-up");
	atomic_store_explicit(&c->progress_ms, clock_ms(), memory_order_relaxed);
	atomic_store_explicit(&c->cpu, sched_getcpu(), memory_order_relaxed);
}

static void *run(void *arg)
{
	struct control *c = arg;

	pthread_setname_np(pthread_self(), "lmca-control");
	setpriority(PRIO_PROCESS, 0, ROUTER_NICE);
	while (!atomic_load_explicit(&c->srv->stopping, memory_order_relaxed)) {
		for (struct task *t = take_done(c), *next; t; t = next) {
			next = t->next;
			finish(c, t);
		}
		answer_ready(c, waiting_ready(&c->waiting, c->srv, false));
		if (!receive_burst(c))
			wait_for_work(c);
	}
	return NULL;
}

/* ---- start and stop -------------------------------------------------------------------------------------------- */

static int create_tasks(struct control *c)
{
	c->tasks = mem_calloc(TASKS, sizeof(*c->tasks));
	if (!c->tasks)
		return -ENOMEM;
	for (uint32_t i = TASKS; i-- > 0;) {
		c->tasks[i].next = c->free;
		c->free = &c->tasks[i];
	}
	return 0;
}

int control_start(struct server *srv, struct why *why)
{
	struct control *c = mem_calloc(1, sizeof(*c));
	int err;

	if (!c)
		return why_set(why, -ENOMEM, "out of memory");
	srv->control = c;
	c->srv = srv;
	c->done_tail = &c->done;
	c->progress_ms = clock_ms();
	lk_init(&c->lk, LK_QUEUE);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0)
		return why_set(why, -errno, "eventfd: %s", strerror(errno));
	if (peers_create(&c->peers) || create_tasks(c))
		return why_set(why, -ENOMEM, "out of memory");
	err = exec_create(srv, &c->exec, why);
	if (!err)
		err = place_enter(srv, ROLE_CONTROL, 0, "libzmq", why); /* its I/O thread */
	if (!err)
		err = router_open(srv, &c->router, why);
	place_leave(srv);
	if (err)
		return err;
	err = place_enter(srv, ROLE_CONTROL, 0, "lmca-control", why);
	if (err)
		return err;
	err = pthread_create(&c->thread, NULL, run, c);
	place_leave(srv);
	if (err)
		return why_set(why, -err, "cannot start the control thread: %s", strerror(err));
	c->started = true;
	return 0;
}

void control_quiesce(struct server *srv)
{
	struct control *c = srv->control;
	uint64_t one = 1;

	if (!c || !c->started)
		return;
	if (write(c->wake_fd, &one, sizeof(one)) < 0)
		log_error("cannot wake the control thread: %s", strerror(errno));
	pthread_join(c->thread, NULL);
	c->started = false;
}

void control_stop(struct server *srv)
{
	struct control *c = srv->control;

	if (!c)
		return;
	for (struct task *t = take_done(c), *next; t; t = next) {
		next = t->next;
		finish(c, t);
	}
	answer_ready(c, waiting_ready(&c->waiting, c->srv, true));
	router_close(&c->router);
	exec_destroy(c->exec);
	peers_destroy(c->peers);
	mem_free(c->tasks);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	lk_destroy(&c->lk);
	mem_free(c);
	srv->control = NULL;
}

void control_counts(struct control *c, uint64_t *peers, uint64_t *dropped, uint64_t *bad)
{
	*peers = atomic_load(&c->npeers);
	*dropped = atomic_load(&c->dropped);
	*bad = atomic_load(&c->bad);
}

void control_progress(struct control *c, uint64_t *progress_ms, int *cpu)
{
	*progress_ms = atomic_load(&c->progress_ms);
	*cpu = atomic_load(&c->cpu);
}

uint32_t control_port(const struct control *c)
{
	return c->router.port;
}
