# Optimizer steps, in place. Template: src/kernels/optimizer.inc.

cdef cnp.ndarray state(object x, str name, cnp.ndarray param, bint written):
    """A parameter's gradient or state: of its shape and dtype, contiguous, writeable if it is written."""
    cdef cnp.ndarray array = floats(x, name, -1, type_of(param) if param is not None else -1)
    if param is not None:
        require_shape(array, name, param.ndim, <int64_t *>param.shape)
    if not written:
        return contiguous(array)
    if array is not x or not cnp.PyArray_ISCARRAY(array):
        raise ValueError(f"{name} is changed in place: it must be C-contiguous, aligned, writeable and in native order")
    return array


cdef tuple gradient(object grad, cnp.ndarray w, sgd_step_args *args):
    """What a step of w reads, as args shall say: the gradient, or the column and the row of which it is the outer product."""
    cdef cnp.ndarray g, column, row
    args.columns, args.g, args.column, args.row = 0, NULL, NULL, NULL
    if not isinstance(grad, tuple):
        g = state(grad, "grad", w, False)
        args.g = g.data
        return (g,)
    if len(grad) != 2:
        raise ValueError(f"grad must be an array, or a pair (column, row), got {len(grad)} of them")
    column, row = [contiguous(floats(x, name, 1, type_of(w))) for x, name in zip(grad, ("column", "row"))]
    if shape_of(w) != (column.shape[0], row.shape[0]):
        raise ValueError(f"param must have shape {(column.shape[0], row.shape[0])}, as the outer product of column and row has, "
                         f"got {shape_of(w)}")
    args.columns, args.column, args.row = row.shape[0], column.data, row.data
    return column, row


cdef int run_sgd(cnp.ndarray w, object grad, object momentum_buffer, sgd_step_args *args, object dx=None) except -1:
    """One parameter, with the numbers that args holds."""
    cdef cnp.ndarray v = None, product = None
    cdef tuple given = gradient(grad, w, args)
    if args.momentum != 0:
        if momentum_buffer is None:
            raise ValueError(f"momentum is {args.momentum}, but there is no momentum_buffer")
        v = state(momentum_buffer, "momentum_buffer", w, True)
        refuse_overlap(w, v, "momentum_buffer")
    if dx is not None:
        if args.g != NULL:
            raise ValueError("dx is computed where grad is a pair (column, row)")
        product = state(dx, "dx", given[1], True)
        refuse_overlap(w, product, "dx")
        refuse_overlap(product, v, "momentum_buffer")
    for x in given:
        refuse_overlap(w, x, "grad")
        if v is not None:
            refuse_overlap(v, x, "grad")
        if product is not None:
            refuse_overlap(product, x, "grad")
    args.n, args.w, args.v, args.dx = w.size, w.data, NULL, NULL
    if v is not None:
        args.v = v.data
    if product is not None:
        args.dx = product.data
    return run(type_of(w), FC_sgd_step, args)


def sgd_step(param, grad, momentum_buffer=None, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
             first=False, dx=None):
    """One step of stochastic gradient descent, in place:

        g = grad + weight_decay param;   v = g if first else momentum v + (1 - dampening) g
        param -= lr (g + momentum v if nesterov else v)

    param, momentum_buffer (v): written; grad: read; one shape and dtype. Without momentum there is no v: param -= lr g.
    grad may be a pair of vectors (column, row) instead: it is their outer product then, column[i] row[j], as that of a linear
    layer is at batch 1. Then dx, if given, is written: column @ param, of param before the step; it has the shape of row.
    Source: Sutskever et al., ICML 2013, in PyTorch's form.
    """
    cdef cnp.ndarray w = state(param, "param", None, True)
    cdef sgd_step_args args = sgd_step_args(
        lr=as_real(lr, "lr"), momentum=as_real(momentum, "momentum"), dampening=as_real(dampening, "dampening"),
        weight_decay=as_real(weight_decay, "weight_decay"), nesterov=bool(nesterov), first=bool(first),
        n=0, columns=0, w=NULL, g=NULL, column=NULL, row=NULL, v=NULL, dx=NULL)
    run_sgd(w, grad, momentum_buffer, &args, dx)


def sgd_steps(list params not None, list grads not None, list momentum_buffers=None, *, lr, momentum=0.0, dampening=0.0,
              weight_decay=0.0, nesterov=False):
    """sgd_step of many parameters, each with its gradient and, with momentum, its buffer, none of them for the first time."""
    if len(grads) != len(params) or momentum_buffers is not None and len(momentum_buffers) != len(params):
        raise ValueError(f"there must be a gradient, and a buffer, for each of {len(params)} parameters")
    cdef cnp.ndarray w
    cdef sgd_step_args args = sgd_step_args(
        lr=as_real(lr, "lr"), momentum=as_real(momentum, "momentum"), dampening=as_real(dampening, "dampening"),
        weight_decay=as_real(weight_decay, "weight_decay"), nesterov=bool(nesterov), first=False,
        n=0, columns=0, w=NULL, g=NULL, column=NULL, row=NULL, v=NULL, dx=NULL)
    for i in range(len(params)):
        w = state(params[i], "param", None, True)
        run_sgd(w, grads[i], None if momentum_buffers is None else momentum_buffers[i], &args)


def adam_step(param, grad, exp_avg, exp_avg_sq, step, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    """One step of Adam, in place:

        step += 1;   g = grad + weight_decay param;   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
        param -= lr / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step)) + eps)

    param, exp_avg (m), exp_avg_sq (v): written; grad: read; one shape and dtype. step: an int64 array of no axes, the number
    of steps taken so far. Source: Kingma & Ba, arXiv 1412.6980.
    """
    cdef cnp.ndarray w = state(param, "param", None, True), g = state(grad, "grad", w, False)
    cdef cnp.ndarray m = state(exp_avg, "exp_avg", w, True), v = state(exp_avg_sq, "exp_avg_sq", w, True)
    cdef cnp.ndarray count = plain_array(step, "step")
    if cnp.PyArray_TYPE(count) != cnp.NPY_INT64 or count.ndim:
        raise TypeError(f"step must be an int64 array of no axes, got {count.dtype} of shape {shape_of(count)}")
    if count is not step or not cnp.PyArray_ISCARRAY(count):
        raise ValueError("step is changed in place: it must be aligned, writeable and in native order")
    if (<int64_t *>count.data)[0] < 0:
        raise ValueError(f"step counts from 0, got {count}")
    for x, y, name in ((w, g, "grad"), (w, m, "exp_avg"), (w, v, "exp_avg_sq"), (m, v, "exp_avg_sq"), (m, g, "grad"),
                       (v, g, "grad")):
        refuse_overlap(x, y, name)
    cdef adam_step_args args = adam_step_args(
        n=w.size, lr=as_real(lr, "lr"), beta1=as_real(beta1, "beta1"), beta2=as_real(beta2, "beta2"), eps=as_real(eps, "eps"),
        weight_decay=as_real(weight_decay, "weight_decay"), step=count.data, w=w.data,
        g=g.data, m=m.data, v=v.data)
    run(type_of(w), FC_adam_step, &args)
