"""The CUDA executor: Triton kernels behind CUDA graphs."""
