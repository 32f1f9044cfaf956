"""CRC-32 of two parts from those of each: what was summed once needs not be summed again.

As zlib's ``crc32_combine`` does it, which Python does not have: a shift by so many bytes is a multiplication modulo the
polynomial.
"""

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31  # bits are reflected: the highest is x^0


def combined(first: int, second: int, length: int) -> int:
    """The CRC-32 of one part and another behind it.

    Args:
        first: Of the first part.
        second: Of the second part.
        length: Bytes of the second part.
    """
    shift, power = _ONE, _ONE >> 8  # x^0, and x^8: one byte
    while length:
        if length & 1:
            shift = _product(power, shift)
        power = _product(power, power)
        length >>= 1
    return _product(shift, first) ^ second


def _product(one: int, other: int) -> int:
    found = 0
    for place in range(31, -1, -1):
        if one >> place & 1:
            found ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return found
