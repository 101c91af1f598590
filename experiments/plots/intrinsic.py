"""Intrinsic: performance against the number of trained directions."""
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from plots.common import read_csv, style, legend_below, save, in_order


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "method seed",
                     "directions share accuracy accuracy_ratio gain_ratio")
    crossings = read_csv(folder / "crossings.csv", "method measure",
                         "part directions directions_low directions_high")
    seeds = table[(table.seed != "all") & ~table.method.isin(["start", "full"])]
    if seeds.empty:
        return print(f"{folder}: no run in table.csv, nothing to draw")
    methods = in_order(options.get("projector"), seeds.method.unique())
    looks = {method: style(i + 1) for i, method in enumerate(methods)}
    full = table[table.method == "full"].directions.max()
    start = table[table.method == "start"].accuracy_ratio.mean()
    figure, axes = plt.subplots(1, 2, figsize=(15, 6), layout="constrained")
    for ax, measure, zero in zip(axes, ("accuracy", "gain"), (start, 0)):
        ax.set(xscale="log", xlabel="trained directions", ylabel=f"{measure} / full's, %",
               title="accuracy, as Li et al. define d90" if measure == "accuracy"
               else "gain over the start")
        found = crossings[crossings.measure == measure]
        part = 100 * found.part.iloc[0]
        ax.axhline(part, color="#888888", linewidth=1)
        ax.axhline(100 * zero, color="#888888", linewidth=1, linestyle=":")
        for height, method in enumerate(methods):
            runs = 100 * seeds[seeds.method == method].groupby("directions")[f"{measure}_ratio"].agg(
                ["mean", "min", "max"])
            look = looks[method]
            ax.fill_between(runs.index, runs["min"], runs["max"], color=look["color"], alpha=0.18,
                            linewidth=0)
            ax.plot(runs["mean"], **look)
            for _, row in found[found.method == method].dropna().iterrows():
                level = 100 * zero + (2 + 2.2 * height) * (part - 100 * zero) / 100
                ax.plot([row.directions_low, row.directions_high], [level, level],
                        color=look["color"], linewidth=3)
                ax.plot(row.directions, level, **{**look, "linestyle": ""}, markersize=9)
        top = ax.secondary_xaxis("top", functions=(lambda d: 100 * d / full, lambda p: p * full / 100))
        top.set_xlabel("share of all parameters, %")
        top.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    figure.suptitle(f"mean and range of {seeds.seed.nunique()} seeds; at the bottom where {part:g} % "
                    "is reached, with its 95 % interval", fontsize=16)
    grey = {"color": "#888888"}
    legend_below(figure, looks, Line2D([], [], label="the start", ls=":", **grey))
    save(figure, folder / "intrinsic.png")
