"""GradView's random numbers (gradview/core/rng.hpp), so that a peer can be given the same frames."""

import math

import torch

LEFT_FRAME, RIGHT_FRAME = 2, 3  # of enum Purpose
MASK = 0xFFFFFFFF


def philox(counter, key):
    """Philox4x32-10: four 32-bit words."""
    a, b, c, d = counter
    k, l = key
    for _ in range(10):
        high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (high[1] >> 32) ^ b ^ k, high[1] & MASK, (high[0] >> 32) ^ d ^ l, high[0] & MASK
        k, l = (k + 0x9E3779B9) & MASK, (l + 0xBB67AE85) & MASK
    return a, b, c, d


def fnv1a(text):
    hash = 0xCBF29CE484222325
    for byte in text.encode():
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hash


def normal(shape, seed, purpose, parameter, step):
    """Entries N(0, 1) in float64, in the order of rows."""
    key = seed & MASK, seed >> 32
    words = []
    for block in range(shape[0] * shape[1] // 2 + 1):
        a, b, c, d = philox((block, step, fnv1a(parameter) & MASK, purpose), key)
        words += [a | b << 32, c | d << 32]
    uniform = [((word >> 12) + 0.5) * 2.0**-52 for word in words]
    numbers = []
    for u, v in zip(uniform[::2], uniform[1::2]):
        radius, angle = math.sqrt(-2 * math.log(u)), 2 * math.pi * v
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    count = shape[0] * shape[1]
    return torch.tensor(numbers[:count], dtype=torch.float64).reshape(shape)
