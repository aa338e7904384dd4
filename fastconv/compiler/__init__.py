"""`fastconv.compile`: a step is recorded once and then replayed in C.

compiled    Compiled, the callable: finds the plan that fits a call, records a new one, or runs eagerly and says why
reach       everything that a function can read: what a plan depends on, and watches
trace       one recorded call: kernel calls, results, new gradients
passes      a list of calls into a shorter one
late        gradients that are not written until somebody looks at them
memory      where the arrays of a plan lie: slots, one arena laid out by lifetimes
plan        a list of calls with its memory and what it depends on, ready to run
explain     the list as a table and as a picture
"""

from fastconv.compiler.compiled import compile

__all__ = ["compile"]
