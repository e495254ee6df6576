"""The fork server: imports what experiments preload, once, and forks a process into a sandbox for each that is started.

It is ours and stays outside every sandbox.  It only imports: it never computes, opens a GPU, or runs code of an
experiment.  Standard library only, since it is started as a plain program.

    fork server ── fork ──> courier: joins the namespaces of a sandbox that bubblewrap built
                              └─ fork ──> link: the first process inside; ends at once
                                            └─ fork ──> keeper: unprivileged; reports how the script ended
                                                          └─ fork ──> script: runs the experiment's code

- Courier and link end at once.  An orphan is adopted by the init of its parent's namespace: through the link, the
  keeper belongs to the sandbox's init.  So whatever counts or kills the processes of a sandbox sees those of a forked
  start as it sees those of a cold one.
- The server reads no request itself.  A child therefore inherits nothing of earlier experiments.
- Children share the server's hash seed, address layout and variables at start (`/proc/self/environ`), none of them
  secret.  Random generators are seeded anew.

usage: fork_server.py SOCKET_FD MODULE,MODULE PACKAGES, the last as for launch.py
"""

import ctypes
import fcntl
import json
import os
import resource
import runpy
import signal
import socket
import sys
import time

MAX_REQUEST_BYTES = 1 << 18
MAX_DESCRIPTORS = 16
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 22, 24, 38, 47
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION = 0x2008_0522
FREE_DESCRIPTORS = 600
"""Received descriptors wait above this number until they are moved to the numbers that the script expects."""

LIBC = ctypes.CDLL(None, use_errno=True)
LAUNCH = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py"))


def main() -> None:
    # Some callers leave this signal ignored, and children can then not be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener = socket.socket(fileno=int(sys.argv[1]))
    LAUNCH["add_packages"](sys.argv[3])
    LAUNCH["import_all"](sys.argv[2])
    end_idle_threads()
    while True:
        byte, descriptors, _, _ = socket.recv_fds(listener, 1, 1)
        if not byte:
            return
        if not descriptors:
            continue
        reply = socket.socket(fileno=descriptors[0])
        refusal = why_not_fork()
        if refusal:
            reply.send(json.dumps({"refused": refusal}).encode())
        elif os.fork() == 0:
            listener.close()
            carry(reply)
        reply.close()
        reap()


def end_idle_threads() -> None:
    """Fork once in vain: OpenBLAS starts threads when it is loaded, and ends them at a fork until it computes."""
    trial = os.fork()
    if trial == 0:
        os._exit(0)
    os.waitpid(trial, 0)


def why_not_fork() -> str:
    """Why a fork would not be sound; empty when it is."""
    # The locks and pools of a second thread would be copied in whatever state they are.
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the modules that are preloaded started threads ({threads} in all)"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "a module that is preloaded has initialised CUDA"
    return ""


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def carry(reply: socket.socket) -> None:
    """The courier: bring a new process into the sandbox.  Never returns."""
    try:
        body, descriptors, _, _ = socket.recv_fds(reply, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
        request = json.loads(body)
        descriptors = [_moved_up(descriptor) for descriptor in descriptors]
        # Its sandbox is built while this process is forked: the second message comes when it is complete.
        _, holder, _, _ = socket.recv_fds(reply, 1, 1)
        if not holder:
            os._exit(0)  # the client has given up
        if LIBC.setns(holder[0], request["namespaces"]) != 0:
            raise OSError(ctypes.get_errno(), "cannot join the sandbox")
        link = os.fork()
        if link == 0:
            if os.fork() == 0:
                os.close(holder[0])
                keep(reply, request, descriptors)
            os._exit(0)
        os.waitpid(link, 0)
        os._exit(0)
    except BaseException as error:
        # The client may be gone, and this process must not go on as a second fork server.
        try:
            reply.send(json.dumps({"refused": f"{type(error).__name__}: {error}"[:500]}).encode())
        finally:
            os._exit(1)


def keep(reply: socket.socket, request: dict, descriptors: list[int]) -> None:
    """The keeper: start the script and report its exit status.  Never returns."""
    os.setsid()
    os.chdir(request["cwd"])
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    program, status = descriptors[0], descriptors[1]
    instructions = os.pread(program, 1 << 20, 0) if request["filtered"] else b""
    # Only below the sandbox's init does the watch see this process.  The link may be slow to end, and outside the init
    # it would be a process with the script's user that no watch sees.
    while os.getppid() != 1:
        time.sleep(0.0005)
    drop_privileges(request["uid"])
    # The script has this user too: it may not look into the keeper, whose pipe says how the script ended.
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if instructions:
        load_filter(instructions)
    # What fails from here on is the script's; before, the client makes a cold start of it.
    reply.send(b'{"started": true}')
    script = os.fork()
    if script == 0:
        reply.detach()  # closed with all others below; the script can reach this object through its frames
        run(request, status, descriptors)
    os.closerange(0, status)
    os.closerange(status + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    ended = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
    os.write(status, str(128 - ended if ended < 0 else ended).encode())
    os._exit(0)


def run(request: dict, status: int, descriptors: list[int]) -> None:
    """The script's process.  Never returns."""
    os.setsid()
    os.close(status)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else it could not read its own /proc/self
    # To the numbers that the script's arguments name; all of ours are closed.
    for source, target in zip(descriptors[2:], request["descriptors"], strict=True):
        os.dup2(source, target, inheritable=True)
    expected = sorted({0, 1, 2, *request["descriptors"]})
    for low, high in zip(expected, [*expected[1:], resource.getrlimit(resource.RLIMIT_NOFILE)[0]], strict=True):
        os.closerange(low + 1, high)
    os.environ.clear()
    os.environ.update(request["variables"])
    gate = LAUNCH["open_gate"](request["ready"], request["guard"], request["ranks"])
    seed_generators()  # in each rank
    LAUNCH["run_script"](gate, request["folders"], request["script"], request["arguments"])


def drop_privileges(uid: int | None) -> None:
    """Give up every capability, and become `uid` unless it is None (the sandbox has the right user already)."""
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    LIBC.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    if LIBC.capset(header, (ctypes.c_uint32 * 6)()) != 0 or LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot drop privileges")


def load_filter(instructions: bytes) -> None:
    """Install a filter of system calls, in the kernel's form, for this process and all below it."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    program = Program(len(instructions) // 8, instructions)
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot filter system calls")


def seed_generators() -> None:
    """Random numbers of this process alone, as after a fresh start.  Python's own generator does that by itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _moved_up(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FREE_DESCRIPTORS)
    os.close(descriptor)
    return moved


if __name__ == "__main__":
    main()
