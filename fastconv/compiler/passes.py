"""From the calls of a trace to the calls of a plan: each pass takes a list and returns one of fewer or cheaper calls.

No pass changes a bit of what remains visible: results, parameters, gradients, buffers. `private(root)` says whether
nothing but the calls sees that memory, so that it need not hold what eager execution leaves in it.
"""

from dataclasses import dataclass, field, replace

from fastconv import kernels

# Kernels that write a sum, from +0 on, to the field: never -0, so that 0 + what they write is what they write.
SUMS = {
    "gemm": ("c",),
    "conv2d_backward_weight": ("dw", "db"),
    "batch_norm_backward": ("dw", "db"),
    "sum": ("y",),
}


def shorten(calls, private):
    """All passes, in an order in which each finds what the ones before it have left."""
    for one_pass in (
        accumulate_in_place,
        pool_with_relu,
        norm_with_residual,
        norm_with_relu,
        norm_gradient_with_relu,
        drop_dead,
        pool_without_indices,
        conv_with_pool,
        gradient_of_conv_with_pool,
    ):
        calls = one_pass(calls, private)
    return calls


# ---- who touches what ----------------------------------------------------------------------------------


@dataclass
class Uses:
    """By the id of a root, the places in the list where it is read and where it is written."""

    reads: dict[int, list[int]] = field(default_factory=dict)
    writes: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, calls):
        uses = cls()
        for i, call in enumerate(calls):
            for operand in call.operands.values():
                if operand.reads:
                    uses.reads.setdefault(id(operand.root), []).append(i)
                if operand.writes:
                    uses.writes.setdefault(id(operand.root), []).append(i)
        return uses

    def of_root(self, root):
        """All places, in order."""
        return sorted({*self.reads.get(id(root), ()), *self.writes.get(id(root), ())})


def whole(operand):
    """Whether the operand is all of its root."""
    return operand.offset == 0 and operand.array.nbytes == operand.root.nbytes


def same(a, b):
    """Whether two operands are one array."""
    return a.root is b.root and a.offset == b.offset and a.array.nbytes == b.array.nbytes


def point(call, name, target):
    """Make a field of a call point to what another operand points to."""
    own = call.operands[name]
    call.operands[name] = replace(own, array=target.array, root=target.root, offset=target.offset)


def is_contiguous(call):
    """Whether a pointwise call walks all its operands in one step, without broadcasting."""
    fields = [f for _, f, _, _ in kernels.FIELDS[call.kernel] if f.endswith("_strides")]
    return call.number("ndim") == 1 and all(call.number(f) == 1 for f in fields)


def is_zero_fill(call):
    if call.kernel != "assign" or call.number("a_strides") != 0 or call.number("ndim") != 1:
        return False
    return call.number("y_strides") == 1 and str(call.operands["a"].number) == "0.0"  # not -0


# ---- the passes ------------------------------------------------------------------------------------------


def drop_dead(calls, private):
    """Without the calls whose results nobody reads."""
    kept, read = [], set()
    for call in reversed(calls):
        operands = call.operands.values()
        if any(o.writes and (not private(o.root) or id(o.root) in read) for o in operands):
            kept.append(call)
            read.update(id(o.root) for o in operands if o.reads)
    return kept[::-1]


def accumulate_in_place(calls, private):
    """g = 0; d = a sum; g = g + d  becomes  g = a sum, where nothing else touches g or d meanwhile."""
    uses, dropped = Uses.of(calls), set()
    for at, call in enumerate(calls):
        if call.kernel != "add" or not is_contiguous(call):
            continue
        total, term = call.operands["y"], call.operands["b"]
        if not same(call.operands["a"], total):
            continue
        makers, before = uses.writes.get(id(term.root), []), uses.of_root(total.root)
        earlier = [i for i in before if i < at]
        if not (
            private(term.root) and whole(term) and whole(total) and len(makers) == 1 and earlier
        ):
            continue
        maker, fill = makers[0], earlier[-1]
        name = next(
            (n for n in _sum_fields(calls[maker]) if same(calls[maker].operands[n], term)), None
        )
        if (
            name is None
            or not is_zero_fill(calls[fill])
            or not same(calls[fill].operands["y"], total)
        ):
            continue
        if fill < maker < at and uses.reads[id(term.root)] == [at]:
            point(calls[maker], name, total)
            dropped |= {at, fill}
    return [c for i, c in enumerate(calls) if i not in dropped]


def _sum_fields(call):
    """The fields to which a call writes sums, and only writes."""
    if call.kernel == "gemm" and call.real("alpha") != 1:
        return []
    return [
        n for n in SUMS.get(call.kernel, ()) if n in call.operands and not call.operands[n].reads
    ]


def pool_with_relu(calls, private):
    """relu before a max-pool, and both gradients: the pool rectifies what it stores, its gradient looks at that."""
    uses, dropped = Uses.of(calls), set()
    for at, call in enumerate(calls):
        if call.kernel != "relu" or not is_contiguous(call):
            continue
        x, rectified = call.operands["a"], call.operands["y"]
        if not private(rectified.root) or uses.writes[id(rectified.root)] != [at]:
            continue
        readers = uses.reads.get(id(rectified.root), [])
        forwards = [i for i in readers if calls[i].kernel == "max_pool2d_forward"]
        backwards = [i for i in readers if calls[i].kernel == "relu_backward"]
        if len(forwards) != 1 or len(backwards) > 1 or len(readers) != 1 + len(backwards):
            continue
        pool = calls[forwards[0]]
        pooled, indices = pool.operands["y"], pool.operands["indices"]
        gradients = [i for i in uses.reads.get(id(indices.root), ())]
        until = forwards[0]
        if backwards and gradients:
            until = gradients[0]
            fits = (
                len(gradients) == 1
                and _is_gradient_of_pool(calls, uses, gradients[0], backwards[0], private)
                and same(calls[backwards[0]].operands["b"], rectified)
            )
        else:
            fits = not backwards and not gradients
        if not fits or not private(indices.root) or _missed_windows(pool):
            continue
        if is_written(uses, x.root, at, forwards[0]) or is_written(
            uses, pooled.root, forwards[0], until
        ):
            continue
        pool.words[pool.word("relu")] = 1
        point(pool, "x", x)
        dropped.add(at)
        if backwards:
            gradient = calls[gradients[0]]
            gradient.operands["y"] = replace(pooled, kind="IN", field="y")
            point(gradient, "dx", calls[backwards[0]].operands["y"])
            dropped.add(backwards[0])
    return [c for i, c in enumerate(calls) if i not in dropped]


def _is_gradient_of_pool(calls, uses, pool, relu, private):
    """Whether the call at `pool` is a max-pool's gradient that only the relu gradient at `relu` reads."""
    if (
        calls[pool].kernel != "max_pool2d_backward"
        or "y" in calls[pool].operands
        or not is_contiguous(calls[relu])
    ):
        return False
    between = calls[pool].operands["dx"]
    target = calls[relu].operands["y"]
    return (
        same(calls[relu].operands["a"], between)
        and private(between.root)
        and uses.of_root(between.root) == [pool, relu]
        and not any(pool < i < relu for i in uses.of_root(target.root))
    )


def _missed_windows(pool):
    """Whether a dilated window can lie outside of the input, where relu would turn its -inf into 0."""
    return pool.number("dilation_h") > 1 or pool.number("dilation_w") > 1


def is_written(uses, root, first, last):
    """Whether a call after `first`, up to `last`, writes the memory."""
    return any(first < i <= last for i in uses.writes.get(id(root), ()))


def pool_without_indices(calls, private):
    """Where no gradient wants to know which pixels were the largest, as at inference, nobody writes it down."""
    uses = Uses.of(calls)
    for call in calls:
        if call.kernel == "max_pool2d_forward" and "indices" in call.operands:
            root = call.operands["indices"].root
            if private(root) and not uses.reads.get(id(root)):
                del call.operands["indices"]
                call.words[call.word("indices")] = 0
    return calls


def conv_with_pool(calls, private):
    """A direct convolution and the max-pool of 2x2 that rectifies its result, as one: what is not the largest stays in
    the cache, and what no window holds is not computed."""
    uses, dropped = Uses.of(calls), set()
    for at, call in enumerate(calls):
        if not _is_plain_pool(call):
            continue
        between = call.operands["x"]
        users = uses.of_root(between.root)
        if not private(between.root) or len(users) != 2 or users[1] != at:
            continue
        conv, results = calls[users[0]], [o for o in call.operands.values() if o.writes]
        if (
            conv.kernel != "conv2d_forward"
            or conv.number("relu_pool")
            or not same(conv.operands["y"], between)
            or any(conv.number(a) != call.number(b) for a, b in zip("NKPQ", "NCHW", strict=True))
            or any(users[0] <= i < at for o in results for i in uses.of_root(o.root))
            or kernels.recorded_algorithm("conv2d_forward", conv.words, conv.dtype == 1)[0]
            != "direct"
        ):
            continue
        conv.words[conv.word("algorithm")] = kernels.ALGORITHMS.index("direct")
        conv.words[conv.word("relu_pool")] = 1
        for operand in results:
            conv.operands[operand.field] = operand
        dropped.add(at)
    return [c for i, c in enumerate(calls) if i not in dropped]


def _is_plain_pool(call):
    """Whether it is a max-pool with relu of windows of 2x2 that lie side by side inside the input."""
    return call.kernel == "max_pool2d_forward" and call.number("relu") and _has_pairs(call)


def _has_pairs(pool):
    """Whether the windows are of 2x2 and lie side by side inside the input."""
    wanted = {"R": 2, "S": 2, "stride_h": 2, "stride_w": 2, "pad_h": 0, "pad_w": 0}
    wanted |= {"dilation_h": 1, "dilation_w": 1}
    wanted |= {"P": pool.number("H") // 2, "Q": pool.number("W") // 2}
    return all(pool.number(name) == value for name, value in wanted.items())


def gradient_of_conv_with_pool(calls, private):
    """The gradient of a max-pool of 2x2 that only gradients of a convolution read: those that take it as it is, from
    the pixels that the windows gave, do; three quarters of what the pool would write are zeros."""
    uses, dropped = Uses.of(calls), set()
    for at, pool in enumerate(calls):
        if pool.kernel != "max_pool2d_backward" or not _has_pairs(pool):
            continue
        between, given = pool.operands["dx"], ("dy", "indices", "y")
        users = uses.of_root(between.root)
        readers = [calls[i] for i in users[1:]]
        if not private(between.root) or users[0] != at or not readers:
            continue
        if not all(_takes_pooled(conv, pool) for conv in readers):
            continue
        roots = [pool.operands[name].root for name in given if name in pool.operands]
        if any(is_written(uses, root, at, users[-1]) for root in roots):
            continue
        for conv in readers:
            for name in given:
                if name in pool.operands:
                    conv.operands[name] = replace(pool.operands[name])
            K, P, Q = (pool.number(name) for name in "CPQ")
            first = conv.word("dy_strides")
            conv.words[first : first + 4] = K * P * Q, P * Q, Q, 1
        dropped.add(at)
    return [c for i, c in enumerate(calls) if i not in dropped]


def _takes_pooled(conv, pool):
    """Whether it is a gradient of the convolution whose result was pooled, and can be given that of the pool."""
    if conv.kernel not in ("conv2d_backward_input", "conv2d_backward_weight"):
        return False
    between = pool.operands["dx"]
    others = [o for name, o in conv.operands.items() if name != "dy"]
    return (
        "indices" not in conv.operands
        and same(conv.operands["dy"], between)
        and conv.operands["dy"].array.flags.c_contiguous
        and all(o.root is not between.root for o in others)
        and all(conv.number(a) == pool.number(b) for a, b in zip("NKPQ", "NCHW", strict=True))
        and kernels.takes_pooled(conv.kernel, conv.words, conv.dtype == 1)
    )


def norm_with_residual(calls, private):
    """What is added to the result of a batch normalisation, added by it."""
    uses, dropped = Uses.of(calls), set()
    for at, call in enumerate(calls):
        if call.kernel != "add" or not is_contiguous(call):
            continue
        for ours, other in (("a", "b"), ("b", "a")):
            residual, target = call.operands[other], call.operands["y"]
            norm = _norm_before(calls, uses, at, ours, private)
            if (
                norm is None
                or "residual" in calls[norm].operands
                or residual.root is calls[norm].operands["y"].root
                or (residual.root is target.root and not same(residual, target))
                or any(o.writes and o.root is residual.root for o in calls[norm].operands.values())
                or is_written(uses, residual.root, norm, at - 1)
            ):
                continue
            calls[norm].operands["residual"] = replace(residual, kind="IN", field="residual")
            point(calls[norm], "y", target)
            dropped.add(at)
            break
    return [c for i, c in enumerate(calls) if i not in dropped]


def norm_with_relu(calls, private):
    """relu of the result of a batch normalisation (and what it added), by itself."""
    uses, dropped = Uses.of(calls), set()
    for at, call in enumerate(calls):
        if call.kernel != "relu" or not is_contiguous(call):
            continue
        norm = _norm_before(calls, uses, at, "a", private)
        if norm is None or calls[norm].number("relu"):
            continue
        calls[norm].words[calls[norm].word("relu")] = 1
        point(calls[norm], "y", call.operands["y"])
        dropped.add(at)
    return [c for i, c in enumerate(calls) if i not in dropped]


def _norm_before(calls, uses, at, name, private):
    """The batch normalisation whose result is operand `name` of the pointwise call at `at`, if it can as
    well write that call's: nobody would miss its own, and nobody uses the memory of either meanwhile."""
    own, target = calls[at].operands[name], calls[at].operands["y"]
    made = [i for i in uses.writes.get(id(own.root), ()) if i < at]
    if not made or calls[made[-1]].kernel != "batch_norm_forward":
        return None
    norm = made[-1]
    if not same(calls[norm].operands["y"], own) or any(
        norm < i < at for root in (own.root, target.root) for i in uses.of_root(root)
    ):
        return None
    if same(own, target):
        return norm
    others = {id(o.root) for o in calls[norm].operands.values()}
    missed = not private(own.root) or uses.of_root(own.root) != [norm, at]
    return None if missed or id(target.root) in others else norm


def norm_gradient_with_relu(calls, private):
    """relu's gradient, of which only a batch normalisation takes its own: that one looks at relu's result itself."""
    uses, dropped = Uses.of(calls), set()
    for at, call in enumerate(calls):
        if call.kernel != "relu_backward" or not is_contiguous(call):
            continue
        dy, rectified, between = (call.operands[name] for name in ("a", "b", "y"))
        users = uses.of_root(between.root)
        if not private(between.root) or len(users) != 2 or users[0] != at:
            continue
        norm = calls[users[1]]
        if norm.kernel != "batch_norm_backward" or "y" in norm.operands:
            continue
        if not same(norm.operands["dy"], between) or any(
            o.root is between.root for name, o in norm.operands.items() if name != "dy"
        ):
            continue
        if any(is_written(uses, root, at, users[1]) for root in (dy.root, rectified.root)):
            continue
        point(norm, "dy", dy)
        norm.operands["y"] = replace(rectified, kind="IN", field="y")
        dropped.add(at)
    return [c for i, c in enumerate(calls) if i not in dropped]
