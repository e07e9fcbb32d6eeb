#!/usr/bin/python3
"""seccomp_exec.py ERRNO CALL[,CALL...] COMMAND...: runs a command in which these system calls fail with ERRNO, as under a
container's seccomp profile. x86-64 only."""
import ctypes
import os
import struct
import sys

CALLS = {"mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "migrate_pages": 256, "move_pages": 279,
         "sched_setaffinity": 203, "io_uring_setup": 425}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06      # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
FAIL, ALLOW = 0x00050000, 0x7FFF0000


def install(errno, numbers):
    code = [struct.pack("=HBBI", LOAD, 0, 0, 0)]    # offset 0 of seccomp_data: the call's number
    for i, number in enumerate(numbers):
        code.append(struct.pack("=HBBI", EQUAL, len(numbers) - i, 0, number))
    code += [struct.pack("=HBBI", RETURN, 0, 0, ALLOW), struct.pack("=HBBI", RETURN, 0, 0, FAIL | errno)]
    text = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, ctypes.addressof(program), 0, 0)):
        if libc.prctl(ctypes.c_int(words[0]), *(ctypes.c_ulong(w) for w in words[1:])):
            raise OSError(ctypes.get_errno(), "prctl")


install(int(sys.argv[1]), [CALLS[c] for c in sys.argv[2].split(",")])
os.execvp(sys.argv[3], sys.argv[3:])
