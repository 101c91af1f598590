"""Allocation: which matrices keep the budget, and what it buys."""
import matplotlib.pyplot as plt
import numpy as np

from plots.common import MARKERS, read_csv, style, save


def draw_ranks(ax, ranks, needy):
    """Ranks of every matrix, mean and range over seeds; the needy ones in colour."""
    for i, (matrix, rows) in enumerate(ranks.groupby("parameter")):
        seeds = rows.pivot(index="step", columns="seed", values="value")
        look = style(1 + needy.index(matrix)) if matrix in needy else {
            "color": "#888888", "marker": MARKERS[-1 - i % 4], "linestyle": ":"}
        ax.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=look["color"],
                        alpha=0.15, linewidth=0)
        ax.plot(seeds.mean(axis=1), **look, markevery=max(1, len(seeds) // 8), label=matrix)
    ax.legend(ncol=2, frameon=False, fontsize=12)


def draw(folder, options, metadata):
    layers = read_csv(folder / "layers.csv", "method parameter key", "seed step value")
    table = read_csv(folder / "table.csv", "figure method seed", "value low high")
    ranks = layers[layers.key == "rank"]
    methods = list(dict.fromkeys(ranks.method))
    needy = metadata.get("needy", [])
    figure, axes = plt.subplots(1, len(methods) + 1, figsize=(6.2 * (len(methods) + 1), 5.4),
                                squeeze=False, layout="constrained")
    for ax, method in zip(axes[0], methods):
        ax.set(xlabel="step", ylabel="rank: mean and range of seeds",
               title=method.replace(",gamma", ",\ngamma"))
        draw_ranks(ax, ranks[ranks.method == method], needy)
    explained = table[table.figure == "R²"]
    names = list(dict.fromkeys(explained.method))
    ax = axes[0, -1]
    ax.set(title="R² at the end:\nseeds, mean and 95 % interval", xlabel="R²",
           yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    ax.set_yticklabels([name.replace(",gamma", ",\ngamma") for name in names], fontsize=12)
    for i, name in enumerate(names):
        rows = explained[explained.method == name]
        every, seeds = rows[rows.seed == "all"], rows[rows.seed != "all"]
        colour = style(i + 1)["color"]
        ax.plot(seeds.value, np.full(len(seeds), i + 0.12), "o", color=colour, alpha=0.4)
        ax.errorbar(every.value, [i - 0.12], [every.value - every.low, every.high - every.value],
                    fmt="D", capsize=5, color=colour)
    save(figure, folder / "allocation.png")
