"""The same work over many pieces, on the cores of this machine or on a Ray cluster: the one file that knows Daft.

Daft gives the processes, their scheduling and the way to other machines. It gives neither order nor restarting (decision 0024), so a piece
names rows that the work itself finds and whose result it keeps; answers come back in any order.
"""

import logging
import os
import pickle
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from unmask.errors import ConfigError, DataError, UnmaskError

Runner = Literal["local", "ray"]
RUNNERS: tuple[Runner, ...] = ("local", "ray")

_QUIET = {"DAFT_ANALYTICS_ENABLED": "0", "SCARF_NO_ANALYTICS": "1", "DAFT_PROGRESS_BAR": "0", "RAY_TQDM": "0"}
"""Daft reports its use to a server and draws bars of its own, unless these are set."""

_KILLED = re.compile(r"UDF process|connection unexpectedly|ActorDied|WorkerCrashed|OutOfMemory|worker died", re.IGNORECASE)


class Work(Protocol):
    """What is done; it travels to the workers, so it is small and can be pickled."""

    def start(self) -> Callable[[Any], Any]:
        """Called once in each worker, where models are loaded; what it returns is called with one piece after another."""


@dataclass(frozen=True)
class Engine:
    """Where work is done.

    Attributes:
        runner: the cores of this machine, or a Ray cluster.
        workers: how many pieces are worked on at a time.
        gpus: what each worker takes of a GPU; 0 for none.
        address: of the Ray cluster; "" joins the one of this machine, or starts one.
    """

    runner: Runner = "local"
    workers: int = 1
    gpus: float = 0.0
    address: str = ""


def run(work: Work, pieces: Sequence[Any], engine: Engine) -> Iterator[Any]:
    """The answer to each piece, as they come.

    Args:
        work: what is done with a piece.
        pieces: each small and picklable; big things are named, not sent.
        engine: where.

    Raises:
        ConfigError: Daft or Ray is not installed, or there is no such cluster.
        DataError: a worker was killed.
        UnmaskError: the first error of the work itself; what other workers had begun is lost.
    """
    if not pieces:
        return
    answers = _frame(work, pieces, engine)
    while True:
        try:
            row = next(answers, None)
        except Exception as error:
            if _KILLED.search(f"{type(error).__name__}: {error}"):
                fix = "start again, with fewer --workers: what is done is not done again"
                raise DataError("a worker was killed, perhaps for want of memory", fix=fix) from None
            raise
        if row is None:
            return
        answer = pickle.loads(row["answer"])
        if isinstance(answer, UnmaskError):
            if in_this_process(engine, pieces):
                deque(answers, maxlen=0)
            raise answer
        yield answer


def in_this_process(engine: Engine, pieces: Sequence[Any]) -> bool:
    """Whether the work is done in this process, by one worker: other processes take seconds to start."""
    return engine.runner == "local" and min(engine.workers, len(pieces)) == 1


def _pass_over(_piece: Any) -> None:
    """Nothing."""


class _Worker:
    """The work in one worker, as Daft calls it: a batch of pickled pieces -> pickled answers."""

    def __init__(self, work: bytes | Work) -> None:
        self._work: Work = pickle.loads(work) if isinstance(work, bytes) else work
        self._do: Callable[[Any], Any] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return _Worker, (pickle.dumps(self._work),)

    def __call__(self, pieces: Any) -> list[bytes]:
        with self._lock:  # in this process, Daft calls from several threads
            return [pickle.dumps(self._answer(pickle.loads(piece))) for piece in pieces.to_pylist()]

    def _answer(self, piece: Any) -> Any:
        try:
            if self._do is None:
                self._do = self._work.start()
            return self._do(piece)
        except UnmaskError as error:
            self._do = _pass_over  # Daft cannot be stopped: what is left is answered with nothing
            return error


def _frame(work: Work, pieces: Sequence[Any], engine: Engine) -> Iterator[dict[str, bytes]]:
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    try:
        import daft  # noqa: PLC0415  (an extra: only bulk work needs it)
    except ImportError:
        raise ConfigError("this runs on Daft, which is not installed", fix="pip install 'unmask[prepare]'") from None
    _choose_runner(daft, engine)
    kind = {"return_dtype": daft.DataType.binary(), "batch_size": 1, "num_gpus": engine.gpus or None}
    frame = daft.from_pydict({"piece": [pickle.dumps(piece) for piece in pieces]})
    if in_this_process(engine, pieces):
        worker = _Worker(work)
        ask = daft.udf(**kind, use_process=False)(lambda pieces: worker(pieces))
    else:
        many = daft.udf(**kind, concurrency=min(engine.workers, len(pieces)))(_Worker)
        ask = many.with_init_args(work=pickle.dumps(work))
        frame = frame.into_partitions(len(pieces)) if engine.runner == "ray" else frame
    done = frame.select(ask(daft.col("piece")).alias("answer"))
    rows: Iterator[dict[str, bytes]] = done.iter_rows(results_buffer_size=2 * engine.workers)
    return rows


def _choose_runner(daft: Any, engine: Engine) -> None:
    """Daft takes one runner for the life of a process."""
    now = daft.runners.get_or_infer_runner_type() if daft.runners._get_runner() else None
    wanted = {"local": "native", "ray": "ray"}[engine.runner]
    if now == wanted:
        return
    if now is not None:
        raise ConfigError(f"this process has used Daft's runner '{now}' before", fix="start another process")
    if engine.runner == "local":
        daft.set_runner_native()
        return
    try:
        import ray  # noqa: PLC0415  (an extra: only who has a cluster needs it)
    except ImportError:
        raise ConfigError("--runner ray needs Ray, which is not installed", fix="pip install 'unmask[prepare,ray]'") from None
    try:
        ray.init(address=engine.address or None, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (ConnectionError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"there is no Ray cluster at '{engine.address}' ({said})", fix="ray start --head, or check it"
        ) from None
    daft.set_runner_ray(noop_if_initialized=True)
