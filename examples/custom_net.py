"""A network of your own: what goes in, what comes out of each layer, and a short training."""

import fastconv as fc
import fastconv.nn as nn
import fastconv.optim as optim
from fastconv.data import DataLoader, load_digits

fc.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, kernel_size=5, stride=2, padding=2),  # 32x32 -> 16x16
    nn.ReLU(),
    nn.Conv2d(8, 16, kernel_size=3, padding="same"),
    nn.ReLU(),
    nn.MaxPool2d(2),  # -> 8x8
    nn.Conv2d(16, 32, kernel_size=3, padding=1, groups=4),
    nn.ReLU(),
    nn.MaxPool2d(2),  # -> 4x4
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 10),
)
print(net)
print(fc.summary(net, (1, 1, 32, 32)))

train_set, test_set = load_digits()
optimizer = optim.Adam(net.parameters(), lr=0.002)
criterion = nn.CrossEntropyLoss()
for _ in range(10):
    for images, labels in DataLoader(train_set, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        criterion(net(images), labels).backward()
        optimizer.step()

images, labels = test_set.tensors
with fc.no_grad():
    accuracy = (net(images).argmax(1) == labels).sum().item() / len(test_set)
print(f"test accuracy {accuracy:.2%}")
