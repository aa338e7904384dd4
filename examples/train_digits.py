"""Train the tutorial's network on handwritten digits: python examples/train_digits.py"""

import fastconv as fc
import fastconv.nn as nn
import fastconv.optim as optim
from fastconv.data import DataLoader, load_digits
from fastconv.models import Net

EPOCHS = 10

fc.manual_seed(0)
train_set, test_set = load_digits()
train_loader = DataLoader(train_set, batch_size=16, shuffle=True)
test_loader = DataLoader(test_set, batch_size=180)

net = Net()
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

for epoch in range(1, EPOCHS + 1):
    total_loss = 0.0
    for images, labels in train_loader:
        optimizer.zero_grad()
        output = net(images)
        loss = criterion(output, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()

    correct = 0
    with fc.no_grad():
        for images, labels in test_loader:
            correct += (net(images).argmax(1) == labels).sum().item()
    mean_loss, accuracy = total_loss / len(train_loader), correct / len(test_set)
    print(f"epoch {epoch}/{EPOCHS}  loss {mean_loss:.4f}  test accuracy {accuracy:.2%}")
