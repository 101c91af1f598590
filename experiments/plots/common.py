"""What all pictures share: reading a run folder, colours and marks, legends, saving."""
import io
import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

# Black for the reference, then colours that the colour-blind can tell apart (Okabe and Ito; Tol).
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #882255 #999933".split()
MARKERS, DASHES = "o s ^ D v P < > p h d".split(), ["-", "--", ":", "-."]
LARGE = {"markersize": 11, "markeredgecolor": "black", "markeredgewidth": 1.4, "zorder": 4}
CROSS = {"marker": "x", "linestyle": "", "markersize": 8, "markeredgewidth": 1.8, "zorder": 5}
plt.rcParams.update({
    "font.size": 15, "axes.titlesize": 15.5, "legend.fontsize": 15, "lines.linewidth": 1.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "figure.constrained_layout.w_pad": 0.12, "savefig.dpi": 110})


def fail(code, message):
    print(f"plot: {message}", file=sys.stderr)
    sys.exit(code)


def read_json(path):
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError, RecursionError) as error:
        fail(3, f"{path} is damaged: {error}")


def read_csv(path, texts, numbers):
    """These columns, as texts and as numbers, without a last line that was torn off."""
    texts, numbers = texts.split(), numbers.split()
    try:
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        return pd.read_csv(io.StringIO(whole), float_precision="round_trip",
                           usecols=[*texts, *numbers], converters=dict.fromkeys(texts, str),
                           dtype=dict.fromkeys(numbers, float)).replace([np.inf, -np.inf], np.nan)
    except ValueError as error:  # pandas' own errors are ValueErrors too
        fail(3, f"{path} is damaged: {str(error).splitlines()[0]}")


def style(position):
    """Colour, marker and dashes of what is listed at a position: no two are alike."""
    turn, colour = divmod(max(position - 1, 0), len(COLOURS))
    return {"color": COLOURS[colour] if position else "black",
            "marker": MARKERS[position % len(MARKERS)], "linestyle": DASHES[turn % len(DASHES)]}


def legend_below(figure, looks, *more):
    """In as many columns as fit."""
    handles = [*(Line2D([], [], label=name, **look) for name, look in looks.items()), *more]
    widths = [len(handle.get_label()) + 7 for handle in handles]
    room = 8 * figure.get_figwidth()
    columns = next(n for n in range(min(5, len(handles)), 0, -1)
                   if n == 1 or sum(max(part) for part in np.array_split(widths, n)) <= room)
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01),
                  ncol=columns, frameon=False, handlelength=2.4)


def save(figure, path):
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format="png", bbox_inches="tight", pad_inches=0.15)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    print(path)


def texts_of(option):
    return list(map(str, option)) if isinstance(option, list) else []


def in_order(listed, found):
    """What was found, in the order of the options' list."""
    return [name for name in dict.fromkeys([*texts_of(listed), *found]) if name in set(found)]
