/* cmd_l2_verify.c - `l2 verify` and `l2 dump`: records one by one. */
#include "tools/cmd_l2.h"
#include "tools/commands.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VERIFY_WIDTH 64
#define BAD_SHOWN    64u
#define DUMP_LIMIT   100u
#define NAME_TEXT    (SEG_MAX_MODEL + 1u)

/* ---- verify ----------------------------------------------------------------------------------------------------------- */

struct verify_options {
	struct l2_options l2;
	bool no_payload;
};

static const struct cli_opt verify_rows[] = {
	{"no-payload", 0, NULL, CLI_FLAG, offsetof(struct verify_options, no_payload), 0, 0, NULL,
	 "Headers and summaries only: much faster"},
	L2_ROW(struct verify_options),
};

struct bad {
	struct seg_record r;
	char model[256];
};

struct verify {
	struct bad *bad; /* BAD_SHOWN */
	uint32_t nbad;
};

static bool note_bad(void *ctx, const struct seg_record *r)
{
	struct verify *v = ctx;

	if (r->error && v->nbad < BAD_SHOWN) {
		v->bad[v->nbad].r = *r;
		l2_printable(r->name.model, v->bad[v->nbad++].model, sizeof(v->bad->model));
	}
	return true;
}

static void show_bad(struct report *r, const struct bad *b)
{
	char hash[L2_HASH_TEXT];

	report_section(r, "bad", true, "Bad record");
	report_int(r, "Segment", "segment", b->r.segment);
	report_int(r, "Offset on the device", "offset", (long long)b->r.offset);
	report_int(r, "Bytes", "bytes", (long long)b->r.bytes);
	report_text(r, "Model", "model", "%s", b->model);
	report_text(r, NULL, "hash", "%s", l2_hash(&b->r.hash, hash));
	report_text(r, "What", "error", "%s", l2_error(b->r.error));
}

static bool is_good(const struct seg_verify_result *n)
{
	return n->bad_headers + n->bad_payloads + n->io_errors + n->bad_summaries + n->bad_segments == 0 &&
	       n->good_superblocks == 4;
}

static struct report *show_verify(const struct verify_options *o, const struct seg_verify_result *n,
				  const struct verify *v)
{
	struct report *r = report_create("L2 Verify", VERIFY_WIDTH);

	if (!r)
		return NULL;
	report_text(r, "Path", "path", "%s", o->l2.path[0]);
	report_both(r, "Result", "good", json_boolean(is_good(n)), "%s", is_good(n) ? "good" : "DAMAGED");
	report_both(r, "Payloads", "payloads_read", json_boolean(!o->no_payload), "%s",
		    o->no_payload ? "not read" : "read");
	report_int(r, "Good superblocks of 4", "good_superblocks", n->good_superblocks);
	report_int(r, "Segments in use", "segments", (long long)n->segments);
	report_int(r, "Records", "records", (long long)n->records);
	report_int(r, "Payload bytes", "bytes", (long long)n->bytes);
	report_int(r, "Bad headers", "bad_headers", (long long)n->bad_headers);
	report_int(r, "Bad payloads", "bad_payloads", (long long)n->bad_payloads);
	report_int(r, "Bad summaries", "bad_summaries", (long long)n->bad_summaries);
	report_int(r, "Segments that cannot be read", "bad_segments", (long long)n->bad_segments);
	report_int(r, "Read errors", "io_errors", (long long)n->io_errors);
	report_int(r, "Unfinished (left by a crash)", "unfinished", (long long)n->unfinished);
	for (uint32_t i = 0; i < v->nbad; i++)
		show_bad(r, &v->bad[i]);
	return r;
}

int cmd_l2_verify(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_spec spec = {
		.opts = verify_rows,
		.nopts = sizeof(verify_rows) / sizeof(verify_rows[0]),
		.after = "Reads only. A store in use is refused, since it changes meanwhile. Exit code 1 when anything "
			 "is damaged; the "
			 "first 64 bad records are told. Damage is never served: a read that finds it is a miss. What "
			 "a crash left "
			 "unfinished is no damage, and is left out at the next start.",
	};
	static struct bad bad[BAD_SHOWN];
	struct verify_options o = {0};
	struct verify v = {.bad = bad};
	struct seg_verify_result n;
	struct why why = {0};
	int code = l2_parse(cmd, &spec, argc, argv, &o.l2);

	if (code >= 0)
		return code;
	if (seg_verify(o.l2.path[0], !o.no_payload, note_bad, &v, &n, &why)) {
		cli_error(cmd, "%s", why.text);
		return CLI_FAILED;
	}
	return cli_finish(cmd, &o.l2.common, show_verify(&o, &n, &v), is_good(&n) ? CLI_OK : CLI_FAILED);
}

/* ---- dump --------------------------------------------------------------------------------------------------------------- */

struct dump_options {
	struct l2_options l2;
	uint64_t limit;
};

static const struct cli_opt dump_rows[] = {
	{"limit", 0, "N", CLI_U64, offsetof(struct dump_options, limit), 0, 1e18, NULL,
	 "Stop after so many records (default 100, 0 = all)"},
	L2_ROW(struct dump_options),
};

struct dump {
	FILE *out;
	bool json;
	uint64_t n, limit;
};

static void dump_json(struct dump *d, const struct seg_record *r, const char *model, const char *salt, const char *hash)
{
	char layout[2 * SEG_DIGEST + 1];

	for (unsigned i = 0; i < SEG_DIGEST; i++)
		snprintf(layout + (size_t)2 * i, 3, "%02x", r->name.layout[i]);
	json_t *o = json_pack("{s:s s:I s:I s:I s:I s:I s:s s:s s:I s:I s:s s:s s:s}", "kind",
			      r->removed ? "removal" : "object", "segment", (json_int_t)r->segment, "offset",
			      (json_int_t)r->offset, "bytes", (json_int_t)r->bytes, "sequence", (json_int_t)r->sequence,
			      "generation", (json_int_t)r->generation, "model", model, "salt", salt, "kv_rank",
			      (json_int_t)r->name.kv_rank, "object_group", (json_int_t)r->name.object_group, "layout",
			      layout, "hash", hash, "state", l2_error(r->error));

	fputs(d->n ? ",\n  " : "\n  ", d->out);
	if (o)
		json_dumpf(o, d->out, JSON_COMPACT);
	json_decref(o);
}

static bool dump_one(void *ctx, const struct seg_record *r)
{
	struct dump *d = ctx;
	char model[NAME_TEXT], salt[SEG_MAX_SALT + 1], hash[L2_HASH_TEXT];

	l2_printable(r->name.model, model, sizeof(model));
	l2_printable(r->name.salt, salt, sizeof(salt));
	l2_hash(&r->hash, hash);
	if (d->json)
		dump_json(d, r, model, salt, hash);
	else
		fprintf(d->out, "%-7s %7u %15" PRIu64 " %11" PRIu64 " %12" PRIu64 " %4u %.64s %s%s%s\n",
			r->removed ? "removal" : "object", r->segment, r->offset, r->bytes, r->sequence,
			r->name.kv_rank, hash, model, r->error ? ": " : "", r->error ? l2_error(r->error) : "");
	return ++d->n != d->limit;
}

static int dump_to(const struct cli_cmd *cmd, const struct dump_options *o, struct dump *d)
{
	struct seg_verify_result n;
	struct why why = {0};

	if (d->json)
		fputs("{\"records\": [", d->out);
	else
		fprintf(d->out, "%-7s %7s %15s %11s %12s %4s %-64s %s\n", "kind", "segment", "offset", "bytes",
			"sequence", "rank", "hash", "model");
	int rc = seg_verify(o->l2.path[0], false, dump_one, d, &n, &why);
	if (d->json)
		fprintf(d->out, "%s], \"complete\": %s}\n", d->n ? "\n" : "",
			!rc && (d->limit == 0 || d->n < d->limit) ? "true" : "false");
	else if (!rc && d->limit && d->n == d->limit)
		fprintf(d->out, "(stopped after %" PRIu64 "; --limit 0 shows all)\n", d->n);
	if (rc)
		cli_error(cmd, "%s", why.text);
	return rc;
}

int cmd_l2_dump(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_spec spec = {
		.opts = dump_rows,
		.nopts = sizeof(dump_rows) / sizeof(dump_rows[0]),
		.after = "Reads only; a store in use is refused. Shows every record, also those that a newer one has "
			 "replaced.",
	};
	struct dump_options o = {.limit = DUMP_LIMIT};
	int code = l2_parse(cmd, &spec, argc, argv, &o.l2);

	if (code >= 0)
		return code;
	const char *name = o.l2.common.output ? o.l2.common.output : "standard output";
	struct dump d = {.out = o.l2.common.output ? fopen(o.l2.common.output, "we") : stdout,
			 .json = o.l2.common.format == REPORT_JSON,
			 .limit = o.limit};
	if (!d.out) {
		cli_error(cmd, "%s: %s", name, strerror(errno));
		return CLI_FAILED;
	}
	int rc = dump_to(cmd, &o, &d);
	bool broken = ferror(d.out) != 0;
	broken |= (d.out == stdout ? fflush(d.out) : fclose(d.out)) != 0;
	if (broken)
		cli_error(cmd, "%s: cannot be written", name);
	return rc || broken ? CLI_FAILED : CLI_OK;
}
