"""The rules of the fake CUDA device: each is broken once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.fake_cuda import fake_cuda
from tests.support.fake_cuda.streams import RuleError
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.norm import rms_norm

DEVICE = torch.device("cuda")


def test_tensors_say_where_they_are_and_hold_the_right_numbers() -> None:
    with fake_cuda():
        x = torch.arange(6.0, device=DEVICE).view(2, 3)
        x[0] = 7
        y = (x @ x.t()).relu_()
        assert x.is_cuda and y.device == torch.device("cuda:0")
        assert y.cpu().tolist() == [[147.0, 84.0], [84.0, 50.0]]
        module = torch.nn.Linear(3, 2).to("cuda")
        assert module.weight.is_cuda and module(x).is_cuda
        with pytest.raises(TypeError, match=r"use \.cpu"):
            x.numpy()


def test_host_and_gpu_do_not_mix() -> None:
    with fake_cuda():
        x = torch.ones(4, 4, device=DEVICE)
        with pytest.raises(RuleError, match="some on the CPU"):
            x + torch.ones(4)
        with pytest.raises(KernelArgumentError, match="x on cuda:0, weight on cpu"):
            rms_norm(x, 1e-6, weight=torch.ones(4))
        assert (x + torch.tensor(2.0)).sum().item() == 48  # a number may be anywhere
        assert x[torch.tensor([0, 1])].shape == (2, 4)  # an index is copied


def test_a_graph_repeats_what_was_recorded_on_the_same_memory() -> None:
    with fake_cuda() as gpu:
        x, out = torch.ones(3, 16, device=DEVICE), torch.empty(3, 16, device=DEVICE)
        graph, factor = torch.cuda.CUDAGraph(), 2.0
        with torch.cuda.graph(graph):
            doubled = x * factor
            rms_norm(doubled + 1.0, 1e-6, out=out)
            out.add_(doubled)
            x += 1
        factor = 100.0  # too late
        for expected in (4.0, 6.0):
            x.fill_(expected / 2)
            graph.replay()
            assert out.mean().item() == pytest.approx(expected + 1.0)
            assert x.mean().item() == expected / 2 + 1
        assert gpu.recorded == 1 and gpu.launches == 3


@pytest.mark.parametrize("wait", ["item", "copy", "upload", "synchronize", "mask"])
def test_nothing_waits_while_a_graph_is_recorded(wait: str) -> None:
    with fake_cuda():
        x = torch.ones(3, device=DEVICE)
        host = torch.ones(3)
        does = {
            "item": lambda: x.sum().item(),
            "copy": lambda: x.cpu(),
            "upload": lambda: torch.tensor([1.0], device=DEVICE),
            "synchronize": torch.cuda.synchronize,
            "mask": lambda: x[x > 0],
        }[wait]
        assert host is not None
        with pytest.raises(RuleError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            does()
        does()


def test_a_stream_waits_for_what_another_one_wrote() -> None:
    with fake_cuda():
        side = torch.cuda.Stream()
        x = torch.ones(3, device=DEVICE)
        with torch.cuda.stream(side), pytest.raises(RuleError, match="wait for it"):
            x.sum()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x * 2
            done = torch.cuda.Event()
            done.record()
        with pytest.raises(RuleError, match="wait for it"):
            x.add_(1)  # which the other one reads
        with pytest.raises(RuleError, match="wait for it"):
            y.sum()
        torch.cuda.current_stream().wait_event(done)
        x.add_(1)
        assert y.sum().item() == 6


def test_memory_is_kept_until_everybody_is_done() -> None:
    def used_aside(recorded: bool) -> None:
        side, x = torch.cuda.Stream(), torch.ones(3, device=DEVICE)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x.sum()
        if recorded:
            x.record_stream(side)

    with fake_cuda():
        used_aside(recorded=True)
    with pytest.raises(RuleError, match="freed that stream 1 was still using"), fake_cuda():
        used_aside(recorded=False)


def test_a_copy_to_the_host_is_there_when_it_was_waited_for() -> None:
    with fake_cuda():
        x = torch.full((3,), 5.0, device=DEVICE)
        host = torch.zeros(3, pin_memory=True)
        host.copy_(x, non_blocking=True)
        done = torch.cuda.Event(enable_timing=True)
        done.record()
        assert host.tolist() == [0, 0, 0]
        with pytest.raises(RuleError, match="nobody waited for"):
            done.elapsed_time(done)
        done.synchronize()
        assert host.tolist() == [5, 5, 5]


def test_threads_learn_of_each_other_by_futures() -> None:
    """What one has waited for, the other knows who asked for its result; and no other."""
    with fake_cuda(), ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as other:
        side = torch.cuda.Stream()
        x = torch.ones(3, device=DEVICE)

        def read() -> float:
            with torch.cuda.stream(side):
                return float(x.sum())

        with pytest.raises(RuleError, match="wait for it"):
            thread.submit(read).result()
        torch.cuda.synchronize()
        assert other.submit(read).result() == 3
