"""Operations on Tensors: each computes at the door (fastconv.kernels) and hands the tape its backward as a closure.

arithmetic   + - * / **, exp, log, ..., comparisons, matmul
reductions   sum, mean, max, argmax, ...
views        view, reshape, transpose, ..., indexing, cat, stack
inplace      add_, zero_, ..., t[...] = v
convert      dtypes, printing
"""

from fastconv.ops import arithmetic, convert, inplace, reductions, views

__all__ = ["arithmetic", "convert", "inplace", "reductions", "views"]
