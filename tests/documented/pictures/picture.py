"""Stands for an imaging library: a module with functions and a class, of which users import the module."""

import numpy as np


class Picture:
    def __init__(self, mode, pixels):
        self.mode = mode
        self.pixels = pixels

    @property
    def size(self):
        return self.pixels.shape

    def save(self, file, mode):
        file.write(self.pixels.astype(np.uint8).tobytes())


def fromarray(array, mode):
    return Picture(mode, array)


def frombytes(mode, size, data):
    return Picture(mode, np.frombuffer(data, np.uint8).reshape(size))
