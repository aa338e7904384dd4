"""ONNX models, serialized, from x to y with their weights: of a layer, and of whole networks."""

import numpy as np


class Graph:
    """A model in the making: a call adds a node and returns the name of its result.

    Inputs are names of results, or arrays, which become weights of the model.
    """

    def __init__(self):
        self.nodes, self.weights = [], []

    def __call__(self, kind, *inputs, **attributes):
        from onnx import helper

        names = [i if isinstance(i, str) else self.weight(i) for i in inputs]
        result = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def weight(self, array):
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def finish(self, result, input_size, output_size):
        """The model whose result has the name y."""
        from onnx import TensorProto, helper

        self.nodes[-1].output[0] = "y"
        if result != f"{self.nodes[-1].op_type}{len(self.nodes) - 1}":
            raise ValueError(f"{result} is not the last result")
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_size)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_size)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def layer(layer, w, b):
    graph = Graph()
    options = {"strides": [layer.stride] * 2, "pads": [layer.pad()] * 4, "group": layer.groups}
    y = graph("Conv", "x", w, b, **options)
    return graph.finish(y, layer.input_size(), layer.output_size())


def tutorial(weights, batch):
    """The tutorial's network. weights: its state_dict, as arrays."""
    graph, x = Graph(), "x"
    for name in ("conv1", "conv2"):
        x = graph("Relu", graph("Conv", x, weights[f"{name}.weight"], weights[f"{name}.bias"]))
        x = graph("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph("Flatten", x)
    for name in ("fc1", "fc2", "fc3"):
        x = graph("Gemm", x, weights[f"{name}.weight"], weights[f"{name}.bias"], transB=1)
        x = x if name == "fc3" else graph("Relu", x)
    return graph.finish(x, (batch, 1, 32, 32), (batch, 10))


def resnet18(weights, batch, side, classes):
    """ResNet-18 with ImageNet's stem, as it is after eval(). weights: its state_dict, as arrays."""
    graph = Graph()

    def conv_norm(x, conv, norm, stride=1):
        w = weights[f"{conv}.weight"]
        x = graph("Conv", x, w, strides=[stride] * 2, pads=[w.shape[2] // 2] * 4)
        parts = ("weight", "bias", "running_mean", "running_var")
        numbers = [weights[f"{norm}.{part}"] for part in parts]
        return graph("BatchNormalization", x, *numbers, epsilon=1e-5)

    x = graph("Relu", conv_norm("x", "conv1", "bn1", 2))
    x = graph("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in (f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)):
        shortcut, stride = x, 1
        if f"{block}.downsample.0.weight" in weights:
            stride = 2
            shortcut = conv_norm(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
        x = graph("Relu", conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride))
        x = conv_norm(x, f"{block}.conv2", f"{block}.bn2")
        x = graph("Relu", graph("Add", x, shortcut))
    x = graph("Flatten", graph("GlobalAveragePool", x))
    y = graph("Gemm", x, weights["fc.weight"], weights["fc.bias"], transB=1)
    return graph.finish(y, (batch, 3, side, side), (batch, classes))
