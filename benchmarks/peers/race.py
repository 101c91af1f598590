"""libgradview_bench from Python: our work as tasks, and races between callables of any framework in one process."""
import ctypes
import os

import numpy as np


class Library:
    def __init__(self, path):
        # Our BLAS is ours: without DEEPBIND its names could resolve to those of another framework's.
        self.c = ctypes.CDLL(path, mode=os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0))
        for name in ("gv_error", "gv_instruction_set", "gv_blas"):
            getattr(self.c, name).restype = ctypes.c_char_p
        self.c.gv_make.restype = ctypes.c_void_p

    def text(self, name):
        return getattr(self.c, name)().decode()

    def checked(self, failed):
        if failed:
            raise RuntimeError(self.text("gv_error"))

    def threads(self, count):
        self.c.gv_threads(ctypes.c_size_t(count))


class Task:
    """One of gv_make's kinds; its matrices are numpy arrays in and out."""

    def __init__(self, library, kind, *sizes):
        self.library = library
        self.task = ctypes.c_void_p(library.c.gv_make(kind.encode(), (ctypes.c_size_t * len(sizes))(*sizes)))
        library.checked(not self.task)

    def set(self, **matrices):
        for name, value in matrices.items():
            self[name] = value

    def __setitem__(self, name, value):
        value = np.ascontiguousarray(value, dtype=np.float32)
        pointer = value.ctypes.data_as(ctypes.c_void_p)
        self.library.checked(self.library.c.gv_set(self.task, name.encode(), pointer, ctypes.c_size_t(value.size)))

    def get(self, name, like):
        out = np.empty(tuple(like.shape), dtype=np.float32)
        pointer = out.ctypes.data_as(ctypes.c_void_p)
        self.library.checked(self.library.c.gv_get(self.task, name.encode(), pointer, ctypes.c_size_t(out.size)))
        return out

    def __call__(self, calls=1):
        self.library.checked(self.library.c.gv_run(self.task, ctypes.c_size_t(calls)))

    def __del__(self):
        self.library.c.gv_free(self.task)


class Race:
    """Contenders, name → callable, in interleaved slots: seconds per call of every round, and what the note says."""

    def __init__(self, library, contenders, slot_seconds, rounds):
        self.library = library
        failure = []

        def runner(call):
            def run(calls):
                try:
                    if isinstance(call, Task):
                        call(calls)
                    else:
                        for _ in range(calls):
                            call()
                except BaseException as error:  # cannot pass through the C++ below us
                    failure.append(error)

            return ctypes.CFUNCTYPE(None, ctypes.c_size_t)(run)

        names = [name.encode() for name in contenders]
        runs = [runner(call) for call in contenders.values()]
        seconds = np.zeros((len(names), rounds))
        note = ctypes.create_string_buffer(4096)
        failed = library.c.gv_race(
            ctypes.c_size_t(len(names)), (ctypes.c_char_p * len(names))(*names),
            (ctypes.c_void_p * len(runs))(*[ctypes.cast(run, ctypes.c_void_p) for run in runs]),
            ctypes.c_double(slot_seconds), ctypes.c_size_t(rounds), seconds.ctypes.data_as(ctypes.c_void_p), note,
            ctypes.c_size_t(len(note)))
        if failure:
            raise failure[0]
        library.checked(failed)
        self.seconds = dict(zip(contenders, seconds))
        self.note = note.value.decode()

    def ratio(self, slow, fast):
        """Median, low and high of the rounds' ratios."""
        values = np.ascontiguousarray(self.seconds[slow] / self.seconds[fast])
        figure = np.zeros(3)
        self.library.c.gv_median_interval(values.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(values.size),
                                          figure.ctypes.data_as(ctypes.c_void_p))
        return figure.tolist()

    def fastest(self):
        return min(self.seconds, key=lambda name: np.median(self.seconds[name]))
