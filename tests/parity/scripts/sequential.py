"""nn.Sequential, a Dataset of one's own, a split, two groups of parameters, Adam."""

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, random_split

torch.manual_seed(7)


class Rings(Dataset):
    """Points of three rings."""

    def __init__(self, count):
        self.radius = torch.randint(1, 4, (count,))
        angle = torch.rand(count) * 6.2831853
        noise = torch.randn(count, 2) * 0.15
        # sin and cos through what every library has: a table would do as well
        x = torch.tensor([__import__("math").cos(v) for v in angle.tolist()])
        y = torch.tensor([__import__("math").sin(v) for v in angle.tolist()])
        self.points = torch.stack([x, y], dim=1) * self.radius.float().unsqueeze(1) + noise

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index], self.radius[index] - 1


train_set, valid_set = random_split(Rings(300), [240, 60])
loaders = {
    "train": DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True),
    "valid": DataLoader(valid_set, batch_size=60),
}
model = nn.Sequential(
    nn.Linear(2, 24),
    nn.ReLU(),
    nn.Linear(24, 24),
    nn.Tanh(),
    nn.Linear(24, 3),
)
print(model)
print(sum(p.numel() for p in model.parameters()), "parameters")
decay = [p for name, p in model.named_parameters() if name.endswith("weight")]
others = [p for name, p in model.named_parameters() if not name.endswith("weight")]
optimizer = optim.Adam([{"params": decay, "weight_decay": 1e-4}, {"params": others}], lr=0.02)
criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.5, 0.5]), label_smoothing=0.0)
softmax = nn.Softmax(dim=1)

for epoch in range(6):
    for phase in ("train", "valid"):
        model.train(phase == "train")
        running_loss, running_corrects, seen = 0.0, 0, 0
        for inputs, labels in loaders[phase]:
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(inputs)
                _, preds = torch.max(outputs, 1)
                loss = criterion(outputs, labels)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
            running_loss += loss.item() * inputs.size(0)
            running_corrects += torch.sum(preds == labels.data)
            seen += inputs.size(0)
        accuracy = running_corrects.double() / seen
        print(f"{epoch} {phase} Loss: {running_loss / seen:.4f} Acc: {accuracy:.4f}")
    for group in optimizer.param_groups:
        group["lr"] *= 0.8

with torch.no_grad():
    inputs, labels = next(iter(loaders["valid"]))
    p = softmax(model(inputs))
    confidence, answer = p.max(dim=1)
    print(p[:5], confidence[:5], answer[:5], labels[:5], sep="\n")
    print(p.sum(1).mean(), p.shape, answer.dtype == torch.int64, model[0].weight.shape)
