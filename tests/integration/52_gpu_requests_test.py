"""The requests of every dialect, with engines on a GPU: the tests of 10_requests, and what is said of events."""
import sys

sys.dont_write_bytecode = True
import lmgpu                                                                       # noqa: E402

# Copies to a GPU and from it overtake each other unless events order them: 54_gpu_engines_test.
tap = lmgpu.through("10_requests_test", without=("a CPU client always gets its stub back, also with refusals",
                                                 "transfers of one connection run in order"))

if __name__ == "__main__":
    tap.main()
