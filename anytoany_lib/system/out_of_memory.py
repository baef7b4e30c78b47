"""Out of memory: whether an error says so, and work that goes on in smaller portions where a device is full.

torch's allocator raises OutOfMemoryError. cuBLAS and cuDNN take memory past it, and the driver takes some for a kernel's
code: their errors are plain RuntimeErrors.
"""

from collections.abc import Callable
from typing import Any

import torch

_MESSAGES = (
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
    return isinstance(error, torch.OutOfMemoryError) or any(
        message in text for message in _MESSAGES
    )


class Portions:
    """A model's work on as many rows as `most_bytes` allow, half as many where the device has no room, and no more from then on."""

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self._fit: dict[str, int] = {}

    def __call__(
        self, what: str, rows: Any, row_bytes: int, work: Callable[[Any], torch.Tensor]
    ) -> torch.Tensor:
        """`work` of all rows (what can be sliced), their results (B, ...) one after the other on the CPU.

        `row_bytes` is what a row takes while it is worked on, `what` says what rows these are. What `work` raises is raised
        if it is not for want of memory, or if one row alone does not fit.
        """
        results: list[torch.Tensor] = []
        done = 0
        while done < len(rows):
            most = min(self._fit.get(what, len(rows)), self.most_bytes // max(1, row_bytes))
            count = min(max(1, most), len(rows) - done)
            try:
                results.append(work(rows[done : done + count]).cpu())
                done += count
                continue
            except Exception as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler, where nothing refers any more to the tensors of what failed.
            self._fit[what] = count // 2
            torch.cuda.empty_cache()  # of no effect where there is no card
        return torch.cat(results)
