#include "transport/disk/disk_int.h"

#define START    (32ull << 20)
#define MOST     (128ull << 20)
#define EPOCH_NS 200000000ull
#define HOLD_NS  30000000000ull

void window_init(struct disk_window *w, uint64_t asked, uint64_t sub_bytes)
{
	*w = (struct disk_window){.bytes = asked ? asked : START, .max = asked ? asked : MOST};
	/* Two at least: one read and, beside it, one write. */
	if (w->bytes < 2 * sub_bytes)
		w->bytes = 2 * sub_bytes;
	if (w->max < w->bytes)
		w->max = w->bytes;
}

/* Doubles the window, keeps it when that brought 5 % more, else goes back and lets it be for a while. Only times in which the
 * window was what held IO back say anything. */
void window_adapt(struct disk_window *w, uint64_t now)
{
	uint64_t took = now - w->since_ns;
	double rate;

	if (w->bytes == w->max && !w->good)
		return; /* fixed, or nothing to try */
	if (!w->since_ns || !w->limited) {
		if (!w->since_ns || took >= EPOCH_NS) {
			w->since_ns = now;
			w->done = 0;
		}
		return;
	}
	if (took < EPOCH_NS || w->done < 4 * w->bytes || now < w->hold_ns)
		return;
	rate = (double)w->done / (double)took;
	if (!w->good || rate > w->good_rate * 1.05) {
		w->good = w->bytes;
		w->good_rate = rate;
		if (w->bytes * 2 <= w->max)
			w->bytes *= 2;
		else
			w->hold_ns = now + HOLD_NS;
	} else {
		w->bytes = w->good;
		w->good = 0; /* and measured again after the pause: the load may have changed */
		w->hold_ns = now + HOLD_NS;
	}
	w->since_ns = now;
	w->done = 0;
	w->limited = false;
}
