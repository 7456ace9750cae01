"""Run a function on a few ranks of this machine: real processes that talk by gloo, as torchrun would start them."""

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = ("torch", "torch.distributed.fsdp", "torch.distributed.checkpoint")
"""Imported once, in the process that ranks are forked from, if nothing else is asked for."""


class RankFailed(RuntimeError):
    """A rank raised, died, or did not end in time.

    Args:
        rank: the first that failed.
        what: its traceback, or how it ended.
    """

    def __init__(self, rank: int, what: str) -> None:
        self.rank, self.what = rank, what
        super().__init__(f"rank {rank}: {what}")


def spawn(
    function: Callable[..., Any],
    world: int,
    *arguments: Any,
    seconds: float = 120.0,
    local_world: int | None = None,
    preload: Sequence[str] = PRELOAD,
) -> list[Any]:
    """Call `function(*arguments)` on every rank.

    Args:
        function: importable by name; it joins the others with `mesh.connect`.
        world: how many ranks.
        arguments: for the function, the same on every rank.
        seconds: all ranks together may take that long.
        local_world: ranks of one node, where several nodes are played; default: all.
        preload: modules that ranks have imported already; only the first call of a process decides.

    Returns:
        What it returned, in the order of ranks.

    Raises:
        RankFailed: for the first rank that failed, with its traceback; the others are ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    local = local_world or world
    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="unmask-ranks-") as folder:
        ranks = []
        for rank in range(world):
            variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local}
            told = {name: str(value) for name, value in variables.items()}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks.append(context.Process(target=_run, args=(function, arguments, told, Path(folder) / str(rank), list(sys.path))))
        try:
            for process in ranks:
                process.start()
            _watch(ranks, Path(folder), time.monotonic() + seconds)
        finally:
            for process in ranks:
                if process.pid is not None:
                    process.kill()
                    process.join()
        return [pickle.loads((Path(folder) / f"{rank}.result").read_bytes()) for rank in range(world)]


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _watch(ranks: Sequence[BaseProcess], folder: Path, deadline: float) -> None:
    while any(process.exitcode is None for process in ranks):
        failed = [rank for rank, process in enumerate(ranks) if process.exitcode not in {None, 0}]
        if failed:
            time.sleep(0.2)  # the others may be failing in answer to it: who was first is told by the time of the report
            break
        if time.monotonic() > deadline:
            late = [rank for rank, process in enumerate(ranks) if process.exitcode is None]
            raise RankFailed(late[0], f"did not end in time, nor did {len(late) - 1} others")
        time.sleep(0.01)
    failed = [rank for rank, process in enumerate(ranks) if process.exitcode not in {None, 0}]
    if not failed:
        return
    silent = [rank for rank in failed if not (folder / f"{rank}.error").is_file()]
    if silent:
        raise RankFailed(silent[0], f"ended with exit code {ranks[silent[0]].exitcode}")
    first = min(failed, key=lambda rank: (folder / f"{rank}.error").stat().st_mtime_ns)
    raise RankFailed(first, (folder / f"{first}.error").read_text())


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], place: Path, path: list[str]
) -> None:
    """Runs in the rank's process."""
    sys.path[:] = path
    os.environ.update(environment)
    import torch  # noqa: PLC0415  (the parent may do without)

    torch.set_num_threads(1)
    try:
        result = pickle.dumps(function(*arguments))
    except BaseException:  # noqa: BLE001  (whatever it was, the parent tells)
        unfinished = place.with_suffix(".unfinished")
        unfinished.write_text(traceback.format_exc())
        unfinished.rename(place.with_suffix(".error"))
        sys.stderr.flush()
        os._exit(1)  # nothing that hangs at the end of a process keeps the failure back
    place.with_suffix(".result").write_bytes(result)
