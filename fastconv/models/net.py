"""Net, the network of PyTorch's tutorial."""

import fastconv.nn as nn
import fastconv.nn.functional as F
from fastconv.autograd import Tensor


class Net(nn.Module):
    """The network of PyTorch's tutorial: x (N, 1, 32, 32) -> ten scores per image (N, 10)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 6 * 6, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))  # (N, 1, 32, 32) -> (N, 6, 15, 15)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # -> (N, 16, 6, 6)
        x = x.view(-1, self.num_flat_features(x))  # -> (N, 576)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def num_flat_features(self, x: Tensor) -> int:
        """The numbers per image: the product of all sizes but the batch's."""
        features = 1
        for size in x.size()[1:]:
            features *= size
        return features
