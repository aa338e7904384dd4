"""Where the arrays of a plan lie.

Slots are given anew at each replay: the inputs, then the outputs. All else that the door made while recording lies
in one arena, laid out by lifetimes: arrays that are never needed at one time share their bytes (greedy by size,
Pisarchyk & Lee, arXiv 2001.03288). What was there before the recording stays where it is.
"""

from dataclasses import dataclass

import numpy as np

from fastconv.compiler.trace import address

ALIGNMENT = 64


@dataclass
class Buffer:
    """Bytes of the arena that are needed from call `first` to call `last`."""

    bytes: int
    first: int
    last: int
    offset: int = 0


def lay_out(buffers):
    """Set the offsets; returns the size of the arena."""
    placed, size = [], 0
    for buffer in sorted(buffers, key=lambda b: -b.bytes):
        offset = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if offset + buffer.bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.bytes) // ALIGNMENT) * ALIGNMENT)
        buffer.offset = offset
        size = max(size, offset + buffer.bytes)
        placed.append(buffer)
    return size


def aligned_bytes(size):
    """That many bytes from a multiple of ALIGNMENT on."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -address(memory) % ALIGNMENT
    return memory[start : start + size]


def own_roots(chains):
    """The ids of the roots that lie in the chains' own memory."""
    return {key for chain in chains for key in chain.own}


def lifetimes(calls, chains, slot_of, fixed):
    """By the id of their root, the Buffers that the arena is to hold: the arguments are those of `place`."""
    buffers, own = {}, own_roots(chains)
    times = [(i, i) for i in range(len(calls))]
    for chain in chains:  # its calls run at one time
        for i in range(chain.first, chain.last + 1):
            times[i] = chain.first, chain.last
    for call, (first, last) in zip(calls, times, strict=True):
        for operand in call.operands.values():
            key = id(operand.root)
            if key not in fixed and key not in own and slot_of(operand) is None:
                buffer = buffers.setdefault(key, Buffer(operand.root.nbytes, first, last))
                buffer.last = last
    return buffers


def place(calls, chains, slot_of, fixed):
    """Point every operand at its place.

    chains: the Chains among the calls, whose own memory is not in the arena. slot_of(operand): (slot, bytes after the
    slot's first), or None. fixed: ids of roots that stay where they are.
    Returns (relocations, arena, buffers): (call, word, slot, offset) for what lies in slots, and the Buffers by
    the id of their root.
    """
    buffers, own = lifetimes(calls, chains, slot_of, fixed), own_roots(chains)
    arena = aligned_bytes(lay_out(buffers.values()))
    relocations = []
    for i, call in enumerate(calls):
        for operand in call.operands.values():
            slot, word = slot_of(operand), call.word(operand.field)
            if slot is not None:
                relocations.append((i, word, *slot))
            elif id(operand.root) in buffers:
                start = address(arena) + buffers[id(operand.root)].offset
                call.words[word] = start + operand.offset
            elif id(operand.root) in own:
                call.words[word] = 0
            else:
                call.words[word] = address(operand.root) + operand.offset
    return relocations, arena, buffers
