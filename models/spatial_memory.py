"""The spatial memory of a stream: what was seen, as a coloured point cloud, shown from elsewhere.

Each point is stored once, when it is first seen or when it is seen from 1.5 times nearer, so
nothing is ever resampled twice and nothing blurs. A view is one projection of all points and two
passes that fill cracks between them (`kernels/reproject_reference.py`); on a CPU numba computes it,
on a GPU Triton. All give the same bits.

Cameras look along their -Z, +X is right and +Y up; positions are in metres and rotations unit
quaternions (x, y, z, w), as in the protocol. Nearness is 1 / depth along the optical axis, in 1/m.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from worldbridge.errors import StructuredError
from worldbridge.kernels import reproject_reference as reference
from worldbridge.kernels.reproject_reference import CHUNK, INDEX_BITS, key_index, key_nearness

__all__ = ["CameraPose", "Guide", "MemoryConfig", "MemoryInputError", "SpatialMemory"]

Backend = Literal["torch", "numba", "triton"]

_MAGIC = b"WBmemory"
_FORMAT = 1
_PASSES = 2  # over the cracks of a view
_FOV_DEG = (5.0, 150.0)
_FARTHEST_M = 256.0
_MOST_NEAR = 19.0  # 1/m; what is nearer than 5 cm is not drawn
_FORGOTTEN = 1 / 8  # share of the memory that is freed when it is full


class MemoryInputError(StructuredError, ValueError):
    """A frame, a pose or saved bytes that a memory cannot take; the memory is unchanged."""

    code = "bad_memory_input"


class CameraPose(Protocol):
    """Where a camera is: `worldbridge.bridge.protocol.Pose` and all that has its first fields."""

    @property
    def position(self) -> tuple[float, float, float]: ...

    @property
    def orientation(self) -> tuple[float, float, float, float]: ...


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Sizes and rules of a memory.

    Raises MemoryInputError for sizes that cannot be.
    """

    height: int = 320
    width: int = 512
    max_points: int = 1_200_000  # a full turn at 320x512; 32 bytes each
    closer: float = 1.5  # times nearer, from which a point is stored again
    max_jump_m: float = 500.0  # between two frames
    speck_age: int = 30  # frames after which a lonely point counts as a speck

    def __post_init__(self) -> None:
        least = 2 * self.height * self.width
        if min(self.height, self.width) < 8 or not least <= self.max_points < 2**INDEX_BITS:
            raise MemoryInputError(
                "a memory cannot have these sizes",
                expected=f"at least 8 x 8 pixels, max_points of {least} to {2**INDEX_BITS - 1}",
                got=f"{self.height} x {self.width}, max_points {self.max_points}",
            )


@dataclass(frozen=True, slots=True)
class Guide:
    """What a memory shows at a camera. All tensors are the caller's own.

    rgb uint8 (H, W, 3); nearness float32 (H, W), 1/m; mask bool (H, W), whether the memory knows
    the pixel; age int32 (H, W), frames since it was first seen. All are 0 where the mask is false.
    """

    rgb: Tensor
    nearness: Tensor
    mask: Tensor
    age: Tensor


@dataclass(frozen=True, slots=True)
class _View:
    """What a camera sees: the keys of the points, and those with cracks filled."""

    camera: Tensor
    keys: Tensor
    filled: Tensor


@dataclass(frozen=True, slots=True)
class _Frame:
    """The frame that was added last: it is shown as it was when its camera comes again."""

    camera: Tensor
    rgb: Tensor
    nearness: Tensor


class _Cloud:
    """The points: what is stored of each, `count` of `size` in use."""

    def __init__(self, size: int, device: torch.device) -> None:
        size = -(-size // CHUNK) * CHUNK
        self.points = torch.zeros(size, 3, device=device)
        self.birth_depth = torch.zeros(size, device=device)  # 0: the point is dead
        self.colors = torch.zeros(size, 3, dtype=torch.uint8, device=device)
        self.born = torch.zeros(size, dtype=torch.int32, device=device)
        self.votes = torch.zeros(size, dtype=torch.uint8, device=device)
        # Where a point comes from: the rank of its pixel in the order of tiles, and its view.
        self.rank = torch.zeros(size, dtype=torch.int32, device=device)
        self.view = torch.zeros(size, dtype=torch.int32, device=device)
        self.cameras: list[Tensor] = []  # of the views, float32 (13,)
        self.count = 0

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        return (
            *(self.points, self.birth_depth, self.colors, self.born, self.votes),
            *(self.rank, self.view),
        )

    def used(self) -> tuple[Tensor, ...]:
        """The part of each array that is in use."""
        return tuple(array[: self.count] for array in self.arrays)

    def keep(self, chosen: Tensor) -> None:
        """Drop all points but the chosen ones, bool (count,), in the same order."""
        kept = [array[chosen] for array in self.used()]
        self.count = len(kept[0])
        for array, part in zip(self.arrays, kept, strict=True):
            array[: self.count] = part

    def points_of_views(self) -> NDArray[np.int32]:
        """Drop the cameras of views without points; return how many points the others have.

        Points of a view are stored together, in the order of their ranks.
        """
        used = self.view[: self.count]
        views, numbers, counts = torch.unique_consecutive(
            used, return_inverse=True, return_counts=True
        )
        used.copy_(numbers)
        self.cameras = [self.cameras[view] for view in views.tolist()]
        found: NDArray[np.int32] = counts.cpu().numpy().astype(np.int32)
        return found

    def drop_chunks(self, dropped: Tensor) -> None:
        """Drop whole chunks, none of them the last one."""
        chunks = -(-self.count // CHUNK)
        keep = torch.ones(chunks, dtype=torch.bool, device=dropped.device)
        keep[dropped] = False
        for array in self.arrays:
            blocks = array[: chunks * CHUNK].view(chunks, -1)
            kept = blocks[keep]
            blocks[: len(kept)] = kept
        self.count -= CHUNK * len(dropped)


class SpatialMemory:
    """The memory of one stream. Not for several threads at once.

    `backend`: "numba" on a CPU, "triton" on a GPU, or "torch", the reference; the fastest that is
    installed without it.
    """

    def __init__(
        self,
        config: MemoryConfig | None = None,
        device: torch.device | str = "cpu",
        backend: Backend | None = None,
    ) -> None:
        self.config: Final = config or MemoryConfig()
        self.device: Final = torch.device(device)
        self._shape = (self.config.height, self.config.width)
        self.backend: Final = backend or _fastest(self.device)
        self._ops = _operations(self.device, self.backend, self.config)
        self._cloud = _Cloud(self.config.max_points, self.device)
        self._frame = 0
        self._last: _Frame | None = None
        self._view: _View | None = None

    def __len__(self) -> int:
        """How many points are stored."""
        return int((self._cloud.used()[1] > 0).sum())

    @property
    def nbytes(self) -> int:
        """What the points take at most, in bytes."""
        return sum(array.numel() * array.element_size() for array in self._cloud.arrays)

    @property
    def frames(self) -> int:
        """How many frames were added."""
        return self._frame

    def render(self, pose: CameraPose, fov_y: float) -> Guide:
        """Return what is known at a camera with a vertical field of view of `fov_y` degrees.

        At the camera of the frame that was added last, this is that frame, bit for bit.

        Raises MemoryInputError for a pose or a field of view that cannot be.
        """
        camera = self._camera(pose, fov_y)
        if self._last is not None and torch.equal(camera, self._last.camera):
            known = torch.ones(self._shape, dtype=torch.bool, device=self.device)
            age = torch.zeros(self._shape, dtype=torch.int32, device=self.device)
            return Guide(self._last.rgb.clone(), self._last.nearness.clone(), known, age)
        return self._ops.resolve(self._look(camera).filled, self._cloud, self._frame)

    @torch.inference_mode()
    def add(
        self,
        rgb: Tensor | NDArray[Any],
        nearness: Tensor | NDArray[Any],
        pose: CameraPose,
        fov_y: float,
        unseen: Tensor | NDArray[Any] | None = None,
        age: int = 0,
    ) -> int:
        """Take in a frame; return how many points it brought.

        rgb uint8 (H, W, 3); nearness floating (H, W), 1/m. `unseen` bool (H, W): the pixels that
        hold something new; what the memory believed there is removed. Without it, the memory takes
        what it does not know and what stands before what it knows. In both cases it takes what is
        seen from `config.closer` times nearer than before. `age`: how many frames ago it was seen.

        Cheapest right after `render` of the same camera. Raises MemoryInputError for a frame of
        another size or type, a nearness that is negative or not finite, or a pose that cannot be.
        """
        camera = self._camera(pose, fov_y)
        color = self._taken("rgb", rgb, (*self._shape, 3), (torch.uint8,))
        floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        given = self._taken("nearness", nearness, self._shape, floats).to(torch.float32)
        mask = None if unseen is None else self._taken("unseen", unseen, self._shape, (torch.bool,))
        low, high = (float(bound) for bound in torch.aminmax(given))
        if not (low >= 0.0 and high < math.inf):
            raise MemoryInputError(
                "the nearness of a frame cannot be used",
                expected="finite numbers of at least 0, in 1/m",
                got=f"{low} to {high}",
                remedy="give 1 / depth along the optical axis, and 1/256 for the sky",
            )
        near = given.clamp(1.0 / _FARTHEST_M, _MOST_NEAR).half().float()  # as it is saved
        view, cloud = self._look(camera), self._cloud
        new, found = self._ops.select(view.filled, near, mask, cloud)
        self._ops.vote(view.keys, near, mask, cloud)
        if cloud.count + found > self.config.max_points:
            self._forget(found, camera)
        self._ops.append(new, color, near, camera, self._frame - age, cloud)
        self._last = _Frame(camera, color.clone(), given.clone())
        self._frame += 1
        self._view = None
        return found

    def clear(self) -> None:
        """Forget everything, for a stream that begins elsewhere."""
        self._cloud.count, self._cloud.cameras = 0, []
        self._last = self._view = None

    @torch.inference_mode()
    def save(self) -> bytes:
        """Return all of the memory; after `load` it goes on exactly as this one does.

        About 5.5 bytes per point (9.2 at most), which is saved as its pixel, its nearness and the
        camera that saw it, and one frame of 7 bytes per pixel.
        """
        self._tidy()
        cloud = self._cloud
        counts = cloud.points_of_views()
        first = np.cumsum(counts) - counts  # point of each view
        _, depth, colors, born, votes, rank, _ = (a.cpu().numpy() for a in cloud.used())
        steps = np.diff(rank, prepend=0).astype(np.uint32)
        steps[first] = rank[first]
        ranks = zlib.compress(steps.view(np.uint8).reshape(-1, 4).T.tobytes(), 1)
        header: dict[str, Any] = {"format": _FORMAT, "config": asdict(self.config)}
        header |= {"count": cloud.count, "views": len(counts), "frame": self._frame}
        header |= {"ranks": len(ranks), "camera": None}
        parts = [
            *(camera.numpy().tobytes() for camera in cloud.cameras),
            *(counts.tobytes(), born[first].tobytes(), ranks),
            *((1.0 / depth).astype(np.float16).tobytes(), colors.tobytes()),
            np.packbits(votes).tobytes(),
        ]
        if self._last is not None:
            header["camera"] = self._last.camera.tolist()
            parts += [a.cpu().numpy().tobytes() for a in (self._last.rgb, self._last.nearness)]
        text = json.dumps(header).encode()
        data = b"".join([_MAGIC, struct.pack("<I", len(text)), text, *parts])
        return data + struct.pack("<I", zlib.crc32(data))

    @classmethod
    def load(
        cls, data: bytes, device: torch.device | str = "cpu", backend: Backend | None = None
    ) -> Self:
        """Return the memory that `save` saved. Raises MemoryInputError for anything else."""
        if len(data) < 16 or not data.startswith(_MAGIC):
            raise _damaged("no saved memory")
        if struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
            raise _damaged("another checksum: the bytes are damaged or cut short")
        length = struct.unpack_from("<I", data, len(_MAGIC))[0]
        start = len(_MAGIC) + 4
        try:
            header = json.loads(data[start : start + length])
            if header["format"] != _FORMAT:
                raise _damaged(f"format {header['format']}")
            memory = cls(MemoryConfig(**header["config"]), device, backend)
            memory._unpack(header, memoryview(data)[start + length : -4])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            if isinstance(error, MemoryInputError):
                raise
            raise _damaged(f"a header that says otherwise ({error})") from error
        return memory

    def _unpack(self, header: dict[str, Any], rest: memoryview) -> None:
        """Read what `save` writes after its header. Raises ValueError for other bytes."""
        reader = _Reader(rest)
        cloud, size = self._cloud, self._shape[0] * self._shape[1]
        count, views = int(header["count"]), int(header["views"])
        self._frame = int(header["frame"])
        if not 0 <= count <= self.config.max_points or not 0 <= views <= count:
            raise ValueError(f"{count} points of {views} views")
        cameras = reader.take(views * 13, np.float32).reshape(-1, 13)
        counts, born = reader.take(views, np.int32), reader.take(views, np.int32)
        if (counts < 1).any() or counts.sum() != count:
            raise ValueError(f"views of {counts.sum()} points, not {count}")
        packed = reader.take(int(header["ranks"]), np.uint8).tobytes()
        planes = zlib.decompressobj().decompress(packed, 4 * count)
        steps = np.frombuffer(planes, np.uint8).reshape(4, count).T.copy().view(np.uint32)
        total = np.cumsum(steps[:, 0], dtype=np.int64)
        first = np.cumsum(counts) - counts
        rank = total - np.repeat((total - steps[:, 0])[first], counts)
        near = reader.take(count, np.float16).astype(np.float32)
        if (rank >= size).any() or not np.isfinite(cameras).all() or not (near > 0).all():
            raise ValueError("points outside their frames")
        view = np.repeat(np.arange(views, dtype=np.int32), counts)
        cloud.count, cloud.cameras = count, list(torch.from_numpy(cameras))
        colors = reader.take(3 * count, np.uint8).reshape(-1, 3)
        votes = np.unpackbits(reader.take(-(-count // 8), np.uint8))[:count]
        depth = torch.from_numpy(np.float32(1.0) / near)
        pixel = reference.tile_order(*self._shape, torch.device("cpu"))[torch.from_numpy(rank)]
        points = reference.reference_points(
            pixel, depth, torch.from_numpy(cameras), torch.from_numpy(view).long(), *self._shape
        )
        found = (*(colors, np.repeat(born, counts), votes), *(rank.astype(np.int32), view))
        values = points, depth, *(torch.from_numpy(array) for array in found)
        for part, value in zip(cloud.used(), values, strict=True):
            part.copy_(value)
        if header["camera"] is not None:
            rgb = torch.from_numpy(reader.take(3 * size, np.uint8)).view(*self._shape, 3)
            last = torch.from_numpy(reader.take(size, np.float32)).view(self._shape)
            camera = torch.tensor(header["camera"], dtype=torch.float32)
            self._last = _Frame(camera, rgb.to(self.device), last.to(self.device))
        reader.end()
        self._ops.moved(cloud)

    def _look(self, camera: Tensor) -> _View:
        """The keys of a camera, kept until the points change."""
        if self._view is None or not torch.equal(self._view.camera, camera):
            oldest = self._frame - self.config.speck_age
            keys, filled = self._ops.look(self._cloud, camera, oldest)
            self._view = _View(camera, keys, filled)
        return self._view

    def _tidy(self) -> None:
        """Drop dead points. Views stay the same, because the order of the others does."""
        alive = self._cloud.used()[1] > 0
        if not bool(alive.all()):
            self._cloud.keep(alive)
            self._ops.moved(self._cloud)
            self._view = None

    def _forget(self, needed: int, camera: Tensor) -> None:
        """Free room for `needed` points and a share of the memory: oldest and farthest first.

        Whole chunks go, by age times distance, so that what is near stays however old it is.
        """
        cloud = self._cloud
        if 10 * len(self) < 9 * cloud.count:
            self._tidy()
        excess = cloud.count + needed - self.config.max_points
        if excess > 0:
            excess += int(self.config.max_points * _FORGOTTEN)
            first = torch.arange((cloud.count - 1) // CHUNK, device=self.device) * CHUNK
            away = cloud.points[first] - camera[9:12].to(self.device)
            age = (self._frame - cloud.born[first] + 1).to(torch.float32)
            worth = age * (away.square().sum(1) + 1.0)
            order = torch.argsort(worth, descending=True, stable=True)
            cloud.drop_chunks(order[: -(-excess // CHUNK)])
            self._ops.moved(cloud)

    def _taken(
        self,
        name: str,
        value: Tensor | NDArray[Any],
        shape: tuple[int, ...],
        dtypes: tuple[torch.dtype, ...],
    ) -> Tensor:
        """The tensor of an argument, contiguous and on this device, its shape and type checked."""
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
            raise MemoryInputError(
                f"the {name} of a frame does not fit this memory",
                expected=f"{dtypes[0]} of shape {shape}",
                got=f"{tensor.dtype} of shape {tuple(tensor.shape)}",
                remedy="resize the frame and its depth to the memory's height and width",
            )
        return tensor.to(self.device).contiguous()

    def _camera(self, pose: CameraPose, fov_y: float) -> Tensor:
        """Axes, position and focal length, float32 (13,), on the CPU."""
        position, orientation = tuple(pose.position), tuple(pose.orientation)
        numbers = (*position, *orientation, fov_y)
        length = math.sqrt(sum(q * q for q in orientation))
        if not all(math.isfinite(n) for n in numbers) or not 0.9 < length < 1.1:
            raise MemoryInputError(
                "a camera pose cannot be used",
                expected="a finite position and a unit quaternion (x, y, z, w)",
                got=f"position {position}, orientation {orientation}, field of view {fov_y}",
            )
        if not _FOV_DEG[0] <= fov_y <= _FOV_DEG[1]:
            raise MemoryInputError(
                "the field of view is out of range",
                expected=f"a vertical angle of {_FOV_DEG[0]:g} to {_FOV_DEG[1]:g} degrees",
                got=f"{fov_y:g}",
            )
        if self._last is not None:
            jump = math.dist(position, self._last.camera[9:12].tolist())
            if jump > self.config.max_jump_m:
                raise MemoryInputError(
                    "the camera jumped",
                    expected=f"at most {self.config.max_jump_m:g} m from the last frame",
                    got=f"{jump:.0f} m",
                    remedy="call clear() when the stream goes on elsewhere",
                )
        x, y, z, w = (q / length for q in orientation)
        axes = (
            *(1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)),
            *(2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)),
            *(-2 * (x * z + y * w), -2 * (y * z - x * w), -(1 - 2 * (x * x + y * y))),
        )
        focal = self.config.height / 2 / math.tan(math.radians(fov_y) / 2)
        return torch.tensor([*axes, *position, focal], dtype=torch.float32)


def _damaged(got: str) -> MemoryInputError:
    return MemoryInputError(
        "a saved memory cannot be read",
        expected=f"what SpatialMemory.save returned, format {_FORMAT}",
        got=got,
        remedy="start the stream without it",
    )


class _Reader:
    """Reads arrays from bytes, one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Return a copy of the next `count` values. Raises ValueError if there are fewer."""
        values = np.frombuffer(self._data, dtype, count, self._at).copy()
        self._at += values.nbytes
        return values

    def end(self) -> None:
        """Raise ValueError if anything is left."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes too many")


class _TorchOperations:
    """The reference, on any device."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config

    def moved(self, cloud: _Cloud, first: int = 0) -> None:
        """The points from `first` on are other ones."""

    def look(self, cloud: _Cloud, camera: Tensor, oldest: int) -> tuple[Tensor, Tensor]:
        """The keys of the points at a camera, and those with cracks filled."""
        keys = self.splat(cloud, camera)
        filled = keys
        for _ in range(_PASSES):
            filled = self.fill(filled, cloud.used()[3], oldest)
        return keys, filled

    def splat(self, cloud: _Cloud, camera: Tensor) -> Tensor:
        points, birth_depth, *_ = cloud.used()
        height, width = self.config.height, self.config.width
        return reference.reference_splat(points, birth_depth, camera, height, width)

    def fill(self, keys: Tensor, born: Tensor, oldest: int) -> Tensor:
        return reference.reference_fill(keys, born, oldest)

    def resolve(self, filled: Tensor, cloud: _Cloud, frame: int) -> Guide:
        keys = filled[1:-1, 1:-1]
        mask, index = keys != 0, key_index(keys)
        rgb = torch.where(mask[..., None], cloud.colors[index], 0)
        age = torch.where(mask, frame - cloud.born[index], 0)
        return Guide(rgb, key_nearness(keys), mask, age)

    def select(
        self, filled: Tensor, near: Tensor, unseen: Tensor | None, cloud: _Cloud
    ) -> tuple[Tensor, int]:
        closer, birth = self.config.closer, cloud.birth_depth
        new = reference.reference_select(filled, near, unseen, closer, birth)
        return new, int(new.sum())

    def vote(self, keys: Tensor, near: Tensor, unseen: Tensor | None, cloud: _Cloud) -> None:
        reference.reference_vote(keys, near, unseen, cloud.birth_depth, cloud.votes)

    def append(
        self, new: Tensor, rgb: Tensor, near: Tensor, camera: Tensor, born: int, cloud: _Cloud
    ) -> None:
        rank, pixel, points, depth = reference.reference_append(new, near, camera)
        first, cloud.count = cloud.count, cloud.count + len(pixel)
        added = slice(first, cloud.count)
        cloud.points[added], cloud.birth_depth[added] = points, depth
        cloud.colors[added] = rgb.reshape(-1, 3)[pixel]
        cloud.born[added], cloud.votes[added] = born, 0
        cloud.rank[added], cloud.view[added] = rank.to(torch.int32), len(cloud.cameras)
        cloud.cameras.append(camera)


class _TritonOperations(_TorchOperations):
    """Projection and filling as kernels on a GPU; the rest is the reference."""

    def splat(self, cloud: _Cloud, camera: Tensor) -> Tensor:
        from worldbridge.kernels.reproject import splat

        points, birth_depth, *_ = cloud.used()
        return splat(points, birth_depth, camera, self.config.height, self.config.width)

    def fill(self, keys: Tensor, born: Tensor, oldest: int) -> Tensor:
        from worldbridge.kernels.reproject import fill

        return fill(keys, born, oldest)


class _NumbaOperations(_TorchOperations):
    """Everything as compiled loops on one CPU core, with chunks of points that are culled."""

    def __init__(self, config: MemoryConfig) -> None:
        from worldbridge.kernels import reproject_numba

        super().__init__(config)
        self._loops: Any = reproject_numba
        shape = (config.height + 2, config.width + 2)
        self._boxes = np.zeros((-(-config.max_points // CHUNK), 6), np.float32)
        self._keys = np.zeros(shape, np.int64)
        self._filled = np.zeros(shape, np.int64)
        self._high = np.zeros(shape, np.int16)
        self._places = np.zeros(shape[0] * shape[1], np.int32)
        self._fillers = np.zeros(shape[0] * shape[1], np.int64)
        self._new = np.zeros((config.height, config.width), np.bool_)

    def moved(self, cloud: _Cloud, first: int = 0) -> None:
        self._loops.chunk_boxes(cloud.points.numpy(), self._boxes, first // CHUNK, cloud.count)

    def look(self, cloud: _Cloud, camera: Tensor, oldest: int) -> tuple[Tensor, Tensor]:
        points, birth, _, born, *_ = (array.numpy() for array in cloud.arrays)
        axes = camera.numpy()
        planes = _frustum(axes, self.config.height, self.config.width)
        self._loops.splat(points, birth, cloud.count, self._boxes, axes, planes, self._keys)
        self._filled[:] = self._keys
        for _ in range(_PASSES):
            self._loops.fill(self._filled, born, oldest, self._high, self._places, self._fillers)
        return torch.from_numpy(self._keys), torch.from_numpy(self._filled)

    def resolve(self, filled: Tensor, cloud: _Cloud, frame: int) -> Guide:
        shape = (self.config.height, self.config.width)
        rgb = np.empty((*shape, 3), np.uint8)
        near, mask = np.empty(shape, np.float32), np.empty(shape, np.bool_)
        age = np.empty(shape, np.int32)
        colors, born = cloud.colors.numpy(), cloud.born.numpy()
        self._loops.resolve(filled.numpy(), colors, born, frame, rgb, near, mask, age)
        return Guide(*(torch.from_numpy(array) for array in (rgb, near, mask, age)))

    def select(
        self, filled: Tensor, near: Tensor, unseen: Tensor | None, cloud: _Cloud
    ) -> tuple[Tensor, int]:
        mask = self._new if unseen is None else unseen.numpy()
        found = self._loops.select(
            filled.numpy(),
            near.numpy(),
            mask,
            unseen is not None,
            np.float32(self.config.closer),
            cloud.birth_depth.numpy(),
            self._new,
        )
        return torch.from_numpy(self._new), int(found)

    def vote(self, keys: Tensor, near: Tensor, unseen: Tensor | None, cloud: _Cloud) -> None:
        mask = self._new if unseen is None else unseen.numpy()
        birth, votes = cloud.birth_depth.numpy(), cloud.votes.numpy()
        self._loops.vote(keys.numpy(), near.numpy(), mask, unseen is not None, birth, votes)

    def append(
        self, new: Tensor, rgb: Tensor, near: Tensor, camera: Tensor, born: int, cloud: _Cloud
    ) -> None:
        first = cloud.count
        arrays = (array.numpy() for array in cloud.arrays)
        view = len(cloud.cameras)
        cloud.count = self._loops.append(
            new.numpy(), rgb.numpy(), near.numpy(), camera.numpy(), born, view, *arrays, first
        )
        cloud.cameras.append(camera)
        self.moved(cloud, first)


def _frustum(camera: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Unit normals (5, 3) of the planes through the camera that bound what it sees, inwards."""
    right, up, forward, focal = camera[0:3], camera[3:6], camera[6:9], camera[12]
    sides = [
        forward,
        *(focal * axis + 0.5 * size * forward for axis, size in ((right, width), (up, height))),
        *(-focal * axis + 0.5 * size * forward for axis, size in ((right, width), (up, height))),
    ]
    planes = np.stack(sides)
    unit: NDArray[np.float32] = planes / np.linalg.norm(planes, axis=1, keepdims=True)
    return unit.astype(np.float32)


def _fastest(device: torch.device) -> Backend:
    wanted: Backend = "triton" if device.type == "cuda" else "numba"
    return wanted if importlib.util.find_spec(wanted) else "torch"


def _operations(device: torch.device, backend: Backend, config: MemoryConfig) -> _TorchOperations:
    if backend == "numba" and device.type != "cpu":
        raise MemoryInputError(
            "numba computes on a CPU", expected="device cpu", got=str(device), remedy="use triton"
        )
    made = {"torch": _TorchOperations, "numba": _NumbaOperations, "triton": _TritonOperations}
    if backend not in made:
        raise MemoryInputError("unknown backend", expected=" or ".join(made), got=str(backend))
    return made[backend](config)
