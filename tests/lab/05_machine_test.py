"""The machine as it is seen in a guest of three nodes, one without CPUs, and under limits of a cgroup that are really in force."""
import sys

sys.dont_write_bytecode = True
from lablib.testing import LabTest, eq      # noqa: E402

lab = LabTest("--node cpus=2,mem=768,huge=16 --node cpus=2,mem=512,huge=8 --node cpus=0,mem=384 --dist 0-2=30 "
              "--nvme size=64M,node=1 --nvme size=64M,node=none --net 2 --nic-node 1,none --rdma 1")
UNIT = '"$BUILD"/tests/unit/numa/%s_test'


@lab.test("nodes, drives and cards as the kernel has them; the RDMA device is where its network card is")
def here():
    lab.sh("LMCA_HERE_RDMA=1 " + UNIT % "machine_here")


@lab.test("a capture of the guest replays as the same machine; probes under a seccomp filter")
def capture():
    lab.sh(UNIT % "machine_load")
    lab.sh(UNIT % "limits")


@lab.test("limits of huge pages and a cpuset of one node are found in the cgroup that sets them")
def limits():
    lab.sh("""set -e; cd /sys/fs/cgroup
              for c in hugetlb cpuset; do echo +$c >cgroup.subtree_control; done
              mkdir outer; for c in hugetlb cpuset; do echo +$c >outer/cgroup.subtree_control; done
              mkdir outer/inner; echo 8388608 >outer/hugetlb.2MB.max; echo 6291456 >outer/hugetlb.2MB.rsvd.max
              echo 1 >outer/cpuset.mems""")
    result = lab.run("echo $$ >/sys/fs/cgroup/outer/inner/cgroup.procs; cat /proc/self/cgroup; LMCA_HERE_RDMA=1 LMCA_HERE_HUGETLB=8388608 "
                     "LMCA_HERE_RSVD=6291456 LMCA_HERE_MEMS=1 " + UNIT % "machine_here")
    eq(result.rc, 0, result.out + result.err)


lab.main()
