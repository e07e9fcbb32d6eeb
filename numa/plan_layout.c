/* plan_layout.c - shares L1 out over the nodes in whole pages, never more than a node or a cgroup has, and picks the best kind of
 * pages with which all of it fits. */
#include "numa/plan_int.h"

#include <string.h>

__extension__ typedef unsigned __int128 u128;

struct kind plan_kind(enum plan_backing backing, uint64_t page)
{
	return (struct kind){backing, page, backing == BACK_HUGETLB && page > SHM_UNIT ? page : SHM_UNIT};
}

uint64_t plan_reserve(uint64_t memory_bytes)
{
	uint64_t r = memory_bytes / 16;

	if (r < 256 * MIB)
		r = 256 * MIB;
	if (r > 16 * GIB)
		r = 16 * GIB;
	return r > memory_bytes / 4 ? memory_bytes / 4 : r;
}

const struct mach_hugepages *plan_huge(const struct mach_node *n, uint64_t page)
{
	for (uint32_t i = 0; i < n->nhuge && i < MACH_PAGE_SIZES; i++) {
		if (n->huge[i].known && n->huge[i].page_bytes == page)
			return &n->huge[i];
	}
	return NULL;
}

uint64_t plan_huge_free(const struct planner *pl, const struct mach_node *n, uint64_t page)
{
	const struct mach_hugepages *h = plan_huge(n, page);
	const struct plan_conf *c = &pl->p->conf;
	uint64_t free;

	if (!h)
		return 0;
	free = h->free;
	for (uint32_t i = 0; i < c->nheld; i++) {
		if (node_same(c->held[i].node, n->id) && c->held[i].page_bytes == page)
			free += c->held[i].pages;
	}
	return free > h->total ? h->total : free;
}

bool plan_thp_works(const struct machine *m)
{
	static const char *const works[] = {"always", "advise", "within_size", "force"};

	for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++) {
		if (strcmp(m->limits.shmem_thp, works[i]) == 0)
			return true;
	}
	return false;
}

/* Bytes of ordinary memory that are not reserved as huge pages; `but` is a size whose pages count as ordinary. */
static uint64_t ordinary(const struct mach_node *n, uint64_t but)
{
	uint64_t left = n->memory_bytes, reserve = plan_reserve(n->memory_bytes);

	for (uint32_t i = 0; i < n->nhuge && i < MACH_PAGE_SIZES; i++) {
		const struct mach_hugepages *h = &n->huge[i];

		if (!h->known || !h->page_bytes || h->page_bytes == but)
			continue;
		if (h->total > left / h->page_bytes)
			return 0;
		left -= h->total * h->page_bytes;
	}
	return left > reserve ? left - reserve : 0;
}

static uint64_t units_on(const struct planner *pl, const struct mach_node *n, struct kind kind)
{
	if (kind.backing == BACK_HUGETLB)
		return plan_huge_free(pl, n, kind.page);
	return ordinary(n, 0) / kind.unit;
}

/* What could be there: pages of others stay theirs. */
static uint64_t units_possible(const struct planner *pl, const struct mach_node *n, struct kind kind)
{
	const struct mach_hugepages *h = plan_huge(n, kind.page);
	uint64_t in_use = h ? h->total - plan_huge_free(pl, n, kind.page) : 0, all = ordinary(n, kind.page) / kind.unit;

	return all > in_use ? all - in_use : 0;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a == UNLIMITED ? a : a > b ? a - b : 0;
}

static void limit_by_hugetlb(const struct planner *pl, struct layout *l)
{
	const struct mach_limits *lim = &pl->m->limits;

	for (uint32_t i = 0; i < lim->nhugetlb && i < MACH_PAGE_SIZES; i++) {
		const struct mach_hugetlb_limit *h = &lim->hugetlb[i];
		uint64_t held = less(h->max, h->used), reserved = less(h->rsvd_max, h->rsvd_used);
		bool rsvd = reserved < held;
		uint64_t bytes = rsvd ? reserved : held;

		if (h->page_bytes != l->kind.page || bytes == UNLIMITED || bytes / l->kind.unit >= l->limit)
			continue;
		l->limit = bytes / l->kind.unit;
		memcpy(l->limit_where, rsvd ? h->rsvd_where : h->where, sizeof(l->limit_where));
	}
}

static void limit_by_memory(const struct planner *pl, struct layout *l)
{
	const struct mach_limits *lim = &pl->m->limits;

	if (lim->memory_max == UNLIMITED || lim->memory_max == 0)
		return;
	l->limit = (lim->memory_max - plan_reserve(lim->memory_max)) / l->kind.unit;
	memcpy(l->limit_where, lim->memory_where, sizeof(l->limit_where));
}

/* Shares `units` out by weight, largest remainders first, ties to the first node: the sum is exact. */
static void by_weights(const struct planner *pl, const uint64_t *weight, uint64_t units, uint64_t *want)
{
	uint64_t sum = 0, given = 0, rest[ARENA_MAX_RANGES];

	for (uint32_t i = 0; i < pl->nshares; i++)
		sum += weight[i];
	for (uint32_t i = 0; i < pl->nshares; i++) {
		u128 part = (u128)units * weight[i];

		want[i] = sum ? (uint64_t)(part / sum) : 0;
		rest[i] = sum ? (uint64_t)(part % sum) : 0;
		given += want[i];
	}
	for (; sum && given < units; given++) {
		uint32_t best = 0;

		for (uint32_t i = 1; i < pl->nshares; i++) {
			if (rest[i] > rest[best])
				best = i;
		}
		want[best]++;
		rest[best] = 0;
	}
}

static void want_packed(const struct planner *pl, struct layout *l, uint64_t units)
{
	bool done[ARENA_MAX_RANGES] = {0};

	for (uint32_t round = 0; round < pl->nshares; round++) {
		uint32_t best = NO_INDEX;

		for (uint32_t i = 0; i < pl->nshares; i++) {
			if (!done[i] && (best == NO_INDEX || pl->share[i].order < pl->share[best].order))
				best = i;
		}
		if (best == NO_INDEX)
			break;
		done[best] = true;
		l->want[best] = units < l->cap[best] ? units : l->cap[best];
		units -= l->want[best];
	}
}

static void want(const struct planner *pl, struct layout *l, uint64_t units)
{
	const struct plan_conf *c = &pl->p->conf;
	uint64_t weight[ARENA_MAX_RANGES], sum = 0;

	if (pl->basis == BY_NEARNESS) {
		want_packed(pl, l, units);
		return;
	}
	for (uint32_t i = 0; i < pl->nshares; i++) {
		weight[i] = pl->share[i].weight;
		/* Unbound pages come from wherever the kernel takes them. */
		if (pl->unbound && pl->basis != BY_HAND)
			weight[i] = pl->m->nodes[pl->share[i].node].memory_bytes / SHM_UNIT;
		sum += weight[i];
	}
	for (uint32_t i = 0; i < pl->nshares && !sum; i++)
		weight[i] = 1;
	by_weights(pl, weight, units, l->want);
	for (uint32_t i = 0; pl->basis == BY_HAND && i < c->nmanual && c->manual[0].bytes; i++) {
		for (uint32_t k = 0; k < pl->nshares; k++) {
			if (node_same(pl->m->nodes[pl->share[k].node].id, c->manual[i].node))
				l->want[k] = c->manual[i].bytes / l->kind.unit;
		}
	}
}

/* The share with room that is nearest to `from`; unknown distances come last, ties go to the first. */
static uint32_t next_room(const struct planner *pl, const struct layout *l, uint32_t from)
{
	uint32_t best = NO_INDEX, best_distance = 0;

	for (uint32_t i = 0; i < pl->nshares; i++) {
		uint32_t d = plan_distance(pl->m, pl->share[from].node, pl->share[i].node);

		if (l->got[i] >= l->cap[i])
			continue;
		if (!d)
			d = UINT32_MAX;
		if (best == NO_INDEX || d < best_distance) {
			best = i;
			best_distance = d;
		}
	}
	return best;
}

static void spill(const struct planner *pl, struct layout *l)
{
	uint64_t over[ARENA_MAX_RANGES] = {0};

	for (uint32_t i = 0; i < pl->nshares; i++) {
		l->got[i] = l->want[i] < l->cap[i] ? l->want[i] : l->cap[i];
		over[i] = l->want[i] - l->got[i];
		l->donor[i] = NO_INDEX;
	}
	for (uint32_t i = 0; pl->basis != BY_HAND && i < pl->nshares; i++) {
		while (over[i]) {
			uint32_t to = next_room(pl, l, i);
			uint64_t n;

			if (to == NO_INDEX)
				return;
			n = l->cap[to] - l->got[to] < over[i] ? l->cap[to] - l->got[to] : over[i];
			l->got[to] += n;
			l->spilled += n;
			over[i] -= n;
			if (l->donor[to] == NO_INDEX)
				l->donor[to] = i;
		}
	}
}

static uint64_t asked_units(const struct planner *pl, struct kind kind)
{
	const struct plan_conf *c = &pl->p->conf;
	uint64_t sum = 0;

	if (pl->basis != BY_HAND || !c->manual[0].bytes)
		return c->l1_bytes / kind.unit;
	for (uint32_t i = 0; i < c->nmanual; i++)
		sum += c->manual[i].bytes / kind.unit;
	return sum;
}

static void finish(const struct planner *pl, struct layout *l)
{
	uint64_t units = l->asked < l->limit ? l->asked : l->limit;

	want(pl, l, units);
	spill(pl, l);
	for (uint32_t i = 0; i < pl->nshares; i++)
		l->placed += l->got[i];
	/* Sizes named by hand are not shared out again: a limit cuts the last ones. */
	for (uint32_t i = pl->nshares; i-- > 0 && l->placed > l->limit;) {
		uint64_t cut = l->placed - l->limit < l->got[i] ? l->placed - l->limit : l->got[i];

		l->got[i] -= cut;
		l->placed -= cut;
	}
	/* Nobody asked for a node, so nothing is out of place. */
	if (pl->unbound)
		l->spilled = 0;
}

static void lay_out(const struct planner *pl, struct kind kind, struct layout *out)
{
	*out = (struct layout){.kind = kind, .limit = UNLIMITED, .asked = asked_units(pl, kind)};
	if (kind.backing == BACK_HUGETLB)
		limit_by_hugetlb(pl, out);
	else
		limit_by_memory(pl, out);
	for (uint32_t i = 0; i < pl->nshares; i++)
		out->cap[i] = units_on(pl, &pl->m->nodes[pl->share[i].node], kind);
	if (pl->blind && kind.backing != BACK_HUGETLB)
		out->placed = out->asked < out->limit ? out->asked : out->limit;
	else
		finish(pl, out);
}

void plan_ideal(const struct planner *pl, struct kind kind, struct layout *out)
{
	*out = (struct layout){.kind = kind, .limit = UNLIMITED, .asked = asked_units(pl, kind)};
	for (uint32_t i = 0; i < pl->nshares; i++)
		out->cap[i] = units_possible(pl, &pl->m->nodes[pl->share[i].node], kind);
	finish(pl, out);
}

/* Rounding to this page size loses more than a sixteenth of L1. */
static bool wasteful(const struct planner *pl, const struct layout *l)
{
	uint64_t l1 = pl->p->conf.l1_bytes;

	return l1 - l->asked * l->kind.unit > l1 / 16;
}

/* Rounding to this page size changes a node's share by more than a sixteenth. */
static bool coarse(const struct planner *pl, const struct layout *l)
{
	struct layout fine = {.kind = plan_kind(BACK_SHM, ARENA_PAGE)};

	if (l->kind.unit == SHM_UNIT || pl->unbound || pl->basis == BY_NEARNESS)
		return false;
	want(pl, &fine, pl->p->conf.l1_bytes / SHM_UNIT);
	for (uint32_t i = 0; i < pl->nshares; i++) {
		uint64_t exact = fine.want[i] * SHM_UNIT, rounded = l->want[i] * l->kind.unit;

		if ((exact > rounded ? exact - rounded : rounded - exact) > exact / 16)
			return true;
	}
	return false;
}

/* The kinds to try, best first, up to the first YES. */
static uint32_t kinds(const struct planner *pl, struct kind list[4])
{
	const struct plan_conf *c = &pl->p->conf;
	enum plan_want wants[3] = {c->huge_1g, c->huge_2m, c->thp};
	struct kind all[3] = {plan_kind(BACK_HUGETLB, GIB), plan_kind(BACK_HUGETLB, 2 * MIB),
			      plan_kind(BACK_SHM_THP, ARENA_PAGE)};
	uint32_t n = 0;

	for (uint32_t i = 0; i < 3; i++) {
		bool works = all[i].backing == BACK_HUGETLB || plan_thp_works(pl->m);

		if (wants[i] == WANT_YES || (wants[i] == WANT_TRY && works))
			list[n++] = all[i];
		if (wants[i] == WANT_YES)
			return n;
	}
	list[n++] = plan_kind(BACK_SHM, ARENA_PAGE);
	return n;
}

/* How good a layout is; within a rank the larger pages win. */
enum rank { RANK_NONE, RANK_SHORT, RANK_PLACED, RANK_GOOD };

static enum rank rank_of(const struct planner *pl, const struct layout *l)
{
	bool huge = l->kind.backing == BACK_HUGETLB;

	if (l->asked == 0 || l->placed == 0 || (huge && wasteful(pl, l)))
		return RANK_NONE;
	if (l->placed < l->asked)
		return RANK_SHORT;
	/* Huge pages that somebody has reserved are worth a page on a farther node; ordinary ones are not. */
	return coarse(pl, l) || (!huge && l->spilled) ? RANK_PLACED : RANK_GOOD;
}

void plan_choose(struct planner *pl)
{
	struct kind list[4];
	struct layout l;
	enum rank best = RANK_NONE;
	uint32_t n = kinds(pl, list);

	for (uint32_t i = 0; i < n && best < RANK_GOOD; i++) {
		bool last = i == n - 1;
		enum rank rank;

		lay_out(pl, list[i], &l);
		rank = rank_of(pl, &l);
		/* When nothing holds all of it, what holds the most. */
		if (rank > best || (last && best == RANK_NONE) ||
		    (rank == RANK_SHORT && best == RANK_SHORT &&
		     l.placed * l.kind.unit > pl->chosen.placed * pl->chosen.kind.unit)) {
			pl->chosen = l;
			best = rank;
		}
	}
}
