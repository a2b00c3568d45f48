"""A paged optimizer's states after they were loaded: in memory that can be paged, wherever loading had put them."""

from types import SimpleNamespace

import pytest
import torch

from kelron_lib.trainer import PAGED_FROM, _page_again


class Flagged(torch.Tensor):
    """A tensor that says it is paged, as a loaded one does."""

    is_paged = True


class Parameter:
    """What is asked of a parameter on a GPU."""

    is_cuda = True

    def __init__(self, size):
        self.size = size

    def numel(self):
        return self.size


def loaded(size):
    return torch.arange(size, dtype=torch.uint8).as_subclass(Flagged)


def test_a_state_that_says_it_is_paged_is_paged_again(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    given = []

    def get_state_buffer(parameter, dtype):
        given.append(torch.zeros(parameter.numel(), dtype=dtype))
        return given[-1]

    large = Parameter(PAGED_FROM)
    small = Parameter(10)
    state = {large: {"state1": loaded(PAGED_FROM), "state2": loaded(PAGED_FROM)}, small: {"state1": loaded(10)}}
    before = state[small]["state1"]
    _page_again(SimpleNamespace(is_paged=True, state=state, get_state_buffer=get_state_buffer))
    assert all(found is buffer for found, buffer in zip(state[large].values(), given, strict=True))
    assert torch.equal(given[0], torch.arange(PAGED_FROM, dtype=torch.uint8))
    assert state[small]["state1"] is before


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_loaded_paged_optimizer_goes_on_as_the_one_that_was_saved(tmp_path, place):
    """transformers loads to the CPU in a single process, to the process's GPU where there are several."""
    from bitsandbytes.optim import PagedAdamW8bit

    def stepped(parameter, optimizer, seed):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)).cuda()
        optimizer.step()

    first = torch.nn.Parameter(torch.zeros(512, 512, device="cuda"))
    optimizer = PagedAdamW8bit([first], lr=0.1)
    stepped(first, optimizer, 0)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second = torch.nn.Parameter(first.detach().clone())
    restored = PagedAdamW8bit([second], lr=0.1)
    restored.load_state_dict(torch.load(tmp_path / "optimizer.pt", map_location=place, weights_only=False))
    _page_again(restored)
    for one in ((first, optimizer), (second, restored)):
        stepped(*one, 1)
    assert torch.equal(first, second)
