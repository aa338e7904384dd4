# The tutorial, from which build_tutorial.py makes tutorial.ipynb: `# %%` begins a cell.
# ruff: noqa: E402

# %% [markdown]
# # A small convolutional network, piece by piece
#
# 小さな畳み込みネットワークを、部品ごとに動かして理解する
#
# This notebook walks the road of PyTorch's "Neural Networks" tutorial, and of the Japanese notebook
# [PyTorchTutorial_3](https://colab.research.google.com/github/perfectpanda-works/machine-learning/blob/master/PyTorchTutorial_3.ipynb)
# that follows it: a class, a network, its parameters, a forward pass, a backward pass, a loss, an
# update. Only the import lines differ, because here everything runs on fastconv. Two questions
# stayed open in that notebook: why the output of the first layer is 30×30 and not 28×28, and what
# 16 filters do with 6 channels. They are answered below.
#
# At the end the network learns to read real handwritten digits.

# %% [markdown]
# ## Classes, in one cell
#
# クラスの復習（継承・コンストラクタ・super）
#
# A network will be a class that inherits from `nn.Module`. Three things are needed for that: the
# constructor `__init__` runs once for each object, `super()` reaches the parent class, and a child
# has its parent's methods besides its own.


# %%
class Shape:
    def __init__(self, name):
        self.name = name
        print("Shape.__init__ runs for", name)

    def describe(self):
        return f"I am a {self.name}"


class Square(Shape):
    def __init__(self, side):
        super().__init__("square")
        self.side = side

    def describe(self):
        return super().describe() + f" of area {self.side**2}"


small, large = Square(2), Square(10)
print(small.describe())
print(large.describe())

# %% [markdown]
# ## The network
#
# ネットワークの定義
#
# `__init__` makes the layers that have something to learn; `forward` says how an image flows
# through them. Two rounds of convolution, ReLU and max-pooling turn the image into 16 small maps
# of features; three fully connected layers make ten scores of them, one for each digit.

# %%
import fastconv as torch
import fastconv.nn as nn
import fastconv.nn.functional as F

torch.manual_seed(0)  # the same numbers each time, and those that PyTorch draws


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)  # 1 channel in, 6 filters of 3x3
        self.conv2 = nn.Conv2d(6, 16, 3)  # 6 channels in, 16 filters of 3x3
        self.fc1 = nn.Linear(16 * 6 * 6, 120)  # 16 maps of 6x6 numbers
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # one number: the same for height and width
        x = x.view(-1, self.num_flat_features(x))
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def num_flat_features(self, x):
        features = 1
        for size in x.size()[1:]:  # all axes but the batch
            features *= size
        return features


net = Net()
print(net)

# %% [markdown]
# ## The parameters
#
# 学習されるパラメータ
#
# Whatever a layer has to learn is a parameter. There are five layers, each with a weight and a
# bias: ten parameters.

# %%
params = list(net.parameters())
print(len(params))
for name, parameter in net.named_parameters():
    print(f"{name:13}", parameter.size())

# %% [markdown]
# The sizes of a convolution's weight read *(filters, channels, height, width)*. The first layer
# has six filters of 3×3, and a bias for each of them. They are random now; training will change
# them.

# %%
print(params[0])
print(params[1])

# %% [markdown]
# ## Question 1: why 30×30?
#
# 疑問①：なぜ 28×28 ではなく 30×30 になるのか
#
# The drawing that goes with the PyTorch tutorial says 28×28 after the first convolution. What does
# this network say? `summary` runs it once and writes down each step, with the arithmetic.

# %%
print(torch.summary(net, (1, 1, 32, 32)))

# %% [markdown]
# So 30×30 is right. A filter of 3 pixels that must stay inside a row of 32 can begin at pixel 0,
# 1, …, 29: that makes 30 places, and each place gives one output. With a filter of 5 pixels the
# last place is 27, and there are 28. In general, for one axis,
#
# $$\text{output} = \left\lfloor\frac{\text{input} + 2\,\text{padding} -
# \text{dilation}\,(\text{kernel} - 1) - 1}{\text{stride}}\right\rfloor + 1
# \qquad\text{here}\quad \frac{32 + 2\cdot 0 - 1\,(3 - 1) - 1}{1} + 1 = 30.$$
#
# The drawing shows LeNet-5 of 1998, whose filters are 5×5: 32 → 28 → 14 → 10 → 5. The code beside
# it has filters of 3×3: 32 → 30 → 15 → 13 → 6. (Half of 13 is 6: the pool leaves the last row and
# column out.) That is also why `fc1` takes 16·6·6 numbers here; LeNet-5 has 16·5·5 at that place.
#
# 図は 5×5 フィルターの LeNet-5（28×28）、コードは 3×3 フィルターなので 30×30 が正解です。

# %%
image = torch.zeros(1, 1, 32, 32)
for kernel in (3, 5):
    places = [start for start in range(32) if start + kernel <= 32]
    size = nn.Conv2d(1, 6, kernel)(image).size()
    print(f"kernel {kernel}: starts at {places[0]} to {places[-1]}, {len(places)} places; {size}")

# %% tags=["plot"]
import matplotlib.pyplot as plt

plt.rcParams.update({"figure.dpi": 72, "figure.constrained_layout.use": True})


def draw_places(axes, kernel):
    """One row of 32 pixels, the first and last place of the filter, and the outputs below."""
    outputs = 32 - kernel + 1
    for i in range(32):
        axes.add_patch(plt.Rectangle((i, 0), 1, 1, facecolor="white", edgecolor="gray"))
    for i in range(outputs):
        x = i + (kernel - 1) / 2
        axes.add_patch(plt.Rectangle((x, -2.2), 1, 1, facecolor="lightgray", edgecolor="gray"))
    for start, colour in ((0, "tab:blue"), (outputs - 1, "tab:orange")):
        window = plt.Rectangle((start, 0), kernel, 1, facecolor=colour, alpha=0.5)
        axes.add_patch(window)
        middle = start + kernel / 2
        axes.annotate("", (middle, -1.2), (middle, 0), arrowprops={"arrowstyle": "->"})
        axes.text(middle, 1.3, f"start {start}", ha="center", color=colour)
    axes.text(16, 1.3, "32 pixels of one row", ha="center")
    axes.text(16, -3.3, f"kernel {kernel}: {outputs} outputs", ha="center")
    axes.set(xlim=(-0.5, 32.5), ylim=(-3.6, 2.4), aspect="equal")
    axes.axis("off")


figure, rows = plt.subplots(2, 1, figsize=(9, 3.8))
draw_places(rows[0], 3)
draw_places(rows[1], 5)
plt.show()

# %% [markdown]
# ## Question 2: how do 16 filters share 6 channels?
#
# 疑問②：6 チャンネルに 16 枚のフィルター、割り切れないのでは？
#
# They do not share them. The weight of the second layer has the size (16, 6, 3, 3): there are 16
# filters, and each is a block of 6×3×3 numbers that sees *all* six channels. It lays one 3×3 slice
# on each channel, which gives six maps, and adds the six maps and its bias to one map. Sixteen
# filters make sixteen maps, so 16 need not be a multiple of 6. There are
#
# $$16 \cdot 6 \cdot 3 \cdot 3 + 16 = 880$$
#
# parameters, the number in the table above. Let us do it by hand for one filter, on a real digit.
#
# 各フィルターは 6×3×3 の塊で、6 チャンネルすべてを見て合計し、1 枚の出力を作ります。

# %%
from fastconv import kernels
from fastconv.data import load_digits

train_set, test_set = load_digits()
digit = train_set.tensors[0][:1]  # the first image, (1, 1, 32, 32)

with torch.no_grad():
    six = F.max_pool2d(F.relu(net.conv1(digit)), 2)
    sixteen = net.conv2(six)
print("six channels", six.size(), " weight", net.conv2.weight.size(), " result", sixteen.size())

# %% [markdown]
# `fastconv.kernels` has the same convolution as a function on plain NumPy arrays. With slices of
# one channel each, it makes the six maps. (In the picture blue is positive, red negative.)

# %%
x = six.numpy()  # (1, 6, 15, 15)
w = net.conv2.weight.detach().numpy()  # (16, 6, 3, 3)
b = net.conv2.bias.detach().numpy()  # (16,)

k = 15  # any filter will do
maps = [kernels.conv2d_forward(x[:, c : c + 1], w[k : k + 1, c : c + 1]) for c in range(6)]
by_hand = sum(maps) + b[k]

print(len(maps), "maps of", maps[0].shape)
print("their sum is what filter", k, "gives:", abs(by_hand - sixteen.numpy()[:, k]).max() < 1e-5)
print("parameters:", w.size + b.size, "=", 16 * 6 * 3 * 3 + 16)

# %% tags=["plot"]
titles = ["channel 0", *(f"+ channel {c}" for c in range(1, 6)), "+ bias = result"]
limit = 0.7 * abs(by_hand).max()
figure, columns = plt.subplots(1, 7, figsize=(10, 1.9))
for axes, title, values in zip(columns, titles, [*maps, by_hand], strict=True):
    axes.imshow(values[0, 0], cmap="RdBu", vmin=-limit, vmax=limit)
    axes.set_title(title, fontsize=9)
    axes.axis("off")
plt.show()

# %% [markdown]
# Channels *can* be shared out among the filters: that is what `groups` is for. With `groups=2`
# eight filters see the first three channels, the other eight see the last three, and the weight is
# half as large. `groups` must divide both 6 and 16, so that nothing is left over. (The question is
# an old one: in LeNet-5, fifteen of the sixteen filters saw only three or four of the six
# channels, chosen by a table.)

# %%
shared = nn.Conv2d(6, 16, 3, groups=2)
print(shared.weight.size(), sum(p.numel() for p in shared.parameters()), "parameters")
try:
    nn.Conv2d(6, 16, 3, groups=6)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## An image in, ten scores out
#
# 画像を入力する
#
# A network takes a batch of images, as an array of four axes: how many images, how many channels,
# height, width. One grey image of 32×32 is (1, 1, 32, 32). Noise will do for now.

# %%
input = torch.randn(1, 1, 32, 32)
print(input)

# %%
out = net(input)
print(out)

# %% [markdown]
# The ten scores are the net's opinion; the largest is its answer, which means nothing yet.
# `grad_fn=<AddmmBackward>` is the beginning of the way back: the result remembers the operation
# that made it, that operation remembers its inputs, and so on.

# %%
node, path = out.grad_fn, []
while node is not None:
    path.append(node.name())
    before = [f for f, _ in node.next_functions if f is not None and f.next_functions]
    node = before[0] if before else None  # the other inputs are parameters, where the way ends
print("\n".join(path))

# %% [markdown]
# ## Gradients
#
# 勾配を求める（逆伝播）
#
# `backward` walks that way, and leaves in the `.grad` of each parameter how the output changes
# when the parameter does. The output has ten numbers, so it must be told how much each of them
# counts: a gradient of the same shape. A random one will do.
#
# Gradients *add up* in `.grad`, call after call. `zero_grad` puts them back to zero.

# %%
net.zero_grad()
out.backward(torch.randn(1, 10))
print(net.conv1.bias.grad)

# %% [markdown]
# ## A loss
#
# 損失関数
#
# To learn, the net needs one number that says how far it is from the target. The simplest is the
# mean of the squared differences. The target is a random one again.

# %%
output = net(input)
target = torch.randn(10)
target = target.view(1, -1)  # the shape of the output
criterion = nn.MSELoss()

loss = criterion(output, target)
print(loss)
print("by hand:", ((output - target) * (output - target)).mean().item())

# %% [markdown]
# ## Backpropagation
#
# 誤差逆伝播
#
# The loss is one number, and `backward` needs no argument. Watch the six gradients of the first
# layer's bias: zeros before, numbers after. (Recent versions of PyTorch print `None` for the
# first; fastconv's `zero_grad` leaves zeros, unless it is called with `set_to_none=True`.)

# %%
net.zero_grad()

print("conv1.bias.grad before backward")
print(net.conv1.bias.grad)

loss.backward()

print("conv1.bias.grad after backward")
print(net.conv1.bias.grad)

# %% [markdown]
# ## An update by hand
#
# 重みの更新（確率的勾配降下法）
#
# The gradient points uphill. A small step the other way makes the loss smaller:
#
# $$\text{weight} \leftarrow \text{weight} - \text{learning rate} \times \text{gradient}$$
#
# Too large a learning rate jumps over the valley, too small a one takes forever.

# %%
learning_rate = 0.01
for f in net.parameters():
    f.data.sub_(f.grad.data * learning_rate)

print(f"loss before {loss.item():.4f}, after one step {criterion(net(input), target).item():.4f}")

# %% [markdown]
# ## An optimizer
#
# オプティマイザと学習の 1 ステップ
#
# `fastconv.optim` has that rule, and better ones, ready-made. One step of training is always the
# same five lines: forget the old gradients, go forward, measure, go backward, update.

# %%
import fastconv.optim as optim

optimizer = optim.SGD(net.parameters(), lr=0.01)

optimizer.zero_grad()
output = net(input)
loss = criterion(output, target)
loss.backward()
optimizer.step()

# %% [markdown]
# ## A training loop
#
# 学習ループ
#
# Training is that step, again and again. There is only one image here, and the net learns its
# target by heart.

# %%
for step in range(1, 61):
    optimizer.zero_grad()
    loss = criterion(net(input), target)
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}  loss {loss.item():.4f}")

# %% [markdown]
# ## Real digits
#
# 本物の手書き数字
#
# The package brings 1,797 handwritten digits (E. Alpaydin and C. Kaynak, *Optical Recognition of
# Handwritten Digits*, UCI Machine Learning Repository, 1998,
# [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)), enlarged from 8×8 to the 32×32 that
# our network takes. Some are kept for the test: the network never sees them while it learns.

# %%
images, labels = train_set.tensors
print(f"{len(train_set):,} to learn from, {len(test_set):,} to test with")
print(images.size(), images.dtype, labels.size(), labels.dtype)
print(labels[:12])

# %% tags=["plot"]
figure, columns = plt.subplots(1, 12, figsize=(10, 1.2))
for i, axes in enumerate(columns):
    axes.imshow(images[i, 0].numpy(), cmap="gray_r")
    axes.set_title(labels[i].item(), fontsize=9)
    axes.axis("off")
plt.show()

# %% [markdown]
# Four things change against the loop above. Images come in batches of 16, in a new order each
# epoch. The loss is `CrossEntropyLoss`, the usual one where the answer is one of several classes.
# The optimizer keeps some of its momentum. And the learning rate falls from epoch to epoch.

# %%
from fastconv.data import DataLoader

torch.manual_seed(0)
net = Net()
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
loader = DataLoader(train_set, batch_size=16, shuffle=True)
losses = []

epochs = 10
for epoch in range(epochs):
    optimizer.param_groups[0]["lr"] = 0.02 * (1 - epoch / epochs)
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    mean = sum(losses[-len(loader) :]) / len(loader)
    print(f"epoch {epoch + 1:2}  loss {mean:.4f}")

# %% [markdown]
# A few seconds. How many of the digits that it has never seen does it read?

# %%
images, labels = test_set.tensors
with torch.no_grad():
    scores = net(images)
answers = scores.argmax(1)
accuracy = (answers == labels).sum().item() / len(labels)
print(f"test accuracy {accuracy:.2%}")

# %% tags=["plot"]
figure, axes = plt.subplots(figsize=(7, 2.4))
axes.semilogy(losses, color="lightgray", linewidth=0.8)
window = len(loader)
means = [sum(losses[i : i + window]) / window for i in range(0, len(losses), window)]
axes.semilogy([window * (i + 0.5) for i in range(epochs)], means, "o-", markersize=4)
axes.set(xlabel="step", ylabel="loss")
axes.legend(["of each batch", "mean of each epoch"])
plt.show()

# %% [markdown]
# ## What it has learnt
#
# 学習結果を見る
#
# The six filters of the first layer (blue is positive, red negative), and below them what each
# makes of one digit: some answer to ink, some to paper, some to an edge.

# %% tags=["plot"]
digit = images[:1]
with torch.no_grad():
    features = F.relu(net.conv1(digit))
filters = net.conv1.weight.detach()

figure, rows = plt.subplots(2, 7, figsize=(9, 2.8))
rows[0, 0].imshow(digit[0, 0].numpy(), cmap="gray_r")
for c in range(6):
    rows[0, c + 1].imshow(filters[c, 0].numpy(), cmap="RdBu", vmin=-1, vmax=1)
    rows[1, c + 1].imshow(features[0, c].numpy(), cmap="gray_r")
for axes in rows.flat:
    axes.axis("off")
plt.show()

# %% [markdown]
# And the answer to the second question, as a picture of the trained weights: sixteen filters, one
# in each column, and each has a 3×3 slice for every one of the six channels.

# %% tags=["plot"]
weight = net.conv2.weight.detach().numpy()
figure, grid = plt.subplots(6, 16, figsize=(9, 3.6))
for k in range(16):
    grid[0, k].set_title(k, fontsize=8)
    for c in range(6):
        grid[c, k].imshow(weight[k, c], cmap="RdBu", vmin=-0.6, vmax=0.6)
        grid[c, k].set(xticks=[], yticks=[])
for c in range(6):
    grid[c, 0].set_ylabel(c, fontsize=8, rotation=0, va="center", labelpad=8)
figure.supxlabel("filter")
figure.supylabel("channel")
plt.show()

# %% [markdown]
# ## Keeping it
#
# 重みを保存して、読み込む
#
# `state_dict` names all parameters; `save` writes them to one file, `load` reads them back. A
# second network with the same weights gives the same scores.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "net.safetensors"
    torch.save(net.state_dict(), path)
    twin = Net()
    twin.load_state_dict(torch.load(path))

with torch.no_grad():
    print("the same scores:", torch.equal(twin(images), scores))

# %% [markdown]
# ## From here
#
# 次の一歩
#
# * `fastconv train` does the last part from the command line, and `--data` takes a folder of
#   MNIST-like files.
# * Change the network (5×5 filters, more of them, `padding=1`), and look at `summary` before you
#   train.
# * `fastconv.kernels` has every step as a function on NumPy arrays, for those who want no
#   network.
