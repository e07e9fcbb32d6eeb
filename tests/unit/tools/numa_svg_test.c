/* The SVG picture: boxes beside or inside one another, texts inside their boxes, XML that a reader takes. */
#include "tools/numa_svg.h"

#include "daemon/base/mem.h"
#include "tests/unit/tools/numa_machines.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static char text[4 << 20];

static struct svg *lay_out(struct machine *m, bool pools)
{
	struct numa_view *v;
	struct svg *s;
	struct why why;
	assert_int_equal(view_of_plan(m, NULL, "", &v, NULL), 0);
	if (pools)
		hand_pools(v);
	assert_int_equal(svg_layout(v, &s, &why), 0);
	view_destroy(v);
	return s;
}

static bool inside(const struct svg_box *a, const struct svg_box *b)
{
	return a->x >= b->x && a->y >= b->y && a->x + a->w <= b->x + b->w && a->y + a->h <= b->y + b->h;
}

static bool overlap(const struct svg_box *a, const struct svg_box *b)
{
	return a->x < b->x + b->w && b->x < a->x + a->w && a->y < b->y + b->h && b->y < a->y + a->h;
}

/* A line of text takes its size above the baseline and a quarter of it below. */
static struct svg_box room_of(const struct svg_text *t)
{
	return (struct svg_box){.x = t->x, .y = t->y - t->size, .w = t->w, .h = t->size + t->size / 4};
}

static void check_boxes(const struct svg *s)
{
	for (uint32_t i = 1; i < s->nboxes; i++) {
		const struct svg_box *b = &s->boxes[i];
		assert_true(b->w > 0 && b->h > 0);
		assert_true(b->parent < i);
		if (!inside(b, &s->boxes[b->parent]))
			fail_msg("box %u at %d,%d %dx%d leaves its parent", i, b->x, b->y, b->w, b->h);
		for (uint32_t k = 1; k < i; k++)
			if (s->boxes[k].parent == b->parent && overlap(b, &s->boxes[k]))
				fail_msg("boxes %u and %u overlap at %d,%d", i, k, b->x, b->y);
	}
}

static void check_texts(const struct svg *s)
{
	for (uint32_t i = 0; i < s->ntexts; i++) {
		struct svg_box a = room_of(&s->texts[i]);
		if (!inside(&a, &s->boxes[s->texts[i].box]))
			fail_msg("'%s' leaves its box", s->texts[i].text);
		for (uint32_t k = 0; k < s->nboxes; k++)
			if (s->boxes[k].parent == s->texts[i].box && overlap(&a, &s->boxes[k]))
				fail_msg("'%s' lies on a box", s->texts[i].text);
		for (uint32_t k = 0; k < i; k++) {
			struct svg_box b = room_of(&s->texts[k]);
			if (s->texts[i].box == s->texts[k].box && overlap(&a, &b))
				fail_msg("'%s' and '%s' overlap", s->texts[i].text, s->texts[k].text);
		}
	}
}

static void t01_nothing_overlaps(void **state)
{
	(void)state;
	struct machine *all[] = {hand_1node(),
				 hand_gpus("eight", 2, 8),
				 hand_gpus("sixteen", 8, 16),
				 hand_gpus("one", 1, 16),
				 hand_gpus("four", 4, 8),
				 hand_create("many", 40, 2, GIB),
				 hand_odd()};
	for (size_t i = 0; i < 2 * sizeof(all) / sizeof(all[0]); i++) {
		struct svg *s = lay_out(all[i / 2], i & 1);
		check_boxes(s);
		check_texts(s);
		svg_destroy(s);
		if (i & 1)
			hand_destroy(all[i / 2]);
	}
}

/* Tags close in order, no '&' but of an entity, nothing outside the root. */
static void check_xml(const char *at)
{
	const char *open[16];
	unsigned depth = 0, roots = 0;
	for (; *at; at++) {
		if (*at == '&') {
			assert_true(!strncmp(at, "&lt;", 4) || !strncmp(at, "&gt;", 4) || !strncmp(at, "&amp;", 5));
		} else if (*at == '<') {
			const char *end = strchr(at, '>');
			assert_non_null(end);
			assert_null(memchr(at + 1, '<', (size_t)(end - at - 1)));
			if (at[1] == '/') {
				assert_true(depth > 0);
				const char *name = open[--depth];
				assert_int_equal(strncmp(name, at + 2, (size_t)(end - at - 2)), 0);
			} else if (end[-1] != '/') {
				assert_true(depth < 16);
				roots += depth == 0;
				open[depth++] = at + 1;
			}
			at = end;
		} else {
			assert_true(depth > 0 || *at == '\n');
			assert_true((unsigned char)*at >= ' ' || *at == '\n');
		}
	}
	assert_int_equal(depth, 0);
	assert_int_equal(roots, 1);
}

static void t02_is_xml_whatever_a_model_is_called(void **state)
{
	(void)state;
	struct machine *all[] = {hand_odd(), hand_1node(), hand_gpus("eight", 2, 8)};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct svg *s = lay_out(all[i], true);
		FILE *out = fmemopen(text, sizeof(text), "w");
		assert_int_equal(svg_write(s, out), 0);
		fclose(out);
		check_xml(text);
		svg_destroy(s);
		hand_destroy(all[i]);
		const char *dir = getenv("LMCA_SHOW");
		char path[256];
		snprintf(path, sizeof(path), "%s/hand%zu.svg", dir ? dir : "", i);
		FILE *keep = dir ? fopen(path, "we") : NULL;
		if (keep) {
			fputs(text, keep);
			fclose(keep);
		}
	}
}

static bool says(const struct svg *s, const char *words)
{
	for (uint32_t i = 0; i < s->ntexts; i++)
		if (strstr(s->texts[i].text, words))
			return true;
	return false;
}

static void t03_shows_every_device_pool_and_thread(void **state)
{
	(void)state;
	struct machine *m = hand_gpus("sixteen", 8, 16);
	struct svg *s = lay_out(m, true);
	for (uint32_t i = 0; i < m->ndevices; i++)
		assert_true(says(s, m->devices[i].name));
	assert_true(says(s, "L1  256 GiB"));
	assert_true(says(s, "transfer 42-47"));
	assert_true(says(s, "control"));
	assert_true(says(s, "PIX"));
	assert_true(says(s, "32"));
	svg_destroy(s);
	hand_destroy(m);
	m = hand_odd();
	s = lay_out(m, false);
	assert_true(says(s, "node ?"));
	assert_true(says(s, "/numa_node: -1"));
	assert_true(says(s, "sources disagree"));
	svg_destroy(s);
	hand_destroy(m);
}

static void t04_text_is_cut_to_its_room(void **state)
{
	(void)state;
	struct machine *m = hand_1node();
	struct svg *s = lay_out(m, false);
	uint32_t n = s->ntexts;
	assert_in_range(svg_text(s, 0, LOOK_TEXT, 12, 0, 20, 60, "a text of more than sixty units"), 30, 60);
	assert_int_equal(s->texts[n].text[strlen(s->texts[n].text) - 1], SVG_CUT);
	assert_int_equal(svg_text(s, 0, LOOK_TEXT, 12, 0, 20, 1, "m"), 0);
	assert_int_equal(s->ntexts, n + 1);
	assert_true(svg_text_width("mmm", 10, true) > svg_text_width("mmm", 10, false));
	svg_destroy(s);
	hand_destroy(m);
}

static void t05_out_of_memory_is_an_error(void **state)
{
	(void)state;
	struct machine *m = hand_gpus("sixteen", 8, 16);
	struct numa_view *v;
	assert_int_equal(view_of_plan(m, NULL, "", &v, NULL), 0);
	uint32_t failed = 0;
	for (uint64_t i = 1; i < 100; i++) {
		struct svg *s = NULL;
		struct why why;
		mem_fail_at(i);
		int rc = svg_layout(v, &s, &why);
		mem_fail_at(0);
		svg_destroy(s);
		if (!rc)
			break;
		assert_int_equal(rc, -ENOMEM);
		failed++;
	}
	assert_in_range(failed, 5, 30);
	view_destroy(v);
	hand_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_nothing_overlaps),
		cmocka_unit_test(t02_is_xml_whatever_a_model_is_called),
		cmocka_unit_test(t03_shows_every_device_pool_and_thread),
		cmocka_unit_test(t04_text_is_cut_to_its_room),
		cmocka_unit_test(t05_out_of_memory_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
