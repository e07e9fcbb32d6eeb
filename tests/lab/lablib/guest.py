"""The scripts that run in a guest: its agent, which is process 1, and its set-up."""
import os
import shlex

from . import kernel
from .machine import guest_ip

# Run by busybox: its applets cost no dynamic linking, which takes 30 to 100 ms for each start of a program under emulation.
AGENT = r"""# Agent of a guest, process 1 after switch_root: runs the requests it finds in /lab/gN/q.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8
read -r w < /proc/cmdline; w=${w##*lab.guest=}; G=${w%% *}; D=/lab/g$G
up() { read -r u _ < /proc/uptime; echo "lab-agent $u $*"; }
up root
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /dev/shm /dev/pts /dev/hugepages /run/lock
mount -t tmpfs -o mode=1777 tmpfs /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null
mount -t debugfs none /sys/kernel/debug 2>/dev/null
ln -sf /proc/self/fd /dev/fd; ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout; ln -sf /proc/self/fd/2 /dev/stderr
ulimit -l unlimited; ulimit -n 65536
echo 4 > /proc/sys/vm/drop_caches       # no log line for each use of it
if sh $D/setup.sh > $D/setup.log 2>&1; then r=ok; else r=failed; fi
up setup $r
echo $r > $D/ready.tmp; mv $D/ready.tmp $D/ready
run_one() {   # request directory, number
  local d=$1 rc o e i
  # What the host rebuilt since must not be seen half old, half new: drop the cached files. The first time lets go of
  # overlayfs' hold on the inodes, the second of the inodes.
  [ -f $d/fresh ] && { echo 3 > /proc/sys/vm/drop_caches; echo 3 > /proc/sys/vm/drop_caches; }
  mkfifo /run/o$2 /run/e$2
  cat < /run/o$2 >> $d/out & o=$!
  cat < /run/e$2 >> $d/err & e=$!
  setsid /bin/bash $d/cmd < $d/in > /run/o$2 2> /run/e$2 &
  i=$!; echo $i > $d/pid.tmp; mv $d/pid.tmp $d/pid
  wait $i; rc=$?
  # Its own output is complete when both cats ended; a daemon it left behind may hold them open.
  for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $o 2>/dev/null || kill -0 $e 2>/dev/null || break; usleep 50000; done
  rm -f /run/o$2 /run/e$2
  echo $rc > $d/rc.tmp; mv $d/rc.tmp $d/rc
}
n=1
mkfifo /run/never; exec 9<>/run/never
while :; do
  if [ -f $D/q/$n/go ]; then run_one $D/q/$n $n < /dev/null & n=$((n+1)); continue; fi
  if [ -f $D/off ]; then sync; up off; echo o > /proc/sysrq-trigger; sleep 30; fi
  read -t 0.05 w <&9     # sleeps without a process
done
"""

SETUP_HEAD = r"""fail=0
step() { read -r u _ < /proc/uptime; echo "[$u] $*"; }
must() { "$@" || { echo "FAILED: $*"; fail=1; }; }
# load FILE [parameters]; a module that is loaded already is no error
load() { local o; o=$(insmod "$@" 2>&1) || case $o in *"File exists"*) ;; *) echo "FAILED: insmod $*: $o"; fail=1;; esac; }
await() {
  local i=0
  until eval "$1"; do i=$((i+1)); [ $i -gt 400 ] && { echo "FAILED: waiting for $1"; fail=1; return; }; usleep 25000; done
}
# pages NODE KB COUNT: the kernel may grant less than asked, so read it back
pages() {
  local f=/sys/devices/system/node/node$1/hugepages/hugepages-$2kB/nr_hugepages k
  echo $3 > $f; read -r k < $f
  [ "$k" = $3 ] || { echo "FAILED: $3 pages of $2 kB on node $1: got $k"; fail=1; }
}
"""

# The kernel may number NICs in another order than the machine's: they are named by their address.
NAME_NICS = ("for n in /sys/class/net/eth*; do read -r m < $n/address; case $m in 52:54:00:77:*) w=${m#52:54:00:77:}; "
             "ip link set ${n##*/} name tmp$((0x${w%:*}));; *) ip link set ${n##*/} name mgmt0;; esac; done")
LINK_DRIVES = ("mkdir -p /dev/lab; for c in /sys/class/nvme/nvme*; do read -r k < $c/serial; for n in $c/nvme*n*; do n=${n##*/}; "
               "ln -s ../$n /dev/lab/$k-n${n##*n}; ln -s ../ng${n#nvme} /dev/lab/$k-ng${n##*n}; done; done")


class Setup:
    """The set-up script of one guest."""

    def __init__(self, machine, guest, release):
        self.m, self.g, self.release, self.lines = machine, guest, release, [SETUP_HEAD]

    def add(self, *lines):
        self.lines += lines

    def modules(self, names, params=""):
        for path in kernel.module_files(self.release, names):
            name = os.path.basename(path).split(".")[0]
            if name in kernel.BOOT_MODULES:
                continue
            own = [p.split(".", 1)[1] for p in self.m.modparam if p.split(".", 1)[0].replace("_", "-") == name.replace("_", "-")]
            self.add("load " + " ".join([path] + own) + (params if name == names[-1] else ""))

    def hosts(self):
        self.add("must ip link set lo up", "hostname lab%d" % self.g, "echo 127.0.0.1 localhost > /etc/hosts")
        for k in range(self.m.guests):
            self.add("echo %s lab%d >> /etc/hosts" % (guest_ip(k), k))
        if self.m.aslr:
            self.add("echo 2 > /proc/sys/kernel/randomize_va_space")

    def pages(self):
        nodes = self.m.nodes
        self.add("step huge pages")
        for kb, counts in ((1048576, [n.giga for n in nodes]), (2048, [n.huge for n in nodes])):  # large ones first
            if any(counts):
                self.add(*("pages %d %d %d" % (n, kb, count) for n, count in enumerate(counts) if nodes[n].mem))
        if any(n.huge for n in nodes):
            self.add("must mount -t hugetlbfs -o pagesize=2M none /dev/hugepages")
        if any(n.giga for n in nodes):
            self.add("mkdir -p /dev/hugepages1G; must mount -t hugetlbfs -o pagesize=1G none /dev/hugepages1G")

    def network(self):
        self.add("step network")
        self.modules(["virtio_net"])
        nics = range(len(self.m.nic_nodes))
        if nics:
            self.add(NAME_NICS)
        for i in nics:
            self.add("must ip link set tmp%d name eth%d" % (i, i),
                     "must ip addr add %s/24 dev eth%d" % (guest_ip(self.g, i), i),
                     "must ip link set eth%d mtu %d up" % (i, self.m.mtu))
        if self.m.fwd:
            self.add("[ -e /sys/class/net/mgmt0 ] || ip link set eth0 name mgmt0",
                     "must ip addr add 10.0.2.15/24 dev mgmt0; must ip link set mgmt0 up")

    def rdma(self):
        self.add("step rdma")
        self.modules(["rdma_rxe"])
        self.modules(["rdma_ucm"])
        for i in range(self.m.rdma):
            self.add("must rdma link add rxe%d type rxe netdev eth%d" % (i, i))

    def await_devices(self):
        if self.m.drives:   # probing is asynchronous, and numbers may follow another order: link namespaces by serial
            self.add("step wait for nvme",
                     "await 'set -- /sys/block/nvme*n*; [ $# -ge %d ] && [ -e $1 ]'" % sum(d.ns for d in self.m.drives),
                     LINK_DRIVES)
        for i in range(self.m.rdma):
            octets = [int(x) for x in guest_ip(self.g, i).split(".")]
            gid = "%02x%02x:%02x%02x" % tuple(octets)
            self.add("await 'grep -q ACTIVE /sys/class/infiniband/rxe%d/ports/1/state'" % i,
                     "await 'grep -q %s /sys/class/infiniband/rxe%d/ports/1/gids/1'" % (gid, i))

    def text(self):
        m = self.m
        self.hosts()
        if any(n.huge or n.giga for n in m.nodes):
            self.pages()
        if m.drives:
            self.add("step nvme")
            self.modules(["nvme"], " poll_queues=%d" % m.poll_queues if m.poll_queues else "")
        if m.nic_nodes or m.fwd:
            self.network()
        if m.rdma:
            self.rdma()
        for spec in m.module:
            name, _, params = spec.partition(" ")
            self.add("step module " + shlex.quote(name))
            self.modules([name], " " + params if params else "")
        self.await_devices()
        for k, path in enumerate(m.rw):
            self.add("must mkdir -p " + shlex.quote(path),
                     "must mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap rw%d %s" % (k, shlex.quote(path)))
        for line in m.setup:
            self.add("step " + shlex.quote(line), "must /bin/bash -c " + shlex.quote(line))
        self.add("step done", "exit $fail")
        return "\n".join(self.lines) + "\n"


def setup_script(machine, guest, release):
    return Setup(machine, guest, release).text()


def request_script(command, env, cwd):
    """What bash runs in the guest: `command` is a list of words, or a piece of shell script."""
    lines = ["export %s=%s" % (k, shlex.quote(v)) for k, v in env.items()]
    lines.append("cd %s 2>/dev/null || cd /" % shlex.quote(cwd))
    lines.append(command if isinstance(command, str) else "exec " + " ".join(shlex.quote(w) for w in command))
    return "\n".join(lines) + "\n"


def guest_env(machine, guest):
    peer = 1 - guest if machine.guests == 2 else (guest + 1) % machine.guests
    return {"LAB_GUEST": str(guest), "LAB_GUESTS": str(machine.guests), "LAB_SCRATCH": "/lab/scratch",
            "LAB_IP": guest_ip(guest), "LAB_PEER_IP": guest_ip(peer)}
