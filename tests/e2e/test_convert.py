"""From a published checkpoint to frames at a client, by the commands a person would type."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import serving
from worldbridge.engine_plugins.python import connect
from worldbridge.models.convert.synthetic import write_checkpoint
from worldbridge.models.transformer import TransformerConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CLI = [sys.executable, "-m", "worldbridge"]
TOKENIZER = Path(__file__).parents[1] / "golden" / "tokenizer_dv8x16x16"
MODEL = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 12,
    "ffn_hidden_size": 48,
    "vocab_size": 64000,
    "norm_eps": 1e-5,
    "rope_theta": 500_000.0,
}


def _checkpoint(folder: Path) -> Path:
    """A tiny model in the published layout, bfloat16, with the fields that describe it."""
    folder.mkdir()
    write_checkpoint(folder, TransformerConfig(**MODEL, latent_shape=(3, 4, 6)))  # type: ignore[arg-type]
    described = {
        **MODEL,
        "input_vocab_rows": None,
        "video_latent_shape": [3, 4, 6],
        "apply_abs_pos_emb": False,
        "context_dim": None,
        "begin_of_video_token": None,
        "yarn": None,
    }
    (folder / "config.json").write_text(json.dumps(described))
    return folder


async def test_a_checkpoint_is_converted_served_and_played(tmp_path: Path) -> None:
    world = tmp_path / "tiny-world"
    source = _checkpoint(tmp_path / "source")
    done = subprocess.run(
        [*CLI, "convert", str(source), "--tokenizer", str(TOKENIZER), "--out", str(world)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "log", "--world", str(world), "--seats", "1") as server:
        frames, headers = [], []
        async with connect(server.url, theme="zoo", seed=1) as client, asyncio.timeout(120):
            while len(frames) < 70:
                frame = await client.frame()
                frames.append(frame.rgb())
                headers.append(frame.header)
                if len(frames) == 45:
                    server.kill("worker")  # with frames that were made and not shown
        assert frames[0].shape == (64, 96, 3)
        assert len({frame.tobytes() for frame in frames}) > 40
        assert server.process.poll() is None
    numbers = [header.frame for header in headers]
    assert sum(b > a + 1 for a, b in itertools.pairwise(numbers)) <= 3, numbers
    times = [header.t_frame for header in headers]
    # otherwise the eight frames of a latent would come at once, and then none for a while
    found = sorted(b - a for a, b in itertools.pairwise(times[5:45]))
    assert found[-4] < 3 * statistics.median(found), found
