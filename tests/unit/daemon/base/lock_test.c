#include "daemon/base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fix {
	struct lk lk[LK_RANKS];
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	for (int r = LK_NONE + 1; f && r < LK_RANKS; r++)
		lk_init(&f->lk[r], (enum lk_rank)r);
	*state = f;
	return f ? 0 : -1;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	for (int r = LK_NONE + 1; r < LK_RANKS; r++)
		lk_destroy(&f->lk[r]);
	free(f);
	return 0;
}

static void test_1_rising_order_is_fine(void **state)
{
	struct fix *f = *state;

	for (int r = LK_NONE + 1; r < LK_RANKS; r++) {
		lk_lock(&f->lk[r]);
		assert_true(lk_held(&f->lk[r]));
	}
	for (int r = LK_RANKS; --r > LK_NONE;) {
		lk_unlock(&f->lk[r]);
		assert_false(lk_held(&f->lk[r]));
	}
}

/* Given back out of order, and taken again: what counts is what is held now. */
static void test_2_only_held_ranks_count(void **state)
{
	struct fix *f = *state;

	lk_lock(&f->lk[LK_SESSIONS]);
	lk_lock(&f->lk[LK_STORE]);
	lk_unlock(&f->lk[LK_SESSIONS]);
	assert_true(lk_held(&f->lk[LK_STORE]));
	assert_false(lk_held(&f->lk[LK_SESSIONS]));
	lk_lock(&f->lk[LK_ARENA]);
	lk_unlock(&f->lk[LK_STORE]);
	lk_unlock(&f->lk[LK_ARENA]);
	lk_lock(&f->lk[LK_CONTEXTS]);
	lk_unlock(&f->lk[LK_CONTEXTS]);
}

/* In a child, since it aborts. Its message is caught; returns the wait status. */
static int take_two(int first, int second, char *text, size_t cap)
{
	int fd[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(fd), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0, 0};
		struct lk a, b;

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		dup2(fd[1], STDERR_FILENO);
		lk_init(&a, (enum lk_rank)first);
		lk_init(&b, (enum lk_rank)second);
		lk_lock(&a);
		lk_lock(&b);
		_exit(0);
	}
	close(fd[1]);
	n = read(fd[0], text, cap - 1);
	text[n > 0 ? n : 0] = '\0';
	close(fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void test_3_falling_or_equal_rank_aborts(void **state)
{
	char text[300];
	(void)state;

	for (int a = LK_NONE + 1; a < LK_RANKS; a++) {
		for (int b = LK_NONE + 1; b < LK_RANKS; b++) {
			int status = take_two(a, b, text, sizeof(text));

			if (b > a) {
				assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
				continue;
			}
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
			assert_non_null(strstr(text, "lock order"));
		}
	}
}

struct count {
	struct lk *lk;
	int held_at_start;
	uint64_t *n;
};

static void *add(void *arg)
{
	struct count *c = arg;

	c->held_at_start = lk_held(c->lk);
	for (int i = 0; i < 10000; i++) {
		lk_lock(c->lk);
		++*c->n;
		lk_unlock(c->lk);
	}
	return NULL;
}

static void test_4_excludes_and_ranks_belong_to_the_thread(void **state)
{
	struct fix *f = *state;
	struct count c[4];
	pthread_t t[4];
	uint64_t n = 0;

	lk_lock(&f->lk[LK_QUEUE]);
	for (int i = 0; i < 4; i++) {
		c[i] = (struct count){&f->lk[LK_QUEUE], -1, &n};
		assert_int_equal(pthread_create(&t[i], NULL, add, &c[i]), 0);
	}
	assert_int_equal(n, 0);
	lk_unlock(&f->lk[LK_QUEUE]);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(c[i].held_at_start, 0);
	}
	assert_int_equal(n, 40000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_1_rising_order_is_fine, setup, teardown),
		cmocka_unit_test_setup_teardown(test_2_only_held_ranks_count, setup, teardown),
		cmocka_unit_test(test_3_falling_or_equal_rank_aborts),
		cmocka_unit_test_setup_teardown(test_4_excludes_and_ranks_belong_to_the_thread, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
