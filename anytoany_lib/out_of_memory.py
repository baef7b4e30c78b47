"""Whether an error says that a device has no memory left: the libraries of a card say it in words of their own.

torch's allocator raises OutOfMemoryError. cuBLAS and cuDNN take memory past it, and the driver takes some for a kernel's
code: what they say comes as a plain RuntimeError.
"""

from __future__ import annotations

import torch

_SAID = (
    "out of memory",  # CUDA's runtime and driver, MPS, NCCL
    "_status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
    "_allocation_failed",  # cuDNN 9, of host or device memory
    "cufft_alloc_failed",
    "cublas_status_not_initialized when calling `cublascreate",  # its handle needs a workspace
    "not enough workspace",  # cuDNN
    "unable to find an engine to execute this computation",  # cuDNN tried all that it has
    "unable to find a valid cudnn algorithm",  # the same in older words
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is torch.OutOfMemoryError, or a RuntimeError that says so in a library's own words."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(said in text for said in _SAID)
