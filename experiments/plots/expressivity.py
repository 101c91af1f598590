"""Expressivity: captured energy against numbers trained, a panel per change."""
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from plots.common import read_csv, style, legend_below, save, in_order


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "target norm method way",
                     "seed numbers captured least closed_form")
    table = table.dropna(subset=["numbers", "captured"])
    if table.empty:
        return print(f"{folder}: no fit in table.csv, nothing to draw")
    methods = in_order(options.get("projector"), table.method.unique())
    looks = {method: style(i + 1) for i, method in enumerate(methods)}
    panels = list(table.groupby(["target", "norm"], sort=False))
    columns = min(4, len(panels))
    height = -(-len(panels) // columns)
    figure, axes = plt.subplots(height, columns, figsize=(max(9, 5 * columns), 4.3 * height),
                                sharey=True, squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    for ax, ((target, norm), rows) in zip(axes.flat, panels):
        named = target if norm == "plain" else f"{target}, weighted by {norm}"
        ax.set(xscale="log", title=named, ylim=(-3, 104))
        if ax in axes[:, 0]:
            ax.set_ylabel("captured energy, %")
        for method, fits in rows.groupby("method", sort=False):
            seeds = 100 * fits.groupby("numbers")[["captured", "least", "closed_form"]].mean()
            span = 100 * fits.groupby("numbers").captured.agg(["min", "max"])
            look = looks[method]
            ax.fill_between(span.index, span["min"], span["max"], color=look["color"], alpha=0.18,
                            linewidth=0)
            ax.plot(seeds.index, seeds.captured, **look)
            if (fits.way == "search").any():
                ax.vlines(seeds.index, seeds.least, seeds.captured, color=look["color"],
                          linewidth=1)
            ax.plot(seeds.index, seeds.closed_form, linestyle="", marker="o", markersize=13,
                    fillstyle="none", color=look["color"])
        ticks = sorted(rows[rows.method == rows.method.iloc[0]].numbers.unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=12)
        ax.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("numbers trained", fontsize=15)
    figure.suptitle("how much of a change a method can express: mean (band: range) over "
                    f"{table.seed.nunique()} seeds", fontsize=17)
    grey = {"color": "#888888"}
    legend_below(figure, looks,
                 Line2D([], [], label="closed form", marker="o", ls="", markersize=13,
                        fillstyle="none", **grey),
                 Line2D([], [], label="worst start of a search", marker="|", ls="", markersize=14,
                        **grey))
    save(figure, folder / "expressivity.png")
