"""C is given addresses in the processor's memory only: any other would end the process."""

import ctypes

import pytest
import torch

from titans.memory.kernels.build import fields, point, unavailable
from titans.memory.kernels.elementwise import rms_norm
from titans.memory.kernels.short_convolution import Finish, native_convolution


class _Arguments(ctypes.Structure):
    _fields_ = (*fields(ctypes.c_void_p, "x y"), *fields(ctypes.c_void_p * 3, "w"))


def test_fields_point_at_tensors():
    arguments, x, w = _Arguments(y=5), torch.ones(2), [torch.ones(3), torch.ones(4)]
    point(arguments, x=x, y=None, w=w)
    assert (arguments.x, arguments.y) == (x.data_ptr(), None)
    assert list(arguments.w) == [w[0].data_ptr(), w[1].data_ptr(), None]


@pytest.mark.parametrize("tensors", [{"x": torch.ones(2, device="meta")}, {"w": [torch.ones(2, device="meta")]}])
def test_a_tensor_that_is_not_in_the_processors_memory_is_refused(tensors):
    with pytest.raises(ValueError, match=r"was given a tensor on meta \(as [xw]\): move it"):
        point(_Arguments(), **tensors)


@pytest.mark.skipif(unavailable() is not None, reason="there is no compiler")
def test_kernels_do_not_read_another_devices_memory():
    with pytest.raises(ValueError, match=r"was given a tensor on meta \(as w\)"):
        rms_norm(torch.ones(2, 8), torch.ones(8, device="meta"), 1e-6)
    with pytest.raises(ValueError, match=r"was given a tensor on meta \(as tail\)"):
        native_convolution(torch.ones(1, 4, 16), torch.ones(16, 2), torch.ones(1, 1, 16, device="meta"), None, Finish())
