/* resp_int.h - one connection to a Redis or Valkey server (resp_conn.c), keys (resp_key.c), and the adapter (resp.c, resp_work.c).
 *
 * hiredis connects; the bytes are ours: a command's value goes out of the slot and an answer's into it without a copy, and no length that
 * the server states is ever allocated or believed beyond what was asked for.
 */
#ifndef DAEMON_L2_RESP_INT_H
#define DAEMON_L2_RESP_INT_H

#include "daemon/l2/fs_int.h" /* its index and its marks serve here, too */
#include "daemon/l2/l2_int.h"

#include <sys/uio.h>

struct redisContext;

struct resp_server {
	const char *host; /* or the path of a socket, from '/' on */
	int port;
	const char *username, *password; /* "" */
	uint32_t timeout_ms;
};

#define RESP_BUFFER 16384u
#define RESP_LINE   512u /* longest line of an answer, but for the text of errors, which is cut */

struct resp_conn {
	struct redisContext *ctx; /* NULL: closed */
	uint64_t until_ns;        /* when the answers must be there */
	bool heard;               /* something since the last command */
	uint32_t at, end;         /* of buf */
	char error[96];           /* what the server said */
	uint8_t buf[RESP_BUFFER];
};

/* What the server refused: the connection is in order. After every other error it must be closed. */
#define RESP_REFUSED (-EREMOTEIO)

/* Connects and authenticates. 0, RESP_REFUSED (closed), -errno. */
int resp_open(struct resp_conn *c, const struct resp_server *s, struct why *why);
void resp_close(struct resp_conn *c);

/* Commands, as many as there are in iov, which is used up. Their answers must be read within the time-out; `bytes` of payload give time on
 * top. 0, -errno. */
int resp_send(struct resp_conn *c, const struct resp_server *s, struct iovec *iov, int n, uint64_t bytes);

/* One answer each. RESP_REFUSED; -EPROTO (another type, a line too long), -ETIMEDOUT, -ECONNRESET and others. */
int resp_read_ok(struct resp_conn *c);
int resp_read_number(struct resp_conn *c, uint64_t *out);
/* A value of exactly `bytes`, or with `most` of at most `bytes`, whose length goes to *got. -ENOENT: nil. -EMSGSIZE: another
 * length. -ENOBUFS: it was too long for `most` and is read past, the connection is in order. */
int resp_read_bulk(struct resp_conn *c, void *mem, uint64_t bytes, uint64_t *got, bool most);
/* The head of a list. */
int resp_read_list(struct resp_conn *c, uint64_t *n);

/* ---- keys (resp_key.c): <model>@<kv_rank>@<object group>@<hash>[@<salt>], as upstream's ---------------------------------- */

#define RESP_KEY_MAX (SEG_MAX_MODEL + SEG_MAX_SALT + 128u)

/* The key, and the one beside it with checksum, length and layout. */
struct resp_key {
	const char *text; /* within mark */
	uint32_t bytes, mark_bytes;
	char mark[RESP_KEY_MAX + 16];
};
void resp_key(struct resp_key *k, const struct seg_names *names, const struct seg_key *key);
/* Looks like one of either kind. */
bool resp_key_is_ours(const char *text, uint64_t n);

/* Commands of one argument, one after another. */
struct resp_text {
	char *p;
	uint64_t n, room;
};
bool resp_add(struct resp_text *t, const char *verb, const void *arg, uint64_t n);

/* ---- the adapter --------------------------------------------------------------------------------------------------------------- */

#define RESP_SCRATCH (128u << 10) /* commands of one packet */

struct resp_worker {
	struct resp_conn conn;
	struct resp_text text;
};

struct resp {
	struct l2_pooled on;
	struct lk lk; /* LK_L2: from `index` on */
	struct seg_names *names;
	struct resp_server server;
	char *texts[3];
	bool shared, noop;
	uint64_t capacity;
	double watermark, ratio;
	uint32_t nworkers;
	struct fs_index index; /* what we stored; the stem is the name's number */
	uint64_t used;
	uint64_t closed_until_ms, back_off_ms;
	bool connected, failed;
	char error[96];
	struct l2_stats n;
	struct resp_worker w[];
};

int resp_run(void *ctx, struct l2_job *job);

#endif
