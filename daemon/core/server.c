/* server.c - builds the one context, starts the threads in dependency order, waits for a signal, stops in reverse order. */
#include "daemon/core/server.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"
#include "transport/shm/shmx.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PREFIX_MIN  (16ull << 20)
#define PREFIX_MAX  (256ull << 20) /* about 50 million tokens of remembered prompts */
#define TICK_MS     250            /* time limits of locks and instances */
#define STORE_TICKS 4u             /* the store looks at its watermark every so many ticks */
#define DRAIN_MS    5000u          /* for copies under way when the server stops */
#define EV_SIGNAL   (UINT64_MAX)
#define EV_TIMER    (UINT64_MAX - 1)

static int make_instance_id(struct server *srv)
{
	uint8_t b[16];

	if (srv->conf.instance_id) {
		snprintf(srv->instance_id, sizeof(srv->instance_id), "%s", srv->conf.instance_id);
		return 0;
	}
	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		return -EIO;
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 9562 version 4 */
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	snprintf(srv->instance_id, sizeof(srv->instance_id),
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4],
		 b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
	return 0;
}

/* The first step is committed before the server is ready, the rest of the wanted size by a thread of its own. Huge pages are
 * there from the start: nobody else can take them any more. */
static int open_arena(struct server *srv, struct why *why)
{
	struct arena_conf ac = {.shm_name = srv->conf.shm_name, .lazy = true, .init_bytes = 256ull << 20};
	int err;

	place_arena(srv, &ac);
	err = arena_create(&ac, &srv->arena, why);
	if (err)
		return err;
	srv->slots = arena_shm_name(srv->arena)[0] != '\0';
	place_ranges(srv);
	place_log_pools(srv);
	return shmx_guard(arena_base(srv->arena), arena_bytes(srv->arena), &srv->arena_guard, why);
}

static void on_evicted(void *ctx, double lifetime_s, double idle_s)
{
	struct server *srv = ctx;

	metric_observe(srv->metrics, M_L1_CHUNK_LIFETIME, lifetime_s);
	metric_observe(srv->metrics, M_L1_CHUNK_IDLE_BEFORE_EVICT, idle_s);
}

static void on_reused(void *ctx, double gap_s)
{
	metric_observe(((struct server *)ctx)->metrics, M_L1_CHUNK_REUSE_GAP, gap_s);
}

static int open_store(struct server *srv, struct why *why)
{
	static const enum store_policy policies[] = {STORE_LRU, STORE_NOOP, STORE_ISOLATED_LRU};
	uint32_t distance[ARENA_MAX_RANGES * ARENA_MAX_RANGES];
	struct store_conf sc = {.arena = srv->arena,
				.policy = policies[srv->conf.eviction_policy],
				.trigger_watermark = srv->conf.eviction_trigger_watermark,
				.eviction_ratio = srv->conf.eviction_ratio,
				.align = srv->conf.l1_align_bytes,
				.spill =
					srv->conf.numa_spill == CONF_SPILL_EVICT ? STORE_SPILL_EVICT : STORE_SPILL_NEAR,
				.distance = distance,
				.sample_rate = srv->conf.metrics_sample_rate,
				.observer = {srv, on_evicted, on_reused}};

	place_distances(srv, distance);
	return store_create(&sc, &srv->store, why);
}

/* Operators compare this line between servers; Python printed it as a bytes literal. */
static void log_none_hash(const struct chash *h)
{
	char text[STORE_HASH_BYTES * 4 + 1];
	size_t n = 0;

	for (size_t i = 0; i < STORE_HASH_BYTES; i++) {
		uint8_t b = h->none.b[i];
		bool plain = b >= 0x20 && b < 0x7f && b != '\\' && b != '"';

		n += (size_t)snprintf(text + n, sizeof(text) - n, plain ? "%c" : "\\x%02x", b);
	}
	log_info("Computed NONE_HASH=b\"%s\" using hash function", text);
}

/* Remembering a token costs about 5 bytes, caching its KV 10^4 to 10^6: a thirty-second part of L1 remembers far more prompts
 * than it holds. */
static uint64_t prefix_budget(const struct server *srv)
{
	uint64_t share = arena_bytes(srv->arena) / 32;

	if (share < PREFIX_MIN)
		return PREFIX_MIN;
	return share > PREFIX_MAX ? PREFIX_MAX : share;
}

static int open_hashing(struct server *srv, struct why *why)
{
	enum chash_algorithm a = CHASH_BLAKE3;
	int err;

	if (srv->conf.hash_algorithm == CONF_HASH_SHA256_CBOR)
		a = CHASH_SHA256_CBOR;
	if (srv->conf.hash_algorithm == CONF_HASH_BUILTIN)
		log_warn("--hash-algorithm builtin depends on a Python interpreter and never leaves the server: blake3 "
			 "is "
			 "used");
	err = chash_init(&srv->chash, a, srv->conf.chunk_size, getenv("PYTHONHASHSEED"), why);
	if (err)
		return err;
	log_info("Using %s hash function", chash_name(a));
	log_none_hash(&srv->chash);
	log_info("TokenHasher initialized: chunk_size=%u, hash_algorithm=%s", srv->conf.chunk_size, chash_name(a));
	return prefix_create(&srv->chash, prefix_budget(srv), &srv->prefix, why);
}

static int add_event(struct server *srv, int fd, uint64_t tag)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = tag};

	return fd >= 0 && epoll_ctl(srv->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

/* Signals are blocked before any thread starts, so that only the signalfd sees them. */
static int open_events(struct server *srv, struct why *why)
{
	struct timespec period = {0, TICK_MS * 1000000l};
	struct itimerspec every = {period, period};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	srv->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	srv->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	srv->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (srv->epoll_fd < 0 || add_event(srv, srv->signal_fd, EV_SIGNAL) || add_event(srv, srv->timer_fd, EV_TIMER) ||
	    timerfd_settime(srv->timer_fd, 0, &every, NULL))
		return why_set(why, -errno, "cannot set up events: %s", strerror(errno));
	return 0;
}

static int start_http(struct server *srv, struct why *why)
{
	struct http_conf hc = {.host = srv->conf.http_host,
			       .port = (uint16_t)srv->conf.http_port,
			       .metrics = !srv->conf.disable_metrics && !srv->conf.disable_observability};
	struct http_host host;
	int err;

	if (srv->conf.no_http)
		return 0;
	snapshot_host(srv, &host);
	err = place_enter(srv, ROLE_HTTP, 0, "the HTTP server", why);
	if (err)
		return err;
	err = http_start(&hc, &host, srv->metrics, &srv->http, why);
	place_leave(srv);
	atomic_store(&srv->http_ready, !err);
	if (!err)
		log_info("HTTP API on http://%s:%u", srv->conf.http_host, http_port(srv->http));
	return err;
}

static int start(struct server *srv, struct why *why)
{
	int err = open_events(srv, why);

	if (!err)
		err = shmx_init(why);
	if (!err)
		err = make_instance_id(srv) ? why_set(why, -EIO, "no random bytes") : 0;
	if (!err)
		err = metrics_create(srv->instance_id, srv->conf.legacy_metrics, &srv->metrics)
			      ? why_set(why, -ENOMEM, "out of memory")
			      : 0;
	if (!err)
		count_init(srv);
	if (!err)
		err = place_open(srv, why);
	if (!err)
		err = open_arena(srv, why);
	if (!err)
		err = open_store(srv, why);
	if (!err)
		err = open_hashing(srv, why);
	if (!err)
		err = ctx_registry_create(srv->store, liveness_dead, srv, &srv->contexts) ||
				      sessions_create(srv->store, srv->conf.l1_read_ttl_seconds * 1000ull,
						      &srv->sessions)
			      ? why_set(why, -ENOMEM, "out of memory")
			      : 0;
	if (!err)
		err = device_open(srv, why);
	if (!err)
		err = below_open(srv, why);
	if (!err)
		err = state_open(srv, why);
	if (!err)
		err = workers_start(srv, why);
	if (!err)
		err = control_start(srv, why);
	if (!err)
		err = l1_thread_start(srv) ? why_set(why, -ENOMEM, "cannot start the thread that fills L1") : 0;
	if (!err)
		err = start_http(srv, why); /* last: it shows all others */
	return err;
}

/* A GPU that does not answer owns slots of L1 and memory of copies: the kernel takes it all down, nobody else may. */
static void leave(void)
{
	log_error("leaving L1 as it is: a GPU does not answer");
	_exit(1);
}

static void stop(struct server *srv)
{
	bool drained;

	atomic_store(&srv->stopping, true);
	http_stop(srv->http);
	l1_thread_stop(srv);
	control_quiesce(srv);
	drained = workers_stop(srv, DRAIN_MS);
	drained &= device_drain(srv, DRAIN_MS);
	below_close(srv); /* it tells the sessions and the control thread's waiting requests */
	if (!drained)
		leave();
	control_stop(srv);
	sessions_destroy(srv->sessions);
	ctx_registry_destroy(srv->contexts);
	if (!device_close(srv, DRAIN_MS))
		leave();
	prefix_destroy(srv->prefix);
	store_destroy(srv->store);
	below_free(srv);
	shmx_put(srv->arena_guard);
	arena_destroy(srv->arena);
	place_close(srv);
	metrics_destroy(srv->metrics);
	close(srv->timer_fd);
	close(srv->signal_fd);
	close(srv->epoll_fd);
}

static void tick(struct server *srv)
{
	struct ctx_limits limits = {
		.write_ttl_ms = srv->conf.l1_write_ttl_seconds * 1000ull,
		.read_ttl_ms = srv->conf.l1_read_ttl_seconds * 1000ull,
		.reap_ms = (uint64_t)(srv->conf.worker_reap_timeout_seconds * 1000),
		.grace_ms = (uint64_t)(srv->conf.worker_registration_grace_seconds * 1000),
	};
	uint64_t now = clock_ms(), n;
	uint32_t expired;

	if (read(srv->timer_fd, &n, sizeof(n)) < 0)
		return;
	atomic_store(&srv->tick_ms, now);
	expired = sessions_sweep(srv->sessions, now);
	metric_add(srv->metrics, M_SESSION_LOCKS_EXPIRED, expired);
	if (expired)
		log_warn("%u request(s) kept lookup locks beyond the read TTL: released", expired);
	n = ctx_sweep(srv->contexts, &limits, now);
	count(srv, COUNT_REAPED_PING, n);
	n = srv->ticks++ % STORE_TICKS == 0 ? store_tick(srv->store, now) : 0;
	device_tick(srv, now);
	l1_report_shortage(srv);
	if (n)
		log_info("L1 memory usage above watermark %.2f; %.2f GiB evicted", srv->conf.eviction_trigger_watermark,
			 (double)n / (1 << 30));
}

/* True: stop. */
static bool on_signal(struct server *srv)
{
	struct signalfd_siginfo si;

	if (read(srv->signal_fd, &si, sizeof(si)) != sizeof(si))
		return false;
	if (si.ssi_signo == SIGHUP) {
		log_info("SIGHUP: options are read at start only");
		return false;
	}
	log_info("signal %u: stopping", si.ssi_signo);
	return true;
}

static void serve(struct server *srv)
{
	bool quit = false;

	log_info("LMCache ZMQ cache server is running on tcp://%s:%u", srv->conf.host, control_port(srv->control));
	log_info("LMCache cache server is running...");
	while (!quit) {
		struct epoll_event ev[16];
		int n = epoll_wait(srv->epoll_fd, ev, 16, -1);

		for (int i = 0; i < n; i++) {
			if (ev[i].data.u64 == EV_SIGNAL)
				quit |= on_signal(srv);
			else if (ev[i].data.u64 == EV_TIMER)
				tick(srv);
			else
				liveness_event(srv, ev[i].data.u64);
		}
	}
}

/* Messages are allocated by libzmq's thread and freed by ours. With glibc's defaults each large one would be mapped and unmapped,
 * and a thread's heap would be grown and trimmed by mprotect around every burst: measured, a tenth of the control thread's
 * time. The price is that freed message memory stays with the process. */
static void keep_freed_memory(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	mallopt(M_TOP_PAD, 4 << 20);
}

int server_main(int argc, char **argv)
{
	struct server *srv = mem_calloc(1, sizeof(*srv));
	struct why why = {0};
	int err;

	if (!srv)
		return 1;
	keep_freed_memory();
	srv->epoll_fd = srv->signal_fd = srv->timer_fd = -1;
	srv->started_ms = clock_ms();
	srv->tick_ms = srv->started_ms;
	err = conf_parse(argc, argv, &srv->conf, &why);
	if (!err)
		err = below_parse(srv, &why);
	if (err) {
		if (err < 0)
			fprintf(stderr, "%s: %s\n", argv[0], why.text);
		below_free(srv);
		conf_free(&srv->conf);
		mem_free(srv);
		return err < 0 ? 2 : 0;
	}
	log_set_level(srv->conf.log_level);
	err = start(srv, &why);
	if (err)
		log_error("cannot start: %s", why.text);
	else
		serve(srv);
	stop(srv);
	conf_free(&srv->conf);
	mem_free(srv);
	return err ? 1 : 0;
}
