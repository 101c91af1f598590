"""Compare: loss against steps, accuracy against learning rate, old task against new task."""
import re
from collections import namedtuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from plots.common import LARGE, CROSS, read_csv, style, legend_below, save, texts_of, in_order
from plots.trials import draw_trials


Measure = namedtuple("Measure", "column name label factor better limits")
Curve = namedtuple("Curve", "method look sweep rate runs stands_in")


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
    """(Method, learning rate) → mean over the seeds of the last validation value, NaN if a run
    diverged."""
    trial = ["method", "lr", "seed"]
    ends = runs[runs.split == "validation"].groupby(trial)[measure.column].last()
    failed = runs.groupby(trial).diverged.max() > 0
    values = ends.reindex(failed.index).mask(failed) * measure.factor
    return values.groupby(["method", "lr"]).agg(lambda seeds: seeds.mean(skipna=False))


def make_curve(rows, look, reported_seeds, measure):
    """A listed method under an optimizer: the best of its knob at every rate, and the runs that are
    reported. Where the call was interrupted before those, the best tuning runs stand in."""
    is_reported = rows.seed.isin(reported_seeds)
    reported, tuning = rows[is_reported], rows[~is_reported]
    values = final_values(reported if tuning.empty else tuning, measure)
    is_higher = measure.better == "higher"
    best = (values if is_higher else -values).fillna(-np.inf).idxmax()
    method, rate = best if reported.empty else reported[["method", "lr"]].iloc[0]
    runs = tuning[(tuning.method == method) & (tuning.lr == rate)] if reported.empty else reported
    sweep = values.groupby("lr").max() if is_higher else values.groupby("lr").min()
    return Curve(method, look, sweep, rate, runs, reported.empty)


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


def alternatives(spec):
    """The specs that a listed one stands for: its knob, as in alpha=1|4, set to each value."""
    knob = re.fullmatch(r"(.*[:,][^:,=]+=)([^,]*\|[^,]*)(.*)", spec)
    return [knob[1] + value + knob[3] for value in knob[2].split("|")] if knob else [spec]


def draw(folder, options, metadata):
    metrics = read_csv(folder / "metrics.csv", "method optimizer split",
                       "lr seed step loss accuracy diverged")
    key = ["method", "optimizer", "lr", "seed", "step", "split"]
    metrics = metrics.dropna(subset=key).drop_duplicates(key)
    if metrics.empty:
        return print(f"{folder}: no run has finished, nothing to draw")
    listed = {each: spec for spec in texts_of(options.get("projector"))
              for each in alternatives(spec)}
    metrics["listed"] = [listed.get(method, method) for method in metrics.method]
    measure = choose_measure(metrics[metrics.split == "validation"])
    tested = metrics.seed[metrics.split == "test"].unique()
    reported = metadata["seeds"] if isinstance(metadata.get("seeds"), list) else tested
    names = in_order(options.get("projector"), metrics.listed.unique())
    looks = {name: style(i) for i, name in enumerate(names)}
    curves = {optimizer: [] for optimizer in in_order(options.get("optimizer"),
                                                      metrics.optimizer.unique())}
    for optimizer, found in curves.items():
        rows = dict(list(metrics[metrics.optimizer == optimizer].groupby("listed")))
        found += [make_curve(rows[name], look, reported, measure)
                  for name, look in looks.items() if name in rows]
    chosen = {name: {curve.method for those in curves.values() for curve in those
                     if curve.look is look} for name, look in looks.items()}
    labels = {min(methods) if len(methods) == 1 else name: looks[name]
              for name, methods in chosen.items()}
    draw_metrics(folder, curves, labels, measure)
    if (folder / "trials.csv").is_file():
        draw_trials(folder, curves, measure)


def draw_metrics(folder, curves, looks, measure):
    figure = plt.figure(figsize=(16, 5.4 * len(curves)), layout="constrained")
    parts = figure.subfigures(len(curves), 1, squeeze=False, hspace=0.03)[:, 0]
    for part, (optimizer, those) in zip(parts, curves.items()):
        axes = part.subplots(1, 3)
        draw_loss(axes[0], those)
        draw_rates(axes[1], those, measure)
        draw_forgetting(axes[2], those, measure)
        note = ": unfinished, some are tuning runs" if any(c.stands_in for c in those) else ""
        part.suptitle(optimizer + note, weight="bold", fontsize=18)
    grey = {"color": "#888888"}
    legend_below(figure, looks, Line2D([], [], label="diverged", **grey, **CROSS),
                 Line2D([], [], label="(b) reported rate, (c) end", marker="o", ls="", **grey,
                        **LARGE))
    save(figure, folder / "compare.png")
