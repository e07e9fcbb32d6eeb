"""The virtual lab: QEMU guests with NUMA nodes, huge pages, NVMe and soft-RoCE. See docs/lab.md.

    kernel   the host's kernel image and the first root file system
    machine  what a guest is made of, and the options that say so
    guest    the scripts that run in the guest: agent and set-up
    qemu     QEMU's command line, and its monitor
    lab      running guests: boot, commands, power cuts
    faults   I/O errors, slow and removed devices, cut cables
    replay   disks as they were when the power went
    testing  what a tests/lab/*_test.py is written with
    cli      tests/lab/run
"""
