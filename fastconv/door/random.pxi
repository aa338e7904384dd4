# Random numbers from a generator's 32-bit words. Template: src/kernels/random.inc.

from libc.math cimport cos as c_cos, log1p as c_log1p, sin as c_sin, sqrt as c_sqrt


cdef cnp.ndarray as_words(object words, int64_t count=-1):
    """words as a uint32 array of one axis, of `count` elements unless that is -1."""
    cdef cnp.ndarray array = plain_array(words, "words")
    if cnp.PyArray_TYPE(array) != cnp.NPY_UINT32:
        raise TypeError(f"words must be uint32, got {array.dtype}")
    if array.ndim != 1 or (count >= 0 and array.size != count):
        raise ValueError(f"words must have shape ({count if count >= 0 else 'n'},), got {shape_of(array)}")
    return contiguous(array)


def random_uniform(words, low, high, dtype):
    """Uniform numbers in [low, high): low + (high - low) u, u being 24 bits of one word (float32) or 53 of two (float64).

    words: uint32, as many as results, or (float64) twice as many. PyTorch's arithmetic.
    """
    cdef cnp.ndarray y
    cdef int type_number = np.dtype(dtype).num
    if type_number != cnp.NPY_FLOAT and type_number != cnp.NPY_DOUBLE:
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    cdef cnp.ndarray source = as_words(words)
    cdef int64_t count = source.size
    if type_number == cnp.NPY_DOUBLE:
        if count % 2:
            raise ValueError(f"float64 numbers take two words each, got {count} words")
        count //= 2
    y = empty(1, &count, type_number)
    cdef random_uniform_args args = random_uniform_args(
        n=count, low=as_real(low, "low"), high=as_real(high, "high"), words=source.data, y=y.data)
    run(type_number, FC_random_uniform, &args)
    return y


def random_normal(u, n, mean, std):
    """n >= 16 normal numbers, by Box-Muller, from uniform ones in [0, 1): n of them, and 16 more if n % 16."""
    cdef cnp.ndarray source = contiguous(floats(u, "u", 1)), y
    cdef int64_t count = as_int(n, "n", 16)
    if source.size != count + (16 if count % 16 else 0):
        raise ValueError(f"u must have {count + (16 if count % 16 else 0)} elements, got {source.size}")
    y = empty(1, &count, type_of(source))
    cdef random_normal_args args = random_normal_args(n=count, mean=mean, std=std, u=source.data, y=y.data)
    run(type_of(y), FC_random_normal, &args)
    return y


def random_normal_pair(u1, u2, mean, std):
    """Two normal numbers, in double precision, from two uniform ones: what fewer than 16 at a time are made of."""
    cdef double radius = c_sqrt(-2.0 * c_log1p(-<double>u2)), angle = 2.0 * 3.141592653589793 * <double>u1
    return radius * c_cos(angle) * std + mean, radius * c_sin(angle)


def random_permutation(words, n):
    """A permutation of 0 .. n-1 (int64) by Fisher and Yates' shuffle, from n - 1 words."""
    cdef int64_t count = as_int(n, "n", 0), i, j
    cdef cnp.ndarray source = as_words(words, count - 1 if count > 0 else 0), y = np.arange(count)
    cdef const uint32_t *word = <const uint32_t *>source.data
    cdef int64_t *order = <int64_t *>y.data
    for i in range(count - 1):
        j = i + word[i] % (count - i)
        order[i], order[j] = order[j], order[i]
    return y


def random_integers(words, low, high):
    """Integers (int64) in [low, high): low + v mod (high - low), v being a word, or two (64 bits) from a span of 2^28 on."""
    cdef object span = high - low
    if not 0 < span < 2**63:
        raise ValueError(f"high - low must be from 1 to 2**63 - 1, got {low} and {high}")
    cdef cnp.ndarray values = as_words(words).astype(np.uint64)
    if span >= 2**28:
        if values.size % 2:
            raise ValueError(f"so wide a span takes two words a number, got {values.size} words")
        values = values[::2] << np.uint64(32) | values[1::2]
    return (values % np.uint64(span)).astype(np.int64) + low
