"""Chains: calls that follow each other, each of which takes every image of a batch by itself.

They are replayed block of images by block (src/replay.c): what one call writes is still in the L2 cache when the next
one reads it, what only they see is no larger than a block, and threads share blocks, and so meet once. Where all of
them are pointwise, an image is any part of their arrays.
"""

import math
from dataclasses import dataclass, field, replace

from fastconv import kernels
from fastconv.compiler.memory import ALIGNMENT, Buffer, lay_out
from fastconv.compiler.passes import Uses, is_contiguous, same

BLOCK_BYTES = 400_000  # of what a call reads and writes of a block, together with the next call's in the L2 cache
MOST_BYTES = 800_000  # of a block that must have more images
LEAST_BYTES = 600_000  # of what a call reads and writes of all images: with less, threads cost more than they give
BESIDES = 0.25  # of a block's bytes, at most: what a call reads of no image (weights), anew for each block
PIECES = 1024  # of arrays that only pointwise calls take, at most
NANOSECONDS = 0.1  # of work for each byte, roughly

# The sizes of one image in each operand, of kernels that count images in N. Other operands are no image's. Those of
# pointwise.inc need no entry: an image is any part of their arrays.
IMAGES = {
    "conv2d_forward": {"x": "CHW", "y": "KPQ", "indices": "KPQ"},
    "conv2d_backward_input": {"dy": "KPQ", "dx": "CHW"},
    "max_pool2d_forward": {"x": "CHW", "y": "CPQ", "indices": "CPQ"},
    "max_pool2d_backward": {"dy": "CPQ", "indices": "CPQ", "y": "CPQ", "dx": "CHW"},
    "avg_pool2d_forward": {"x": "CHW", "y": "CPQ"},
    "avg_pool2d_backward": {"dy": "CPQ", "dx": "CHW"},
    "adaptive_avg_pool2d_forward": {"x": "CHW", "y": "CPQ"},
    "adaptive_avg_pool2d_backward": {"dy": "CPQ", "dx": "CHW"},
}


@dataclass
class Cut:
    """A call, and how it is cut: into calls for multiples of `together` images, each of which is `each` of what the
    field `count` counts. bytes: by field, from one image to the next. algorithm: of a convolution."""

    call: object
    together: int
    count: str
    each: int
    bytes: dict[str, int]
    algorithm: str | None = None

    @property
    def of_image(self):
        return sum(map(abs, self.bytes.values()))

    @property
    def besides(self):
        return sum(o.array.nbytes for f, o in self.call.operands.items() if f not in self.bytes)


@dataclass
class Chain:
    """The calls from number `first` of a plan on. own: by the id of its root, what only they see, as Buffers in the
    memory that a thread has for a block."""

    first: int
    images: int
    cuts: list[Cut] = field(default_factory=list)
    block: int = 0
    own: dict[int, Buffer] = field(default_factory=dict)

    @property
    def last(self):
        return self.first + len(self.cuts) - 1

    @property
    def is_pointwise(self):
        return all(cut.count == "shape" for cut in self.cuts)

    @property
    def blocks(self):
        return -(-self.images // self.block)

    @property
    def own_bytes(self):
        most = max((b.offset + b.bytes for b in self.own.values()), default=0)
        return -(-most // ALIGNMENT) * ALIGNMENT

    def recorded(self):
        """It, as Replay takes it."""
        varying = []
        for i, cut in enumerate(self.cuts):
            varying.append(("count", i, cut.call.word(cut.count), cut.each))
            for name, step in cut.bytes.items():
                own = self.own.get(id(cut.call.operands[name].root))
                place = ("address", step) if own is None else ("own", own.offset)
                varying.append((place[0], i, cut.call.word(name), place[1]))
        work = NANOSECONDS * self.images * sum(cut.of_image for cut in self.cuts)
        size = len(self.cuts), self.images, self.block
        return self.first, *size, self.own_bytes, work, varying


def chains(calls, private):
    """The Chains among the calls that have memory of their own, or are pointwise: what they write is not far away when
    it is read."""
    found, at, uses = [], 0, Uses.of(calls)
    while at < len(calls):
        chain = _longest(calls, at)
        if chain is not None:
            _lay_out_own(chain, uses, private)
            if chain.own or chain.is_pointwise:
                _pin_algorithms(chain)
                found.append(chain)
        at = at + 1 if chain is None else chain.last + 1
    return found


def _longest(calls, first):
    """The longest Chain of calls from there on, or None."""
    images, longest = _images(calls, first), None
    if images < 2:
        return None
    chain = Chain(first, images)
    for call in calls[first:]:
        cut = _cut(call, images)
        if cut is None:
            break
        chain = replace(chain, cuts=[*chain.cuts, cut])
        chain.block = _block(chain)
        if not chain.block or not _is_by_image(chain):
            break
        if len(chain.cuts) > 1 and chain.blocks > 1:
            longest = chain
    return longest


def _images(calls, at):
    """How many images the first call has that counts them; those before it may have any number. Pointwise calls alone
    are cut anywhere."""
    for call in calls[at:]:
        if call.kernel in IMAGES:
            return call.number("N")
        if not _is_pointwise(call):
            break
    return math.gcd(calls[at].number("shape"), PIECES) if _is_pointwise(calls[at]) else 0


def _fields(call):
    return [name for _, name, _, _ in kernels.FIELDS[call.kernel]]


def _is_pointwise(call):
    """Whether it takes each element by itself, in one walk through arrays without gaps."""
    return "shape" in _fields(call) and is_contiguous(call)


def _cut(call, images):
    """How the call is cut, or None."""
    if call.kernel in IMAGES:
        return _cut_images(call) if call.number("N") == images else None
    if not _is_pointwise(call) or call.number("shape") % images:
        return None
    each = call.number("shape") // images
    return Cut(
        call, 1, "shape", each, {f: each * o.array.itemsize for f, o in call.operands.items()}
    )


def _cut_images(call):
    algorithm, together, bytes, fields = None, 1, {}, _fields(call)
    if "algorithm" in fields:
        algorithm, together = kernels.recorded_algorithm(call.kernel, call.words, call.dtype == 1)
    for name, sizes in IMAGES[call.kernel].items():
        if name in call.operands:
            elements = math.prod(map(call.number, sizes))
            if name != "x" and "relu_pool" in fields and call.number("relu_pool"):
                elements = call.number("K") * (call.number("P") // 2) * (call.number("Q") // 2)
            if f"{name}_strides" in fields:
                elements = call.number(f"{name}_strides")  # the first one
            bytes[name] = elements * call.operands[name].array.itemsize
    return Cut(call, together, "N", 1, bytes, algorithm) if together else None


def _block(chain):
    """How many images are a block; 0 where none pays."""
    most, threads = max(cut.of_image for cut in chain.cuts), kernels.get_num_threads()
    together = math.lcm(*(cut.together for cut in chain.cuts))
    block = max(BLOCK_BYTES // max(most, 1) // together, 1) * together
    if block * most > MOST_BYTES or chain.images * most < LEAST_BYTES:
        return 0
    if any(cut.besides > BESIDES * block * cut.of_image for cut in chain.cuts):
        return 0
    rounds = -(
        -chain.images // (block * threads)
    )  # as many blocks for each thread, as equal as can be
    return -(-chain.images // (rounds * threads * together)) * together


def _is_by_image(chain):
    """Whether no call sees what another one writes of another image: what is written is one array to all, without gaps,
    and cut at the same places."""
    cuts = chain.cuts
    written = {id(o.root) for cut in cuts for o in cut.call.operands.values() if o.writes}
    first = {}
    for cut in cuts:
        for name, operand in cut.call.operands.items():
            if id(operand.root) in written and not (
                same(operand, first.setdefault(id(operand.root), operand))
                and operand.array.flags.c_contiguous
                and cut.bytes.get(name, 0) * chain.images == operand.array.nbytes
            ):
                return False
    return True


def _pin_algorithms(chain):
    """Blocks take the algorithm of the whole."""
    for cut in chain.cuts:
        if cut.algorithm is not None:
            words = cut.call.words
            words[cut.call.word("algorithm")] = kernels.ALGORITHMS.index(cut.algorithm)


def _lay_out_own(chain, uses, private):
    """Give what only the chain sees a place in the memory of a block."""
    for i, cut in enumerate(chain.cuts):
        for name, operand in cut.call.operands.items():
            root = operand.root
            places = uses.of_root(root)
            if id(root) in chain.own:
                chain.own[id(root)].last = i
            elif (
                operand.writes
                and private(root)
                and root.nbytes == operand.array.nbytes
                and chain.first <= places[0]
                and places[-1] <= chain.last
            ):
                chain.own[id(root)] = Buffer(cut.bytes[name] * chain.block, i, i)
    lay_out(chain.own.values())
