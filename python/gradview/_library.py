"""The C libraries, found and loaded: libgradview_c computes in float, libgradview_c64 in double.

They are looked for beside this file (an installed package), in the folder or file that GRADVIEW_LIBRARY
names, in build/lib of the source tree, under the prefix of a CMake install, and where the system keeps
its libraries.
"""

import ctypes
import functools
import os
import pathlib
import sys

import torch

NAMES = {torch.float32: "gradview_c", torch.float64: "gradview_c64"}
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
FROZEN = 1

_visit = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
)
_visit_option = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)


class NotFiniteError(ArithmeticError):
    """A gradient has infinities or NaN; nothing has moved."""


ERRORS = {1: ValueError, 2: NotFiniteError, 3: MemoryError}


def _candidates(name):
    file = f"lib{name}{SUFFIX}"
    here = pathlib.Path(__file__).resolve().parent
    yield here / file
    if given := os.environ.get("GRADVIEW_LIBRARY"):
        folder = pathlib.Path(given)
        yield (folder if folder.is_dir() else folder.parent) / file
    yield here.parents[1] / "build" / "lib" / file
    yield from here.parents[2].glob(f"lib*/**/{file}")  # of a CMake install, from share/gradview/gradview


@functools.lru_cache(maxsize=None)
def load(dtype):
    """The library that computes in `dtype`, its functions declared."""
    name = NAMES[dtype]
    found = next((path for path in _candidates(name) if path.exists()), f"lib{name}{SUFFIX}")
    try:
        library = ctypes.CDLL(str(found))
    except OSError as error:
        raise ImportError(
            f"gradview: lib{name}{SUFFIX} is not here ({error}); `pip install .` in python/, or "
            f"`cmake --preset release && cmake --build build --target {name}` in the source tree, "
            "or GRADVIEW_LIBRARY=FOLDER"
        ) from None
    return _declared(library, dtype)


def _declared(library, dtype):
    text, handle, size = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    address, number = ctypes.c_void_p, ctypes.c_double
    functions = {
        "describe": [text, _visit_option, address],
        "create": [ctypes.POINTER(handle), text, ctypes.c_uint64, size, size],
        "add": [handle, text, text, address, size, size, size, ctypes.c_int],
        "collect": [handle, text, address, size, address, address, size, size, ctypes.c_int],
        "clip": [handle, number, ctypes.POINTER(number)],
        "step": [handle, ctypes.POINTER(number), size],
        "drop": [handle],
        "fields": [handle, _visit, address],
        "factors": [handle, text, _visit, address],
    }
    for name, arguments in functions.items():
        function = getattr(library, f"gradview_{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int
    library.gradview_error.restype = library.gradview_version.restype = text
    library.gradview_version.argtypes = [ctypes.POINTER(size)]
    library.gradview_destroy.argtypes, library.gradview_destroy.restype = [handle], None
    real_bytes = size()
    library.gradview_version(ctypes.byref(real_bytes))
    if real_bytes.value != torch.empty((), dtype=dtype).element_size():
        raise ImportError(f"gradview: {library._name} computes with {real_bytes.value} bytes a number")
    return library


def version():
    """The library's, "0.1.0"; of the one for float where both are there."""
    try:
        return load(torch.float32).gradview_version(None).decode()
    except ImportError:
        return load(torch.float64).gradview_version(None).decode()


def check(library, code):
    if code:
        raise ERRORS.get(code, RuntimeError)(library.gradview_error().decode())


def describe(dtype, spec):
    """The method of a projector's spec, and the text of all its options, defaults too: a dict."""
    library, options = load(dtype), {}

    @_visit_option
    def visit(_, key, value):
        options[key.decode()] = value.decode()

    check(library, library.gradview_describe(spec.encode(), visit, None))
    return options


class Handle:
    """One optimizer of the library. Tensors it is given are of its dtype, on the CPU, 2-D."""

    def __init__(self, dtype, optimizer, seed, steps, threads):
        self.library, self.dtype, self.pointer = load(dtype), dtype, ctypes.c_void_p()
        self._call("create", ctypes.byref(self.pointer), optimizer.encode(), seed, steps, threads, on=())

    def _call(self, name, *arguments, on=None):
        first = (self.pointer,) if on is None else on
        check(self.library, getattr(self.library, f"gradview_{name}")(*first, *arguments))

    def destroy(self):
        self.library.gradview_destroy(self.pointer)
        self.pointer = ctypes.c_void_p()

    def add(self, name, projector, weight, decayed):
        rows, cols = weight.shape
        self._call("add", name.encode(), projector.encode(), weight.data_ptr(), rows, cols, cols, decayed)

    def collect(self, name, x, delta=None, index=None, stays=False):
        """deltaᵀ x; or the x_t at rows index[t] of the gradient; or x itself. stays: until the step."""
        x = self._rows(x)
        delta = None if delta is None else self._rows(delta)
        self._call(
            "collect",
            name.encode(),
            None if delta is None else delta.data_ptr(),
            0 if delta is None else delta.stride(0),
            None if index is None else index.data_ptr(),
            x.data_ptr(),
            x.stride(0),
            len(x),
            stays,
        )

    def _rows(self, tensor):
        """As the library takes it: entries of a row side by side; a copy only where they are not."""
        tensor = tensor.to(self.dtype)
        gaps = tensor.stride(1) != 1 or tensor.stride(0) < tensor.shape[1]
        return tensor.contiguous() if gaps and tensor.numel() > 0 else tensor

    def clip(self, most):
        norm = ctypes.c_double()
        self._call("clip", most, ctypes.byref(norm))
        return norm.value

    def step(self, rates):
        self._call("step", (ctypes.c_double * len(rates))(*rates), len(rates))

    def drop(self):
        self._call("drop")

    def fields(self, visit):
        """visit(name, role, tensor) with every matrix of state; what it writes there is taken."""
        self._visited("fields", visit)

    def factors(self, name, visit):
        """The same with the factors of one matrix; W follows what is written."""
        self._visited("factors", visit, name.encode())

    def _visited(self, function, visit, *arguments):
        failures = []
        number = ctypes.c_float if self.dtype == torch.float32 else ctypes.c_double

        @_visit
        def each(_, name, role, data, rows, cols):
            if failures:
                return
            try:
                if rows * cols == 0:
                    tensor = torch.empty(rows, cols, dtype=self.dtype)
                else:
                    memory = (number * (rows * cols)).from_address(data)
                    tensor = torch.frombuffer(memory, dtype=self.dtype).view(rows, cols)
                visit(name.decode(), role, tensor)
            except Exception as error:  # nothing may be raised through C
                failures.append(error)

        self._call(function, *arguments, each, None)
        if failures:
            raise failures[0]
