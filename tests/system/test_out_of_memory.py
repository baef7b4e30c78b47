"""A device that has no memory left, in the words of each library that says so."""

from __future__ import annotations

import pytest
import torch

from anytoany_lib.system.out_of_memory import Portions, is_out_of_memory

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.74 GiB"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError(CUDA),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("cuDNN: not enough workspace for this convolution"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `potrf`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_all_libraries_are_understood(error: Exception):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_another_error_stays_one(error: BaseException):
    assert not is_out_of_memory(error)


class Device:
    """Doubles rows, so many at once."""

    def __init__(self, room: int):
        self.room, self.tried = room, []

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(rows))
        if len(rows) > self.room:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return 2 * rows


ROWS = torch.arange(10)


def test_as_many_rows_go_together_as_bytes_allow():
    portions, device = Portions(1000), Device(99)
    assert torch.equal(portions("clips", ROWS, 300, device), 2 * ROWS)
    assert device.tried == [3, 3, 3, 1]
    assert torch.equal(portions("clips", ROWS[:2], 5000, device), 2 * ROWS[:2])
    assert device.tried[4:] == [1, 1]
    assert torch.equal(portions("clips", ROWS, 1, device), 2 * ROWS)
    assert device.tried[6:] == [10]


def test_half_as_many_where_memory_runs_out_and_so_from_then_on():
    portions, device = Portions(1000), Device(3)
    assert torch.equal(portions("clips", ROWS, 1, device), 2 * ROWS)
    assert device.tried == [10, 5, 2, 2, 2, 2, 2]
    assert torch.equal(portions("clips", ROWS, 1, device), 2 * ROWS)
    assert device.tried[7:] == [2] * 5
    portions("pictures", ROWS, 1, device)  # those are smaller, perhaps
    assert device.tried[12] == 10


def test_what_cannot_be_halved_is_raised():
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        Portions(1000)("clips", ROWS, 1, Device(0))

    def wrong(rows: torch.Tensor) -> torch.Tensor:
        raise ValueError("not for want of memory")

    with pytest.raises(ValueError, match="want"):
        Portions(1000)("clips", ROWS, 1, wrong)
