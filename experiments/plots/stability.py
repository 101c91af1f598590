"""Stability: fitted exponents of second moments beside theory's."""
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from plots.common import read_csv, style, legend_below, save


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "start scaling optimizer phase direction dimension",
                     "exponent low high theory").dropna()
    if table.empty:
        return print(f"{folder}: no exponents in table.csv, nothing to draw")
    table["line"] = (table.start.map({"lora_ga": "LoRA-GA, "}).fillna("") + table.scaling + ", "
                     + table.optimizer + ", " + table.phase)
    lines = list(table.line.unique())
    directions = list(table.direction.unique())
    looks = {direction: style(i + 1) for i, direction in enumerate(directions)}
    figure, axes = plt.subplots(1, 3, figsize=(16, 1.5 + 0.55 * len(lines)), sharey=True,
                                layout="constrained")
    for ax, dimension in zip(axes, "mnr"):
        ax.axvline(0, color="black", linewidth=1)
        for number, direction in enumerate(directions):
            part = table[(table.dimension == dimension) & (table.direction == direction)]
            at = [lines.index(line) + 0.3 * (number - 0.5) for line in part.line]
            look = {**looks[direction], "linestyle": ""}
            ax.plot(part.theory, at, **{**look, "markersize": 14, "fillstyle": "none"})
            ax.errorbar(part.exponent, at, xerr=(part.exponent - part.low,
                                                 part.high - part.exponent), capsize=4, **look)
        ax.set(xlabel="exponent", title=f"growth with {dimension}")
    axes[0].set_yticks(range(len(lines)), lines)
    axes[0].invert_yaxis()
    legend_below(figure, {name: {**look, "linestyle": ""} for name, look in looks.items()},
                 Line2D([], [], label="theory", marker="o", linestyle="", color="#888888",
                        fillstyle="none", markersize=14),
                 Line2D([], [], label="0: stable", color="black", linewidth=1))
    figure.suptitle("second moments of a LoRA adapter: fitted exponents, 95 % intervals",
                    fontsize=16)
    save(figure, folder / "stability.png")
