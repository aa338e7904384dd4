"""Results in the memory of operands that nobody needs any more: it is in the cache already, and need not be fetched
before it is written."""

from dataclasses import replace

from fastconv.compiler.passes import Uses, is_contiguous, whole

# By kernel: a result, and the operands in whose memory it may be written, element by element.
IN_PLACE = {
    "add": ("y", "ab"),
    "sub": ("y", "ab"),
    "mul": ("y", "ab"),
    "relu": ("y", "a"),
    "relu_backward": ("y", "ab"),
    "batch_norm_forward": ("y", ["residual"]),
    "batch_norm_again": ("y", ["residual"]),
    "batch_norm_backward": ("dx", ["dy"]),
}


def in_place(calls, private):
    """Let results lie where operands lay; `private` as in passes.py."""
    uses = Uses.of(calls)
    for at, call in enumerate(calls):
        if call.kernel not in IN_PLACE:
            continue
        if "batch_norm" not in call.kernel and not is_contiguous(call):
            continue
        result, names = IN_PLACE[call.kernel]
        made = call.operands[result]
        if private(made.root) and whole(made) and uses.of_root(made.root)[0] == at:
            for name in (n for n in names if n in call.operands):
                if _is_left(calls, uses, at, call.operands[name], made, private):
                    _move(calls, uses, made.root, call.operands[name].root)
                    break


def _is_left(calls, uses, at, old, made, private):
    """Whether the call at `at` is the last to see an operand, which is as large as what it makes."""
    users = uses.of_root(old.root)
    here = [o for o in calls[at].operands.values() if o.root is old.root]
    return (
        private(old.root)
        and old.root is not made.root
        and users[0] < at == users[-1]
        and whole(old)
        and all(o.array.nbytes == made.array.nbytes for o in here)
    )


def _move(calls, uses, root, target):
    """Let all operands in the memory of a root lie in that of another one instead."""
    for i in uses.of_root(root):
        for name, operand in calls[i].operands.items():
            if operand.root is root:
                calls[i].operands[name] = replace(operand, root=target)
    for places in (uses.reads, uses.writes):
        places[id(target)] = [*places.get(id(target), ()), *places.pop(id(root), ())]
