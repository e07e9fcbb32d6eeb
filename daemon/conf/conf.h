/* conf.h - every option of the server, declared once.
 *
 * options.def is the table: field, flag, config-file key, environment name, type, default, range, help group, help text,
 * since which upstream generation, and whether its feature exists here. CLI parsing (argp), --help, the config file, the
 * environment, docs/options.md and their tests are all derived from it. Precedence: flag, environment, file, default.
 * A flag whose feature is not here yet (absent.def) is refused by name; deprecated upstream names (deprecated.def) are
 * accepted with one warning line. Source of names and defaults: shared surface reference, section 1.
 *
 * Threads: init only; the struct is constant afterwards. Strings belong to the conf.
 */
#ifndef DAEMON_CONF_CONF_H
#define DAEMON_CONF_CONF_H

#include "daemon/base/log.h"
#include "daemon/base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum conf_hash { CONF_HASH_BLAKE3, CONF_HASH_SHA256_CBOR, CONF_HASH_BUILTIN };
enum conf_transfer { CONF_TRANSFER_AUTO, CONF_TRANSFER_LMCACHE_DRIVEN, CONF_TRANSFER_ENGINE_DRIVEN };
enum conf_policy { CONF_LRU, CONF_NOOP, CONF_ISOLATED_LRU };
enum conf_engine { CONF_ENGINE_DEFAULT };
enum conf_wire { CONF_WIRE_ZMQ };
enum conf_numa_policy { CONF_NUMA_LOCAL, CONF_NUMA_SPREAD, CONF_NUMA_PACK, CONF_NUMA_MANUAL };
enum conf_want { CONF_WANT_NO, CONF_WANT_TRY, CONF_WANT_YES };
enum conf_spill { CONF_SPILL_NEAR, CONF_SPILL_EVICT };
enum conf_l2_store { CONF_L2_STORE_DEFAULT, CONF_L2_STORE_SKIP_L1 };
enum conf_l2_prefetch { CONF_L2_PREFETCH_DEFAULT, CONF_L2_PREFETCH_RETAIN };
enum conf_l2_admission { CONF_L2_ADMIT_ALL, CONF_L2_ADMIT_SECOND_TOUCH };
enum conf_cuda { CONF_CUDA_AUTO, CONF_CUDA_OFF, CONF_CUDA_REQUIRED };
enum conf_gpu_path { CONF_GPU_AUTO, CONF_GPU_DIRECT, CONF_GPU_BATCH, CONF_GPU_STAGED };

/* The values of an option that may be given several times, in order. */
#define CONF_LIST_MAX 16u
struct conf_list {
	char **v;
	uint32_t n;
};

#define CONF_MAX_MAP 64u
struct conf_map_node {
	uint32_t node;  /* OS number */
	uint64_t bytes; /* 0: an even share */
};

/* What --l1-pages means, per size: TRY when a smaller one named after it may take its place, YES when it is the last. */
struct conf_pages {
	enum conf_want huge_1g, huge_2m, thp;
};

#define CONF_VERSION "0.1.0"

struct conf {
	/* MP Server */
	char *host;          /* "localhost"; IPv6 in brackets, however it was given */
	uint32_t port;       /* 5555; 0 = any free port, the log line tells (tests) */
	uint32_t chunk_size; /* 256 tokens */
	uint32_t max_workers, max_gpu_workers, max_cpu_workers; /* 1; the latter two default to the first */
	enum conf_hash hash_algorithm;
	enum conf_transfer supported_transfer_mode; /* S2 names gpu, non_gpu accepted */
	char *shm_name;                             /* NULL: derived from the pid; "": none */
	char *instance_id;                          /* NULL: a random UUID */
	double worker_reap_timeout_seconds;         /* 120; 0 = off, else >= 30 */
	double worker_registration_grace_seconds;   /* 3600 */
	bool isolated_ipc;                          /* upstream's; says nothing here */
	uint32_t null_block_id;                     /* 0 */
	enum conf_engine engine_type;
	enum conf_wire transport;
	/* HTTP Frontend */
	char *http_host;    /* "127.0.0.1"; IPv6 in brackets */
	uint32_t http_port; /* 8080; 0 = any free port */
	bool no_http;
	/* L1 Memory Manager, L1 Manager TTL */
	double l1_size_gb; /* GiB; required */
	bool l1_use_lazy;
	bool l1_use_hugepages;                              /* the same as l1_pages "2m" */
	double l1_init_size_gb;                             /* 20, never more than l1_size_gb */
	uint32_t l1_align_bytes;                            /* 4096 */
	uint32_t l1_write_ttl_seconds, l1_read_ttl_seconds; /* 600, 300 */
	/* Eviction Policy */
	enum conf_policy eviction_policy;                  /* required */
	double eviction_trigger_watermark, eviction_ratio; /* 0.8, 0.2 */
	/* L2. What an adapter's text means is daemon/l2's business. */
	struct conf_list l2_adapter;
	enum conf_l2_store l2_store_policy;
	enum conf_l2_prefetch l2_prefetch_policy;
	uint32_t l2_prefetch_max_in_flight;                         /* 8 */
	double l2_prefetch_load_timeout, l2_prefetch_stall_seconds; /* 0 = no limit; 2 */
	uint32_t l2_prefetch_max_mb;                                /* a quarter of L1, at most 4096 */
	uint32_t l2_dirty_max_percent;                              /* 25 */
	enum conf_l2_admission l2_admission;
	/* Observability */
	bool disable_observability, disable_metrics, disable_logging;
	double metrics_sample_rate; /* 0.01 */
	/* Appliance: options of ours */
	char *config;    /* the file that was read, NULL = none */
	char *dialect;   /* NULL = recognise; "D5" ... = every peer speaks it */
	char *state_dir; /* NULL = /var/lib/lmcache-appliance, or $XDG_STATE_HOME/..., or ~/.local/state/... */
	bool insecure_allow_remote; /* conf_parse refuses a bind address other than loopback without it */
	uint32_t max_tokens;        /* tokens of one request; 4 Mi */
	uint32_t max_message_mb;    /* largest ZMQ message; 512 MiB */
	bool legacy_metrics;        /* true: also export generation A names */
	enum log_level log_level;   /* LMCACHE_LOG_LEVEL */
	enum conf_numa_policy numa_policy;
	enum conf_want numa; /* binding of L1 and threads; try */
	char *numa_map;      /* NULL; with manual: "0=32G,1=32G" */
	enum conf_spill numa_spill;
	uint32_t numa_check_seconds; /* 30; 0 = off */
	char *l1_pages;              /* "auto", "2m", "1g,2m,4k" */
	enum conf_cuda cuda;
	char *cuda_library;           /* NULL: libcuda.so.1 */
	uint32_t gpu_staging_size_mb; /* 16 */
	enum conf_gpu_path gpu_copy_path;
	uint32_t gpu_blocks; /* 0 = measured */
	/* Not options: what the two texts above say. */
	struct conf_map_node map[CONF_MAX_MAP];
	uint32_t nmap;
	struct conf_pages pages;
	bool workers_open; /* nobody said how many workers: one of each kind, or one per node */
	/* Where a value came from, by option index (see conf_option_count): 'd', 'f', 'e', 'c'. For dumps. */
	uint8_t *source;
};

/* Parses `server`'s arguments (argv[0] is skipped). Reads --config, then the environment, then the
 * flags over them. 0; -EINVAL or another negative errno with `why` (exit code 2); 1 when --help or --version was printed.
 * On success the caller owns the strings: conf_free. On failure `out` holds nothing. Warnings about deprecated names are
 * logged. Never exits the process. argv is only read; the strings of the conf are copies. */
int conf_parse(int argc, char **argv, struct conf *out, struct why *why);
void conf_free(struct conf *c);

/* The whole configuration in upstream's three-section JSON shape (surface reference 5.4), caller frees with free(). `adapters`: an
 * array with what may be shown of the L2 adapters (l2_conf_json), borrowed; NULL: none. */
struct json_t;
char *conf_json(const struct conf *c, struct json_t *adapters);
/* The same under the section names of GET /conf and /config (2.7): mp, storage_manager, observability, http, appliance. */
char *conf_json_http(const struct conf *c, struct json_t *adapters);

/* What --help prints. */
void conf_write_help(FILE *out, const char *program);
/* Writes docs/options.md from the tables. */
void conf_write_docs(FILE *out);
size_t conf_option_count(void);

#endif
