"""The text that a server's world is told, read before the world itself: it is small."""

from __future__ import annotations

from torch import Tensor

from worldbridge.models.checkpoint import read_manifest
from worldbridge.models.conditioning.text import Prompt, prompt_context
from worldbridge.models.errors import DamagedWorldError, TextError
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.errors import DamagedWeightsError, PromptError
from worldbridge.runtime.worlds.registry import directory_of

__all__ = ["Prompt", "read_prompt"]


def read_prompt(world: str, prompt: Prompt) -> Tensor:
    """The context [512, context_dim] for the world in the folder `world`.

    Raises:
        UnknownWorldError: there is no such world.
        PromptError: this world takes no text, or the prompt does not fit it.
        DamagedWeightsError: its world.json is damaged.
    """
    folder, config = directory_of(world), None
    try:
        if folder is not None:
            config = TransformerConfig.from_dict(read_manifest(folder)["transformer"])
    except (DamagedWorldError, KeyError, ValueError, TypeError) as error:
        raise DamagedWeightsError(
            f"the world {world!r} is damaged",
            expected="the description of a world in its world.json",
            got=str(error),
            remedy="copy the world again, or convert it again",
        ) from error
    if config is None or config.context_dim is None or not config.takes_text:
        raise PromptError(
            f"the world {world!r} takes no text",
            expected="a model with cross-attention to a text, such as cosmos-5b-video2world",
            got="one without"
            if config is None or config.context_dim is None
            else "one that attends to actions instead",
            remedy="leave the prompt out; `worldbridge worlds DIR` shows what a world takes",
        )
    try:
        return prompt_context(prompt, config.context_dim)
    except TextError as error:
        raise PromptError.of(error) from error
