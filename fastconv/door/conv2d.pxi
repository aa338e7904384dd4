# Convolutions and the explicit im2col. Templates: src/kernels/conv2d.inc (and the algorithms it names), im2col.inc.

cdef struct geometry:
    int64_t N, C, H, W, R, S, P, Q
    int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w
    int64_t pad_h_end, pad_w_end


cdef int as_padding(object padding, geometry *g) except -1:
    """int | (ph, pw) | ((top, bottom), (left, right)) | "same" | "valid"."""
    cdef int64_t total_h, total_w
    if isinstance(padding, str):
        if padding == "valid":
            g.pad_h = g.pad_h_end = g.pad_w = g.pad_w_end = 0
        elif padding == "same":
            if g.stride_h != 1 or g.stride_w != 1:
                raise ValueError(f"padding='same' wants stride 1, got {(g.stride_h, g.stride_w)}")
            total_h, total_w = g.dilation_h * (g.R - 1), g.dilation_w * (g.S - 1)
            g.pad_h, g.pad_w = total_h // 2, total_w // 2
            g.pad_h_end, g.pad_w_end = total_h - g.pad_h, total_w - g.pad_w
        else:
            raise ValueError(f"padding must be ints, 'same' or 'valid', got {padding!r}")
    elif isinstance(padding, (tuple, list)) and len(padding) == 2 and isinstance(padding[0], (tuple, list)):
        as_pair(padding[0], "padding (top, bottom)", 0, &g.pad_h, &g.pad_h_end)
        as_pair(padding[1] if isinstance(padding[1], (tuple, list)) else None, "padding (left, right)", 0,
                &g.pad_w, &g.pad_w_end)
    else:
        as_pair(padding, "padding", 0, &g.pad_h, &g.pad_w)
        g.pad_h_end, g.pad_w_end = g.pad_h, g.pad_w
    return 0


cdef int64_t output_size(int64_t size, int64_t before, int64_t after, int64_t dilation, int64_t taps, int64_t stride,
                         bint ceil_mode, str axis) except -1:
    """floor((size + before + after - dilation (taps - 1) - 1) / stride) + 1;  ceil for ceil_mode, but the last window
    then starts inside the input or the padding before it."""
    cdef int64_t room = size + before + after - dilation * (taps - 1) - 1 + (stride - 1 if ceil_mode else 0)
    cdef int64_t result
    if room < 0:
        raise ValueError(f"the kernel, {dilation * (taps - 1) + 1} with its dilation, is larger than the padded input, "
                         f"{size + before + after}, along the {axis}")
    result = room // stride + 1
    if ceil_mode and (result - 1) * stride >= size + before:
        result -= 1
    return result


cdef int set_input(geometry *g, const int64_t *sizes) except -1:
    g.N, g.C, g.H, g.W = sizes[0], sizes[1], sizes[2], sizes[3]
    if g.H > LARGEST or g.W > LARGEST:
        raise ValueError(f"height and width must be at most {LARGEST}, got {g.H} and {g.W}")
    return 0


cdef int set_window(geometry *g, int64_t R, int64_t S, object stride, object padding, object dilation) except -1:
    """Everything of a convolution or im2col but its input; then P and Q."""
    g.R, g.S = R, S
    as_pair(stride, "stride", 1, &g.stride_h, &g.stride_w)
    as_pair(dilation, "dilation", 1, &g.dilation_h, &g.dilation_w)
    if R < 1 or S < 1 or R > LARGEST or S > LARGEST:
        raise ValueError(f"kernel_size must be from 1 to {LARGEST}, got {(R, S)}")
    as_padding(padding, g)
    g.P = output_size(g.H, g.pad_h, g.pad_h_end, g.dilation_h, R, g.stride_h, False, "height")
    g.Q = output_size(g.W, g.pad_w, g.pad_w_end, g.dilation_w, S, g.stride_w, False, "width")
    return 0


cdef int set_input_size(geometry *g, object input_size, int64_t N, int64_t C) except -1:
    """input_size: (N, C, H, W), of which N and C must agree, or (H, W)."""
    cdef int64_t sizes[4]
    cdef int d
    if not isinstance(input_size, (tuple, list)) or len(input_size) not in (2, 4):
        raise ValueError(f"input_size must be (H, W) or (N, C, H, W), got {input_size!r}")
    full = tuple(input_size) if len(input_size) == 4 else (N, C, *input_size)
    for d in range(4):
        sizes[d] = as_int(full[d], "input_size", 0)
    if sizes[0] != N or sizes[1] != C:
        raise ValueError(f"input_size {full} must begin with {(N, C)}")
    return set_input(g, sizes)


cdef int64_t check_groups(object groups, int64_t channels, int64_t filters, int64_t per_group) except -1:
    cdef int64_t count = as_int(groups, "groups", 1)
    if channels != per_group * count:
        raise ValueError(f"input has {channels} channels, but the weight wants {per_group} in each of {count} groups")
    if filters % count:
        raise ValueError(f"{filters} filters cannot be shared by {count} groups")
    return count


ALGORITHMS = ("auto", "gemm", "winograd", "direct", "depthwise")  # in the order of fc_algorithm
cdef dict WANTED_BY = {
    "winograd": "a 3x3 kernel with stride 1 or 2 both ways, a 5x5 one with stride 1 or a 4x4 or 7x7 one with stride 2, and "
                "dilation 1 and one group",
    "direct": "one group, not too many channels, and for the gradient of x stride 1 and dilation 1",
    "depthwise": "groups equal to both channel counts",
}
DEFAULT_ALGORITHM = os.environ.get("FASTCONV_ALGORITHM") or "auto"
if DEFAULT_ALGORITHM not in ALGORITHMS:
    raise ValueError(f"FASTCONV_ALGORITHM must be one of {', '.join(ALGORITHMS)}, got {DEFAULT_ALGORITHM!r}")


cdef struct counts:
    double cycles[FC_ALGORITHM_COUNT]
    double workspace[FC_ALGORITHM_COUNT]
    double elements[FC_ALGORITHM_COUNT]
    int64_t chosen, together, pooled, form


cdef int run_plan(conv2d_plan_args *shape, counts *found, int type_number) except -1:
    shape.cycles, shape.workspace, shape.elements = found.cycles, found.workspace, found.elements
    shape.chosen, shape.together, shape.pooled = &found.chosen, &found.together, &found.pooled
    shape.form = &found.form
    return fc_run(FC_FLOAT32 if type_number == cnp.NPY_FLOAT else FC_FLOAT64, FC_conv2d_plan, shape)


cdef extern from *:
    """
    #include <stddef.h>
    #define SHAPE_BYTES offsetof(conv2d_plan_args, which)
    """
    size_t SHAPE_BYTES


cdef int choose_form(conv2d_plan_args *shape, counts *found, int type_number) except -1:
    """The algorithm and the form for weights that are to be prepared, and how many elements those have then."""
    shape.prepared = FC_READY
    run_plan(shape, found, type_number)
    shape.algorithm, shape.prepared = found.chosen, found.form
    return run_plan(shape, found, type_number)


cdef double elements(int64_t a, int64_t b, int64_t c, int64_t d) noexcept:
    """Of an array of four axes, those of size 0 not counted: NumPy's measure of what is too big."""
    return <double>larger(a, 1) * larger(b, 1) * larger(c, 1) * larger(d, 1)


cdef int refuse_giant(const geometry *g, int64_t K, int64_t groups) except -1:
    """Sizes that no arrays have, as a plan may be asked about: the kernels multiply them."""
    if (elements(g.N, g.C, g.H, g.W) > 2.0**60 or elements(K, g.C // groups, g.R, g.S) > 2.0**60
            or elements(g.N, K, g.P, g.Q) > 2.0**60):
        raise ValueError(f"a convolution of {(g.N, g.C, g.H, g.W)} with {(K, g.C // groups, g.R, g.S)} to "
                         f"{(g.N, K, g.P, g.Q)} is too large")
    return 0


cdef int fill_shape(conv2d_plan_args *shape, const geometry *g, int64_t K, int64_t groups, fc_pass which) except -1:
    """What the arguments of all convolutions begin with, for any algorithm."""
    shape.N, shape.C, shape.H, shape.W, shape.R, shape.S, shape.P, shape.Q = g.N, g.C, g.H, g.W, g.R, g.S, g.P, g.Q
    shape.stride_h, shape.stride_w, shape.pad_h, shape.pad_w = g.stride_h, g.stride_w, g.pad_h, g.pad_w
    shape.dilation_h, shape.dilation_w, shape.K, shape.groups = g.dilation_h, g.dilation_w, K, groups
    shape.algorithm, shape.prepared, shape.which = FC_AUTO, FC_GIVEN, which
    return refuse_giant(g, K, groups)


cdef int set_convolution(conv2d_plan_args *shape, const geometry *g, int64_t K, int64_t groups, fc_pass which,
                         object algorithm, int type_number) except -1:
    """fill_shape, with an algorithm. One that cannot compute this convolution raises ValueError; FASTCONV_ALGORITHM
    replaces "auto" where it can."""
    fill_shape(shape, g, K, groups, which)
    name = DEFAULT_ALGORITHM if algorithm == "auto" else algorithm
    if name == "auto":
        return 0
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    cdef int64_t wanted = ALGORITHMS.index(name)
    cdef counts found
    run_plan(shape, &found, type_number)
    if found.cycles[wanted] < INFINITY:
        shape.algorithm = wanted
    elif algorithm != "auto":
        raise ValueError(f"algorithm={name!r} wants {WANTED_BY[name]}; \"auto\" and \"gemm\" take any convolution")
    return 0


cdef int require_direct(conv2d_plan_args *shape, int type_number) except -1:
    """For what only that algorithm can do: take it, or refuse."""
    cdef counts found
    run_plan(shape, &found, type_number)
    if ALGORITHMS[found.chosen] != "direct":
        raise ValueError(f"relu_pool wants algorithm 'direct', but this convolution takes {ALGORITHMS[found.chosen]!r}")
    shape.algorithm = found.chosen
    return 0


cdef class PreparedWeights:
    """Weights of one convolution in the form in which its kernel reads them: see conv2d_prepare."""

    cdef conv2d_plan_args shape
    cdef cnp.ndarray data
    cdef const char *isa
    cdef readonly str algorithm
    cdef readonly tuple input_size, weight_size

    def __init__(self):
        raise TypeError("prepared weights are made by conv2d_prepare(w, input_size, ...)")

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def nbytes(self):
        return self.data.nbytes

    def __repr__(self):
        return (f"PreparedWeights({self.weight_size}, input_size={self.input_size}, dtype={self.dtype}, "
                f"algorithm={self.algorithm!r}, nbytes={self.nbytes})")

    def __reduce__(self):
        raise TypeError("prepared weights cannot be copied or pickled: keep w, and prepare it again")

    cdef int apply(self, conv2d_plan_args *shape, object algorithm) except -1:
        """Give the shape of a call, of any batch size, what was prepared; refuse another geometry or instruction set."""
        if fc_current_isa() != self.isa:
            raise ValueError(f"w was prepared for another instruction set than {isa()}, which is in use: prepare it again")
        if algorithm != "auto" and algorithm != self.algorithm:
            raise ValueError(f"algorithm={algorithm!r}, but w was prepared for {self.algorithm!r}")
        shape.algorithm, shape.prepared = self.shape.algorithm, self.shape.prepared
        # N is the first field: all others must agree
        if memcmp(<char *>shape + sizeof(int64_t), <char *>&self.shape + sizeof(int64_t), SHAPE_BYTES - sizeof(int64_t)):
            raise ValueError(f"w was prepared for another convolution: input_size (N, C, H, W) = {self.input_size}, "
                             f"stride {(self.shape.stride_h, self.shape.stride_w)}, padding "
                             f"{(self.shape.pad_h, self.shape.pad_w)}, dilation "
                             f"{(self.shape.dilation_h, self.shape.dilation_w)}, {self.shape.groups} groups; N may differ, "
                             f"but this x is {(shape.N, shape.C, shape.H, shape.W)}, with stride "
                             f"{(shape.stride_h, shape.stride_w)}, padding {(shape.pad_h, shape.pad_w)}, dilation "
                             f"{(shape.dilation_h, shape.dilation_w)}, {shape.groups} groups")
        return 0


def conv2d_prepare(w, input_size, stride=1, padding=0, dilation=1, groups=1, *, algorithm="auto"):
    """Weights made ready once for many calls: conv2d_forward takes the result in place of w.

    w: (K, C/groups, R, S); input_size: (N, C, H, W) of the x to come, of which only N may be different then; the other
    arguments as in conv2d_forward. Winograd's transform of the weights (36/9 of their size; where to read it from memory would
    take longer than to make it, only its first half, which is no larger than they are), the packing for gemm and, where they
    are the lanes of a direct convolution, the turning of filters are then not done at each call. The result is a copy: later
    changes of w do not reach it. It is for the instruction set in use (isa()); after set_isa() conv2d_forward refuses it.
    """
    cdef cnp.ndarray weight = contiguous(floats(w, "w", 4)), data
    cdef geometry g
    cdef counts found
    cdef conv2d_prepare_args args
    cdef PreparedWeights result = PreparedWeights.__new__(PreparedWeights)
    cdef int64_t K = weight.shape[0], count = as_int(groups, "groups", 1), elements
    result.isa = fc_current_isa()
    if not isinstance(input_size, (tuple, list)) or len(input_size) != 4:
        raise ValueError(f"input_size must be (N, C, H, W), got {input_size!r}")
    set_input_size(&g, input_size, as_int(input_size[0], "input_size", 0), weight.shape[1] * count)
    set_window(&g, weight.shape[2], weight.shape[3], stride, padding, dilation)
    check_groups(groups, g.C, K, weight.shape[1])
    set_convolution(&result.shape, &g, K, count, FC_FORWARD, algorithm, type_of(weight))
    choose_form(&result.shape, &found, type_of(weight))
    result.algorithm, result.weight_size = ALGORITHMS[found.chosen], shape_of(weight)
    result.input_size = (g.N, g.C, g.H, g.W)
    elements = <int64_t>found.elements[found.chosen]
    result.data = aligned_empty(elements, type_of(weight))
    memcpy(&args, &result.shape, SHAPE_BYTES)
    args.w, args.prepared_w = weight.data, result.data.data
    run(type_of(weight), FC_conv2d_prepare, &args)
    return result


cdef int plan_recorded(str kernel, cnp.ndarray words, bint double, counts *found) except -1:
    cdef conv2d_plan_args shape
    memcpy(&shape, words.data, SHAPE_BYTES)
    shape.which = {"conv2d_forward": FC_FORWARD, "conv2d_backward_input": FC_BACKWARD_INPUT,
                   "conv2d_backward_weight": FC_BACKWARD_WEIGHT}[kernel]
    return run_plan(&shape, found, cnp.NPY_DOUBLE if double else cnp.NPY_FLOAT)


def recorded_algorithm(str kernel not None, cnp.ndarray words not None, bint double):
    """The algorithm that a recorded convolution takes, whose arguments `words` are; calls of it for any multiples of how many
    images, and one for the rest, have the same bits (0: they may have others)."""
    cdef counts found
    plan_recorded(kernel, words, double, &found)
    return ALGORITHMS[found.chosen], found.together


def takes_pooled(str kernel not None, cnp.ndarray words not None, bint double):
    """Whether a recorded gradient is best given that of a max-pool of its result, with the indices."""
    cdef counts found
    plan_recorded(kernel, words, double, &found)
    return bool(found.pooled)


def prepare_recorded(cnp.ndarray words not None, bint double, cnp.ndarray prepared=None):
    """Weights made ready for a recorded conv2d_forward, whose arguments `words` are, into a new array or a former result.

    Returns (array, algorithm, form), what its fields `w`, `algorithm` and `prepared` may be, or None where it would read its
    weights as they are. The algorithm is the one that it would take, so that the bits are the same.
    """
    cdef conv2d_forward_args call
    cdef conv2d_plan_args shape
    cdef conv2d_prepare_args args
    cdef counts found
    cdef int type_number = cnp.NPY_DOUBLE if double else cnp.NPY_FLOAT
    memcpy(&call, words.data, sizeof(conv2d_forward_args))
    memcpy(&shape, &call, SHAPE_BYTES)
    shape.which = FC_FORWARD
    run_plan(&shape, &found, type_number)
    if ALGORITHMS[found.chosen] not in ("gemm", "winograd"):
        return None
    shape.algorithm = found.chosen
    choose_form(&shape, &found, type_number)
    if prepared is None:
        prepared = aligned_empty(<int64_t>found.elements[found.chosen], type_number)
    memcpy(&args, &shape, SHAPE_BYTES)
    args.w, args.prepared_w = call.w, prepared.data
    run(type_number, FC_conv2d_prepare, &args)
    return prepared, found.chosen, shape.prepared


cdef cnp.ndarray aligned_empty(int64_t elements, int type_number):
    """An array that begins a cache line."""
    cdef int64_t size = elements + 64
    cdef cnp.ndarray array = empty(1, &size, type_number)
    cdef int64_t skip = <int64_t>(-<size_t>array.data % 64) // cnp.PyArray_ITEMSIZE(array)
    return array[skip:skip + elements]


def conv2d_forward(x, w, b=None, stride=1, padding=0, dilation=1, groups=1, *, out=None, algorithm="auto",
                   relu_pool=False):
    """Convolution (cross-correlation, as in PyTorch):

        y[n,k,p,q] = b[k] + sum_{c,r,s} x[n, c, p*stride - padding + r*dilation, q*... + s*...] w[k,c,r,s]

    x: (N, C, H, W), zero outside; w: (K, C/groups, R, S), or what conv2d_prepare made of it; b: (K) or None; returns (N, K, P, Q) with
    P = floor((H + padding before and after - dilation (R - 1) - 1) / stride) + 1. Group g's filters see group g's channels.
    stride, dilation: int or (vertical, horizontal). padding: int, (ph, pw), ((top, bottom), (left, right)), "valid" (0) or
    "same" (P = H, stride 1 only; an odd rest goes to the end). float32 or float64. Raises TypeError for dtypes,
    ValueError for shapes and values.

    algorithm: "auto" takes what conv2d_plan counts the fewest cycles for; "gemm", "direct" (without packing) and "depthwise"
    compute the sum above, "winograd" (3x3 of stride 1 or 2, 5x5 of stride 1, 4x4 and 7x7 of stride 2) another, of larger error.
    With n = C/groups R S + 1 terms

        gemm, direct, depthwise:  |error| <= n eps (|b| + sum |x| |w|)
        winograd:                 |error| <= 79 (C + 29) eps sum_c max |x[patch,c]| sum_{r,s} |w[k,c,r,s]| + eps |b|

    where patch is the 6x6 pixels (3x3 of stride 2: 9x9) from which a tile of 4x4 outputs is made: a huge x perturbs all outputs
    of its tiles. For 3x3 of stride 2, 2 C stands for C. For 4x4 and 5x5, the tiles are of 2x2 outputs. For 7x7, 14 C stands for C, they
    are of 1x4, and the patch is of 7x13 pixels.
    Typical errors are far smaller, Winograd's 2 to 5 times gemm's: docs/accuracy.md. What is not finite is computed by
    gemm. algorithm="gemm", or FASTCONV_ALGORITHM=gemm in the environment, turns Winograd off; float64 takes it only when asked to.
    Sources: implicit im2col, Chetlur et al., arXiv 1410.0759; Winograd's F(4x4, 3x3), Lavin & Gray, arXiv 1509.09308.

    relu_pool: returns max_pool2d_forward(y, 2, relu=True), to the bit, but for which NaN where some of several kinds meet in
    a sum. Only "direct" can, else ValueError.
    """
    cdef cnp.ndarray input = floats(x, "x", 4), weight, bias = None, y, indices = None
    cdef PreparedWeights prepared = w if isinstance(w, PreparedWeights) else None
    cdef geometry g
    cdef int64_t size[4]
    if prepared is None:
        weight = contiguous(floats(w, "w", 4, type_of(input)))
    else:
        if prepared.data is None:
            raise TypeError("PreparedWeights are made by conv2d_prepare, these are empty")
        weight = prepared.data
        if open_recording is not None:
            open_recording.see(weight)
        if type_of(weight) != type_of(input):
            raise TypeError(f"x is {input.dtype}, but w was prepared as {weight.dtype}")
    cdef int64_t K, per_group, R, S
    if prepared is None:
        K, per_group, R, S = weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3]
    else:
        K, per_group, R, S = prepared.weight_size
    set_input(&g, <int64_t *>input.shape)
    set_window(&g, R, S, stride, padding, dilation)
    cdef int64_t count = check_groups(groups, g.C, K, per_group)
    cdef bint pooled = relu_pool
    size[0], size[1], size[2], size[3] = g.N, K, g.P // 2 if pooled else g.P, g.Q // 2 if pooled else g.Q
    if b is not None:
        bias = contiguous(floats(b, "b", 1, type_of(input)))
        require_shape(bias, "b", 1, &K)
    y = output(out, 4, size, type_of(input))
    if out is not None:
        refuse_overlap(y, input, "x")
        refuse_overlap(y, weight, "w")
        refuse_overlap(y, bias, "b")
    if pooled:
        if g.P * g.Q > LARGEST:
            raise ValueError(f"planes must have at most {LARGEST} pixels, got {g.P} x {g.Q}")
        indices = empty(4, size, cnp.NPY_INT32)
    cdef conv2d_forward_args args
    cdef conv2d_plan_args shape
    if prepared is None:
        set_convolution(&shape, &g, K, count, FC_FORWARD, algorithm, type_of(input))
    else:
        fill_shape(&shape, &g, K, count, FC_FORWARD)
        prepared.apply(&shape, algorithm)
    if pooled:
        require_direct(&shape, type_of(input))
    memcpy(&args, &shape, SHAPE_BYTES)
    args.relu_pool = pooled
    element_strides(input, args.x_strides)
    args.x, args.w, args.b, args.y, args.indices = input.data, weight.data, NULL, y.data, NULL
    if bias is not None:
        args.b = bias.data
    if pooled:
        args.indices = indices.data
    run(type_of(y), FC_conv2d_forward, &args)
    return (y, indices) if pooled else y


cdef class GradientOfResult:
    """dy of the backward passes: that of the convolution's result, or of its max-pool of 2x2."""

    cdef cnp.ndarray dy, indices, y
    cdef geometry plane  # what was pooled, as the pool's input

    cdef int set(self, cnp.ndarray dy, const geometry *g, int64_t K, object indices, object y) except -1:
        cdef int64_t size[4]
        size[0], size[1], size[2], size[3] = g.N, K, g.P, g.Q
        self.dy = dy
        if indices is None and y is not None:
            raise ValueError("y is the result of a max-pool, and comes with its indices")
        if indices is not None:
            if g.P * g.Q > LARGEST:
                raise ValueError(f"planes must have at most {LARGEST} pixels, got {g.P} x {g.Q}")
            size[2], size[3] = g.P // 2, g.Q // 2
            self.dy = contiguous(dy)
            self.plane.H, self.plane.W = g.P, g.Q
            self.indices = as_indices(indices, size, &self.plane)
            if y is not None:
                self.y = contiguous(floats(y, "y", 4, type_of(dy)))
                require_shape(self.y, "y", 4, size)
        require_shape(self.dy, "dy", 4, size)
        return 0

    cdef const void *indices_data(self):
        return NULL if self.indices is None else self.indices.data

    cdef const void *y_data(self):
        return NULL if self.y is None else self.y.data

    cdef int run_kernel(self, int type_number, fc_kernel_id kernel, void *args) except -1:
        try:
            run(type_number, kernel, args)
        except IndexError:
            refuse_indices(self.indices, &self.plane)
        return 0


def conv2d_backward_input(dy, w, input_size, stride=1, padding=0, dilation=1, groups=1, *, out=None,
                          algorithm="auto", indices=None, y=None):
    """Gradient of conv2d_forward with respect to x:

        dx[n,c,h,w] = sum of dy[n,k,p,q] w[k,c,r,s] over all (k,p,q,r,s) that read x[n,c,h,w]

    dy: (N, K, P, Q), w: (K, C/groups, R, S), input_size: (N, C, H, W) or (H, W); returns (N, C, H, W). The other
    arguments as in the forward. No product with the zeros that a stride leaves is computed, but the zeros around dy are
    multiplied: an infinite w makes NaNs along the borders of dx.

    indices, y: of max_pool2d_forward(the convolution's result, 2), and of one with relu its result; dy is then the pool's,
    (N, K, P//2, Q//2), and counts as max_pool2d_backward(dy, indices, (P, Q), 2, y=y), to the bit. Of 3x3 kernels, stride 1 and
    few channels, a gradient that has one pixel at most in each window is multiplied by those pixels alone, however it is given.

    algorithm and error bounds as in conv2d_forward, with K in the place of C and dy in that of x: with n = K/groups R S terms

        gemm, direct, depthwise:  |error| <= n eps sum |dy| |w|
        winograd:                 |error| <= 79 (K + 29) eps sum_k max |dy[patch,k]| sum_{r,s} |w[k,c,r,s]|

    For 7x7, 4 K stands for K, the tiles are 1x8 pixels of dx, and the patch is 4x7 pixels of dy.
    """
    cdef cnp.ndarray grad = floats(dy, "dy", 4), weight = contiguous(floats(w, "w", 4, type_of(grad))), dx
    cdef geometry g
    cdef int64_t size[4]
    cdef int64_t K = weight.shape[0], count = as_int(groups, "groups", 1)
    set_input_size(&g, input_size, grad.shape[0], weight.shape[1] * count)
    set_window(&g, weight.shape[2], weight.shape[3], stride, padding, dilation)
    check_groups(groups, g.C, K, weight.shape[1])
    cdef GradientOfResult gradient = GradientOfResult.__new__(GradientOfResult)
    gradient.set(grad, &g, K, indices, y)
    size[0], size[1], size[2], size[3] = g.N, g.C, g.H, g.W
    dx = output(out, 4, size, type_of(grad))
    if out is not None:
        refuse_overlap(dx, grad, "dy")
        refuse_overlap(dx, weight, "w")
        refuse_overlap(dx, gradient.indices, "indices")
        refuse_overlap(dx, gradient.y, "y")
    cdef conv2d_backward_input_args args
    cdef conv2d_plan_args shape
    set_convolution(&shape, &g, K, count, FC_BACKWARD_INPUT, algorithm, type_of(grad))
    memcpy(&args, &shape, SHAPE_BYTES)
    element_strides(gradient.dy, args.dy_strides)
    args.dy, args.w, args.dx = gradient.dy.data, weight.data, dx.data
    args.indices, args.y = gradient.indices_data(), gradient.y_data()
    gradient.run_kernel(type_of(dx), FC_conv2d_backward_input, &args)
    return dx


def conv2d_backward_weight(dy, x, kernel_size, stride=1, padding=0, dilation=1, groups=1, *, bias=True,
                           algorithm="auto", indices=None, y=None):
    """Gradients of conv2d_forward with respect to w and b:

        dw[k,c,r,s] = sum_{n,p,q} dy[n,k,p,q] x[n, c, p*stride - padding + r*dilation, ...],   db[k] = sum_{n,p,q} dy[n,k,p,q]

    dy: (N, K, P, Q), x: (N, C, H, W), kernel_size: int or (R, S). Returns (dw, db): (K, C/groups, R, S) and (K), or
    (dw, None) without bias. The sum over a batch is cut into pieces whose number depends on the shapes alone.

    indices, y, and gradients of a pool: as in conv2d_backward_input.

    algorithm as in conv2d_forward. With n = N P Q terms, and t the T = N ceil(P/4) ceil(Q/4) tiles of 4x4 pixels of dy
    (3x3 of stride 2: 16 T in the place of T; 4x4 and 5x5: T = N ceil(P/2) ceil(Q/2) tiles of 2x2; 7x7: T = N P ceil(Q/4) of 1x4)

        gemm, direct, depthwise:  |error of dw| <= n eps sum |dy| |x|,  and always  |error of db| <= n eps sum |dy|
        winograd:                 |error of dw| <= 79 (T + 28) eps sum_t max |x[patch t,c]| sum_{p,q in t} |dy[k,p,q]|
    """
    cdef cnp.ndarray grad = floats(dy, "dy", 4), input = floats(x, "x", 4, type_of(grad)), dw, db = None
    cdef geometry g
    cdef int64_t size[4]
    cdef int64_t R, S, K = grad.shape[1], count = as_int(groups, "groups", 1)
    as_pair(kernel_size, "kernel_size", 1, &R, &S)
    set_input(&g, <int64_t *>input.shape)
    set_window(&g, R, S, stride, padding, dilation)
    check_groups(groups, g.C, K, g.C // count)
    cdef GradientOfResult gradient = GradientOfResult.__new__(GradientOfResult)
    gradient.set(grad, &g, K, indices, y)
    size[0], size[1], size[2], size[3] = K, g.C // count, R, S
    dw = empty(4, size, type_of(grad))
    if bias:
        db = empty(1, &K, type_of(grad))
    cdef conv2d_backward_weight_args args
    cdef conv2d_plan_args shape
    set_convolution(&shape, &g, K, count, FC_BACKWARD_WEIGHT, algorithm, type_of(grad))
    memcpy(&args, &shape, SHAPE_BYTES)
    element_strides(gradient.dy, args.dy_strides)
    element_strides(input, args.x_strides)
    args.dy, args.x, args.dw, args.db = gradient.dy.data, input.data, dw.data, NULL
    args.indices, args.y = gradient.indices_data(), gradient.y_data()
    if bias:
        args.db = db.data
    gradient.run_kernel(type_of(dw), FC_conv2d_backward_weight, &args)
    return dw, db


class Plan(_NamedTuple):
    """What a convolution would do: see conv2d_plan."""

    algorithm: str
    reason: str
    workspace: int
    cycles: dict


def conv2d_plan(input_size, weight_size, stride=1, padding=0, dilation=1, groups=1, *, which="forward", dtype="float32",
                algorithm="auto"):
    """Which algorithm a convolution takes, and why; nothing is computed.

    input_size: (N, C, H, W); weight_size: (K, C/groups, R, S); which: "forward", "backward_input" or "backward_weight".
    Returns a named tuple: algorithm, its name; reason, in words; workspace, the bytes that it needs beside its
    arguments on one thread; cycles, a dict of all algorithms that can do it: the cost model's count of vector
    multiply-adds, from which "auto" takes the least. float64 takes Winograd only when asked to.
    """
    cdef geometry g
    cdef conv2d_plan_args shape
    cdef counts found
    cdef int64_t sizes[4]
    cdef int d
    passes = ("forward", "backward_input", "backward_weight")
    if which not in passes:
        raise ValueError(f"which must be one of {', '.join(passes)}, got {which!r}")
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {kind}")
    if not isinstance(weight_size, (tuple, list)) or len(weight_size) != 4:
        raise ValueError(f"weight_size must be (K, C/groups, R, S), got {weight_size!r}")
    if not isinstance(input_size, (tuple, list)) or len(input_size) != 4:
        raise ValueError(f"input_size must be (N, C, H, W), got {input_size!r}")
    for d in range(4):
        sizes[d] = as_int(weight_size[d], "weight_size", 0)
    set_input_size(&g, input_size, as_int(input_size[0], "input_size", 0), as_int(input_size[1], "input_size", 0))
    set_window(&g, sizes[2], sizes[3], stride, padding, dilation)
    cdef int64_t count = check_groups(groups, g.C, sizes[0], sizes[1])
    set_convolution(&shape, &g, sizes[0], count, <fc_pass><int>passes.index(which), algorithm, kind.num)
    run_plan(&shape, &found, kind.num)
    counted = {ALGORITHMS[d]: found.cycles[d] for d in range(1, FC_ALGORITHM_COUNT) if found.cycles[d] < INFINITY}
    name = ALGORITHMS[found.chosen]
    if shape.algorithm != FC_AUTO:
        reason = "asked for"
    elif len(counted) == 1:
        reason = "the only one that can do it"
    elif counted[name] == 0:
        reason = "there is nothing to compute"
    else:
        others = ", ".join(f"{other} {n / counted[name]:.2g}" for other, n in counted.items() if other != name)
        reason = f"the fewest cycles; as multiples of them: {others}"
        if kind == np.float64 and "winograd" in counted:
            reason += "; float64 takes winograd only when asked to"
    return Plan(name, reason, int(found.workspace[found.chosen]), counted)


def im2col(x, kernel_size, *, stride=1, padding=0, dilation=1, out=None):
    """The matrix of all patches: cols[n, (c,r,s), (p,q)] = x[n, c, p*stride - padding + r*dilation, ...], 0 outside.

    x: (N, C, H, W); returns (N, C*R*S, P*Q); PyTorch's unfold. With it y = w.reshape(K, -1) @ cols + b; the convolutions
    here never build it. Its adjoint is col2im.
    """
    cdef cnp.ndarray input = contiguous(floats(x, "x", 4)), cols
    cdef geometry g
    cdef int64_t size[3]
    cdef int64_t R, S
    as_pair(kernel_size, "kernel_size", 1, &R, &S)
    set_input(&g, <int64_t *>input.shape)
    set_window(&g, R, S, stride, padding, dilation)
    cols_shape(&g, size)
    cols = output(out, 3, size, type_of(input))
    if out is not None:
        refuse_overlap(cols, input, "x")
    cdef im2col_args args = im2col_args(
        N=g.N, C=g.C, H=g.H, W=g.W, R=g.R, S=g.S, P=g.P, Q=g.Q, stride_h=g.stride_h, stride_w=g.stride_w,
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=g.dilation_h, dilation_w=g.dilation_w, x=input.data, cols=cols.data)
    run(type_of(cols), FC_im2col, &args)
    return cols


def col2im(cols, output_size, kernel_size, *, stride=1, padding=0, dilation=1, out=None):
    """The adjoint of im2col: each x[n,c,h,w] is the sum of the cols that im2col would have read from there.

    cols: (N, C*R*S, P*Q); output_size: (H, W); returns (N, C, H, W); PyTorch's fold.
    """
    cdef cnp.ndarray input = contiguous(floats(cols, "cols", 3)), x
    cdef geometry g
    cdef int64_t size[4]
    cdef int64_t R, S
    as_pair(kernel_size, "kernel_size", 1, &R, &S)
    if input.shape[1] % (R * S):
        raise ValueError(f"the second axis of cols, {input.shape[1]}, must be a multiple of {R}*{S}")
    set_input_size(&g, output_size, input.shape[0], input.shape[1] // (R * S))
    set_window(&g, R, S, stride, padding, dilation)
    cols_shape(&g, size)
    require_shape(input, "cols", 3, size)
    size[0], size[1], size[2], size[3] = g.N, g.C, g.H, g.W
    x = output(out, 4, size, type_of(input))
    if out is not None:
        refuse_overlap(x, input, "cols")
    cdef col2im_args args = col2im_args(
        N=g.N, C=g.C, H=g.H, W=g.W, R=g.R, S=g.S, P=g.P, Q=g.Q, stride_h=g.stride_h, stride_w=g.stride_w,
        pad_h=g.pad_h, pad_w=g.pad_w, dilation_h=g.dilation_h, dilation_w=g.dilation_w, cols=input.data, x=x.data)
    run(type_of(x), FC_col2im, &args)
    return x


cdef int cols_shape(geometry *g, int64_t *size) except -1:
    rows, columns = g.C * <object>g.R * g.S, g.P * <object>g.Q
    if rows > 2**62 or columns > 2**62:
        raise ValueError(f"cols of {rows} x {columns} is too large")
    size[0], size[1], size[2] = g.N, rows, columns
    return 0
