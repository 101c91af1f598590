"""Unbiased: variance of the update against rank."""
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from plots.common import read_csv, style, legend_below, save


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "identity family side verdict",
                     "rank rows cols measured predicted standard_error")
    table = table[(table.identity == "variance") & (table.measured > 0) & (table.predicted > 0)]
    if table.empty:
        return print(f"{folder}: no variances in table.csv, nothing to draw")
    looks = {family: style(i + 1) for i, family in enumerate(table.family.unique())}
    sides, ranks = table.side.unique(), sorted(table["rank"].unique())
    figure, axes = plt.subplots(1, len(sides), figsize=(max(8, 5.3 * len(sides)), 5.4),
                                sharey=True, squeeze=False, layout="constrained")
    axes[0, 0].set_ylabel("variance of the update / ‖G‖²")
    for ax, side in zip(axes[0], sides):
        ax.set(xscale="log", yscale="log", xlabel="rank", title=f"sides={side}")
        for (family, *_), rows in table[table.side == side].groupby(["family", "rows", "cols"]):
            rows, look = rows.sort_values("rank"), {**looks[family], "linestyle": ""}
            ax.plot(rows["rank"], rows.predicted, color=look["color"])
            ax.errorbar(rows["rank"], rows.measured, 5 * rows.standard_error, capsize=6, **look)
            off = rows[rows.verdict != "ok"]
            ax.plot(off["rank"], off.measured, "ro", markersize=16, fillstyle="none")
        ax.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
        ax.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle("predicted (lines) and measured (points ± 5 standard errors)", fontsize=16)
    legend_below(figure, looks)
    save(figure, folder / "unbiased.png")
