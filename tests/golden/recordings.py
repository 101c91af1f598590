"""The modules of this folder that record numbers, and the packages that they record them with.

    python tests/golden/recordings.py     the packages, one a line, without importing any of them

Each module has record(), which returns its tensors by name and its metadata; FILE, where they are
kept; PACKAGES, as pip wants them; and TOLERANCE where 1e-12 is not what it promises.
"""

import ast
import pathlib

MODULES = [
    "record",
    "galore_adamw",
    "fira_adamw",
    "peft_lora",
    "peft_forms",
    "adafactor",
    "apollo_adamw",
    "flora_steps",
    "peft_adalora",
    "transformers_models",
    "minilm",
    "peft_models",
    "peft_training",
    "bitsandbytes_nf4",
]


def packages(module):
    """The constant PACKAGES, read without running the module."""
    tree = ast.parse(pathlib.Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES":
            return ast.literal_eval(node.value)
    raise LookupError(f"{module}.py has no constant PACKAGES")


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(p for module in MODULES for p in packages(module))))
