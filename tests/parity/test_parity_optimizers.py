"""Optimizers: their state, groups of parameters, closures, and what zero_grad leaves."""

import pytest
from libraries import compare, normal

import fastconv


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimizer_state(name):
    def program(torch, w):
        p = torch.nn.Parameter(w.detach().clone())
        options = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
        optimizer = getattr(torch.optim, name)([p], **options)
        for _ in range(3):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
        saved = optimizer.state_dict()
        q = torch.nn.Parameter(p.detach().clone())
        other = getattr(torch.optim, name)([q], lr=5.0)
        other.load_state_dict(saved)
        state = {k: v.clone() for k, v in saved["state"][0].items() if k != "step"}
        (q * q).sum().backward()
        other.step()
        return (
            sorted(state),
            list(state.values()),
            q,
            other.param_groups[0]["lr"],
            saved["param_groups"][0]["params"],
        )

    compare(program, normal(4), ulps=16, backward=False)


def test_parameter_groups():
    def program(torch, w):
        a, b = (torch.nn.Parameter(w.detach() + i) for i in range(2))
        optimizer = torch.optim.SGD(
            [{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1, momentum=0.5
        )
        optimizer.add_param_group({"params": [torch.nn.Parameter(w.detach())]})
        for step in range(3):
            ((a * b).sum() + (a * a).sum()).backward()
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
        return a, b, len(optimizer.param_groups)

    compare(program, normal(4), ulps=32, backward=False)


def test_closure():
    def program(torch, w):
        p = torch.nn.Parameter(w.detach().clone())
        optimizer = torch.optim.SGD([p], lr=0.1)

        def closure():
            optimizer.zero_grad()
            loss = (p * p).sum()
            loss.backward()
            return loss

        return optimizer.step(closure).item(), p

    compare(program, normal(4), backward=False)


def test_zero_grad_leaves_zeros():
    """As in the tutorial's outputs. PyTorch's default became set_to_none=True since."""
    for make in (lambda t, p: t.optim.SGD([p], lr=0.1), lambda t, p: None):
        p = fastconv.nn.Parameter(fastconv.ones(2))
        (p * p).sum().backward()
        layer = fastconv.nn.Module()
        layer.p = p
        (make(fastconv, p) or layer).zero_grad()
        assert p.grad.tolist() == [0, 0]
        (make(fastconv, p) or layer).zero_grad(set_to_none=True)
        assert p.grad is None


def test_optimizers_skip_parameters_without_gradient():
    def program(torch, w):
        a, b = (torch.nn.Parameter(w.detach().clone()) for _ in range(2))
        optimizer = torch.optim.SGD([a, b], lr=0.1, weight_decay=0.1)
        (a * 2).sum().backward()
        optimizer.step()
        return a, b

    compare(program, normal(4), backward=False)
