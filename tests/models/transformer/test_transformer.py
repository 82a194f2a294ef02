"""The transformer against the published networks, and its parameter counts."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from worldbridge.models.convert.reference import TOLERANCE, check_transformer
from worldbridge.models.transformer import KVCache, TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import COSMOS
from worldbridge.models.transformer.positions import rotary_angles

GOLDEN = Path(__file__).parents[2] / "golden"

SMALL = TransformerConfig(
    dim=48,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=12,
    ffn_hidden_size=64,
    vocab_size=50,
    latent_shape=(2, 3, 4),
)


@pytest.mark.parametrize("name", ["ar_base", "ar_video2world", "ar_video2world_yarn"])
def test_equals_the_published_network(name: str) -> None:
    errors = check_transformer(GOLDEN / name)
    whole, stepped = errors.prefill, errors.stepped
    assert whole <= TOLERANCE
    assert stepped <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cosmos-4b", 4_014_088_192),
        ("cosmos-5b-video2world", 4_584_845_312),
        ("cosmos-12b", 11_560_975_360),
        ("cosmos-13b-video2world", 13_323_125_760),
    ],
)
def test_published_parameter_counts(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = VideoTransformer(COSMOS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_config_survives_json_and_refuses_unknown_keys() -> None:
    for config in [SMALL, *COSMOS.values()]:
        assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown keys"):
        TransformerConfig.from_dict({**SMALL.to_dict(), "colour": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "multiple of n_kv_heads"),
        ({"head_dim": 7}, "even"),
        ({"conditioning": "modulation"}, "condition_dim"),
    ],
)
def test_config_refuses_what_cannot_work(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_positions_outside_the_trained_range_are_refused() -> None:
    model = VideoTransformer(SMALL)
    with pytest.raises(ValueError, match="trained range of 24"):
        model(torch.zeros(1, 25, dtype=torch.long))


def test_any_split_of_a_cached_sequence_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    model = VideoTransformer(SMALL).eval()
    tokens = torch.randint(50, (2, 20))
    with torch.inference_mode():
        whole = model(tokens)
        for parts in ([20], [1, 19], [7, 6, 7], [10, *[1] * 10]):
            cache = KVCache.allocate(SMALL, 2, 20, model.norm.weight)
            pieces = [model(piece, cache) for piece in tokens.split(parts, dim=1)]
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5)


def test_angles_keep_their_precision_in_an_endless_stream() -> None:
    """Attention depends on differences of positions only, also after a million latents."""
    far = torch.tensor([1_000_000, 1_000_003])
    near = torch.tensor([0, 3])
    zero = torch.zeros(2, dtype=torch.long)
    difference = [
        torch.cos((a := rotary_angles(SMALL, t, zero, zero).float())[1] - a[0]) for t in (far, near)
    ]
    torch.testing.assert_close(*difference, rtol=0, atol=1e-5)


def test_actions_reach_the_logits_by_the_published_recipe() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(
        SMALL, context_dim=16, conditioning="cross_attention", condition_dim=7
    )
    model = VideoTransformer(config).eval()
    tokens, action = torch.randint(50, (1, 6)), torch.randn(1, 7)
    with torch.inference_mode():
        pairs = model.action_keys_values(action)
        assert pairs[0][0].shape == (1, config.n_kv_heads, 7, config.head_dim)
        same = model(tokens, context=model.action_keys_values(action))
        other = model(tokens, context=model.action_keys_values(-action))
        assert torch.equal(model(tokens, context=pairs), same)
        assert not torch.allclose(same, other)
    with pytest.raises(ValueError, match="need conditioning 'cross_attention'"):
        VideoTransformer(SMALL).action_keys_values(action)
