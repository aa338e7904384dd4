"""Gradients that are not written until somebody looks at them.

At batch 1 the gradient of a linear layer is the outer product of two vectors, and writing it takes longer than all its
arithmetic. Where only the optimizer's step reads it, that step makes the numbers itself, from the vectors, and a replay
leaves the gradient's Tensor without an array; whoever asks for the array has it computed. Nobody can tell, as long as
nobody else has that array: each replay counts its references (`Late`, fastconv/door/replay.pxi).

The step also takes over the product with the weights that the layer's input gets for a gradient, and so walks through
them once for both.
"""

from dataclasses import replace

from fastconv.compiler.passes import Uses, is_written, same, whole


def put_last(calls, private, tensors):
    """The calls, those that need not run at once moved to the end, and the Tensors that these write, one each.

    tensors: by the id of its root, the one Tensor of a memory. What the late calls read lies in the plan's own memory,
    which keeps it until the next replay, because the calls are the last.
    """
    uses, order, late, written = Uses.of(calls), list(calls), [], []
    for at, step in enumerate(calls):
        tensor = _gradient_of(step, tensors)
        outer = None if tensor is None else _outer_product_for(calls, uses, at, private)
        if outer is None:
            continue
        product = calls[outer]
        step.words[step.word("g")] = 0
        step.words[step.word("columns")] = product.number("n")
        del step.operands["g"]
        step.operands["column"] = replace(product.operands["a"], field="column")
        step.operands["row"] = replace(product.operands["b"], field="row")
        order[outer] = None
        late.append(product)
        written.append(tensor)
        other = _other_gradient(calls, uses, at)
        if other is not None:
            step.operands["dx"] = replace(calls[other].operands["c"], field="dx")
            order[other], order[at] = step, None
    return [call for call in order if call is not None] + late, written


def _gradient_of(step, tensors):
    """The Tensor whose array, all of it, a step of SGD reads as the gradient of a matrix; else None."""
    gradient = step.operands.get("g")
    if step.kernel != "sgd_step" or not whole(gradient) or gradient.array.ndim != 2:
        return None
    tensor = tensors.get(id(gradient.root))
    return tensor if tensor is not None and tensor._array is gradient.root else None


def _outer_product_for(calls, uses, at, private):
    """Where the gradient that the step at `at`, and nothing else, reads is made, if it is the product of a column and a
    row that stay to be read in the plan's own memory; else None."""
    gradient = calls[at].operands["g"]
    m, n = gradient.array.shape
    users = uses.of_root(gradient.root)
    if len(users) != 2 or users[1] != at:
        return None
    outer = users[0]
    if not _is_product(calls[outer], m=m, n=n, k=1, rs_a=1, cs_b=1, rs_c=n, cs_c=1):
        return None
    factors = [calls[outer].operands[name].root for name in "ab"]
    stay = all(private(f) and not is_written(uses, f, outer, len(calls)) for f in factors)
    return outer if stay and same(calls[outer].operands["c"], gradient) else None


def _other_gradient(calls, uses, at):
    """Where the layer's other gradient, dx = column w, is made, if the step at `at` can as well do that, there, while
    the rows of w are in the cache; else None."""
    operands = calls[at].operands
    w, column = operands["w"], operands["column"]
    m, n = w.array.shape
    before = [i for i in uses.of_root(w.root) if i < at]
    if not before:
        return None
    other = before[-1]
    product = calls[other]
    if not _is_product(product, m=1, n=n, k=m, cs_a=1, rs_b=n, cs_b=1, cs_c=1):
        return None
    if not (same(product.operands["a"], column) and same(product.operands["b"], w)):
        return None
    if any(is_written(uses, operands[name].root, other - 1, at) for name in ("column", "row")):
        return None
    if "v" in operands and any(other <= i < at for i in uses.of_root(operands["v"].root)):
        return None
    return other


def _is_product(call, **wanted):
    """Whether it writes a product, and nothing else, of these sizes and strides."""
    return (
        call.kernel == "gemm"
        and all(call.number(name) == value for name, value in wanted.items())
        and not call.operands["c"].reads
        and call.real("alpha") == 1
    )
