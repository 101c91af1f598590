#!/usr/bin/env python3
"""plot.py FOLDER: draws the pictures of a run folder.

Exit codes: 0 drawn, or nothing to draw · 2 usage · 3 no run folder, or damaged · 5 cannot write.
A new experiment adds its function to DRAWINGS at the end."""
import io
import json
import os
import sys
from collections import namedtuple
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

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


# compare: loss against steps, accuracy against learning rate, old task against new task

Measure = namedtuple("Measure", "column name label factor better limits")
Curve = namedtuple("Curve", "look sweep rate runs stands_in")


def choose_measure(rows):
    """What tells how good a network is: accuracy in %, R², or the loss where there is neither."""
    if rows.accuracy.isna().all():
        start = rows.loss[rows.step == 0].max()
        return Measure("loss", "loss", "loss", 1, "lower", (-0.05 * start, 1.5 * start))
    if rows.accuracy.min() < 0:
        return Measure("accuracy", "R²", "R²", 1, "higher", (-0.5, 1.04))
    return Measure("accuracy", "accuracy", "accuracy, %", 100, "higher", (-np.inf, np.inf))


def clip_view(axis, limits):
    low, high = axis.get_view_interval()
    axis.set_view_interval(max(low, limits[0]), min(high, limits[1]), ignore=True)


def final_values(runs, measure):
    """Learning rate → mean over the seeds of the last validation value, NaN if a run diverged."""
    ends = runs[runs.split == "validation"].groupby(["lr", "seed"])[measure.column].last()
    failed = runs.groupby(["lr", "seed"]).diverged.max() > 0
    values = ends.reindex(failed.index).mask(failed) * measure.factor
    return values.groupby("lr").agg(lambda seeds: seeds.mean(skipna=False))


def make_curve(rows, look, reported_seeds, measure):
    """A method under an optimizer: all its rates, and the runs at the one that is reported. Where
    the call was interrupted before those, the best tuning runs stand in."""
    is_reported = rows.seed.isin(reported_seeds)
    reported, tuning = rows[is_reported], rows[~is_reported]
    sweep = final_values(reported if tuning.empty else tuning, measure)
    best = (sweep if measure.better == "higher" else -sweep).fillna(-np.inf).idxmax()
    rate = best if reported.empty else reported.lr.iloc[0]
    runs = tuning[tuning.lr == rate] if reported.empty else reported
    return Curve(look, sweep, rate, runs, reported.empty)


def series(curve, split, column):
    """Step × seed; NaN from where a seed diverged."""
    rows = curve.runs[curve.runs.split == split]
    return rows.pivot(index="step", columns="seed", values=column).dropna(how="all")


def scale_losses(ax, low, high):
    margin = max(0.05 * (high - low), 0.02 * abs(high), 1e-9)
    if low <= 0 or high <= 10 * low:
        return ax.set_ylim(low - margin, high + margin)
    ax.set(yscale="log", ylim=(0.8 * low, 1.25 * high))
    if high < 1000 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def draw_loss(ax, curves):
    seeds = max(curve.runs.seed.nunique() for curve in curves)
    ax.set(xlabel="step", ylabel="validation loss", title="(a) new task, at the reported rate"
           + (f":\nmean and range of {seeds} seeds" if seeds > 1 else ",\none seed"))
    lows, highs = [], []
    for curve in curves:
        losses, colour = series(curve, "validation", "loss"), curve.look["color"]
        mean, low, high = losses.mean(axis=1), losses.min(axis=1), losses.max(axis=1)
        ax.fill_between(mean.index, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(mean, **curve.look, markevery=max(1, len(mean) // 8))
        diverged = curve.runs.seed[curve.runs.diverged > 0].unique()
        ends = losses.reindex(columns=diverged).apply(pd.Series.last_valid_index)
        ax.plot(mean[mean.index.isin(ends)], color=colour, **{**CROSS, "markersize": 12})
        lows.extend(low)
        highs.extend(mean.clip(upper=10 * mean.head(1).sum()))  # not all the way to infinity
    if lows:
        scale_losses(ax, min(lows), max(highs))


def draw_rates(ax, curves, measure):
    rates = np.concatenate([curve.sweep.index for curve in curves])
    room = 1.5 if rates.max() > 7 * rates.min() else 4  # a decade at least, for its ticks
    ax.set(xscale="log", xlim=(rates.min() / room, rates.max() * room), xlabel="learning rate",
           ylabel=f"final validation {measure.label}",
           title="(b) new task, at the end,\nwith every learning rate tried")
    for curve in curves:
        good = curve.sweep.dropna()
        ax.plot(good, **curve.look)
        ax.plot(good[good.index == curve.rate], **curve.look, **LARGE)
    clip_view(ax.yaxis, measure.limits)
    draw_diverged(ax, [curve for curve in curves if curve.sweep.isna().any()])


def draw_diverged(ax, curves):
    """A strip at the bottom with a line of crosses per method: where its cliff is."""
    low, high = ax.get_ylim()
    some_values = any(len(line.get_xdata()) for line in ax.lines)
    ticks = [tick for tick in ax.get_yticks() if low <= tick <= high and some_values]
    strip = min(0.04 * (len(curves) + 1), 0.35) if curves else 0
    ax.set(ylim=(low - (high - low) * strip / (1 - strip), high), yticks=ticks)
    ax.axhspan(ax.get_ylim()[0], low, color="#f0f0f0", linewidth=0, zorder=3)
    for curve, height in zip(curves, np.linspace(0, strip, len(curves) + 2)[1:]):
        rates = curve.sweep.index[curve.sweep.isna()]
        ax.plot(rates, np.full(len(rates), height), color=curve.look["color"],
                transform=ax.get_xaxis_transform(), **CROSS)


def draw_forgetting(ax, curves, measure):
    ax.set(title=f"(c) forgetting at the reported rate: {measure.better}\nis better (the table matches "
           "over all rates)", xlabel=f"new task: validation {measure.label}",
           ylabel=f"old task: validation {measure.label}")
    for curve in reversed(curves):  # the reference on top
        new, old = (series(curve, split, measure.column).mean(axis=1) * measure.factor
                    for split in ("validation", "old"))
        path = pd.concat([new, old], axis=1, join="inner")
        ax.plot(path[0], path[1], **curve.look, markevery=max(1, len(path) // 15))
        ax.plot(path[0].tail(1), path[1].tail(1), **curve.look, **LARGE)
    clip_view(ax.xaxis, measure.limits)
    clip_view(ax.yaxis, measure.limits)


def in_order(listed, found):
    """What was found, in the order of the options' list."""
    listed = map(str, listed) if isinstance(listed, list) else []
    return [name for name in dict.fromkeys([*listed, *found]) if name in set(found)]


def draw_compare(folder, options, metadata):
    metrics = read_csv(folder / "metrics.csv", "method optimizer split",
                       "lr seed step loss accuracy diverged")
    key = ["method", "optimizer", "lr", "seed", "step", "split"]
    metrics = metrics.dropna(subset=key).drop_duplicates(key)
    if metrics.empty:
        return print(f"{folder}: no run has finished, nothing to draw")
    measure = choose_measure(metrics[metrics.split == "validation"])
    tested = metrics.seed[metrics.split == "test"].unique()
    reported = metadata["seeds"] if isinstance(metadata.get("seeds"), list) else tested
    methods = in_order(options.get("projector"), metrics.method.unique())
    optimizers = in_order(options.get("optimizer"), metrics.optimizer.unique())
    looks = {method: style(i) for i, method in enumerate(methods)}
    figure = plt.figure(figsize=(16, 5.4 * len(optimizers)), layout="constrained")
    parts = figure.subfigures(len(optimizers), 1, squeeze=False, hspace=0.03)[:, 0]
    for part, optimizer in zip(parts, optimizers):
        rows = dict(list(metrics[metrics.optimizer == optimizer].groupby("method")))
        curves = [make_curve(rows[method], look, reported, measure)
                  for method, look in looks.items() if method in rows]
        axes = part.subplots(1, 3)
        draw_loss(axes[0], curves)
        draw_rates(axes[1], curves, measure)
        draw_forgetting(axes[2], curves, measure)
        note = ": unfinished, some are tuning runs" if any(c.stands_in for c in curves) else ""
        part.suptitle(optimizer + note, weight="bold", fontsize=18)
    grey = {"color": "#888888"}
    legend_below(figure, looks, Line2D([], [], label="diverged", **grey, **CROSS),
                 Line2D([], [], label="(b) reported rate, (c) end", marker="o", ls="", **grey,
                        **LARGE))
    save(figure, folder / "compare.png")


# unbiased: variance of the update against rank


def draw_unbiased(folder, options, metadata):
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


# subspace: what the steps see, what ΔW spans, how it turns, and what two runs share


def draw_series(axes, layers, looks, keys):
    for ax, (key, label) in zip(axes, keys.items()):
        for method, look in looks.items():
            rows = layers[(layers.key == key) & (layers.method == method)]
            mean = rows.groupby("step").value.mean()
            ax.plot(mean.index, mean, **look)
        ax.set(xlabel="step", ylabel=label)


def draw_subspace(folder, options, metadata):
    layers = read_csv(folder / "layers.csv", "method parameter key", "seed step value")
    grids = read_csv(folder / "similarity.csv", "pair matrix", "i j similarity")
    methods = in_order(options.get("projector"), layers.method.unique())
    looks = {method: style(i) for i, method in enumerate(methods)}
    matrices, pairs = layers.parameter.unique(), list(dict.fromkeys(grids.pair))
    keys = {"cosine": "cos(JJᵀG, G)", "energy_rank_90": "90 %-energy rank of ΔW",
            "overlap": "φ of ΔW's directions, look to look", "intruders": "intruder dimensions"}
    columns = len(keys) + len(pairs)
    figure, axes = plt.subplots(len(matrices), columns, squeeze=False, layout="constrained",
                                figsize=(4.6 * columns, 4.4 * len(matrices)))
    for row, matrix in zip(axes, matrices):
        draw_series(row, layers[layers.parameter == matrix], looks, keys)
        row[0].set_title(matrix, loc="left", weight="bold")
        row[1].set_yscale("log", base=2)
        row[1].yaxis.set_major_formatter("{x:g}")
        for ax, pair in zip(row[len(keys):], pairs):
            rows = grids[(grids.pair == pair) & (grids.matrix == matrix)]
            grid = rows.pivot_table(index="i", columns="j", values="similarity", aggfunc="mean")
            ax.grid(False)
            if grid.empty:
                ax.set_visible(False)
                continue
            image = ax.imshow(grid, origin="lower", vmin=0, vmax=1, cmap="viridis",
                              extent=(0.5, len(grid.columns) + 0.5, 0.5, len(grid) + 0.5))
            one, two = pair.split(" and ")
            ax.set(title="φ(i, j), two seeds", ylabel=f"i of {one}", xlabel=f"j of {two}")
            figure.colorbar(image, ax=ax, shrink=0.8)
    legend_below(figure, looks)
    save(figure, folder / "subspace.png")


# Each experiment with the file that it is known by, how that one begins, and what draws it.
DRAWINGS = [("unbiased", "table.csv", b"identity,family,side,", draw_unbiased),
            ("subspace", "layers.csv", b"method,", draw_subspace),
            ("compare", "metrics.csv", b"", draw_compare)]


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        fail(2, "usage: plot.py FOLDER")
    folder = Path(arguments[0])
    if not any((folder / name).is_file() for name in ("run.json", "metrics.csv", "table.csv")):
        fail(3, f"{folder} is not a run folder: it has no run.json")
    options, metadata = read_json(folder / "run.json"), read_json(folder / "metadata.json")
    for experiment, name, beginning, function in DRAWINGS:
        file, recorded = folder / name, metadata.get("experiment", experiment)
        if recorded == experiment and file.is_file() and file.read_bytes().startswith(beginning):
            return function(folder, options, metadata)
    print(f"{folder}: no picture is known for what is in it")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        fail(5, error)
