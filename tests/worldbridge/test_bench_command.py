"""`worldbridge bench`: what it refuses, and kernels that are checked without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worldbridge.cli import main


def _main(*arguments: str) -> int:
    """Run the command line in this process, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["worldbridge", *arguments])
        patch.setenv("COLUMNS", "400")
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["decode", "--world", "narnia"], 4, "narnia"),
        (["decode", "--world", "procedural"], 2, "a world with a transformer"),
        (["players", "--device", "abacus"], 2, "'abacus' is not one of 'cpu', 'cuda'"),
        (["players", "--most", "0"], 2, "--most"),
        (["kernels", "--device", "cpu"], 2, "only be timed on a GPU: expected an NVIDIA GPU"),
        (["kernels", "--check", "--device", "cpu", "--kernel", "gemm"], 2, "no kernel 'gemm'"),
        (["decode", "--preset", "cosmos-5"], 2, "no preset 'cosmos-5': expected one of cosmos-4b"),
        (["players", "--preset", "cosmos-5"], 2, "no preset 'cosmos-5': expected one of cosmos-4b"),
        (["decode", "--preset", "cosmos-4b", "--world", "embedded"], 2, "a world or a preset"),
        (["decode", "--device", "tpu"], 2, "--device"),
        (["decode", "--width", "0"], 2, "--width"),
        (["decode", "--width", "8"], 2, "neither --width nor --row-lag"),
        (["decode", "--acceptance", "0.5"], 2, "--acceptance"),
        (["decode", "--preset", "cosmos-4b-320p", "--row-lag", "33"], 2, "--row-lag from 1 to 32"),
        (["decode", "--preset", "cosmos-4b-320p", "--acceptance", "700"], 2, "1 to 640, got 700"),
        (["players", "--row-lag", "2"], 2, "with mode diagonal"),
        (["players", "--weight-dtype", "int8"], 2, "this world has no int8 weights"),
        (
            ["players", "--weight-dtype", "bf16", "--world", "procedural"],
            2,
            "for a world without weights",
        ),
        (["players", "--mode", "sequential", "--acceptance", "4"], 2, "belongs to drafting modes"),
        (["decode", "--out", "/nowhere/x.json"], 2, "--out in a directory that exists"),
        (["decode", "--out", "/"], 2, "names a file that this user may write"),
    ],
)
def test_a_bench_that_cannot_run_says_why(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "kernels" in arguments:
        pytest.importorskip("triton", reason="needs triton: pip install triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)  # is restored: --check sets it
        assert _main("bench", *arguments) == code
    output = capsys.readouterr()
    assert output.out == "" and said in " ".join(output.err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("what", ["kernels", "decode", "players"])
def test_without_a_gpu_cuda_is_refused(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("bench", what, "--device", "cuda") == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_kernels_are_checked_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    out = tmp_path / "check.json"
    command = [sys.executable, "-m", "worldbridge", "bench", "kernels", "--check", "--json"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads(out.read_text()) == result
    assert result["within_limits"] and result["runs_in"] == "Triton's interpreter"
    kernels = {case["kernel"] for case in result["cases"]}
    assert {"skinny_gemm", "medusa_heads", "decode_attention", "sample_and_verify"} <= kernels
    for case in result["cases"]:
        assert case["within_limit"] and case["error"]["ours"] <= case["limit"]
        assert case["error"]["torch"] <= 4 * case["limit"], case  # else it is another function
    types = {(c["weights"], c["activations"]) for c in result["cases"]}
    assert {("float32", "float32"), ("fp8", "float16"), ("int8", "float16")} <= types
