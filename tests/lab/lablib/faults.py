"""Faults of a running guest's devices: I/O errors, slowness, removal, a cut cable."""
import re
import time

from .kernel import LabError
from .machine import Bad

PERIPHERAL = "/machine/peripheral"


def _block_nodes(qmp):
    return [n["node-name"] for n in qmp.cmd("query-named-block-nodes", flat=True)]


def _plugged(qmp, name):
    return name in [x["name"] for x in qmp.cmd("qom-list", path=PERIPHERAL)]


def _top_node(qmp, base):
    return base + "-log" if base + "-log" in _block_nodes(qmp) else base + "-raw"


class NamespaceFault:
    """Filters under a namespace ("nvme0n1"), put there while the guest runs."""

    def __init__(self, qmp, namespace):
        found = re.fullmatch(r"nvme(\d+)n(\d+)", namespace)
        if not found:
            raise Bad("a namespace is named like nvme0n1")
        self.qmp, self.base = qmp, "d%sn%s" % found.groups()
        # A controller that was plugged in again holds its only namespace itself.
        self.device = PERIPHERAL + "/" + (namespace if _plugged(qmp, namespace) else "nvme" + found[1])
        self.name, self.group = self.base + "-fault", self.base + "-tg"

    def off(self):
        top = _top_node(self.qmp, self.base)
        if self.qmp.cmd("qom-get", path=self.device, property="drive") != top:   # QEMU 7.2 aborts when it is that already
            self.qmp.cmd("qom-set", path=self.device, property="drive", value=top)
        if self.name in _block_nodes(self.qmp):
            self.qmp.cmd("blockdev-del", **{"node-name": self.name})
        if any(x["name"] == self.group for x in self.qmp.cmd("qom-list", path="/objects")):
            self.qmp.cmd("object-del", id=self.group)
        return top

    def _use(self, **node):
        self.qmp.cmd("blockdev-add", **{"node-name": self.name, **node})
        self.qmp.cmd("qom-set", path=self.device, property="drive", value=self.name)

    def errors(self, io="write", errno=5, sector=None, once=False):
        inject = {"event": "none", "iotype": io, "errno": errno, "once": once}
        if sector is not None:
            inject["sector"] = sector
        self._use(driver="blkdebug", image=self.off(), **{"inject-error": [inject]})

    def slow(self, iops):
        top = self.off()
        self.qmp.cmd("object-add", **{"qom-type": "throttle-group", "id": self.group, "limits": {"iops-total": iops}})
        self._use(driver="throttle", file=top, **{"throttle-group": self.group})


def unplug(qmp, device, wait=20):
    """Hot-removes a controller or NIC: the guest is asked, and this waits until it let go."""
    qmp.cmd("device_del", id=device)
    end = time.monotonic() + wait
    while _plugged(qmp, device):
        if time.monotonic() > end:
            raise LabError("%s is still there after %g s" % (device, wait))
        time.sleep(0.05)


def plug(qmp, machine, device):
    """Puts a controller back, with its first namespace (a namespace alone cannot be hot-plugged)."""
    found = re.fullmatch(r"nvme(\d+)", device)
    if not found or int(found[1]) >= len(machine.drives):
        raise Bad("no such controller: " + device)
    index = int(found[1])
    drive = machine.drives[index]
    qmp.cmd("device_add", driver="nvme", id=device, bus="port%d" % (index + 1), serial=drive.serial, mdts=drive.mdts,
            drive=_top_node(qmp, "d%dn1" % index), logical_block_size=drive.lbs, physical_block_size=drive.lbs)


def link(qmp, nic, up):
    """Cuts or restores a NIC's cable."""
    qmp.cmd("set_link", name=nic, up=up)
