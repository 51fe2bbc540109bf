"""Several processes that train together, as a launcher would start them."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from helpers.program import CONTEXT, start_server


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work`, a function of a module that joins the process group, returns in each of `count` processes."""
    start_server()
    port, pipes, processes = free_port(), [], []
    for rank in range(count):
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_enter, args=(theirs, rank, count, port, work, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    found = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
    for process in processes:
        process.join()
    for error, _ in found:
        assert error is None, error
    return [result for _, result in found]


def _enter(
    pipe: Connection, rank: int, count: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        pipe.send_bytes(pickle.dumps((None, work(*arguments))))
    except BaseException:
        pipe.send_bytes(pickle.dumps((traceback.format_exc(), None)))
