"""The door: fastconv's kernels as functions on plain NumPy arrays.

    you ─▶ kernels.conv2d_forward(x, w, b, padding=1) ─▶ checks ─▶ allocates ─▶ drops the GIL ─▶ a row of C kernels

Every function takes float32 or float64 arrays of any strides, alignment and byte order, read-only ones too, and
returns new C-contiguous arrays, or the array given as ``out``. All floating-point arrays of one call have one dtype
(batch normalisation's statistics: float64).
Nothing that is passed can crash the process: a wrong type raises TypeError, a wrong shape or value ValueError (an
index out of range IndexError), and the text says what was given and what was wanted.

Letters: N C H W batch, channels, height, width; K output channels; R S kernel height and width; P Q output height and
width; x w b y input, weight, bias, output; dx dw db dy their gradients.

Each part below stands beside the C template of the same name in src/kernels/, but those on threads, memory, arrays and
recording.
"""

cimport numpy as cnp
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

import os
from typing import NamedTuple as _NamedTuple

import numpy as np

cnp.import_array()

include "kernel_list.pxi"

cdef extern from "fastconv.h" nogil:
    ctypedef enum fc_dtype:
        FC_FLOAT32
        FC_FLOAT64
    ctypedef enum fc_prepared:
        FC_GIVEN
        FC_READY
    ctypedef enum fc_pass:
        FC_FORWARD
        FC_BACKWARD_INPUT
        FC_BACKWARD_WEIGHT
    enum:
        FC_AUTO
        FC_ALGORITHM_COUNT
        FC_BAD_INDEX
    const char *const fc_kernel_names[]
    int fc_run(fc_dtype dtype, fc_kernel_id id, const void *args)


# This module has functions named min, max, sum and abs: the door itself uses these.
cdef inline int64_t smaller(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t larger(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


include "door/threads.pxi"
include "door/memory.pxi"
include "door/recording.pxi"
include "door/arrays.pxi"
include "door/gemm.pxi"
include "door/conv2d.pxi"
include "door/pool2d.pxi"
include "door/batch_norm.pxi"
include "door/pointwise.pxi"
include "door/reduce.pxi"
include "door/loss.pxi"
include "door/optimizer.pxi"
include "door/random.pxi"
include "door/peak.pxi"
include "door/watch.pxi"
include "door/replay.pxi"
include "door/quick.pxi"
include "door/dropout.pxi"
