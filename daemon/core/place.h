/* place.h - where things go on this machine: the plan, and what the server makes of it.
 *
 * The machine is looked at once, at start, and planned once; both are constant afterwards. Threads are started between
 * place_enter and place_leave and inherit the CPUs planned for their role, libraries' own threads too. Writers' nodes are found
 * at registration (locality.c), pages are looked for in the background (l1_thread.c).
 *
 * Threads: open, enter, leave and close by main; the rest from any.
 */
#ifndef DAEMON_CORE_PLACE_H
#define DAEMON_CORE_PLACE_H

#include "daemon/base/why.h"
#include "daemon/store/store.h"
#include "numa/arena.h"
#include "numa/plan.h"

struct server;
struct ctx;
struct status;

/* Loads the machine and plans. Every warning of the plan is one log line; a shortage of something demanded is an error. */
int place_open(struct server *srv, struct why *why);
void place_close(struct server *srv);

/* The arena as planned, and what the start-up log says about it. */
void place_arena(const struct server *srv, struct arena_conf *out);
void place_log_pools(const struct server *srv);
/* The plan has nodes for L1, but nothing can be bound (seccomp, an old kernel) and --numa is try. Its warning is in the log. */
bool place_unbindable(const struct server *srv);
/* Distances between the arena's ranges, as store_conf wants them; `out` has room for their square. */
void place_distances(const struct server *srv, uint32_t *out);
/* After the arena is there: nodes of its ranges, series of the metrics about them. */
void place_ranges(struct server *srv);

/* Threads started until place_leave run on the CPUs of that role. 0 also when that is not possible and --numa is not yes (one
 * warning in all). */
bool place_pins(const struct server *srv); /* threads have CPUs of their own */
int place_enter(struct server *srv, enum plan_role role, uint32_t index, const char *name, struct why *why);
void place_leave(struct server *srv);
node_id place_node_of(const struct server *srv, enum plan_role role, uint32_t index);
/* The node of a device by its PCI address; unknown when the machine does not say. */
node_id place_node_of_pci(const struct server *srv, const char *pci);

/* ---- locality.c: which node a writer is on, and what crosses nodes -------------------------------------------------- */

enum ctx_node_source { CTX_NODE_UNKNOWN, CTX_NODE_PAGES, CTX_NODE_CPUS, CTX_NODE_GPU };

/* Fills in c->node, c->home and their source, at registration: the node of its GPU; else by sampling the pages of its shared memory, else by the CPUs its
 * process may run on. A few dozen system calls. */
void locality_find(struct server *srv, struct ctx *c);
/* The node whose pool serves a writer on `node`: that node, else the nearest with a pool; unknown stays unknown. */
node_id locality_home(const struct server *srv, node_id node);

enum locality_op { LOCALITY_STORE, LOCALITY_RETRIEVE, LOCALITY_OPS };
enum locality { LOCALITY_LOCAL, LOCALITY_REMOTE, LOCALITY_UNKNOWN, LOCALITIES };
/* Counts the bytes of objects moved for an engine; zero ids are skipped. No lock, no allocation. */
void locality_count(struct server *srv, const struct ctx *c, enum locality_op op, const store_obj *objs, uint32_t n);

/* ---- l1_thread.c: fills L1's memory after the start, then looks where its pages are ----------------------------------- */

int l1_thread_start(struct server *srv);
void l1_thread_stop(struct server *srv);
/* One line when L1 could not grow to its size, and one when it can again. Main thread. */
void l1_report_shortage(struct server *srv);
/* The last look at range i; false when there was none. */
bool l1_thread_place(struct server *srv, uint32_t i, struct arena_place *out, double *age_s);

/* ---- place_status.c -------------------------------------------------------------------------------------------------- */

/* Fills out->numa. 0 or -ENOMEM. */
int place_status(struct server *srv, struct status *out);
/* Gauges, before they are rendered. */
void place_refresh(struct server *srv);

#endif
