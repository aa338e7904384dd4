"""The other libraries: each function makes a convolution of one layer, or a whole network out of an
ONNX model, ready to be called.

A call computes and returns the output, or a Later from which it can be read. Inputs are bound, weights transformed
and outputs allocated before, wherever the library permits it, so that a call is the computation and
what the library itself puts around it.
"""

import contextlib
import functools
import importlib.util
import os
import sys
import tempfile

import graphs
import numpy as np
import torch
from layers import empty

LAYOUTS = {"PyTorch": torch.contiguous_format, "PyTorch channels_last": torch.channels_last}


class Later:
    """An output that is copied out of a library's own memory when it is looked at, not before."""

    def __init__(self, read):
        self.read = read

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype)


@contextlib.contextmanager
def quiet():
    """Without the lines that C++ libraries print."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def in_layout(array, layout):
    """A PyTorch tensor of the numbers; of the array's own memory in NCHW order."""
    return torch.from_numpy(array).contiguous(memory_format=layout)


def onnxruntime_model(model, x, output_size, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    y = empty(output_size)
    binding = session.io_binding()
    for bind, name, array in ((binding.bind_input, "x", x), (binding.bind_output, "y", y)):
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def call():
        session.run_with_iobinding(binding)
        return y

    call.x = x  # the binding holds only its address
    return call


def onnxruntime_conv2d(layer, x, w, b, threads):
    return onnxruntime_model(graphs.layer(layer, w, b), x, layer.output_size(), threads)


def openvino_model(model, x, output_size, threads):
    sys.modules.setdefault("openvino_telemetry", None)  # it forks, to report to the network
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    y = empty(output_size)
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    request.set_output_tensor(openvino.Tensor(y, shared_memory=True))

    def call():
        request.infer(share_outputs=True)
        return y

    return call


def openvino_conv2d(layer, x, w, b, threads):
    return openvino_model(graphs.layer(layer, w, b), x, layer.output_size(), threads)


@functools.cache
def ncnn_memory():
    """Pools, so that memory is used again; they must outlive every output."""
    import ncnn

    return ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()


def ncnn_conv2d(layer, x, w, b, threads):
    """For a batch of 1: ncnn has no other."""
    import ncnn

    if layer.N > 1:
        return None
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    net.opt.blob_allocator, net.opt.workspace_allocator = ncnn_memory()
    kind = "ConvolutionDepthWise" if layer.groups > 1 else "Convolution"
    fields = {0: layer.K, 1: layer.R, 3: layer.stride, 4: layer.pad(), 5: 1, 6: w.size}
    if layer.groups > 1:
        fields[7] = layer.groups
    listed = " ".join(f"{key}={value}" for key, value in fields.items())
    with tempfile.TemporaryDirectory() as folder:
        param, weights = os.path.join(folder, "layer.param"), os.path.join(folder, "layer.bin")
        with open(param, "w") as file:
            file.write(f"7767517\n2 2\nInput x 0 1 x\n{kind} conv 1 1 x y {listed}\n")
        with open(weights, "wb") as file:
            file.write(bytes(4) + w.tobytes() + b.tobytes())  # four zero bytes: float32 follows
        if net.load_param(param) or net.load_model(weights):
            raise RuntimeError(f"ncnn does not load {listed}")
    image = ncnn.Mat(x[0])

    def call():
        extractor = net.create_extractor()
        extractor.input("x", image)
        y = extractor.extract("y")[1]
        return Later(lambda: np.array(y)[None])

    call.x = x  # of which ncnn holds only the address
    return call


@quiet()
def mnn_model(model, x, output_size, threads):
    import _tools  # MNN's converter: MNN.tools.mnnconvert is a command around it
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        onnx, path = os.path.join(folder, "model.onnx"), os.path.join(folder, "model.mnn")
        with open(onnx, "wb") as file:
            file.write(model)
        _tools.mnnconvert(
            [
                "mnnconvert",
                "-f",
                "ONNX",
                "--modelFile",
                onnx,
                "--MNNModel",
                path,
                "--bizCode",
                "MNN",
            ]
        )
        interpreter = MNN.Interpreter(path)
    session = interpreter.createSession(
        {"backend": "CPU", "precision": "high", "numThread": threads}
    )
    source = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe)
    interpreter.getSessionInput(session, "x").copyFrom(source)
    y = interpreter.getSessionOutput(session, "y")
    later = Later(lambda: np.array(y.getNumpyData()))

    def call():
        interpreter.runSession(session)
        return later

    return call


def mnn_conv2d(layer, x, w, b, threads):
    return mnn_model(graphs.layer(layer, w, b), x, layer.output_size(), threads)


CONV2D = {
    "ONNX Runtime": onnxruntime_conv2d,
    "OpenVINO": openvino_conv2d,
    "ncnn": ncnn_conv2d,
    "MNN": mnn_conv2d,
}
MODELS = {  # make(model, x, output_size, threads) -> call
    "ONNX Runtime": onnxruntime_model,
    "OpenVINO": openvino_model,
    "MNN": mnn_model,
}
MODULES = {  # that they need
    "ONNX Runtime": ("onnxruntime", "onnx"),
    "OpenVINO": ("openvino", "onnx"),
    "ncnn": ("ncnn",),
    "MNN": ("MNN", "onnx"),
    "JAX": ("jax",),
}


def is_there(name):
    return all(importlib.util.find_spec(module) for module in MODULES[name])


def missing():
    """The names of those that are not installed."""
    return [name for name in MODULES if not is_there(name)]
