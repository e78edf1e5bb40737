"""Tensors of torch in main memory travel by way of numpy, as buffers; torch's own pickling copies them."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def reduce_tensor(tensor: Any) -> Any:
    """How a plain dense tensor is pickled; NotImplemented, which leaves it to torch, for all others.

    Those have gradients, conjugations, quantisation or strides of their own, which would be lost.
    """
    torch: Any = importlib.import_module("torch")
    plain = (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)
        and tensor.is_contiguous()
        and tensor.__dict__ == {}
    )
    if not plain:
        return NotImplemented
    # numpy knows fewer types of numbers, so that bytes are what it is given.
    return make_tensor, (tensor.reshape(-1).view(torch.uint8).numpy(), str(tensor.dtype), tuple(tensor.shape))


def make_tensor(array: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """The tensor of these bytes, which it uses where they lie."""
    torch: Any = importlib.import_module("torch")
    return torch.from_numpy(array).view(getattr(torch, dtype.removeprefix("torch."))).reshape(shape)
