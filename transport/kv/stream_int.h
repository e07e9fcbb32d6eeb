/* stream_int.h - figures that the copy loops share. Values come from a sweep on a Xeon with 2 MiB of second-level cache per core. */
#ifndef TRANSPORT_KV_STREAM_INT_H
#define TRANSPORT_KV_STREAM_INT_H

/* Below this many bytes the alignment work of a streamed copy costs more than it saves. */
#define SHORT_COPY 1024

#define LINE       64u
#define STEP       (4 * LINE)

/* How far ahead, into the second-level cache, reads are prefetched: the hardware's own prefetching stops at the end of a
 * page and of a block. */
#define AHEAD          8192u
#define PREFETCH_LEVEL 2

/* Long runs are copied as several pages side by side, which keeps more DRAM banks and more prefetchers at work. */
#define STREAMS 4u
#define PAGE    4096u

#endif
