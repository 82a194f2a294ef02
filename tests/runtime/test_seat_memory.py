"""How many players the memory holds: of a GPU that says what it has free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runtime.test_capacity import SleepingWorld
from worldbridge.benchmarks.decode.presets import random_world
from worldbridge.models.tokenizer import TokenizerConfig, VideoTokenizer
from worldbridge.models.transformer.config import cosmos_4b_320p
from worldbridge.runtime import worker
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.decoding.capacity import (
    MOST_ON_A_CPU,
    Ring,
    check_seats,
    places_that_fit,
    seats_of,
    seats_tried,
    stream_bytes,
)
from worldbridge.runtime.errors import SeatsError
from worldbridge.runtime.worlds import cosmos as cosmos_world
from worldbridge.runtime.worlds.cosmos import CosmosWorld
from worldbridge.settings import MAX_SEATS

GPU, CPU = torch.device("cuda"), torch.device("cpu")
RING = Ring(cosmos_4b_320p(), 5, 2)
TOKENIZER = TokenizerConfig(channels=32, z_channels=4, levels=(4, 4, 5, 3), embedding_dim=4)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Says how many bytes of a GPU are free, and how many it has."""

    def says(free: float, total: float) -> None:
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(total)))

    return says


def test_a_ring_is_what_the_decoder_allocates_and_a_little_more() -> None:
    config = cosmos_4b_320p()
    slots = 5 * 20 * 32
    pairs = 2 * 16 * 8 * 128 * 2 * slots  # layers, heads, channels, two bytes
    assert config.latent_shape == (5, 20, 32) and pairs == 209_715_200
    assert pairs < RING.bytes < 1.2 * pairs


def test_so_many_players_fit_as_there_is_room_for_with_a_tenth_free(
    memory: Callable[[float, float], None],
) -> None:
    more = 100_000_000
    each = 2 * RING.bytes + more  # the best decoder so far waits beside the one that is tried
    memory(0.1 * 80e9 + 9.5 * each, 80e9)
    assert places_that_fit(65, RING, lambda: more, GPU) == 9
    assert places_that_fit(5, RING, lambda: more, GPU) == 5
    memory(120e9, 150e9)  # an H200 beside the weights: nothing but the wish is in the way
    assert places_that_fit(65, RING, lambda: 400_000_000, GPU) == 65
    memory(1e9, 80e9)  # it is tried with one player, and fails where it is allocated
    assert places_that_fit(65, RING, lambda: more, GPU) == 2


def test_a_cpu_is_not_asked(memory: Callable[[float, float], None]) -> None:
    memory(0, 1)
    assert places_that_fit(65, RING, lambda: 1 // 0, CPU) == 65


def test_the_tokenizers_memory_grows_with_the_grid() -> None:
    tokenizer = VideoTokenizer(TOKENIZER).eval()
    stream = tokenizer.decode_stream_init(1, 6, 10, 3)
    with torch.inference_mode():
        for _ in range(6):
            latent = torch.zeros(1, 1, 6, 10, dtype=torch.int64)
            _, stream = tokenizer.decode_step(latent, stream)
    kept = sum(part.nbytes for part in stream.cache.values())
    assert stream_bytes(tokenizer, 6, 10, 3) == 3 * kept > 0


def test_a_world_makes_no_more_places_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.benchmarks.bench.test_decode import CONFIG

    asked: list[Any] = []

    def fitting(wanted: int, ring: Ring, more: Callable[[], int], device: torch.device) -> int:
        asked.append((wanted, ring, more(), device))
        return 3

    monkeypatch.setattr(cosmos_world, "places_that_fit", fitting)
    made = random_world("small", CONFIG, TOKENIZER, 3, CPU, torch.float32)
    world = CosmosWorld(made, capacity=9)
    assert world.capacity == 3 and world.decoder.cache.keys.shape[1] == 3
    [(wanted, ring, more, device)] = asked
    assert wanted == 9 and ring == Ring(CONFIG, 4, 4) and device == CPU
    assert more == stream_bytes(made.tokenizer, 3, 4, 4)
    assert seats_of(world, 8) == 2  # one place is for a session that replaces another
    check_seats(world, 2)
    with pytest.raises(SeatsError) as told:
        check_seats(world, 3)
    assert told.value.exit_code == 2 and "at most 2" in told.value.expected


def test_a_world_without_memory_of_its_own_has_all_seats() -> None:
    assert seats_of(SleepingWorld(0.0), 64) == 64
    check_seats(SleepingWorld(0.0), 64)


def test_the_most_is_what_a_server_can_be_told() -> None:
    assert seats_tried(WorkerConfig(device="cuda")) == MAX_SEATS
    assert seats_tried(WorkerConfig()) == MOST_ON_A_CPU == 4
    assert seats_tried(WorkerConfig(seats=2)) == 2


# -- a worker that nobody told how many players there may be --------------------------------------


@dataclass
class Opened:
    world: SleepingWorld
    seats: int = 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Stands for `open_world`; remembers for how many seats."""
    found = Opened(SleepingWorld(0.02, fps=60.0))

    def open_world(config: WorkerConfig, **options: Any) -> SleepingWorld:
        found.seats = seats_tried(config)
        return found.world

    monkeypatch.setattr(worker, "open_world", open_world)
    return found


def settings(tmp_path: Path, **more: Any) -> WorkerConfig:
    return WorkerConfig(endpoint=f"ipc://{tmp_path}/s", world="some", **more)


def test_on_a_gpu_as_many_as_a_server_may_have_are_tried(opened: Opened, tmp_path: Path) -> None:
    loaded = worker.load(settings(tmp_path, device="cuda"), None)
    assert opened.seats == 64 and loaded.seats == 64


def test_on_a_gpu_the_memory_is_the_limit(opened: Opened, tmp_path: Path) -> None:
    opened.world.capacity = 11  # type: ignore[attr-defined]
    assert worker.load(settings(tmp_path, device="cuda"), None).seats == 10


def test_on_a_cpu_four_are_tried(opened: Opened, tmp_path: Path) -> None:
    assert worker.load(settings(tmp_path), None).seats == 4 == opened.seats


def test_seats_that_were_asked_for_are_there_or_it_is_said(opened: Opened, tmp_path: Path) -> None:
    given = settings(tmp_path, device="cuda", seats=11)
    opened.world.capacity = 12  # type: ignore[attr-defined]
    assert worker.load(given, None).seats == 11
    opened.world.capacity = 11  # type: ignore[attr-defined]
    with pytest.raises(SeatsError, match="does not hold so many players"):
        worker.load(given, None)
    assert SeatsError("", expected="", got="", remedy="").exit_code in worker._HOPELESS


def test_a_latent_of_eight_pictures_is_hopeless_by_its_drawing(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that was looked at once hands out a picture, which costs nothing."""
    from tests.runtime.test_capacity import Clock, LatentWorld

    clock = Clock()
    world = LatentWorld(clock, pictures=8, fps=100, ms_a_latent=200, ms_a_player=0)
    monkeypatch.setattr(worker, "now_ms", lambda: clock.now_s * 1000)
    assert worker.warm_up(world, 1) == pytest.approx(200.0)
    opened.world, before = world, world.drawings
    assert worker.load(settings(tmp_path), None).seats == 1
    assert world.drawings == before + 1  # nobody was tried beside the first
