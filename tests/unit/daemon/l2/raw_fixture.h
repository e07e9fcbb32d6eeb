/* raw_fixture.h - raw_block over fake disks. */
#ifndef TESTS_RAW_FIXTURE_H
#define TESTS_RAW_FIXTURE_H

#include "daemon/base/check.h"
#include "tests/unit/daemon/l2/fake_disk.h"
#include "tests/unit/daemon/l2/l2_fixture.h"

#include "daemon/base/mem.h"
#include "daemon/l2/raw_int.h"

#define MIB    (1ull << 20)
#define MS     1000000ull
#define RX_MAX 4u

struct rx {
	struct fake_disk disk[RX_MAX];
	uint32_t n, name;
	struct seg_names *names;
	struct l2 *a;
};

#define RX_ARENA (1u << 20)
static inline void *rx_arena(void)
{
	static _Alignas(4096) uint8_t arena[RX_ARENA];
	return arena;
}

static inline int rx_open(void *ctx, uint32_t index, const struct disk_conf *conf, struct disk **out, struct why *why)
{
	struct rx *x = ctx;
	/* Also when a device is opened again, long after the list that create was given went away. */
	check(conf->nbuffers == 2 && conf->buffers[0].base == rx_arena() && conf->buffers[0].bytes == RX_ARENA);
	return fake_open(&x->disk[index], conf, out, why);
}

/* `more`: further keys of the JSON, with a leading comma, or "". */
static inline void rx_start(struct rx *x, const char *more)
{
	char json[1024], paths[512] = "";
	struct raw_opener opener = {x, rx_open};
	struct disk_buffer buffer = {.base = rx_arena(), .bytes = RX_ARENA};
	struct l2_env env = {.names = x->names, .buffers = &buffer, .nbuffers = 1, .chunk_tokens = 256};
	struct why why = {0};
	for (uint32_t i = 0; i < x->n; i++)
		snprintf(paths + strlen(paths), sizeof(paths) - strlen(paths), "%s\"%s\"", i ? ", " : "",
			 x->disk[i].path);
	snprintf(json, sizeof(json), "{\"type\": \"raw_block\", \"device_paths\": [%s]%s}", paths, more);
	struct l2_conf *c = fx_conf(json);
	int rc = l2_raw_create_with(c, &env, &opener, &x->a, &why);
	l2_conf_free(c);
	buffer = (struct disk_buffer){0};
	if (rc)
		fail_msg("%s", why.text);
}

static inline void rx_make(struct rx *x, uint32_t n, uint64_t bytes, const char *more)
{
	memset(x, 0, sizeof(*x));
	x->n = n;
	assert_int_equal(seg_names_create(&x->names), 0);
	struct seg_name name = {.model = slice_str("org/model"), .kv_rank = 1};
	x->name = seg_name_get(x->names, &name);
	for (uint32_t i = 0; i < n; i++) {
		char path[128];
		struct why why = {0};
		snprintf(path, sizeof(path), "/tmp/lmca-raw-%d-%u", getpid(), i);
		unlink(path);
		fake_init(&x->disk[i], path);
		struct seg_format_conf f = {.path = path, .bytes = bytes, .segment_bytes = 8 * MIB};
		if (seg_format(&f, &why))
			fail_msg("%s", why.text);
	}
	rx_start(x, more);
}

static inline void rx_stop(struct rx *x, uint32_t wait_ms)
{
	x->a->ops->close(x->a, wait_ms);
	x->a = NULL;
}

static inline void rx_free(struct rx *x)
{
	if (x->a)
		rx_stop(x, 1000);
	for (uint32_t i = 0; i < x->n; i++)
		fake_finish(&x->disk[i]);
	seg_names_destroy(x->names);
}

static inline struct seg_key rx_key(const struct rx *x, uint64_t number)
{
	return fx_key(x->name, number);
}

static inline void rx_recovered(struct l2 *a)
{
	uint64_t end = clock_ms() + 10000;
	while (strcmp(fx_stats(a).state, "ok") != 0 && clock_ms() < end)
		usleep(1000);
	assert_string_equal(fx_stats(a).state, "ok");
}

/* One of what a device's breaker says. */
static inline bool rx_breaker(struct rx *x, uint32_t i, const char *state)
{
	json_t *d = x->a->ops->describe(x->a);
	json_t *b = json_object_get(json_array_get(json_object_get(d, "devices"), i), "breaker");
	bool is = strcmp(json_string_value(json_object_get(b, "state")), state) == 0;
	json_decref(d);
	return is;
}

static inline bool rx_until(struct rx *x, uint32_t i, const char *state, uint32_t ms)
{
	uint64_t end = clock_ms() + ms;
	while (!rx_breaker(x, i, state)) {
		if (clock_ms() > end)
			return false;
		usleep(5000);
	}
	return true;
}

static inline uint64_t rx_objects(struct rx *x, uint32_t i)
{
	json_t *d = x->a->ops->describe(x->a);
	uint64_t n = (uint64_t)json_integer_value(
		json_object_get(json_array_get(json_object_get(d, "devices"), i), "stored_object_count"));
	json_decref(d);
	return n;
}

#endif
