"""The disk engine on raw NVMe drives, with the guest's own kernel: nothing punted, nothing split, every byte through fixed buffers."""
import os
import re
import sys

sys.dont_write_bytecode = True
from lablib.testing import BUILD, LabTest, eq, has      # noqa: E402

# ONE: as QEMU makes them; BIG: takes requests of 4 MiB and blocks of 4 KiB; BUS: no node is known.
lab = LabTest("--node cpus=2,mem=1024,huge=64 --node cpus=1,mem=512 --nvme size=64M,serial=ONE,node=1 "
              "--nvme size=64M,serial=BIG,node=0,lbs=4096,mdts=10 --nvme size=64M,serial=BUS,node=none")


def unit(name, disk, before=""):
    device = lab.sh("readlink -f /dev/lab/%s-n1" % disk).strip()
    return lab.run("mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; %s LMCA_TEST_DISK=%s "
                   "CMOCKA_MESSAGE_OUTPUT=TAP %s" % (before, device, os.path.join(BUILD, "tests/unit/transport/disk/%s_test" % name)), 200)


def all_passed(done, most_skipped=0):
    text = done.out + done.err
    for line in text.splitlines():
        print("# " + line[:400])
    eq(done.rc, 0, "exit status")
    planned = int(re.search(r"^1\.\.(\d+)", done.out, re.M)[1])
    skipped = [line for line in done.out.splitlines() if "# skip" in line.lower()]
    eq([line for line in done.out.splitlines() if line.startswith("not ok")], [], "failed")
    eq(skipped, [], "skipped")
    eq(len([line for line in done.out.splitlines() if line.startswith("ok ")]), planned, "results")
    return text


def drive(serial, node):
    def test():
        text = all_passed(unit("device", serial))
        eq(len(re.findall(r"traced 1, punts 0, splits 0", text)), 2, "with pages of 4 KiB and with huge ones")
        eq(len(re.findall(r"0 MiB not", text)), 2, "payload beside fixed buffers")
        has(text, "serial '%s'" % serial, "block 1", "node %d" % node)
    return test


lab.test("an ordinary drive on node 1: all of device_test", limit=240)(drive("ONE", 1))
lab.test("a drive with blocks of 4 KiB and large requests on node 0", limit=240)(drive("BIG", 0))
lab.test("a drive on the main bus: its node stays unknown", limit=240)(drive("BUS", -1))


@lab.test("a mounted drive is in use")
def mounted():
    device = lab.sh("readlink -f /dev/lab/ONE-n1").strip()
    lab.sh("mkfs.ext4 -q -F %s && mkdir -p /tmp/m && mount %s /tmp/m" % (device, device))
    try:
        done = unit("device", "ONE")
        assert done.rc != 0, done
        has(done.out + done.err, device + " is in use")
    finally:
        lab.sh("umount /tmp/m; wipefs -aq " + device)


lab.main()
