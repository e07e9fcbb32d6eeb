/* hwloc's part of a load, kept at arm's length when the XML is a stranger's. */
#include "numa/machine_build.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIAL_SECONDS 30u

static int load(const char *xml, size_t bytes, hwloc_topology_t *out)
{
	hwloc_topology_t hw;

	if (hwloc_topology_init(&hw))
		return -ENOMEM;
	/* Nodes and CPUs that our cpuset hides are listed too: "hidden" and "absent" are different answers. */
	if ((xml && hwloc_topology_set_xmlbuffer(hw, xml, (int)bytes)) ||
	    hwloc_topology_set_flags(hw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) ||
	    hwloc_topology_set_io_types_filter(hw, HWLOC_TYPE_FILTER_KEEP_ALL) || hwloc_topology_load(hw)) {
		hwloc_topology_destroy(hw);
		return -EPROTO;
	}
	*out = hw;
	return 0;
}

/* In the child: nothing of the parent's may run when hwloc crashes, and nothing may be printed twice. */
static _Noreturn void try_and_exit(const char *xml, size_t bytes)
{
	static const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};
	hwloc_topology_t hw;
	sigset_t none;
	int null;

	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		signal(deadly[i], SIG_DFL);
	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null >= 0)
		dup2(null, STDERR_FILENO);
	alarm(TRIAL_SECONDS);
	_exit(load(xml, bytes, &hw) == 0 ? 0 : 1);
}

/* hwloc trusts its XML: a wrong one makes it read through null pointers or fail an assertion. So a child loads it first. */
static int trial(const char *xml, size_t bytes, struct why *why)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		try_and_exit(xml, bytes);
	if (pid < 0)
		return why_set(why, -errno, "machine: cannot start a process that tries the XML");
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return why_set(why, -EIO, "machine: the process that tried the XML was lost");
	}
	if (WIFSIGNALED(status))
		return why_set(why, -EPROTO, "machine: hwloc crashes on this XML, which is damaged");
	if (WEXITSTATUS(status))
		return why_set(why, -EPROTO,
			       "machine: hwloc does not accept this XML (it must be of version 2; hwloc 3 writes it "
			       "with lstopo --export-xml-flags v2)");
	return 0;
}

int machine_hwloc_load(const char *xml, size_t bytes, hwloc_topology_t *out, struct why *why)
{
	int r = xml ? trial(xml, bytes, why) : 0;

	if (r)
		return r;
	r = load(xml, bytes, out);
	if (r == -ENOMEM)
		return why_set(why, r, "machine: hwloc cannot start: out of memory");
	return r ? why_set(why, xml ? -EPROTO : -EIO, "machine: hwloc cannot read this %s",
			   xml ? "XML" : "system's topology")
		 : 0;
}
