"""Autograd by hand: a cubic fitted to a sine, logistic regression, a matrix factorised."""

import math

import torch

dtype = torch.float64
x = torch.linspace(-math.pi, math.pi, 200, dtype=dtype)
y = torch.tensor([math.sin(v) for v in x.tolist()], dtype=dtype)
torch.manual_seed(0)
a, b, c, d = (torch.randn((), dtype=dtype, requires_grad=True) for _ in range(4))

learning_rate = 1e-5
for t in range(300):
    y_pred = a + b * x + c * x**2 + d * x**3
    loss = (y_pred - y).pow(2).sum()
    if t % 100 == 99:
        print(t, loss.item())
    loss.backward()
    with torch.no_grad():
        a -= learning_rate * a.grad
        b -= learning_rate * b.grad
        c -= learning_rate * c.grad
        d -= learning_rate * d.grad
        a.grad = None
        b.grad = None
        c.grad = None
        d.grad = None
print(f"Result: y = {a.item():.6f} + {b.item():.6f} x + {c.item():.6f} x^2 + {d.item():.6f} x^3")

features = torch.randn(64, 3)
labels = (features @ torch.tensor([1.0, -2.0, 0.5]) > 0).float()
w = torch.zeros(3, requires_grad=True)
bias = torch.zeros(1, requires_grad=True)
for _ in range(100):
    p = torch.sigmoid(features @ w + bias)
    loss = -(labels * torch.log(p) + (1 - labels) * torch.log(1 - p)).mean()
    loss.backward()
    for parameter in (w, bias):
        parameter.data.sub_(0.5 * parameter.grad.data)
        parameter.grad.zero_()
print("loss", loss, "w", w, "bias", bias)
print(
    "accuracy", ((torch.sigmoid(features @ w + bias) > 0.5).float() == labels).float().mean().item()
)

target = torch.rand(6, 5)
u = torch.randn(6, 2, requires_grad=True)
v = torch.randn(2, 5, requires_grad=True)
for _ in range(60):
    residual = target - u.matmul(v)
    loss = (residual * residual).mean() + 1e-3 * (u.abs().sum() + v.abs().sum())
    loss.backward()
    with torch.no_grad():
        for m in (u, v):
            m -= 0.3 * m.grad
            m.grad.zero_()
print(loss.item(), u, v.T, (u @ v).detach().max(dim=1))
print(residual.detach().numpy().std(), u.grad.sum(), torch.exp(v).mean(0), v[:, 1:3].tanh())
