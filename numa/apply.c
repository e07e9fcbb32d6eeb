/* apply.c - the order of things: look, record, write, read back; and the way back.
 *
 * All steps of a run are tried before a shortage rolls the run back, so that the operator sees what each node was asked and
 * what it gave. Files that cannot be written at all end the run at once.
 */
#include "numa/apply.h"

#include "daemon/base/mem.h"
#include "numa/apply_journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HALF_TEXT "an earlier numa apply was killed half way; `numa undo` repairs that, then apply again"

const char *apply_state_name(enum apply_state s)
{
	static const char *const names[] = {"same", "planned", "written", "short", "failed", "restored"};

	return (unsigned)s < sizeof(names) / sizeof(names[0]) ? names[s] : "?";
}

void apply_result_free(struct apply_result *r)
{
	mem_free(r->steps);
	*r = (struct apply_result){0};
}

static struct apply_step *find(struct apply_result *r, const char *path)
{
	for (uint32_t i = 0; i < r->nsteps; i++)
		if (strcmp(r->steps[i].path, path) == 0)
			return &r->steps[i];
	return NULL;
}

/* ---- apply ---------------------------------------------------------------------------------------------------------- */

static int add_action(struct apply_result *r, const struct plan_action *a, struct why *why)
{
	struct apply_step s = {.state = APPLY_PLANNED}, *same;

	if (a->kind != ACT_SYSFS && a->kind != ACT_SYSCTL)
		return 0;
	if (apply_path_of(a->path, s.path) != 0 || !apply_path_ok(s.path))
		return why_set(why, -EPERM, "%s is not a file that numa apply may write", a->path);
	if (snprintf(s.wanted, sizeof(s.wanted), "%s", a->value) >= (int)sizeof(s.wanted) || !*s.wanted ||
	    strpbrk(s.wanted, "\n[]"))
		return why_set(why, -EINVAL, "the plan's value for %s is none", s.path);
	same = find(r, s.path);
	if (same && !apply_value_is(same->wanted, s.wanted))
		return why_set(why, -EINVAL, "the plan wants %s to be %s and also %s", s.path, same->wanted, s.wanted);
	if (!same)
		r->steps[r->nsteps++] = s;
	return 0;
}

static int collect(const struct plan *p, struct apply_result *r, struct why *why)
{
	r->steps = mem_calloc(p->nactions + 1u, sizeof(*r->steps));
	if (!r->steps)
		return why_set(why, -ENOMEM, "numa apply: out of memory");
	for (uint32_t i = 0; i < p->nactions; i++) {
		int rc = add_action(r, &p->actions[i], why);
		if (rc)
			return rc;
	}
	if (r->nsteps > JOURNAL_MAX_STEPS)
		return why_set(why, -E2BIG, "the plan has %u settings, at most %u", r->nsteps, JOURNAL_MAX_STEPS);
	return 0;
}

/* Reads what is there. `pending` counts the steps that have something to do. */
static int look(const struct apply_conf *conf, struct apply_result *r, uint32_t *pending, struct why *why)
{
	*pending = 0;
	for (uint32_t i = 0; i < r->nsteps; i++) {
		struct apply_step *s = &r->steps[i];
		int rc = apply_file_read(conf, s->path, s->found, why);
		if (rc) {
			s->state = APPLY_FAILED;
			return rc;
		}
		memcpy(s->got, s->found, sizeof(s->got));
		s->state = apply_value_is(s->found, s->wanted) ? APPLY_SAME : APPLY_PLANNED;
		*pending += s->state == APPLY_PLANNED;
	}
	return 0;
}

static int do_step(const struct apply_conf *conf, struct journal *j, struct apply_result *r, struct apply_step *s,
		   struct why *why)
{
	int rc = journal_set(j, s, why);

	if (rc)
		return rc;
	apply_at(conf, APPLY_AT_RECORDED, s->path);
	s->state = APPLY_FAILED;
	r->writes++;
	rc = apply_file_write(conf, s->path, s->wanted, why);
	apply_at(conf, APPLY_AT_WRITTEN, s->path);
	if (rc == 0)
		rc = apply_file_read(conf, s->path, s->got, why);
	apply_at(conf, APPLY_AT_READ, s->path);
	if (rc == 0)
		s->state = apply_value_is(s->got, s->wanted) ? APPLY_WRITTEN : APPLY_SHORT;
	return rc;
}

static int restore(const struct apply_conf *conf, const char *path, const char *content, struct apply_result *r,
		   char got[APPLY_VALUE], struct why *why)
{
	int rc = apply_file_read(conf, path, got, why);

	if (rc || strcmp(got, content) == 0)
		return rc;
	r->writes++;
	rc = apply_file_restore(conf, path, content, why);
	apply_at(conf, APPLY_AT_RESTORED, path);
	if (rc == 0)
		rc = apply_file_read(conf, path, got, why);
	if (rc == 0 && strcmp(got, content) != 0)
		return why_set(why, -EIO, "%s does not go back to %.*s: the system made it %.*s", path,
			       (int)strcspn(content, "\n"), content, (int)strcspn(got, "\n"), got);
	return rc;
}

/* The latest first: the way back is the way there. Goes on past a failure, so that as much as possible is as it was. */
static int roll_back(const struct apply_conf *conf, struct journal *j, struct apply_result *r, struct why *why)
{
	int rc = 0;

	for (uint32_t i = r->nsteps; i-- > 0;) {
		struct apply_step *s = &r->steps[i];
		char got[APPLY_VALUE];
		if (s->state != APPLY_WRITTEN && s->state != APPLY_SHORT && s->state != APPLY_FAILED)
			continue;
		int one = restore(conf, s->path, s->found, r, got, rc ? NULL : why);
		if (one)
			rc = rc ? rc : one;
		else if (s->state == APPLY_WRITTEN)
			s->state = APPLY_RESTORED;
	}
	if (rc == 0)
		rc = journal_drop_run(j, why);
	r->rolled_back = rc == 0;
	return rc;
}

static const struct apply_step *shortest(const struct apply_result *r, uint32_t *n)
{
	const struct apply_step *first = NULL;

	*n = 0;
	for (uint32_t i = 0; i < r->nsteps; i++) {
		if (r->steps[i].state != APPLY_SHORT)
			continue;
		first = first ? first : &r->steps[i];
		++*n;
	}
	return first;
}

static int run_steps(const struct apply_conf *conf, struct journal *j, struct apply_result *r, struct why *why)
{
	struct why back = {0};
	uint32_t n = 0;
	int rc = journal_begin(j, why);

	apply_at(conf, APPLY_AT_BEGUN, j->path);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < r->nsteps && rc == 0; i++)
		if (r->steps[i].state == APPLY_PLANNED)
			rc = do_step(conf, j, r, &r->steps[i], why);
	const struct apply_step *s = shortest(r, &n);
	if (rc == 0 && s)
		rc = why_set(why, -ECANCELED, "%s: asked for %s, got %.*s%s", s->path, s->wanted,
			     (int)strcspn(s->got, "\n"), s->got, n > 1 ? " (and others)" : "");
	if (rc == 0)
		rc = journal_end(j, why);
	if (rc == 0) {
		apply_at(conf, APPLY_AT_ENDED, j->path);
		return 0;
	}
	if (roll_back(conf, j, r, &back) == 0)
		why_prefix(why, "rolled back to what was found");
	else
		why_prefix(why, "not rolled back, run `numa undo` again (%s)", back.text);
	apply_at(conf, APPLY_AT_ENDED, j->path);
	return rc;
}

static int locked(const struct apply_conf *conf, struct journal *j, struct apply_result *r, struct why *why)
{
	uint32_t pending;
	/* Again: it may have changed before the lock was ours. */
	int rc = look(conf, r, &pending, why);

	return rc || pending == 0 ? rc : run_steps(conf, j, r, why);
}

/* A journal that cannot be read, or that another process holds, stops us later and only if there is something to do. */
static int refuse_half(const struct apply_conf *conf, struct why *why)
{
	struct journal j;
	int rc = journal_open(conf, JOURNAL_LOOK, &j, NULL);
	bool half = rc == 0 && j.state == JOURNAL_HALF && !j.stale;

	if (rc == 0)
		journal_close(&j);
	return half ? why_set(why, -EUCLEAN, HALF_TEXT) : 0;
}

int apply_plan(const struct plan *p, const struct apply_conf *conf, struct apply_result *out, struct why *why)
{
	struct journal j;
	uint32_t pending;

	*out = (struct apply_result){0};
	if (!p->machine->this_system)
		return why_set(why, -EXDEV,
			       "the plan is for %s, not for this system: it can be printed but not applied",
			       p->machine->source);
	int rc = collect(p, out, why);
	if (rc == 0)
		rc = look(conf, out, &pending, why);
	if (rc == 0)
		rc = refuse_half(conf, why);
	if (rc || conf->dry_run || pending == 0)
		return rc;
	rc = journal_open(conf, JOURNAL_MAKE, &j, why);
	if (rc)
		return rc;
	/* Another run may have been killed while this one waited. */
	if (j.state == JOURNAL_HALF && !j.stale)
		rc = why_set(why, -EUCLEAN, HALF_TEXT);
	else
		rc = locked(conf, &j, out, why);
	journal_close(&j);
	return rc;
}

/* ---- undo ----------------------------------------------------------------------------------------------------------- */

/* The first run that touched a file found what is to be restored. */
static int undo_steps(const struct journal *j, struct apply_result *r)
{
	r->steps = mem_calloc(j->nsteps + 1u, sizeof(*r->steps));
	if (!r->steps)
		return -ENOMEM;
	for (uint32_t i = 0; i < j->nsteps; i++) {
		if (find(r, j->steps[i].path))
			continue;
		struct apply_step *s = &r->steps[r->nsteps++];
		memcpy(s->path, j->steps[i].path, sizeof(s->path));
		memcpy(s->wanted, j->steps[i].found, sizeof(s->wanted));
		s->state = APPLY_PLANNED;
	}
	return 0;
}

static int undo_all(const struct apply_conf *conf, struct apply_result *r, struct why *why)
{
	int rc = 0;

	for (uint32_t i = r->nsteps; i-- > 0;) {
		struct apply_step *s = &r->steps[i];
		int one = apply_file_read(conf, s->path, s->found, rc ? NULL : why);
		if (one == 0 && conf->dry_run) {
			s->state = strcmp(s->found, s->wanted) == 0 ? APPLY_SAME : APPLY_PLANNED;
			continue;
		}
		if (one == 0)
			one = restore(conf, s->path, s->wanted, r, s->got, rc ? NULL : why);
		s->state = one == -EIO                        ? APPLY_SHORT
			   : one                              ? APPLY_FAILED
			   : strcmp(s->found, s->wanted) == 0 ? APPLY_SAME
							      : APPLY_RESTORED;
		rc = rc ? rc : one;
	}
	return rc;
}

int apply_undo(const struct apply_conf *conf, struct apply_result *out, struct why *why)
{
	struct journal j;

	*out = (struct apply_result){0};
	int rc = journal_open(conf, conf->dry_run ? JOURNAL_LOOK : JOURNAL_CHANGE, &j, why);
	if (rc || j.fd < 0)
		return rc;
	/* After a restart the settings are the boot's own, and what an earlier boot found is not what this one found. */
	if (!j.stale && undo_steps(&j, out) != 0)
		rc = why_set(why, -ENOMEM, "numa undo: out of memory");
	if (rc == 0)
		rc = undo_all(conf, out, why);
	if (rc == 0 && !conf->dry_run)
		rc = journal_remove(&j, why);
	journal_close(&j);
	return rc;
}

enum apply_journal apply_journal_state(const struct apply_conf *conf, char step[256])
{
	struct journal j;
	struct why why = {0};
	int rc = journal_open(conf, JOURNAL_LOOK, &j, &why);
	enum apply_journal state = rc ? JOURNAL_UNREADABLE : j.state;

	step[0] = '\0';
	if (rc)
		snprintf(step, 256, "%.255s", why.text);
	if (rc == -EBUSY)
		state = JOURNAL_HALF;
	if (rc)
		return state;
	if (j.stale)
		state = JOURNAL_NONE;
	if (state == JOURNAL_HALF && j.nsteps)
		snprintf(step, 256, "an earlier numa apply was killed while it set %.130s to %.40s",
			 j.steps[j.nsteps - 1].path, j.steps[j.nsteps - 1].wanted);
	else if (state == JOURNAL_HALF)
		snprintf(step, 256, "an earlier numa apply was killed before its first step");
	journal_close(&j);
	return state;
}
