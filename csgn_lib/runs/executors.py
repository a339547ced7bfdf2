"""Executors for sweeps: `local` threads, each with its own GPUs; `dask` workers; `submitit` jobs (SLURM).

Each is a ``concurrent.futures.Executor``; any other one works too. A cell is a separate process, which ends with the
worker that started it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from csgn_lib.records import InputError, writing
from csgn_lib.runs import folders, machine

POLL = 0.5  # seconds between polls of submitted jobs
_LENT: ContextVar[str | None] = ContextVar("lent", default=None)


def variables() -> dict[str, str]:
    """Environment variables of a cell that runs in this thread: its reserved GPUs."""
    lent = _LENT.get()
    return {} if lent is None else {"CUDA_VISIBLE_DEVICES": lent}


def groups(gpus: Sequence[int | str], gpus_per_cell: int) -> list[str]:
    """The GPUs in groups of ``gpus_per_cell``, one for each cell at a time. Raises InputError for too few GPUs."""
    size = max(1, gpus_per_cell)
    joined = [",".join(map(str, gpus[i : i + size])) for i in range(0, len(gpus) - size + 1, size)]
    if not joined:
        raise InputError(f"{size} GPUs for each cell, and there are {len(gpus)}; lower gpus_per_cell, or name more")
    return joined


def named(
    name: str, workers: int | None, gpus_per_cell: int, address: str | None, parameters: Mapping[str, Any]
) -> Executor:
    """The executor of a name on the command line. Raises InputError for options that do not apply to it."""
    if name not in ("local", "dask", "submitit"):
        raise InputError(f"executor {name!r} does not exist; choose local, dask or submitit")
    if parameters and name != "submitit":
        raise InputError(f"--job applies to --executor submitit, not to {name}; omit it")
    if address is not None and name != "dask":
        raise InputError(f"--address applies to --executor dask, not to {name}; omit it")
    if workers is not None and (name == "submitit" or address is not None):
        raise InputError("--workers does not apply to a cluster, whose queue limits the jobs; omit it")
    if name == "submitit":
        wanted = {"gpus_per_node": gpus_per_cell} if gpus_per_cell else {}
        return submitit(folders.runs_folder() / ".jobs", **{**wanted, **parameters})
    if name == "local":
        return local(workers, machine.gpus() if gpus_per_cell else None, gpus_per_cell)
    if gpus_per_cell and address is None:
        raise InputError("workers that --executor dask starts have no GPUs of their own; omit it, or give --address")
    return dask(address, workers, gpus_per_cell)


def share(name: str, workers: int | None) -> int | None:
    """CPU threads of a cell if ``workers`` share this machine; None if each cell has its own machine."""
    return max(1, machine.cores() // workers) if workers and name != "submitit" else None


def local(workers: int | None = None, gpus: Sequence[int | str] | None = None, gpus_per_cell: int = 1) -> Executor:
    """A pool on this machine. With ``gpus``, each running cell has ``gpus_per_cell`` of them for itself.

    ``workers`` cells run at a time; default one, or as many as have GPUs.
    """
    places = groups(gpus, gpus_per_cell) if gpus is not None else None
    return _Local(min(workers or len(places or "1"), len(places) if places else workers or 1), places)


class _Local(ThreadPoolExecutor):
    def __init__(self, workers: int, places: list[str] | None) -> None:
        super().__init__(workers)
        self._places: queue.Queue[str] | None = queue.Queue() if places else None
        for place in places or []:
            self._places.put(place)  # type: ignore[union-attr]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return (
            super().submit(self._lending, fn, *args, **kwargs) if self._places else super().submit(fn, *args, **kwargs)
        )

    def _lending(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self._places is not None
        place = self._places.get()
        token = _LENT.set(place)
        try:
            return fn(*args, **kwargs)
        finally:
            _LENT.reset(token)
            self._places.put(place)


def dask(address: str | None = None, workers: int | None = None, gpus_per_cell: int = 0) -> Executor:
    """Workers of dask.distributed: a cluster's at ``address``, else ``workers`` processes of this machine.

    A cell whose worker is killed continues on another one. With ``gpus_per_cell``, a cell needs that many of the
    resource ``GPU``, which a cluster's worker declares: ``CUDA_VISIBLE_DEVICES=0 dask worker ADDRESS --nthreads 1
    --resources GPU=1``.

    Raises:
        InputError: dask is not installed, or nothing answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError('dask is not installed: pip install -e ".[dask]"') from None
    cluster = None
    if address is None:
        cluster = LocalCluster(
            n_workers=workers or 1, host="127.0.0.1", dashboard_address=None, silence_logs=50,
            threads_per_worker=1,  # one cell at a time in each worker, so that a killed worker stops only one
            memory_limit=0,  # a cell is a separate process, to which a worker's limit does not apply
        )  # fmt: skip
    try:
        client = Client(cluster or address)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`"
        ) from None
    wanted = {"resources": {"GPU": gpus_per_cell}} if gpus_per_cell else {}
    return _Dask(client.get_executor(pure=False, **wanted), client, cluster)


class _Dask(Executor):
    """dask's executor; shutting it down also closes its client, and the cluster that it started."""

    def __init__(self, inner: Executor, client: Any, cluster: Any) -> None:
        self._inner, self._client, self._cluster = inner, client, cluster

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._inner.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait and not cancel_futures)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def submitit(folder: str | Path, cluster: str | None = None, **parameters: Any) -> Executor:
    """Jobs of SLURM, through submitit.

    A job that SLURM preempts, or that reaches its time limit, is submitted again, and its cell continues.

    Args:
        folder: for the jobs' files and logs, on a file system that every node can access.
        cluster: default: SLURM. ``local`` starts all jobs on this machine; ``debug`` runs them one after another.
        parameters: submitit parameters, such as ``slurm_partition="gpu"``, ``timeout_min=240``, ``gpus_per_node=1``.

    Raises:
        InputError: submitit or SLURM is not available, or a parameter or its type is unknown.
    """
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise InputError('submitit is not installed: pip install -e ".[submitit]"') from None
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        inner = AutoExecutor(folder=folder, cluster=cluster)
        if cluster is None and inner.cluster != "slurm":
            raise RuntimeError("SLURM was not found (no srun on PATH); use a login node, or omit --executor")
        inner.update_parameters(**parameters)
    except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"submitit does not accept {cluster or 'slurm'} with {dict(parameters)}: {' '.join(str(error).split())}"
        ) from None
    return _Submitit(inner)


class _Submitit(Executor):
    """submitit's jobs as futures of the standard library; a thread polls them."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._jobs, self._over = inner, {}, False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        job = self._inner.submit(_Resumable(), fn, args, kwargs)
        future = _JobFuture(job)
        with self._lock:
            self._jobs[future] = job
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            waiting = list(self._jobs)
        for future in waiting if cancel_futures else []:
            future.cancel()
        self._over = True
        if wait:
            self._thread.join()

    def _watch(self) -> None:
        while not (self._over and not self._jobs):
            with self._lock:
                waiting = dict(self._jobs)
            for future, job in waiting.items():
                if future.cancelled() or job.done():
                    _settle(future, job)
                    with self._lock:
                        del self._jobs[future]
            time.sleep(POLL)


class _JobFuture(Future[Any]):
    """A future that stays pending until its job is done, so that it can be cancelled at any time."""

    def __init__(self, job: Any) -> None:
        super().__init__()
        self.job = job

    def cancel(self) -> bool:
        if not self.done():
            self.job.cancel(check=False)
        return super().cancel()


def _settle(future: Future[Any], job: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        error = job.exception()
    except Exception as raised:  # the job's result cannot be read
        error = raised
    if error is None:
        future.set_result(job.result())
    else:
        future.set_exception(error)


class _Resumable:
    """A call that submitit may requeue: its run is continued from its folder."""

    def __call__(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return fn(*args, **kwargs)

    def checkpoint(self, *call: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *call)
