"""The device mesh: axes ``data``, ``fsdp``, ``tensor`` and ``context``."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

from unitok_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "context")
BATCH_AXES = ("data", "fsdp")  # what the rows of a batch are cut over
POSITION_AXES = (*BATCH_AXES, "context")  # what positions are cut over that are rows of their own


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis (`config.mesh`); one axis may be -1 and takes what the others leave.

    Attributes:
        data: copies of the parameters, each reading its own rows. Several slices lie along it, over DCN.
        fsdp: devices that share one copy of parameters and optimizer state, each reading its own rows.
        tensor: devices that share one row's matrix products.
        context: devices that share one row's positions.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1


def build_mesh(
    settings: MeshSettings | None = None, devices: Sequence[jax.Device] | None = None, where: str = "config.mesh"
) -> Mesh:
    """Lays the devices out as a mesh with Auto axes, near ones along the inner axes.

    Args:
        settings: devices along each axis.
        devices: all devices by default; absent ones of a topology serve too.
        where: what messages call the settings.

    Raises:
        UserError: if the shape does not fit the devices; the message names the nearest one that does.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = mesh_shape(settings or MeshSettings(), len(devices), slices, where)
    if slices > 1:
        inner = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            inner, (slices, 1, 1, 1), devices=devices, allow_split_physical_axes=True
        )
    elif len(devices) == 1:
        grid = np.array(devices).reshape(shape)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How every field of a batch lies on the mesh: rows over `BATCH_AXES`, the rest whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def row_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """As `batch_sharding`, or whole on every device where the rows do not go round."""
    return batch_sharding(mesh) if rows % batch_shards(mesh) == 0 else replicated(mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def cut_positions(micro: Any, length: int, mesh: Mesh) -> Any:
    """Lays the positions of [micro-batches, rows, length] arrays over the axis `context`, inside a jitted step.

    What is computed position by position follows; lengths that the axis does not divide stay whole.
    """
    size = mesh.shape["context"]
    if size == 1 or not length or length % size:
        return micro
    place = NamedSharding(mesh, P(None, BATCH_AXES, "context"))

    def cut(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, place) if x.ndim == 3 and x.shape[2] == length else x

    return jax.tree.map(cut, micro)


def dividing(names: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[str, ...]:
    """The leading ones of the mesh axes `names` whose product divides all `sizes`; the others see copies."""
    mesh = jax.sharding.get_abstract_mesh()
    kept, product = (), 1
    for name in names:
        product *= mesh.shape.get(name, 1)
        if name in mesh.shape and all(size % product == 0 for size in sizes):
            kept += (name,)
    return kept


def pin_rows(
    x: Shaped[Array, "rows *_"], whole: bool = False, over: tuple[str, ...] = BATCH_AXES
) -> Shaped[Array, "rows *_"]:
    """Lays rows over the axes `over` of the mesh that is set, inside a jitted program; the other axes lie as they like
    or, with `whole`, on every device that has the row.

    Where there is no mesh, or the rows do not go round it, they stay as they are. What a network hands from layer to
    layer is pinned: left alone, XLA keeps a kernel that is cut over `fsdp` where it lies and sums every row's products
    over the devices, which at full size sends, and holds, many times what gathering the kernels does.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(x) % batch_shards(mesh):
        return x
    rest = [None if whole else P.UNCONSTRAINED] * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, P(dividing(over, (len(x),)), *rest))


def pin_positions(fields: Any) -> Any:
    """Lays [batch, n, ...] arrays over the mesh as rows are, their positions over `context`: else every device of that
    axis would work on all of them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape.get("context", 1) == 1:
        return fields
    rows, positions = jax.tree.leaves(fields)[0].shape[:2]
    place = P(dividing(BATCH_AXES, (rows,)), dividing(("context",), (positions,)))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, place), fields)


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many pieces the rows of a batch are cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def mesh_shape(settings: MeshSettings, devices: int, slices: int = 1, where: str = "config.mesh") -> tuple[int, ...]:
    """The devices along each of `AXES`, the open axis filled.

    Raises:
        UserError: if they do not fit; the message names the nearest shape that does.
    """
    shape = list(dataclasses.astuple(settings))
    open_axes = [i for i, size in enumerate(shape) if size == -1]
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"{where}: {_show(shape)}: sizes must be 1 or more, and one axis at most may be -1")
    fixed = math.prod(size for size in shape if size != -1)
    if open_axes and devices % fixed == 0:
        shape[open_axes[0]] = devices // fixed
    if math.prod(shape) != devices or shape[0] % slices:
        fit = f"{devices} devices" + (f" in {slices} slices (data must divide by {slices})" if slices > 1 else "")
        raise UserError(f"{where}: {_show(shape)} does not fit {fit}; nearest: {_nearest(shape, devices, slices)}")
    return tuple(shape)


def check_batch(batch_size: int, mesh: Mesh | AbstractMesh, accumulate: int = 1) -> None:
    """Sees to it that micro-batches divide over the devices.

    Raises:
        UserError: naming the nearest batch size that does.
    """
    shards = batch_shards(mesh)
    if batch_size % (accumulate * shards):
        nearest = max(1, round(batch_size / (accumulate * shards))) * accumulate * shards
        raise UserError(
            f"config.data.batch_size: {batch_size} rows do not divide into {accumulate} micro-batches over {shards} "
            f"groups of devices; nearest: {nearest}"
        )


def check_context(length: int, mesh: Mesh | AbstractMesh) -> None:
    """Sees to it that a stage without positions leaves `context` alone where `tensor` and rows are cut too.

    Such a stage has nothing to cut there, and beside both others XLA (jaxlib 0.10.2) gives it wrong gradients: those of
    the AR de-tokenizer's head were 60 % off on data=1, fsdp=2, tensor=2, context=2, its losses right.

    Args:
        length: positions of a row of the stage; 0 for pictures alone.
        mesh: of the run.

    Raises:
        UserError: naming the mesh that does as much.
    """
    context = mesh.shape["context"]
    if not length and min(context, mesh.shape["tensor"], batch_shards(mesh)) > 1:
        better = ", ".join(f"{axis}={mesh.shape[axis]}" for axis in ("data", "tensor"))
        raise UserError(
            f"config.mesh.context: {context}, but this stage's rows are pictures without positions to cut; give the "
            f"devices to fsdp: {better}, fsdp={mesh.shape['fsdp'] * context}, context=1"
        )


def _nearest(shape: Sequence[int], devices: int, slices: int) -> str:
    """The valid shape that changes the wanted inner axes least, in doublings."""
    wanted = [max(size, 1) for size in shape]

    def distance(candidate: tuple[int, ...]) -> float:
        return sum(abs(math.log2(a / b)) for a, b in zip(candidate[1:], wanted[1:], strict=True))

    valid = [s for s in _factorisations(devices, len(AXES)) if s[0] % slices == 0]
    return _show(min(valid, key=distance))


def _factorisations(n: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(n,)]
    return [(d, *rest) for d in range(1, n + 1) if n % d == 0 for rest in _factorisations(n // d, parts - 1)]


def _show(shape: Sequence[int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
