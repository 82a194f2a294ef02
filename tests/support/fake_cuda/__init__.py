"""A fake CUDA device: GPU code runs on the CPU under the rules of a GPU.

`fake_cuda()` gives tensors that say they are on `cuda:0` (`tensors.py`), streams, events and
graphs (`streams.py`), and Triton kernels in the interpreter. The numbers are computed at once, so
results can be compared; what is checked beside them are the rules that only a GPU enforces:

- tensors of one operation, and all tensors of a launch, are on the GPU together;
- nothing makes the host wait while a graph is recorded, and a replayed graph does only what was
  recorded, on the memory that it was recorded with;
- memory that one stream wrote is used by another only behind an event, and is freed only when
  everybody who used it is done, or was named by `record_stream`;
- what is copied to the host without waiting is not there before it was waited for.
"""

from tests.support.fake_cuda.gpu import Gpu, fake_cuda

__all__ = ["Gpu", "fake_cuda"]
