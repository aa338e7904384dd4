"""The results as a picture: every layer's speed as a part of the processor's peak."""

import importlib.util

from goals import OURS, PREPARED, split_name

# Okabe and Ito's colours, which the colour-blind tell apart: fastconv strong, the others pale.
COLOURS = {
    OURS: "#1f8fd6",
    PREPARED: "#0b3f73",
    "PyTorch": "#e69f00",
    "PyTorch channels_last": "#f5d08a",
    "ONNX Runtime": "#7a7a7a",
    "OpenVINO": "#bdbdbd",
    "ncnn": "#009e73",
    "MNN": "#8fd4be",
}


def bars(axes, rows):
    """A group of bars for each row: the contenders that it has, fastconv's twice as wide."""
    for place, row in enumerate(rows):
        there = [name for name in COLOURS if name in row.percents]
        widths = [2.0 if name in (OURS, PREPARED) else 1.0 for name in there]
        scale, left = 0.82 / sum(widths), place - 0.41
        for name, width in zip(there, widths, strict=True):
            axes.bar(
                left,
                row.percents[name],
                width * scale,
                align="edge",
                color=COLOURS[name],
                edgecolor="white",
                linewidth=0.4,
                zorder=2,
            )
            left += width * scale
    axes.axhline(100, color="#444444", linewidth=0.8, linestyle=(0, (4, 3)), zorder=3)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def label(row):
    """The layer's name in short lines."""
    layer, batch, images = row.name.partition(", backward")[0].partition(", batch ")
    lines = layer.replace(" on ", " ").split()
    return "\n".join(lines + [f"batch {images}"] * bool(batch))


def panels(rows):
    """[(title, rows)] from the top; the forward pass, which has the most bars, in two."""
    measured = [
        row for row in rows if row.algorithm and row.percents and split_name(row.name)[1] == 1
    ]
    forward = [row for row in measured if row.group.endswith(", forward")]
    half = (len(forward) + 1) // 2
    parts = [("Forward", forward[:half]), ("Forward, continued", forward[half:])]
    for title, ending in (("input", "backward-input"), ("weights", "backward-weight")):
        chosen = [row for row in measured if row.name.endswith(ending)]
        parts.append((f"Backward, gradient of the {title}", chosen))
    return [(title, chosen) for title, chosen in parts if chosen]


def draw(rows, path):
    """Write the picture to `path`; False if there is nothing to draw, or nothing to draw with."""
    parts = panels(rows)
    if not parts or importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "fastconv"})
    import matplotlib.pyplot as plt

    heights = [1.3 if title.startswith("Forward") else 1 for title, _ in parts]
    figure, all_axes = plt.subplots(
        len(parts),
        figsize=(11, 2.2 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, (title, chosen) in zip(all_axes[:, 0], parts, strict=True):
        bars(axes, chosen)
        axes.set_xticks(range(len(chosen)), [label(row) for row in chosen], fontsize=7)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=9)
        axes.set_ylabel("% of FMA peak")
    names = [name for name in COLOURS if any(name in row.percents for _, c in parts for row in c)]
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name]) for name in names]
    figure.legend(handles, names, ncols=len(names), loc="outside upper center", frameon=False)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return True
