import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from kelron_lib.engine import kernels
from kelron_lib.errors import KelronError

CPU = torch.device("cpu")


def test_swiglu_and_its_gradient_are_autograds():
    torch.manual_seed(0)
    gate, up, gradient = (torch.randn(3, 50, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = torch.nn.functional.silu(gate) * up
    wanted = torch.autograd.grad(expected, (gate, up), gradient)
    assert torch.allclose(kernels.swiglu(gate.detach(), up.detach()), expected)
    found = kernels.swiglu_backward(gradient.detach().clone(), gate.detach(), up.detach())
    assert all(torch.allclose(*pair) for pair in zip(found, wanted, strict=True))


def test_rotation_is_transformers_and_turns_back():
    torch.manual_seed(0)
    heads, angles = torch.randn(2, 7, 4, 16), torch.randn(2, 7, 8)
    cos, sin = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))
    expected, _ = apply_rotary_pos_emb(heads, heads, cos, sin, unsqueeze_dim=2)
    short = cos[:, :, None, :8], sin[:, :, None, :8]
    turned = kernels.rotate(heads, *short, 1.0)
    assert torch.allclose(turned, expected, atol=1e-6)
    assert torch.allclose(kernels.rotate(turned, *short, -1.0), heads, atol=1e-6)


def test_choice_says_what_is_used_and_why():
    assert kernels.choose("auto", CPU) == "torch: no CUDA device"
    assert kernels.choose("torch", CPU) == "torch: as asked"
    with pytest.raises(KelronError, match="no CUDA device"):
        kernels.choose("triton", CPU)
    with pytest.raises(KelronError, match="not 'numpy'"):
        kernels.choose("numpy", CPU)


@pytest.mark.gpu
def test_on_cuda_the_fast_kernels_agree_with_torch():
    assert kernels.choose("triton", torch.device("cuda")).startswith("triton: agrees with torch")
    kernels.choose("torch", torch.device("cuda"))
