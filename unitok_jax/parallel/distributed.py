"""Several processes: starting them, and their share of a batch."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax._src import clusters  # nothing public tells what JAX finds out of a cluster
from jax.sharding import NamedSharding
from jaxtyping import Int, Shaped

from unitok_jax.errors import UserError
from unitok_jax.parallel.mesh import check_batch
from unitok_jax.parallel.roll_call import roll_call

_ENVIRONMENT = ("UNITOK_COORDINATOR", "UNITOK_PROCESSES", "UNITOK_PROCESS")
START_TIMEOUT = ("UNITOK_START_TIMEOUT", 300)  # seconds to wait for the other processes
HEARTBEAT = ("UNITOK_HEARTBEAT", 100)  # seconds of silence after which a process counts as dead


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process to the others; call it before anything touches a device.

    What is not given is read from ``UNITOK_COORDINATOR``, ``UNITOK_PROCESSES`` and ``UNITOK_PROCESS``. The coordinator
    ``auto`` lets JAX find its settings (TPU pods, SLURM, GKE). Without a coordinator the process stays alone.
    ``UNITOK_START_TIMEOUT`` and ``UNITOK_HEARTBEAT`` change how long to wait for the others to come and to answer.

    Args:
        coordinator: ``host:port`` of process 0, or ``auto``.
        processes: how many there are.
        process: the index of this one.

    Raises:
        UserError: if a coordinator is given without the other two, or the processes cannot meet; it names those
            that are missing.
    """
    coordinator = coordinator or os.environ.get(_ENVIRONMENT[0])
    if not coordinator:
        return
    processes = _number(processes, _ENVIRONMENT[1])
    process = _number(process, _ENVIRONMENT[2])
    timeout, heartbeat = (_number(None, name) or default for name, default in (START_TIMEOUT, HEARTBEAT))
    if coordinator == "auto":
        coordinator, processes, process = _detect(timeout)
    if processes is None or process is None:
        raise UserError(f"coordinator {coordinator}: also give the process count and index ({', '.join(_ENVIRONMENT)})")
    roll_call(coordinator, processes, process, timeout)
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=heartbeat)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes at {coordinator}: {str(error).splitlines()[0]}") from error


def _detect(timeout: int) -> tuple[str, int, int]:
    """What JAX finds out of the cluster that it runs in: coordinator, process count, index."""
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)
    coordinator, processes, process = found[:3]
    if coordinator is None or processes is None or process is None:
        raise UserError(f"{_ENVIRONMENT[0]}=auto: no TPU pod, SLURM or GKE job here; give {', '.join(_ENVIRONMENT)}")
    return coordinator, processes, process


def local_rows(sharding: NamedSharding, batch_size: int) -> Int[np.ndarray, " rows"]:
    """The rows of a global batch that this process must read, in order.

    They come from the sharding, not from the process index: where a tensor axis crosses processes, several of
    them need the same rows.

    Raises:
        UserError: if the batch does not divide over the devices.
    """
    check_batch(batch_size, sharding.mesh)
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index[0]] for index in indices if index is not None]))


def to_global(
    batch: Mapping[str, Any], sharding: NamedSharding, batch_size: int, rows: Int[np.ndarray, " rows"]
) -> dict[str, Any]:
    """Puts this process's rows on its devices, as its part of global arrays.

    Args:
        batch: nested dict of numpy arrays [rows, ...].
        sharding: of the leading axis.
        batch_size: rows of the global batch.
        rows: `local_rows(sharding, batch_size)`.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)

    def put(local: np.ndarray) -> jax.Array:
        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            places = slice(None) if index is None else index[0]
            return local[np.searchsorted(rows, np.arange(batch_size)[places])]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, piece)

    return jax.tree.map(put, batch)


def from_global(array: Shaped[jax.Array, "batch *data"]) -> Shaped[np.ndarray, "rows *data"]:
    """This process's rows of a global array, in order; the inverse of `to_global`."""
    pieces = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(pieces[start]) for start in sorted(pieces)])


def _number(value: int | None, variable: str) -> int | None:
    if value is not None or variable not in os.environ:
        return value
    try:
        return int(os.environ[variable])
    except ValueError:
        raise UserError(f"{variable}: expected a number, got {os.environ[variable]!r}") from None
