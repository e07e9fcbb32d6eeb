/* fake.h - inside the test driver: the machine that processes share, and what a process knows of it.
 *
 * A CUDA driver without a GPU. The machine (GPUs, allocations, interprocess events, faults) is one file mapped by every process that
 * loads the library; device memory is one more file per allocation. Work on streams is done by a thread per stream, later.
 * Device addresses lie in a range nobody may read: a CPU that follows one dies, as it would on a real machine.
 *
 * Locks: self.lk (this process), then machine_lock (all processes). A stream's own lock is inside both and never holds another.
 * A process may be killed anywhere: what it held is given back by the next one that looks (machine_reap).
 */
#ifndef TESTS_FAKE_LIBCUDA_FAKE_H
#define TESTS_FAKE_LIBCUDA_FAKE_H

#include "tests/fake/libcuda/api.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
	CUDA_ERROR_INVALID_IMAGE = 200,
};

#define GPUS       16u
#define PROCESSES  128u
#define MEMORIES   16384u
#define EVENTS     65536u /* interprocess ones */
#define FAULTS     64u
#define GRANULE    (2ull << 20) /* of virtual memory and of device addresses */
#define FAKE_MAGIC 0x6c6d636166616b65ull

/* ---- the machine: shared ---------------------------------------------------------------------------------------------- */

struct process {
	_Atomic uint64_t started; /* start time of the pid; 0: a free slot */
	int32_t pid;
	uint32_t unused;
	/* what it has now, for reports and leak tests */
	_Atomic int64_t contexts, allocations, allocated_bytes, imports, imported_bytes, vmm_handles, vmm_maps,
		reservations, streams, events, event_imports, host_registrations, host_bytes, modules;
	/* what it did so far */
	_Atomic int64_t copies, copied_bytes, batches, launches, kernel_faults;
};

enum memory_kind { MEMORY_PLAIN, MEMORY_VMM };
struct memory {
	uint64_t id; /* never used again; 0: a free entry */
	uint64_t bytes;
	uint64_t holders[PROCESSES / 64]; /* those who have it mapped, or a handle of it */
	uint64_t owner_started;           /* of the process that made it: 0 when it freed it or died */
	uint32_t owner, gpu;
	enum memory_kind kind;
	uint32_t handle_types; /* virtual memory: what it may be exported as */
};

struct event_state {
	_Atomic uint64_t id;             /* never used again; 0: a free entry */
	_Atomic uint64_t recorded, done; /* numbers of records asked for, and reached */
	_Atomic uint64_t recorder;       /* `started` of the process of the last record */
	_Atomic uint32_t recorder_slot;
	uint32_t owner, gpu, unused;
	uint64_t owner_started;
	uint64_t holders[PROCESSES / 64];
};

struct fault {
	_Atomic bool used;
	char function[48];
	int32_t pid; /* 0: every process */
	CUresult error;
	_Atomic int64_t wait;  /* calls to let through first */
	_Atomic int64_t count; /* calls to fail; INT64_MAX: all */
	bool sticky;           /* breaks the context, too */
};

struct gpu_state {
	char uuid[16];
	char name[96], pci[16];
	uint64_t bytes;
	_Atomic int64_t used;
	_Atomic bool lost;
	bool mig;
	/* slowness, by control */
	_Atomic int64_t slow_pid, latency_ns, bytes_per_s, stuck_pid;
	_Atomic bool stuck;
};

struct machine {
	_Atomic uint64_t magic;
	pthread_mutex_t lk; /* robust */
	uint64_t secret;
	uint64_t next_id;
	int32_t version;
	uint32_t ngpus;
	uint32_t batch_cap; /* above it cuMemcpyBatchAsync fails, as drivers do that hang there */
	bool fabric, value_ops, vmm;
	bool dead_stuck; /* records of the dead are never reached */
	int32_t cc;
	_Atomic uint32_t tick, waiters; /* an event was reached or a value written, anywhere */
	_Atomic uint32_t nfaults;
	uint32_t nmemories, nevents; /* entries beyond were never used */
	_Atomic int64_t control_time, control_size;
	struct gpu_state gpu[GPUS];
	struct fault fault[FAULTS];
	struct process process[PROCESSES];
	struct memory memory[MEMORIES];
	struct event_state event[EVENTS];
};

/* ---- this process -------------------------------------------------------------------------------------------------------- */

enum range_kind { RANGE_ALLOC, RANGE_IMPORT, RANGE_VMM, RANGE_HOST };

/* Device addresses that mean something. */
struct range {
	uint64_t va, bytes;
	char *host;
	uint64_t mapped;       /* bytes to unmap, 0: not ours */
	struct memory *memory; /* NULL: host memory */
	uint64_t memory_id;
	struct context *ctx;
	enum range_kind kind;
	uint32_t refs;
	uint32_t opens;     /* IPC */
	uint32_t gpu, gpus; /* where it lies; who may use it, virtual memory only: one bit each */
	bool access, gone, portable;
};

struct context {
	uint32_t gpu; /* of the machine */
	int device;   /* ordinal in this process */
	uint32_t retains, flags;
	_Atomic uint32_t epoch;
	_Atomic bool active, dying;
	_Atomic int error; /* sticky */
	struct stream *streams, *null_stream;
	uint64_t streams_made;
};

enum object_kind { OBJ_NONE, OBJ_STREAM, OBJ_EVENT, OBJ_MODULE, OBJ_FUNCTION, OBJ_VMM };

struct event {
	CUevent handle;
	struct context *ctx;
	unsigned flags;
	bool imported;
	uint32_t refs;
	struct event_state *state, own;
	uint64_t state_id;
	_Atomic uint64_t reached_ns;
};

struct stream {
	CUstream handle;
	struct stream *next; /* of its context */
	struct context *ctx;
	unsigned flags;
	int priority;
	pthread_mutex_t lk;
	pthread_cond_t more, less;
	struct op *first, **last;
	uint64_t queued, waiting; /* number of the last one put in; how many wait */
	_Atomic uint64_t done;
	bool ended;
	uint32_t refs; /* self.lk */
	unsigned seed;
};

struct handle_slot {
	enum object_kind kind;
	uint32_t gen;
	void *object;
};

struct vmm_handle {
	struct memory *memory;
	uint64_t memory_id;
	uint32_t maps;
	bool released;
};

struct reservation {
	uint64_t va, bytes;
};

struct pin {
	char *p;
	uint64_t bytes;
	struct range *range; /* its device address */
	struct context *ctx;
	bool made; /* by cuMemAllocHost: the same address on the device */
	unsigned flags;
};

struct self {
	pthread_mutex_t lk;
	pid_t pid;
	_Atomic bool ready;
	int init_rc;
	char dir[200];
	struct machine *m;
	struct process *p;
	uint32_t slot;
	uint64_t started;
	_Atomic int64_t control_checked;
	/* addresses */
	uint64_t base, room;
	struct range **range;
	uint32_t nranges, ranges_cap;
	struct reservation *reservation;
	uint32_t nreservations, reservations_cap;
	struct pin *pin;
	uint32_t npins, pins_cap;
	pthread_cond_t idle; /* a stream's thread ended */
	struct handle_slot *handle;
	uint32_t nhandles, handles_cap, free_hint;
	/* devices this process sees */
	uint32_t ndevices;
	uint32_t visible[GPUS];
	struct context ctx[GPUS];
	/* options of this process */
	int64_t delay_us;
	uint64_t depth;
	bool reopen_same, host_same, process_sticky;
};

extern struct self self;
extern _Thread_local struct context *current;
extern _Thread_local uint32_t current_epoch;

/* machine.c */
CUresult machine_attach(void); /* self.lk */
void machine_lock(void);
void machine_unlock(void);
void machine_reap(void);                             /* machine locked */
bool process_alive(uint32_t slot, uint64_t started); /* machine locked or not */
uint64_t machine_hash(uint64_t a, uint64_t b);       /* with the machine's secret */
void machine_tick(void);                             /* wakes all who wait */
void machine_wait(uint32_t tick, long ns);           /* until the next tick, or the time is up */
uint64_t now_ns(void);
void sleep_ns(int64_t ns);

/* memory.c: entries of machine.memory, all with the machine locked */
struct memory *memory_make(uint32_t gpu, uint64_t bytes, enum memory_kind kind, uint32_t handle_types, CUresult *rc);
void memory_drop(struct memory *mem, uint32_t slot);
void memory_disown(struct memory *mem);
struct memory *memory_by_id(uint64_t id);
void memory_repair(void);
bool memory_held(const struct memory *mem, uint32_t slot);
void memory_hold(struct memory *mem, uint32_t slot);
char *memory_map(const struct memory *mem, uint64_t *mapped);
int memory_open(const struct memory *mem);
struct memory *memory_of_fd(int fd); /* NULL: not one of ours */
void memory_path(uint64_t id, char *buf, size_t cap);

/* map.c: self.lk */
uint64_t va_take(uint64_t bytes, uint64_t align); /* 0: none left */
struct range *range_add(uint64_t va, uint64_t bytes, enum range_kind kind);
struct range *range_at(uint64_t va); /* that holds this address */
void range_remove(struct range *r);  /* out of the table; unmapped when nobody uses it any more */
void range_put(struct range *r);
struct reservation *reservation_at(uint64_t va);
uint64_t handle_make(enum object_kind kind, void *object); /* 0: no memory */
void *handle_find(enum object_kind kind, const void *handle);
void handle_free(const void *handle);
/* these take self.lk: */
bool device_range(uint64_t va, uint64_t bytes); /* all of it is mapped and accessible */
char *device_hold(uint64_t va, uint64_t *bytes,
		  struct range **held); /* cuts bytes to what one mapping has; NULL: none */
void device_release(struct range *held);
bool is_device(uint64_t va);

/* host.c */
enum pinned { PAGEABLE, PINNED, PINNED_PARTLY };
enum pinned host_pinned(const void *p, uint64_t bytes); /* takes self.lk */
bool host_made(const void *p, uint64_t bytes);          /* by cuMemAllocHost; takes self.lk */
void pins_drop(struct context *c);                      /* self.lk */

/* ipc.c, vmm.c */
void range_release(struct range *r); /* self.lk: what an allocation or an import holds, and its addresses */

/* context.c */
CUresult enter(const char *function);     /* initialised, faults */
CUresult enter_ctx(const char *function); /* and a current context that works */
void context_break(struct context *c, CUresult error);
CUresult context_sync(struct context *c);

/* stream.c */
enum op_kind {
	OP_COPY,
	OP_BATCH,
	OP_SET,
	OP_KERNEL,
	OP_WAIT_EVENT,
	OP_RECORD,
	OP_WAIT_VALUE,
	OP_WRITE_VALUE,
	OP_WAIT_STREAM,
	OP_CALL
};
struct copy {
	uint64_t dst, src; /* device or host addresses */
	bool dst_host, src_host;
	uint64_t width, height, dst_pitch, src_pitch;
};
struct op {
	struct op *next;
	uint64_t seq;
	enum op_kind kind;
	struct copy copy;
	struct copy *batch;
	size_t nbatch;
	void *staged; /* freed after */
	uint64_t va, value, n;
	unsigned flags;
	struct event *event;
	struct stream *stream;
	unsigned grid[3], block[3];
	unsigned char args[512];
	void (*call)(void *);
	void *call_arg;
};
struct stream *stream_find(CUstream s, CUresult *rc); /* NULL stream: the context's; takes a reference */
void stream_put(struct stream *s);
CUresult stream_push(struct stream *s, const struct op *op, uint64_t *seq);
void stream_join(struct stream *s, uint64_t seq); /* until that one is done */
void streams_end(struct context *c);              /* all of them, and waits for their threads */
CUresult stream_make(struct context *c, unsigned flags, int priority, struct stream **out);
void op_free(struct op *op);

/* exec.c */
CUresult op_run(struct stream *s, struct op *op);
bool wait_allowed(struct stream *s); /* not given up */

/* event.c */
void event_put(struct event *e);
bool event_reached(struct event *e, uint64_t n);
void events_drop_dead(uint32_t slot);      /* machine locked */
void events_repair(void);                  /* machine locked */
void events_of_context(struct context *c); /* self.lk: lets them go */

/* module.c */
CUresult kernel_run(struct context *c, const struct op *op);
void modules_of_context(struct context *c); /* self.lk */

/* fault.c */
CUresult fault_check(const char *function, struct context *c);
void control_poll(void);
FAKE_API int fake_cuda_control(const char *command);
FAKE_API int fake_cuda_report(char *buf, size_t cap);

#endif
