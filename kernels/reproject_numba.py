"""Reprojection of a coloured point cloud on one CPU core; the bits of `reproject_reference`.

Compiled at the first call and then kept in numba's cache. Import it only where it is used: numba
takes half a second to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np

from worldbridge.kernels import reproject_reference as ref
from worldbridge.kernels.reproject_reference import CHUNK, TILE

__all__ = ["append", "chunk_boxes", "compiled", "fill", "resolve", "select", "splat", "vote"]

_INDEX_BITS = ref.INDEX_BITS
_LOW_BITS = ref.LOW_BITS
_HIGH_SHIFT = ref.HIGH_SHIFT
_QUALITY_SHIFT = _INDEX_BITS + _LOW_BITS
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_LOW_MASK = (1 << _LOW_BITS) - 1
_MUCH_NEARER = ref.MUCH_NEARER
_CROWDED = ref.CROWDED
_GROWN = np.float32(ref.GROWN)
_CLIP = np.float32(ref.CLIP_NEARNESS)
_RAMP = np.float32(ref.RAMP)
_TENTH_NEARER, _TENTH_FARTHER = np.float32(ref.NEARER), np.float32(ref.FARTHER)
_VOTES = ref.VOTES
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1.0), np.float32(0.0)
_MARGIN_M = np.float32(0.01)  # far beyond the rounding of a projection


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, and keep it on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    found: Callable[..., Any]
    try:
        found = nb.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no directory that it may write to
        found = nb.njit(**options)(function)
    return found


@compiled
def chunk_boxes(points, boxes, first, count):
    """Write the centres and half sizes of chunks from chunk `first` on; boxes (chunks, 6)."""
    for chunk in range(first, (count + CHUNK - 1) // CHUNK):
        begin, end = chunk * CHUNK, min(chunk * CHUNK + CHUNK, count)
        for axis in range(3):
            low = high = points[begin, axis]
            for i in range(begin + 1, end):
                low, high = min(low, points[i, axis]), max(high, points[i, axis])
            boxes[chunk, axis] = (low + high) * _HALF
            boxes[chunk, 3 + axis] = (high - low) * _HALF


@compiled
def _outside(box, planes, camera):
    """Whether a box lies wholly behind one of the planes through the camera."""
    for p in range(planes.shape[0]):
        reach = _MARGIN_M
        for axis in range(3):
            reach += planes[p, axis] * (box[axis] - camera[9 + axis])
            reach += abs(planes[p, axis]) * box[3 + axis]
        if reach < _ZERO:
            return True
    return False


@compiled
def splat(points, birth_depth, count, boxes, camera, planes, keys):
    """`reference_splat` of the first `count` points into keys (height + 2, width + 2)."""
    height, width = keys.shape[0] - 2, keys.shape[1] - 2
    plane = keys.reshape(-1)
    plane[:] = 0
    wide, high = np.float32(width), np.float32(height)
    mid_x, mid_y = _HALF * wide, _HALF * high
    c0, c1, c2, c3, c4, c5 = camera[0], camera[1], camera[2], camera[3], camera[4], camera[5]
    c6, c7, c8, c9, c10, c11 = camera[6], camera[7], camera[8], camera[9], camera[10], camera[11]
    focal = camera[12]
    nearness = np.empty(CHUNK, np.float32)
    ratios = np.empty(CHUNK, np.float32)
    pixels = np.empty(CHUNK, np.int32)
    rights, downs = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    bits, stride = nearness.view(np.int32), np.int32(width + 2)
    for chunk in range((count + CHUNK - 1) // CHUNK):
        if _outside(boxes[chunk], planes, camera):
            continue
        begin = chunk * CHUNK
        size = min(CHUNK, count - begin)
        for i in range(size):  # vectorised by the compiler
            x = points[begin + i, 0] - c9
            y = points[begin + i, 1] - c10
            z = points[begin + i, 2] - c11
            near = _ONE / ((x * c6 + y * c7) + z * c8)
            u = (((x * c0 + y * c1) + z * c2) * near) * focal + mid_x
            v = mid_y - (((x * c3 + y * c4) + z * c5) * near) * focal
            birth = birth_depth[begin + i]
            seen = (birth > _ZERO) & (near > _ZERO) & (near < _CLIP)
            seen = seen & (u >= _ZERO) & (u < wide) & (v >= _ZERO) & (v < high)
            u = u if seen else _ZERO
            v = v if seen else -_ONE  # the pixel of what is not seen is on the border
            nearness[i] = near
            ratios[i] = near * birth
            rights[i], downs[i] = u, v
            pixels[i] = np.int32(v + _ONE) * stride + np.int32(u) + np.int32(1)
        for i in range(size):
            pixel = pixels[i]
            if pixel < width + 2:
                continue
            near_bits = np.int64(bits[i])
            key = (near_bits >> _LOW_BITS) << _HIGH_SHIFT
            step = min(abs(ratios[i] - _ONE) * np.float32(256.0), np.float32(255.0))
            quality = np.int64(255 - np.int32(step))
            key |= (near_bits & _LOW_MASK) << _INDEX_BITS
            key |= np.int64(begin + i)
            if (key | (quality << _QUALITY_SHIFT)) > plane[pixel]:
                plane[pixel] = key | (quality << _QUALITY_SHIFT)
            if ratios[i] > _GROWN:
                key |= (quality >> 1) << _QUALITY_SHIFT
                x, y = np.int32(rights[i]), np.int32(downs[i])
                across = 1 if rights[i] - np.float32(x) >= _HALF else -1
                down = 1 if downs[i] - np.float32(y) >= _HALF else -1
                wide_enough = 0 <= x + across < width
                if 0 <= y + down < height:
                    below = pixel + down * stride
                    if key > plane[below]:
                        plane[below] = key
                    if wide_enough and key > plane[below + across]:
                        plane[below + across] = key
                if wide_enough and key > plane[pixel + across]:
                    plane[pixel + across] = key


@compiled
def fill(keys, born, oldest, high, places, fillers):
    """`reference_fill` in place.

    high int16 of the keys' shape, places int32 and fillers int64 of as many elements: work space.
    """
    rows, columns = keys.shape
    for y in range(rows):
        for x in range(columns):
            high[y, x] = np.int16(keys[y, x] >> _HIGH_SHIFT)
    much = np.int16(_MUCH_NEARER)
    nearer = np.empty(columns, np.int8)
    farther = np.empty(columns, np.int8)
    found = 0
    for y in range(1, rows - 1):
        above, here, below = high[y - 1], high[y], high[y + 1]
        for x in range(1, columns - 1):
            limit, low = np.int16(here[x] + much), np.int16(here[x] - much)
            count = np.int8(0)
            count += np.int8(above[x - 1] >= limit)
            count += np.int8(above[x] >= limit)
            count += np.int8(above[x + 1] >= limit)
            count += np.int8(here[x - 1] >= limit)
            count += np.int8(here[x + 1] >= limit)
            count += np.int8(below[x - 1] >= limit)
            count += np.int8(below[x] >= limit)
            count += np.int8(below[x + 1] >= limit)
            nearer[x] = count
            count = np.int8(0)
            count += np.int8(above[x - 1] <= low)
            count += np.int8(above[x] <= low)
            count += np.int8(above[x + 1] <= low)
            count += np.int8(here[x - 1] <= low)
            count += np.int8(here[x + 1] <= low)
            count += np.int8(below[x - 1] <= low)
            count += np.int8(below[x] <= low)
            count += np.int8(below[x + 1] <= low)
            farther[x] = count
        for x in range(1, columns - 1):
            empty = here[x] == 0
            crack = empty and nearer[x] >= 4
            leak = not empty and nearer[x] >= 6
            if not (crack or leak or (not empty and farther[x] >= _CROWDED)):
                continue
            filler = _filler(keys, high, y, x, crack)
            if not (crack or leak) and not _is_speck(keys, high, born, oldest, y, x):
                continue
            places[found] = y * columns + x
            fillers[found] = filler
            found += 1
    plane = keys.reshape(-1)
    for i in range(found):
        plane[places[i]] = fillers[i]


@compiled
def _filler(keys, high, y, x, crack):
    nearest, farthest = np.int64(0), np.int64(2**62)
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            key = keys[j, i]
            if (j == y and i == x) or key == 0:
                continue
            nearest, farthest = max(nearest, key), min(farthest, key)
    if not crack:
        return nearest
    limit = (nearest >> _HIGH_SHIFT) - _MUCH_NEARER
    agreeing = 0
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            if not (j == y and i == x) and high[j, i] > limit:
                agreeing += 1
    return nearest if agreeing >= 4 else farthest


@compiled
def _is_speck(keys, high, born, oldest, y, x):
    if born[keys[y, x] & _INDEX_MASK] > oldest:
        return False
    known = 0
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            if high[j, i] > 0 and high[j, i] <= high[y, x] - _MUCH_NEARER:
                known += 1
    return known >= _CROWDED


@compiled
def _nearness_bits(key):
    return np.int32(((key >> _HIGH_SHIFT) << _LOW_BITS) | ((key >> _INDEX_BITS) & _LOW_MASK))


@compiled
def resolve(keys, colors, born, frame, rgb, nearness, mask, age):
    """Write what keys stand for: rgb (H, W, 3), nearness, mask and age (H, W)."""
    bits = nearness.view(np.int32)
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            key = keys[y + 1, x + 1]
            known = key != 0
            mask[y, x] = known
            bits[y, x] = _nearness_bits(key)
            if known:
                index = key & _INDEX_MASK
                rgb[y, x, 0] = colors[index, 0]
                rgb[y, x, 1] = colors[index, 1]
                rgb[y, x, 2] = colors[index, 2]
                age[y, x] = frame - born[index]
            else:
                rgb[y, x, 0] = rgb[y, x, 1] = rgb[y, x, 2] = 0
                age[y, x] = 0


@compiled
def _seen_at(key):
    """The nearness in a key, float32."""
    return np.int32(_nearness_bits(key)).view(np.float32)


@compiled
def select(keys, nearness, unseen, masked, closer, birth_depth, new):
    """`reference_select` into `new` (H, W); returns how many pixels are new.

    `unseen` (H, W) is read where `masked`.
    """
    height, width = nearness.shape
    found = 0
    for y in range(height):
        for x in range(width):
            near, key = nearness[y, x], keys[y + 1, x + 1]
            fresh = unseen[y, x] if masked else key == 0
            if key != 0 and not fresh:
                fresh = near * birth_depth[key & _INDEX_MASK] > closer
                if not masked and near * _TENTH_FARTHER > _seen_at(key):
                    farthest = _farthest_around(nearness, y, x)
                    fresh = fresh or farthest * _TENTH_FARTHER > _seen_at(key)
            if fresh and _is_ramp(nearness, y, x):
                fresh = False
            new[y, x] = fresh
            found += fresh
    return found


@compiled
def _is_ramp(nearness, y, x):
    height, width = nearness.shape
    if x >= 3 and x < width - 3:
        row = nearness[y]
        if _on_ramp(row[x - 3], row[x - 2], row[x - 1], row[x], row[x + 1], row[x + 2], row[x + 3]):
            return True
    if y >= 3 and y < height - 3:
        n = nearness
        return _on_ramp(
            n[y - 3, x], n[y - 2, x], n[y - 1, x], n[y, x], n[y + 1, x], n[y + 2, x], n[y + 3, x]
        )
    return False


@compiled
def _on_ramp(a, b, c, here, d, e, f):
    before, after = here - c, d - here
    inner = min(abs(before), abs(after))
    flat = min(abs(b - a), abs(f - e)) < _HALF * inner
    return inner > _RAMP * here and flat and (before > _ZERO) == (after > _ZERO)


@compiled
def vote(keys, nearness, unseen, masked, birth_depth, votes):
    """`reference_vote` in place, on the keys of the points themselves, before cracks are filled."""
    height, width = nearness.shape
    for y in range(height):
        for x in range(width):
            key = keys[y + 1, x + 1]
            if key == 0:
                continue
            index = key & _INDEX_MASK
            if masked and unseen[y, x]:
                birth_depth[index] = _ZERO
                continue
            seen_at = _seen_at(key)
            if nearness[y, x] * _TENTH_NEARER >= seen_at:
                continue
            if _nearest_around(nearness, y, x) * _TENTH_NEARER < seen_at:
                votes[index] += np.uint8(1)
                if votes[index] >= _VOTES:
                    birth_depth[index] = _ZERO


@compiled
def _nearest_around(nearness, y, x):
    nearest = _ZERO
    for j in range(max(y - 1, 0), min(y + 2, nearness.shape[0])):
        for i in range(max(x - 1, 0), min(x + 2, nearness.shape[1])):
            nearest = max(nearest, nearness[j, i])
    return nearest


@compiled
def _farthest_around(nearness, y, x):
    farthest = nearness[y, x]
    for j in range(max(y - 1, 0), min(y + 2, nearness.shape[0])):
        for i in range(max(x - 1, 0), min(x + 2, nearness.shape[1])):
            farthest = min(farthest, nearness[j, i])
    return farthest


@compiled
def append(
    new,
    rgb,
    nearness,
    camera,
    born_in,
    view,
    points,
    birth_depth,
    colors,
    born,
    votes,
    ranks,
    views,
    count,
):
    """`reference_append` at `count`; returns the new count."""
    height, width = nearness.shape
    mid_x, mid_y = _HALF * np.float32(width), _HALF * np.float32(height)
    rank = -1
    for tile_y in range(0, height, TILE):
        for tile_x in range(0, width, TILE):
            for y in range(tile_y, min(tile_y + TILE, height)):
                for x in range(tile_x, min(tile_x + TILE, width)):
                    rank += 1
                    if not new[y, x]:
                        continue
                    depth = _ONE / nearness[y, x]
                    right = ((np.float32(x) + _HALF - mid_x) / camera[12]) * depth
                    up = ((mid_y - _HALF - np.float32(y)) / camera[12]) * depth
                    for axis in range(3):
                        across = right * camera[axis] + up * camera[3 + axis]
                        points[count, axis] = (across + depth * camera[6 + axis]) + camera[9 + axis]
                    for channel in range(3):
                        colors[count, channel] = rgb[y, x, channel]
                    birth_depth[count] = depth
                    born[count] = born_in
                    votes[count] = 0
                    ranks[count] = rank
                    views[count] = view
                    count += 1
    return count
