"""Pickles of plain values and byte arrays: what the batches of CIFAR-10 are.

They are read as data: see ``torch_utils.inert_pickle``. Dicts, lists, tuples, strings, bytes and
integers are allowed, and what NumPy writes for an array of uint8. All else is refused.
"""

from typing import Any

from dnnlib.errors import DataError
from torch_utils.inert_arrays import ARRAY_NAMES, dtype_of
from torch_utils.inert_pickle import Names, PickleError, PickleReader

_NAMES: Names = {**ARRAY_NAMES, "numpy.dtype": dtype_of("u1")}
_REFUSED = ("BINFLOAT", "EMPTY_SET", "ADDITEMS", "NEWOBJ")


def read_plain_pickle(data: bytes, where: str) -> Any:
    """The value of a pickle; arrays of uint8 are NumPy arrays, Python 2 strings are latin-1.

    Raises:
        DataError: It holds anything else, or is broken; ``where`` is its name in the error.
    """
    try:
        return PickleReader(data, _NAMES, without=_REFUSED).read()
    except PickleError as error:
        raise DataError(f"{where} is refused: not a pickle of plain values ({error})") from error
