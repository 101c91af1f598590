"""Records what bitsandbytes makes of matrices in NF4, for tests/quantised_test.cpp to repeat.

    python tests/golden/bitsandbytes_nf4.py [OUT.safetensors]        the packages of PACKAGES

quantize_4bit and dequantize_4bit on the CPU, in float32, blocks of 64 with compress_statistics, that
is, with the blocks' maxima in 8 bits. Of a case NAME: NAME.w, NAME.codes (the packed bytes),
NAME.bytes (the blocks' bytes), NAME.tops, NAME.mean and NAME.again, what is made of it again; `table`
and `map` are the values of either code. Every tensor has two dimensions.

normal   more than one group of 256 blocks
uneven   an odd number of entries, rows that are no multiple of a block, a block of zeros
ties     the midpoints of the table and their neighbours in float, over a maximum of 1
"""

import pathlib
import sys

import bitsandbytes
import bitsandbytes.functional as functional
import torch
from record import save, uniform

PACKAGES = ["torch==2.13.0", "bitsandbytes==0.50.2", "numpy", "safetensors"]
TOLERANCE = 1e-6  # the map's last bits follow the vectors of the CPU
FILE = pathlib.Path(__file__).with_name("bitsandbytes_nf4.safetensors")


def normal(shape, key):
    """Sums of twelve uniform numbers: N(0, 1) nearly, and the same everywhere."""
    parts = [uniform(shape, f"{key} {i}") for i in range(12)]
    return (sum(parts) / 2).float()


def ties():
    table = functional.get_4bit_type("nf4", device="cpu")
    middle = (table[:-1] + table[1:]) / 2
    row = torch.cat(
        [
            torch.ones(1),
            middle,
            torch.nextafter(middle, torch.full_like(middle, 2)),
            torch.nextafter(middle, torch.full_like(middle, -2)),
        ]
    )
    return torch.cat([row, torch.zeros(64 - row.numel())]).reshape(1, 64)


def uneven():
    w = normal((13, 37), "uneven")
    w.view(-1)[64:128] = 0
    return w


def record():
    """All tensors of the file by name, and its metadata."""
    torch.set_num_threads(1)
    tensors = {
        "table": functional.get_4bit_type("nf4", device="cpu").reshape(1, -1),
        "map": functional.create_dynamic_map().reshape(1, -1),
    }
    cases = {"normal": normal((136, 128), "normal"), "uneven": uneven(), "ties": ties()}
    for name, w in cases.items():
        codes, state = functional.quantize_4bit(
            w, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        tensors |= {
            f"{name}.w": w,
            f"{name}.codes": codes.reshape(1, -1).int(),
            f"{name}.bytes": state.absmax.reshape(1, -1).int(),
            f"{name}.tops": state.state2.absmax.reshape(1, -1),
            f"{name}.mean": state.offset.reshape(1, 1),
            f"{name}.again": functional.dequantize_4bit(codes, state),
        }
    metadata = {
        "bitsandbytes": bitsandbytes.__version__,
        "command": "python tests/golden/bitsandbytes_nf4.py",
        "torch": torch.__version__,
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata


if __name__ == "__main__":
    save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
