# Types of the door. All floating-point arrays of one call have one dtype, float32 or float64.

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

_Real = TypeVar("_Real", np.float32, np.float64)
_Two: TypeAlias = tuple[SupportsIndex, SupportsIndex] | list[int]
_Pair: TypeAlias = SupportsIndex | _Two  # one for both axes, or (vertical, horizontal)
_Size: TypeAlias = SupportsIndex | None  # None keeps the input's
_Sizes: TypeAlias = _Size | tuple[_Size, _Size] | list[int | None]
_Padding: TypeAlias = _Pair | tuple[_Two, _Two] | Literal["same", "valid"]
_InputSize: TypeAlias = tuple[SupportsIndex, ...] | list[int]  # (N, C, H, W) or (H, W)
_Axes: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | list[int] | None
_Reduction: TypeAlias = Literal["none", "mean", "sum"]
_Integers: TypeAlias = NDArray[np.integer[Any]]
_Algorithm: TypeAlias = Literal["auto", "gemm", "winograd", "direct", "depthwise"]
_Pass: TypeAlias = Literal["forward", "backward_input", "backward_weight"]

KERNELS: tuple[str, ...]
ALGORITHMS: tuple[str, ...]
DEFAULT_ALGORITHM: str  # FASTCONV_ALGORITHM, or "auto"

# ---- threads and instruction sets ----------------------------------------------------------------

def available_isas() -> tuple[str, ...]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def set_num_threads(threads: SupportsIndex) -> None: ...
def get_num_threads() -> int: ...

# ---- measuring -----------------------------------------------------------------------------------

def multiply_add_peak(
    turns: SupportsIndex = 100_000, dtype: DTypeLike = "float32"
) -> tuple[float, int]: ...

# ---- recording and replaying calls (fastconv.compiler) -------------------------------------------

_Array: TypeAlias = NDArray[Any]
FIELDS: dict[str, tuple[tuple[str, str, int, int], ...]]

class Recording:
    calls: list[tuple[str, int, NDArray[np.int64], list[tuple[str, str, _Array]]]]
    new: dict[int, _Array]
    constants: dict[int, _Array]
    refusal: str | None
    putting_off: bool
    def __enter__(self) -> Recording: ...
    def __exit__(self, exception: type[BaseException] | None, *rest: object) -> None: ...
    def put_off(self, known: frozenset[int]) -> None: ...
    def finish(self) -> None: ...
    def is_alive(self, root: _Array) -> bool: ...
    def made_by_numpy(self, array: _Array) -> bool: ...
    def refuse(self, cause: str) -> None: ...

ABSENT: object

def form_of(x: _Array) -> _Array: ...
def dictionary_of_class(cls: type) -> dict[str, Any]: ...

class Watch:
    names: list[str]
    def __len__(self) -> int: ...
    def entry(self, container: dict[Any, Any], key: Any, name: str) -> None: ...
    def dictionary(
        self, container: dict[Any, Any], name: str, skipped: tuple[str, ...] = ()
    ) -> None: ...
    def item(self, container: list[Any], index: int, value: Any, name: str) -> None: ...
    def items(self, container: list[Any], name: str) -> None: ...
    def members(self, container: set[Any], name: str) -> None: ...
    def instance(self, owner: Any, name: str) -> None: ...
    def slot(self, owner: Any, member: Any, value: Any, name: str) -> None: ...
    def cell(self, cell: Any, name: str) -> None: ...
    def function(self, function: Any, name: str) -> None: ...
    def present(self, owner: Any, member: Any, name: str) -> None: ...
    def memory(self, owner: Any, member: Any, array: _Array, name: str) -> None: ...
    def may_be_late(self, owner: Any, late: Late) -> None: ...
    def changed(self) -> str | None: ...

class Plain:
    def __init__(
        self,
        cls: type,
        slot: str,
        given: dict[str, Any],
        fresh: dict[str, list[Any]] = ...,
    ) -> None: ...
    def read(self, objects: tuple[Any, ...]) -> list[Any] | None: ...
    def make(self, value: Any) -> Any: ...

class Replay:
    def __init__(
        self,
        calls: list[tuple[str, int, NDArray[np.int64]]],
        relocations: list[tuple[int, int, int, int]],
        inputs: list[_Array],
        outputs: list[tuple[tuple[int, ...], np.dtype[Any]]],
        keep: list[Any],
        written: list[_Array],
        versions: list[list[int]],
        labels: list[tuple[int, int, int, int, int]],
        chains: list[tuple[int, int, int, int, int, float, list[tuple[str, int, int, int]]]],
        late: int,
    ) -> None: ...
    def accepts(self, arrays: list[_Array]) -> bool: ...
    def set_number(self, call: int, word: int, value: float) -> None: ...
    def run(
        self,
        arrays: list[_Array],
        outputs: list[_Array] | None,
        late: list[tuple[Any, Late]],
    ) -> list[_Array]: ...
    def nanoseconds(self) -> list[float]: ...

class Late:
    def __init__(self, replay: Replay, number: int, tensor: Any) -> None: ...
    def look(self, tensor: Any) -> _Array: ...

class QuickPlan:
    constants: Any
    mode: Any
    grad_enabled: bool
    build: Callable[[list[Any], tuple[Any, ...]], Any]
    reached: frozenset[int]
    watch: Watch
    numbers: Watch | None
    replay: Replay
    plain: Plain
    weights: list[Any]
    late: list[tuple[Any, Late]]
    makers: list[tuple[int, Any, Any, int, bool]]
    gradients: list[tuple[Any, int]]
    written_inputs: list[int]
    replayed: list[bool]
    def fits(self, arrays: list[_Array], leaves: tuple[Any, ...]) -> bool: ...
    def run(self, arrays: list[_Array], leaves: tuple[Any, ...]) -> Any: ...

class QuickCompiled:
    _plans: list[Any]
    _last: Any
    def __init__(self, plain: Plain, usual: Watch | None) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def _find(self, arrays: list[_Array], leaves: tuple[Any, ...], constants: Any) -> Any: ...

def empty_array(
    shape: tuple[int, ...], dtype: DTypeLike, *, for_kernels: bool = True
) -> _Array: ...
def new_copy(x: _Array, dtype: DTypeLike | None = None) -> _Array: ...
def settle() -> None: ...
def not_recorded(what: str) -> None: ...
def is_recording() -> bool: ...
def prepare_recorded(
    words: NDArray[np.int64], double: bool, prepared: _Array | None = None
) -> tuple[_Array, int] | None: ...
def recorded_algorithm(kernel: str, words: NDArray[np.int64], double: bool) -> tuple[str, int]: ...
def takes_pooled(kernel: str, words: NDArray[np.int64], double: bool) -> bool: ...
def same_value(a: object, b: object) -> bool: ...

# ---- products ------------------------------------------------------------------------------------

def gemm(
    a: NDArray[_Real],
    b: NDArray[_Real],
    c: NDArray[_Real] | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def matmul(
    a: NDArray[_Real], b: NDArray[_Real], *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def linear_forward(
    x: NDArray[_Real],
    w: NDArray[_Real],
    b: NDArray[_Real] | None = None,
    *,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def linear_backward_input(
    dy: NDArray[_Real], w: NDArray[_Real], *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
@overload
def linear_backward_weight(
    dy: NDArray[_Real], x: NDArray[_Real], *, bias: Literal[True] = True
) -> tuple[NDArray[_Real], NDArray[_Real]]: ...
@overload
def linear_backward_weight(
    dy: NDArray[_Real], x: NDArray[_Real], *, bias: bool = True
) -> tuple[NDArray[_Real], NDArray[_Real] | None]: ...

# ---- convolution ---------------------------------------------------------------------------------

class Plan(NamedTuple):
    algorithm: str
    reason: str
    workspace: int
    cycles: dict[str, float]

class PreparedWeights(Generic[_Real]):
    @property
    def algorithm(self) -> str: ...
    @property
    def input_size(self) -> tuple[int, int, int, int]: ...
    @property
    def weight_size(self) -> tuple[int, int, int, int]: ...
    @property
    def dtype(self) -> np.dtype[_Real]: ...
    @property
    def nbytes(self) -> int: ...

def conv2d_plan(
    input_size: _InputSize,
    weight_size: _InputSize,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    groups: SupportsIndex = 1,
    *,
    which: _Pass = "forward",
    dtype: DTypeLike = "float32",
    algorithm: _Algorithm = "auto",
) -> Plan: ...
def conv2d_prepare(
    w: NDArray[_Real],
    input_size: _InputSize,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    groups: SupportsIndex = 1,
    *,
    algorithm: _Algorithm = "auto",
) -> PreparedWeights[_Real]: ...
def conv2d_forward(
    x: NDArray[_Real],
    w: NDArray[_Real] | PreparedWeights[_Real],
    b: NDArray[_Real] | None = None,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    groups: SupportsIndex = 1,
    *,
    out: NDArray[_Real] | None = None,
    algorithm: _Algorithm = "auto",
    relu_pool: bool = False,
) -> NDArray[_Real]: ...
def conv2d_backward_input(
    dy: NDArray[_Real],
    w: NDArray[_Real],
    input_size: _InputSize,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    groups: SupportsIndex = 1,
    *,
    out: NDArray[_Real] | None = None,
    algorithm: _Algorithm = "auto",
    indices: NDArray[np.integer] | None = None,
    y: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
@overload
def conv2d_backward_weight(
    dy: NDArray[_Real],
    x: NDArray[_Real],
    kernel_size: _Pair,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    groups: SupportsIndex = 1,
    *,
    bias: Literal[True] = True,
    algorithm: _Algorithm = "auto",
    indices: NDArray[np.integer] | None = None,
    y: NDArray[_Real] | None = None,
) -> tuple[NDArray[_Real], NDArray[_Real]]: ...
@overload
def conv2d_backward_weight(
    dy: NDArray[_Real],
    x: NDArray[_Real],
    kernel_size: _Pair,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    groups: SupportsIndex = 1,
    *,
    bias: bool = True,
    algorithm: _Algorithm = "auto",
    indices: NDArray[np.integer] | None = None,
    y: NDArray[_Real] | None = None,
) -> tuple[NDArray[_Real], NDArray[_Real] | None]: ...
def im2col(
    x: NDArray[_Real],
    kernel_size: _Pair,
    *,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def col2im(
    cols: NDArray[_Real],
    output_size: _InputSize,
    kernel_size: _Pair,
    *,
    stride: _Pair = 1,
    padding: _Padding = 0,
    dilation: _Pair = 1,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...

# ---- pooling -------------------------------------------------------------------------------------

def max_pool2d_forward(
    x: NDArray[_Real],
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    ceil_mode: bool = False,
    *,
    relu: bool = False,
    out: NDArray[_Real] | None = None,
) -> tuple[NDArray[_Real], NDArray[np.int32]]: ...
def max_pool2d_backward(
    dy: NDArray[_Real],
    indices: _Integers,
    input_size: _InputSize,
    kernel_size: _Pair | None = None,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    *,
    y: NDArray[_Real] | None = None,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def avg_pool2d_forward(
    x: NDArray[_Real],
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: SupportsIndex | None = None,
    *,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def avg_pool2d_backward(
    dy: NDArray[_Real],
    input_size: _InputSize,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: SupportsIndex | None = None,
    *,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def adaptive_avg_pool2d_forward(
    x: NDArray[_Real],
    output_size: _Sizes,
    *,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def adaptive_avg_pool2d_backward(
    dy: NDArray[_Real],
    input_size: _InputSize,
    *,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...

# ---- batch normalisation -------------------------------------------------------------------------

def batch_norm_forward(
    x: NDArray[_Real],
    w: NDArray[_Real] | None = None,
    b: NDArray[_Real] | None = None,
    running_mean: NDArray[_Real] | None = None,
    running_var: NDArray[_Real] | None = None,
    num_batches_tracked: NDArray[np.int64] | None = None,
    *,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    residual: NDArray[_Real] | None = None,
    relu: bool = False,
    out: NDArray[_Real] | None = None,
) -> tuple[NDArray[_Real], NDArray[np.float64], NDArray[np.float64]]: ...
def batch_norm_again(
    x: NDArray[_Real],
    w: NDArray[_Real] | None,
    b: NDArray[_Real] | None,
    mean: NDArray[np.float64],
    invstd: NDArray[np.float64],
    *,
    residual: NDArray[_Real] | None = None,
    relu: bool = False,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
def batch_norm_backward(
    dy: NDArray[_Real],
    x: NDArray[_Real],
    w: NDArray[_Real] | None,
    mean: NDArray[np.float64],
    invstd: NDArray[np.float64],
    *,
    training: bool = True,
    y: NDArray[_Real] | None = None,
    b: NDArray[_Real] | None = None,
    relu: bool = False,
    out: NDArray[_Real] | None = None,
) -> tuple[NDArray[_Real], NDArray[_Real], NDArray[_Real]]: ...

# ---- pointwise -----------------------------------------------------------------------------------

def copy(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def neg(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def abs(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def exp(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def log(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def sqrt(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def tanh(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def sigmoid(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def relu(x: NDArray[_Real], *, out: NDArray[_Real] | None = None) -> NDArray[_Real]: ...
def relu_backward(
    dy: NDArray[_Real], y: NDArray[_Real], *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def bias_add(
    x: NDArray[_Real], b: NDArray[_Real], *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def add(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def sub(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def mul(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def div(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def pow(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def maximum(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def minimum(
    a: NDArray[_Real] | float, b: NDArray[_Real] | float, *, out: NDArray[_Real] | None = None
) -> NDArray[_Real]: ...
def eq(a: NDArray[_Real] | float, b: NDArray[_Real] | float) -> NDArray[np.bool_]: ...
def ne(a: NDArray[_Real] | float, b: NDArray[_Real] | float) -> NDArray[np.bool_]: ...
def lt(a: NDArray[_Real] | float, b: NDArray[_Real] | float) -> NDArray[np.bool_]: ...
def le(a: NDArray[_Real] | float, b: NDArray[_Real] | float) -> NDArray[np.bool_]: ...
def gt(a: NDArray[_Real] | float, b: NDArray[_Real] | float) -> NDArray[np.bool_]: ...
def ge(a: NDArray[_Real] | float, b: NDArray[_Real] | float) -> NDArray[np.bool_]: ...
def where(
    condition: NDArray[np.bool_], a: NDArray[_Real] | float, b: NDArray[_Real] | float
) -> NDArray[_Real]: ...
def zero(arrays: list[NDArray[_Real]]) -> None: ...
def assign(y: NDArray[_Real], x: NDArray[_Real] | float) -> None: ...
def fill(y: NDArray[_Real], value: float) -> None: ...
def cast(x: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]: ...
def integer(function: str, *args: Any, **kwargs: Any) -> Any: ...
def index_add(y: NDArray[Any], index: Any, x: NDArray[Any]) -> None: ...

# ---- reductions ----------------------------------------------------------------------------------

def sum(x: NDArray[_Real], axis: _Axes = None, keepdims: bool = False) -> NDArray[_Real]: ...
def mean(x: NDArray[_Real], axis: _Axes = None, keepdims: bool = False) -> NDArray[_Real]: ...
def max(
    x: NDArray[_Real], axis: SupportsIndex | None = None, keepdims: bool = False
) -> tuple[NDArray[_Real], NDArray[np.int64]]: ...
def min(
    x: NDArray[_Real], axis: SupportsIndex | None = None, keepdims: bool = False
) -> tuple[NDArray[_Real], NDArray[np.int64]]: ...
def argmax(
    x: NDArray[_Real], axis: SupportsIndex | None = None, keepdims: bool = False
) -> NDArray[np.int64]: ...
def argmin(
    x: NDArray[_Real], axis: SupportsIndex | None = None, keepdims: bool = False
) -> NDArray[np.int64]: ...
def softmax(x: NDArray[_Real], axis: SupportsIndex) -> NDArray[_Real]: ...
def softmax_backward(
    dy: NDArray[_Real], y: NDArray[_Real], axis: SupportsIndex
) -> NDArray[_Real]: ...
def log_softmax(x: NDArray[_Real], axis: SupportsIndex) -> NDArray[_Real]: ...
def log_softmax_backward(
    dy: NDArray[_Real], y: NDArray[_Real], axis: SupportsIndex
) -> NDArray[_Real]: ...

# ---- losses --------------------------------------------------------------------------------------

def mse_loss_forward(
    x: NDArray[_Real], target: NDArray[_Real], reduction: _Reduction = "mean"
) -> NDArray[_Real]: ...
def mse_loss_backward(
    dy: NDArray[_Real], x: NDArray[_Real], target: NDArray[_Real], reduction: _Reduction = "mean"
) -> NDArray[_Real]: ...
def nll_loss_forward(
    log_p: NDArray[_Real],
    target: _Integers,
    weight: NDArray[_Real] | None = None,
    ignore_index: SupportsIndex = -100,
    reduction: _Reduction = "mean",
) -> NDArray[_Real]: ...
def nll_loss_backward(
    dy: NDArray[_Real],
    log_p: NDArray[_Real],
    target: _Integers,
    weight: NDArray[_Real] | None = None,
    ignore_index: SupportsIndex = -100,
    reduction: _Reduction = "mean",
) -> NDArray[_Real]: ...

# ---- optimizer steps, in place -------------------------------------------------------------------

def sgd_step(
    param: NDArray[_Real],
    grad: NDArray[_Real] | tuple[NDArray[_Real], NDArray[_Real]],
    momentum_buffer: NDArray[_Real] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    first: bool = False,
    dx: NDArray[_Real] | None = None,
) -> None: ...
def sgd_steps(
    params: list[NDArray[_Real]],
    grads: list[NDArray[_Real] | tuple[NDArray[_Real], NDArray[_Real]]],
    momentum_buffers: list[NDArray[_Real]] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None: ...
def adam_step(
    param: NDArray[_Real],
    grad: NDArray[_Real],
    exp_avg: NDArray[_Real],
    exp_avg_sq: NDArray[_Real],
    step: NDArray[np.int64],
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None: ...

# ---- random numbers from a generator's words -----------------------------------------------------

def random_uniform(
    words: NDArray[np.uint32], low: float, high: float, dtype: DTypeLike
) -> NDArray[Any]: ...
def random_normal(
    u: NDArray[_Real], n: SupportsIndex, mean: float, std: float
) -> NDArray[_Real]: ...
def random_normal_pair(u1: float, u2: float, mean: float, std: float) -> tuple[float, float]: ...
def random_permutation(words: NDArray[np.uint32], n: SupportsIndex) -> NDArray[np.int64]: ...
def random_integers(words: NDArray[np.uint32], low: int, high: int) -> NDArray[np.int64]: ...

# ---- dropout -------------------------------------------------------------------------------------

def dropout(
    x: NDArray[_Real],
    state: NDArray[np.uint64],
    p: float,
    *,
    channels: bool = False,
    out: NDArray[_Real] | None = None,
) -> tuple[NDArray[_Real], NDArray[np.uint64]]: ...
def dropout_backward(
    dy: NDArray[_Real],
    key: NDArray[np.uint64],
    p: float,
    *,
    channels: bool = False,
    out: NDArray[_Real] | None = None,
) -> NDArray[_Real]: ...
