"""From the calls of a trace to the calls of a plan: each pass takes a list and returns a shorter one, of the same
results.

is_private(root): whether nothing but the calls sees that memory, so that it need not hold what eager execution
leaves in it.
"""


def shorten(calls, is_private):
    for step in (drop_dead,):
        calls = step(calls, is_private)
    return calls


def drop_dead(calls, is_private):
    """Without the calls whose results nobody reads."""
    kept, read = [], set()
    for call in reversed(calls):
        operands = call.operands.values()
        if any(o.writes and (not is_private(o.root) or id(o.root) in read) for o in operands):
            kept.append(call)
            read.update(id(o.root) for o in operands if o.reads)
    return kept[::-1]
