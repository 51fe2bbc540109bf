"""A `python` whose `-m tekapctl` starts at once: what a program under test starts in turn is forked as well.

A program started with `QUICK_PYTHON` in its environment takes it for its `sys.executable` (`program`). It hands its
command, environment and files to a server that was forked with everything imported, passes signals on, and ends as
the forked program ends. Any other command of Python is carried out by the real one.
"""

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from helpers.program import CONTEXT, become, start_server
from helpers.waiting import until

PYTHON = """#!{python} -IS
import json, os, signal, socket, sys
words = sys.argv[1:]
if words[:3] != ["-P", "-m", "tekapctl"]:
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([words[3:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
os.close(0)
code = int(server.recv(8) or b"1")
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def quick_python() -> str:
    """The path of this `python`; of the real one where the system has no file descriptors of processes."""
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    start_server()
    folder = Path(tempfile.mkdtemp(prefix="quick-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command, address = folder / "python", folder / "socket"
    command.write_text(PYTHON.format(python=sys.executable, address=str(address)))
    command.chmod(0o755)
    # No daemon: the children of one may have none.
    server = CONTEXT.Process(target=_serve, args=(str(address),))
    server.start()
    atexit.register(server.kill)
    until(address.exists, server.is_alive)
    return str(command)


def _serve(address: str) -> None:
    """Fork a keeper for each process that is asked for, as long as the tests go on."""
    tests = multiprocessing.parent_process()
    assert tests is not None
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen(64)
        Path(f"{address}.new").rename(address)
        awaited: list[Any] = [server, tests.sentinel]
        while tests.sentinel not in select.select(awaited, [], [])[0]:
            asked, _ = server.accept()
            with asked:
                if not os.fork():
                    server.close()
                    _keep(asked)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _keep(asked: socket.socket) -> None:
    """Fork the program, pass signals on to it, and tell how it ended; kill it if nobody is there to be told."""
    head, files, _, _ = socket.recv_fds(asked, 4, 3)
    with asked.makefile("rb") as stream:
        arguments, environment, folder = json.loads(stream.read(int.from_bytes(head, "big")))
    child = os.fork()
    if not child:
        asked.close()
        os.setsid()
        _program(arguments, environment, folder, files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    awaited: list[Any] = [ended, asked]
    while ended not in select.select(awaited, [], [])[0]:
        number = asked.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        asked.send(str(code).encode())
    os._exit(0)


def _program(arguments: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    """The program to its end, and its process with it."""
    code: object = 1
    try:
        become(tuple(arguments), environment, Path(folder), files)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
