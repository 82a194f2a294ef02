import dataclasses
import json
from typing import Any

import pytest

from worldbridge.models.tokenizer import CONFIGS, DV4X8X8, DV8X8X8, DV8X16X16, EMBEDDED
from worldbridge.models.tokenizer.config import Resample, TokenizerConfig


@pytest.mark.parametrize("name", CONFIGS)
def test_json_round_trip(name: str) -> None:
    config = CONFIGS[name]
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TokenizerConfig.from_dict(stored) == config


def test_unknown_key_is_named() -> None:
    data = dataclasses.asdict(EMBEDDED) | {"chanels": 3}
    with pytest.raises(ValueError, match="chanels"):
        TokenizerConfig.from_dict(data)


@pytest.mark.parametrize("data", [[1], None, 3])
def test_what_is_no_object(data: Any) -> None:
    with pytest.raises(ValueError, match="tokenizer config: expected an object"):
        TokenizerConfig.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels: expected an integer of at least 1, got 0"),
        ({"channels": 2.5}, "channels.*2.5"),
        ({"channels": True}, "channels.*True"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"encoder_res_blocks": (2, 2)}, "encoder_res_blocks.*3 numbers"),
        ({"decoder_res_blocks": (3, 3, 3, 3)}, "decoder_res_blocks.*3 numbers"),
        ({"decoder_res_blocks": 3}, "decoder_res_blocks: expected a list"),
        ({"levels": (8, 8)}, "embedding_dim: expected 2"),
        ({"levels": (8, 8, 8, 5, 5, 1)}, "levels.*at least 2"),
        ({"patch_size": 3}, "patch_size: expected a power of two, got 3"),
        ({"spatial_compression": 24}, "spatial_compression.*24"),
        ({"spatial_compression": 2}, "spatial_compression: expected at least 4"),
        ({"temporal_compression": 1}, "temporal_compression: expected at least 4"),
        ({"spatial_compression": 128}, "channel_multipliers: expected .*got 3 levels.*add levels"),
        ({"temporal_compression": 16}, "channel_multipliers: expected .* decoder .*got 3 levels"),
        ({"norm": "batch"}, "norm.*'batch'"),
        ({"temporal_convs": "some"}, "temporal_convs.*'some'"),
        ({"upsample": "linear"}, "upsample.*'linear'"),
        ({"downsample": "linear"}, "downsample.*'linear'"),
        ({"attention": 1}, "attention: expected true or false, got 1"),
        ({"out_kernel": 5}, "out_kernel.*5"),
        ({"encoder_mid_blocks": 3}, "encoder_mid_blocks.*3"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], message: str) -> None:
    data = dataclasses.asdict(DV8X16X16) | change
    with pytest.raises(ValueError, match=message):
        TokenizerConfig.from_dict(data)


def test_steps_of_the_published_configurations() -> None:
    both, space, none = Resample(True, True), Resample(True, False), Resample()
    assert DV8X16X16.down_steps() == (both, space)
    assert DV8X16X16.up_steps() == (both, space)
    assert DV8X8X8.down_steps() == (both, none)
    assert DV8X8X8.up_steps() == (both, none)
    assert DV4X8X8.down_steps() == (space, none)
    assert DV4X8X8.up_steps() == (none, space)  # the decoder is not the mirror of the encoder
    assert DV8X16X16.vocabulary == 64_000
    assert EMBEDDED.vocabulary == 8**6
