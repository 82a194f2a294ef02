"""Every decoder draws the tokens of the golden files, in every mode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from tests.support.decoding import DECODERS, GOLDEN, Run, load_runs, load_stream, processor

RUNS = load_runs()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are rounded alike whatever the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def replay(run: Run) -> tuple[Tensor, Tensor]:
    """Return the tokens of a run and the expected ones."""
    stream = load_stream(run["stream"])
    context: AbstractContextManager[None] = nullcontext()
    if run["decoder"] == "cuda":
        from tests.support.triton_interpreter import interpreted

        context = interpreted()
    with context:
        found = DECODERS[run["decoder"]](stream, run)
    expected = stream.tokens[run["expect"]][run["sessions"], : found.shape[1]]
    return found, expected


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter, about inf - inf
@pytest.mark.parametrize("name", RUNS)
def test_tokens_are_the_golden_ones(name: str) -> None:
    run = RUNS[name]
    if run["decoder"] == "cuda" and find_spec("triton") is None:
        pytest.skip("needs triton: pip install triton")
    found, expected = replay(run)
    if torch.equal(found, expected):
        return
    place = (found != expected).nonzero()[0].tolist()
    recorded = json.loads((GOLDEN / "decoding" / "processor.json").read_text())
    if run["decoder"] == "wavefront" and recorded != processor():
        # its float16 products are rounded in another way on other processors
        pytest.skip(f"recorded on {recorded}, this is {processor()}; first deviation at {place}")
    share = float((found != expected).float().mean())
    pytest.fail(
        f"{name}: {share:.1%} of the tokens differ, first at [session, latent, y, x] {place}"
    )


def test_the_golden_files_cover_every_mode_of_every_decoder() -> None:
    covered = {(run["decoder"], run["mode"]) for run in RUNS.values()}
    modes = ("sequential", "jacobi", "medusa", "diagonal")
    assert covered == {(decoder, mode) for decoder in DECODERS for mode in modes}


def test_expectations_differ_where_decoding_is_not_exact() -> None:
    """Answers that were all alike could not distinguish two ways of decoding."""
    for name in {run["stream"] for run in RUNS.values()}:
        stream = load_stream(name)
        answers = list(stream.tokens.values())
        for i, one in enumerate(answers):
            assert one.dtype == torch.int64 and len(one.unique()) > 20
            assert not any(torch.equal(one, other) for other in answers[:i])
            assert not torch.equal(one[0], one[1])
