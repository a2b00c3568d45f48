import bitsandbytes
import pytest
import torch

from kelron_lib.engine import loss as loss_module
from kelron_lib.engine.loss import supervised_loss, supervised_positions
from kelron_lib.errors import KelronError


def setting(seed=0, rows=3, tokens=20, width=64, vocabulary=96):
    torch.manual_seed(seed)
    hidden = torch.randn(rows, tokens, width, requires_grad=True)
    labels = torch.randint(0, vocabulary, (rows, tokens))
    labels[torch.rand(rows, tokens) < 0.5] = -100
    head = torch.nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
    return hidden, labels, head


def reference(hidden, labels, weight, denominator):
    """All logits at once, in float64."""
    wide = hidden.detach().double().requires_grad_()
    logits = (wide @ weight.double().t())[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / denominator
    loss.backward()
    return loss.item(), wide.grad


def four_bit(head):
    small = bitsandbytes.nn.Linear4bit(head.in_features, head.out_features, bias=False, quant_type="nf4")
    small.weight = bitsandbytes.nn.Params4bit(head.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
    return small


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["linear", "nf4", "nf4 in slices"])
def test_value_and_gradient_are_those_of_full_logits(chunk, kind, monkeypatch):
    hidden, labels, head = setting()
    weight = head.weight
    if kind != "linear":
        head = four_bit(head)
        weight = bitsandbytes.functional.dequantize_4bit(head.weight.data, head.weight.quant_state)
    if kind == "nf4 in slices":
        monkeypatch.setattr(loss_module, "HEAD_SLICE", 7 * 64)
    loss = supervised_loss(hidden, labels, head, chunk=chunk, denominator=17)
    (3 * loss).backward()
    value, gradient = reference(hidden, labels, weight, 17)
    assert loss.item() == pytest.approx(value, rel=1e-6)
    assert ((hidden.grad / 3 - gradient).norm() / gradient.norm()).item() < 1e-6


def test_half_precision_gradients_survive_a_large_denominator():
    hidden, labels, head = setting(width=128)
    half = hidden.detach().half().requires_grad_()
    loss = supervised_loss(half, labels, head.half(), chunk=8, denominator=1e6)
    (loss * 65536).backward()
    _, gradient = reference(hidden, labels, head.weight, 1e6)
    assert ((half.grad.double() / 65536 - gradient).norm() / gradient.norm()).item() < 5e-3


def test_no_supervised_token_is_no_loss():
    hidden, labels, head = setting()
    loss = supervised_loss(hidden, torch.full_like(labels, -100), head, chunk=8, denominator=1)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad.abs().sum() == 0


def test_without_a_graph_no_gradient_is_made():
    hidden, labels, head = setting()
    with torch.no_grad():
        loss = supervised_loss(hidden, labels, head, chunk=8, denominator=5)
    assert loss.item() == pytest.approx(reference(hidden, labels, head.weight, 5)[0], rel=1e-6)


def test_positions_are_one_before_their_targets_and_stay_in_their_row():
    labels = torch.tensor([[-100, 5, -100, 6], [-100, -100, 7, -100]])
    positions, targets = supervised_positions(labels)
    assert positions.tolist() == [0, 2, 5]
    assert targets.tolist() == [5, 6, 7]


@pytest.mark.parametrize(("change", "words"), [("bias", "has a bias"), ("train", "being trained")])
def test_heads_it_does_not_know_are_refused(change, words):
    hidden, labels, head = setting()
    if change == "bias":
        head = torch.nn.Linear(64, 96).requires_grad_(False)
    else:
        head.requires_grad_(True)
    with pytest.raises(KelronError, match=words):
        supervised_loss(hidden, labels, head, chunk=8, denominator=1)
