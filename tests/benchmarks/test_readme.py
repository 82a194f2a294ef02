"""The README's tables, from results."""

import re
from typing import Any

import pytest

from benchmarks import readme

ENVIRONMENT = {"date": "2026-01-02", "gpu": None, "cores": 2, "processor": "Test CPU"}
BLOCKS = "".join(
    f"<!-- begin:{name} -->\nold\n<!-- end:{name} -->\n"
    for name in re.findall(r"<!-- begin:(\w+) -->", readme.README.read_text())
)
TRAINING = {
    "pictures": 4800,
    "frames_of_play": 23040,
    "tokenizer_steps": 12056,
    "tokenizer_minutes": 40.0,
    "transformer_steps": 5625,
    "transformer_minutes": 62.0,
}
HEADS = {
    "heads_steps": 512,
    "heads_minutes": 7.0,
    "network_nats_before_heads": 2.3124,
    "network_nats_with_heads": 2.2871,
}
GUESSES = {
    "tokens_per_forward": 2.345,
    "forwards_per_latent": 68.23,
    "latents": 100,
    "same_latents": 1.0,
}


def quality(monkeypatch: pytest.MonkeyPatch, **more: Any) -> str:
    values = {name: 1.0 for name, _, _ in readme._QUALITY}
    result = {"environment": ENVIRONMENT, "quality": values | {"scenes": "some"} | more}
    monkeypatch.setattr(readme, "read_results", lambda name: [result] * (name == "quality"))
    return readme.render(BLOCKS)


def test_guesses_have_a_table_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    medusa = GUESSES | {"acceptance_per_head": [0.711, 0.402, 0.2]}
    text = quality(monkeypatch, medusa=medusa, jacobi=GUESSES, training=TRAINING | HEADS)
    assert "| `medusa` | 2.35 | 68.2 | 0.711, 0.402, 0.200 | 100% of 100 |" in text
    assert "| `jacobi` | 2.35 | 68.2 | - | 100% of 100 |" in text
    assert "7 minutes (512 steps)" in text and "from 2.312 to 2.287 nats" in text
    again = HEADS | {"network_nats_with_heads": 2.3124}
    assert "put back as it was" in quality(monkeypatch, training=TRAINING | again)


def test_a_world_without_heads_says_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = quality(monkeypatch, training=TRAINING)
    assert "medusa" not in text.lower() and "12,056 steps" in text
