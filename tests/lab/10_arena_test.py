"""The arena's own tests on three nodes, one of them without CPUs, each with its own number of huge pages: nothing may be skipped."""
import os
import re
import sys

sys.dont_write_bytecode = True
from lablib.testing import BUILD, LabTest, eq       # noqa: E402

lab = LabTest("--node cpus=2,mem=1024,huge=48 --node cpus=2,mem=768,huge=40 --node cpus=0,mem=512,huge=24 --dist 0-2=30 --dist 1-2=17")
FREE = "cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/free_hugepages; ls /dev/shm"


@lab.test("placement, a hundred shortages, limits, pages moved behind our back: every test of arena_nodes_test", limit=400)
def nodes():
    before = lab.sh(FREE)
    done = lab.run([os.path.join(BUILD, "tests/unit/numa/arena_nodes_test")], 380, env={"CMOCKA_MESSAGE_OUTPUT": "TAP"})
    for line in (done.out + done.err).splitlines():
        print("# " + line[:300])
    eq(done.rc, 0, "exit status")
    planned = int(re.search(r"^1\.\.(\d+)", done.out, re.M)[1])
    passed = [line for line in done.out.splitlines() if line.startswith("ok ")]
    eq([line for line in done.out.splitlines() if line.startswith("not ok") or "# skip" in line.lower()], [], "failed or skipped")
    eq(len(passed), planned, "results")
    assert planned >= 11, planned
    eq(lab.sh(FREE), before, "free pages and names, before and after")


lab.main()
