/* run_test.c again, for the vector width of CPUs without AVX2, which the build machine would never take by itself. */
#define mp_u32_run                run_narrow
#define __builtin_cpu_supports(x) 0
#include "transport/wire/msgpack_run.c"

#include "tests/unit/transport/wire/run_test.c"
