# What a compiled call goes through when it is replayed: the quick halves of fastconv.compiler's Compiled and Plan, which inherit
# them. After kernels have filled the L1 cache, each line of Python costs several times what it costs by itself: but for `build`, which
# puts together what the function returns, there is none.

cimport cython


cdef class QuickPlan:
    """Of a Plan, what a replay goes through. Plan and Compiled set the attributes:

    constants: what stands beside Tensors among the arguments, or the number of Tensors, if nothing does. mode: has
    `enabled`, which must be `grad_enabled`. watch: all else it depends on. reached: ids of the Tensors among that, none of which may
    be an input. numbers: a Watch of the numbers that the optimizers' calls had last; None: to be looked at with
    `refresh()`, which says whether they fit. weights: what is refreshed before the calls. replay: the calls; late: with their
    Tensors. plain: of Tensor; makers: of each new Tensor (number of its output, a function of that or None, grad_fn or None, number
    of the new Tensor whose version it shares, whether it is a view). gradients: (leaf, number of the new Tensor).
    written_inputs: their numbers. build(new tensors, inputs): what the function returns. replayed: [whether any plan
    of its signature was replayed].
    """

    cdef public object constants, mode, grad_enabled, build
    cdef public frozenset reached
    cdef public Watch watch, numbers
    cdef public Replay replay
    cdef public Plain plain
    cdef public list weights, late, makers, gradients, written_inputs, replayed

    @cython.nonecheck(True)
    cpdef bint fits(self, list arrays, tuple leaves) except -1:
        """Whether it holds for these inputs now."""
        if not self.replay.accepts(arrays):
            return False
        for leaf in leaves:
            if id(leaf) in self.reached:  # it may ask whether it is that one
                return False
        if self.watch.changed() is not None or self.mode.enabled is not self.grad_enabled:
            return False
        numbers = self.numbers
        return numbers is not None and numbers.changed() is None or self.refresh()

    @cython.nonecheck(True)
    cpdef object run(self, list arrays, tuple leaves):
        """Replay it on these inputs, and return what the function returned."""
        cdef list made
        for ready in self.weights:
            ready.refresh()
        made = self.make(self.replay.run(arrays, None, self.late))
        for leaf, number in self.gradients:
            leaf.grad = made[number]
        for i in self.written_inputs:
            leaves[i]._bump()
        return self.build(made, leaves)

    @cython.nonecheck(True)
    cdef list make(self, list outputs):
        """The Tensors that a replay makes."""
        cdef list made = []
        for slot, part, spent, shared, is_view in self.makers:
            output = outputs[slot]
            tensor = self.plain.make(output if part is None else part(output))
            if shared < len(made):
                tensor._version = made[shared]._version
            if is_view:
                tensor._made_at = 0
            if spent is not None:
                tensor.requires_grad, tensor.grad_fn = True, spent
            made.append(tensor)
        return made


cdef class QuickCompiled:
    """Of a Compiled, the calls that a plan is there for. All others go to its `_call(args, kwargs)`.

    plain: of Tensor, the only arguments here. usual: what must hold for it, or None: never.
    """

    cdef public list _plans  # the newest one first
    cdef public QuickPlan _last  # that was replayed, or recorded
    cdef Plain plain
    cdef Watch usual

    def __init__(self, Plain plain not None, Watch usual):
        self._plans, self.plain, self.usual = [], plain, usual

    @cython.nonecheck(True)
    def __call__(self, *args, **kwargs):
        cdef list arrays
        cdef QuickPlan plan
        if self.usual is not None and not kwargs and open_recording is None and self.usual.changed() is None:
            arrays = self.plain.read(args)
            plan = None if arrays is None else self._find(arrays, args, len(args))
            if plan is not None:
                return plan.run(arrays, args)
        return self._call(args, kwargs)

    @cython.nonecheck(True)
    cpdef QuickPlan _find(self, list arrays, tuple leaves, constants):
        """The plan that fits, if there is one."""
        cdef QuickPlan plan
        for plan in self._plans:
            if equal_values(plan.constants, constants) and plan.fits(arrays, leaves):
                self._last = plan
                plan.replayed[0] = True
                return plan
        return None
