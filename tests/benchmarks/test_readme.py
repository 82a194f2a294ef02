"""The README's tables, from results."""

from typing import Any

import pytest

from benchmarks import readme

ENVIRONMENT = {"date": "2026-01-02", "gpu": None, "cores": 2, "processor": "Test CPU"}
BLOCKS = "".join(
    f"<!-- begin:{name} -->\nold\n<!-- end:{name} -->\n" for name in ("setup", "speed", "quality")
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
MEDUSA = {
    "heads": 3,
    "tokens_per_forward": 2.345,
    "forwards_per_latent": 68.23,
    "acceptance_per_head": [0.711, 0.402, 0.2],
    "latents": 100,
    "same_latents": 1.0,
}


def quality(monkeypatch: pytest.MonkeyPatch, **more: Any) -> str:
    values = {name: 1.0 for name, _, _ in readme._QUALITY}
    result = {"environment": ENVIRONMENT, "quality": values | {"scenes": "some"} | more}
    monkeypatch.setattr(readme, "read_results", lambda name: [result] * (name == "quality"))
    return readme.render(BLOCKS)


def test_heads_have_a_table_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text = quality(monkeypatch, medusa=MEDUSA, training=TRAINING | HEADS)
    assert "| 3 | 2.35 | 68.2 | 0.71, 0.40, 0.20 | 100% of 100 |" in text
    assert "7 minutes (512 steps)" in text and "from 2.312 to 2.287 nats" in text


def test_a_world_without_heads_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    text = quality(monkeypatch, training=TRAINING)
    assert "Medusa" not in text and "12,056 steps" in text
