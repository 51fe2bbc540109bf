"""Shell scripts whose `tekapctl` starts at once, as in `program`."""

import functools
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Client, Listener
from pathlib import Path

from helpers.program import Started

COMMAND = """#!{python} -ES
import os, sys
from multiprocessing.connection import Client
with Client({address!r}) as asked:
    asked.send((sys.argv[1:], os.getcwd()))
    code, out, err = asked.recv()
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def run_script(script: str, folder: Path, home: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script of bash in a folder; a command that fails ends it.

    Args:
        script: Its lines.
        folder: Where it runs; a subfolder holds the command.
        home: The program's home folder.
    """
    commands = folder / ".commands"
    commands.mkdir()
    with Listener(str(commands / "socket")) as listener:
        command = commands / "tekapctl"
        command.write_text(COMMAND.format(python=sys.executable, address=listener.address))
        command.chmod(0o755)
        answering = threading.Thread(target=_answer, args=(listener, home, commands / "output"))
        answering.start()
        environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
        words = ["bash", "-euo", "pipefail", "-c", script]
        try:
            return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        finally:
            with Client(listener.address) as last:
                last.send(None)
            answering.join()


def _answer(listener: Listener, home: Path, files: Path) -> None:
    """Run the program for each command until None comes."""
    while True:
        with listener.accept() as asked:
            if (words := asked.recv()) is None:
                return
            arguments, folder = words
            done = Started(home, tuple(arguments), files, {}, functools.partial(os.chdir, folder)).wait()
            asked.send((done.code, done.out, done.err))
