#!/usr/bin/env python3
"""plot.py FOLDER: draws the pictures of a run folder.

Exit codes: 0 drawn, or nothing to draw · 2 usage · 3 no run folder, or damaged · 5 cannot write.
A new experiment adds its function to DRAWINGS at the end."""
import io
import json
import os
import re
import sys
from collections import namedtuple
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

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


def texts_of(option):
    return list(map(str, option)) if isinstance(option, list) else []


def in_order(listed, found):
    """What was found, in the order of the options' list."""
    return [name for name in dict.fromkeys([*texts_of(listed), *found]) if name in set(found)]


def alternatives(spec):
    """The specs that a listed one stands for: its knob, as in alpha=1|4, set to each value."""
    knob = re.fullmatch(r"(.*[:,][^:,=]+=)([^,]*\|[^,]*)(.*)", spec)
    return [knob[1] + value + knob[3] for value in knob[2].split("|")] if knob else [spec]


def draw_compare(folder, options, metadata):
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


def spread(heights, gap):
    """The nearest heights in [0, 1] (in squares) that keep their order, a gap apart at least."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    blocks = []  # of what moves together: where its first goes, and how many they are
    for height in np.asarray(heights)[order] - steps:
        blocks.append((height, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (upper, n), (lower, m) = blocks.pop(), blocks.pop()
            blocks.append(((upper * n + lower * m) / (n + m), n + m))
    places = np.repeat([place for place, _ in blocks], [n for _, n in blocks])
    out = np.empty(len(heights))
    out[order] = np.clip(places, 0, max(0, 1 - steps[-1])) + steps
    return out


def draw_trials(folder, curves, measure):
    """The expected best of k trials: a panel per group of state bytes, names beside the ends."""
    trials = read_csv(folder / "trials.csv", "method optimizer", "k expected_best")
    states = read_csv(folder / "table.csv", "method optimizer seed state_group", "state_bytes")
    states = states[states.seed == "all"].sort_values("state_bytes", kind="stable")
    group_of = states.drop_duplicates(["method", "optimizer"]).set_index(["method", "optimizer"])
    groups = states.state_group.unique()
    best = {key: rows.set_index("k").expected_best * measure.factor
            for key, rows in trials.groupby(["method", "optimizer"])}
    panels = []
    for optimizer, those in curves.items():
        members = {group: [] for group in groups}
        known = [curve for curve in those
                 if (curve.method, optimizer) in best and (curve.method, optimizer) in group_of.index]
        for curve in known:
            members[group_of.state_group[curve.method, optimizer]].append(curve)
        everything = [(curve.look, best[curve.method, optimizer]) for curve in known]
        for group in filter(members.get, groups):
            mine = [(curve.method, curve.look, best[curve.method, optimizer])
                    for curve in members[group]]
            panels.append((f"{optimizer}, state {group}", everything, mine))
    if not panels:
        return
    columns, most = min(2, len(panels)), max(len(mine) for _, _, mine in panels)
    height, rows = max(4.6, 0.27 * most + 1.4), -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9 * columns, height * rows), squeeze=False,
                                layout="constrained")
    for ax, panel in zip(axes.flat, panels):
        draw_group(ax, *panel, gap=0.25 / (height - 1.2))
        ax.set_ylabel(f"expected best {measure.name}" + (", %" if measure.factor == 100 else ""))
    for ax in axes.flat[len(panels):]:
        ax.set_axis_off()
    figure.suptitle("best of k trials drawn from a search, expected; state as a share of Adam's for "
                    "full-rank training\n(black: the reference, grey: the other groups)", fontsize=15)
    save(figure, folder / "trials.png")


def draw_group(ax, title, everything, mine, gap):
    """The curves of a group with their names and ends; the others in grey, the reference in black.
    A curve far below all others leaves the view: its name stands at the bottom."""
    ends = np.array([line.iloc[-1] for _, line in everything])
    quarter, half = np.quantile(ends, [0.25, 0.5])
    low, high = max(ends.min(), half - 4 * (half - quarter) - 1e-9), ends.max()
    room = max(high - low, 1e-3 * abs(high), 1e-9)
    low, high = low - 0.5 * room, high + 0.06 * room
    ax.set(title=title, xlabel="trials k", ylim=(low, high))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for look, line in reversed(everything):
        ax.plot(line, color="black" if look is everything[0][0] else "#d0d0d0", linewidth=1.2)
    heights = np.clip([(line.iloc[-1] - low) / (high - low) for *_, line in mine], 0, 1)
    for (name, look, line), end, place in zip(mine, heights, spread(heights, gap)):
        ax.plot(line, **look, markevery=max(1, len(line) // 8))
        ax.annotate(f"{name}  {line.iloc[-1]:.1f}", (line.index[-1], end), (1.06, place),
                    xycoords=("data", "axes fraction"), textcoords="axes fraction", va="center",
                    fontsize=12.5, color=look["color"],
                    arrowprops={"arrowstyle": "-", "color": look["color"], "linewidth": 0.8,
                                "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0})


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


# moments: loss against the refresh interval, one panel for each task, frames and rank


def draw_moments(folder, options, metadata):
    table = read_csv(folder / "table.csv", "task frames moments transport status",
                     "rank refresh_every loss loss_low loss_high")
    references = table[table.frames == "full"]
    grid = table[table.frames != "full"].copy()
    if grid.empty:
        return print(f"{folder}: no results in table.csv, nothing to draw")
    grid["place"] = grid.moments.where(grid.moments != "factors", "factors, " + grid.transport)
    looks = {place: style(i + 1) for i, place in enumerate(grid.place.unique())}
    panels = list(grid.groupby(["task", "frames", "rank"], sort=False))
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(max(8, 4.6 * columns), 4.4 * rows),
                                squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels):]:
        ax.set_axis_off()
    for ax, ((task, frames, rank), part) in zip(axes.flat, panels):
        intervals = sorted(part.refresh_every.unique())
        ax.set(yscale="log", title=f"{task}: {frames}, rank {rank:g}", xlabel="refresh interval",
               xlim=(-0.5, len(intervals) - 0.5))
        most = 4 * part.loss.quantile(0.85)  # a curve beside its cliff may end anywhere
        for number, (place, curve) in enumerate(part.groupby("place", sort=False)):
            curve = curve.dropna(subset=["loss"]).copy()
            for column in ("loss", "loss_high"):
                curve[column] = curve[column].clip(upper=2 * most)
            nudge = 0.5 * ((number + 0.5) / len(looks) - 0.5)  # so that intervals can be told apart
            at = [intervals.index(k) + nudge for k in curve.refresh_every]
            error = (curve.loss - curve.loss_low, curve.loss_high - curve.loss)
            ax.errorbar(at, curve.loss, np.nan_to_num(np.abs(error)), capsize=3,
                        **{**looks[place], "linestyle": ":"})
            refused = part[(part.place == place) & (part.status == "refused")]
            ax.plot([intervals.index(k) + nudge for k in refused.refresh_every],
                    np.full(len(refused), 0.97), color=looks[place]["color"],
                    transform=ax.get_xaxis_transform(), clip_on=False, **CROSS)
        for (_, line), dash in zip(references[references.task == task].iterrows(), ("-", "--")):
            ax.axhline(line.loss, color="black", linestyle=dash, linewidth=1.2)
        ax.set_ylim(top=min(most, ax.get_ylim()[1]))
        ax.set_xticks(range(len(intervals)), [f"{k:g}" for k in intervals])
    for ax in axes[:, 0]:
        ax.set_ylabel("final test loss")
    black = {"color": "black", "linewidth": 1.2}
    legend_below(figure, looks, Line2D([], [], label="full, adam", **black),
                 Line2D([], [], label="full, sgd", linestyle="--", **black),
                 Line2D([], [], label="refused: would diverge", color="#888888", **CROSS))
    figure.suptitle("where the moments live, and what becomes of them: mean, 95 % interval",
                    fontsize=16)
    save(figure, folder / "moments.png")


# stability: fitted exponents of second moments beside theory's


def draw_stability(folder, options, metadata):
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


# allocation: which matrices keep the budget, and what it buys


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


def draw_allocation(folder, options, metadata):
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


# expressivity: captured energy against numbers trained, a panel per change


def draw_expressivity(folder, options, metadata):
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


# intrinsic: performance against the number of trained directions


def draw_intrinsic(folder, options, metadata):
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


# Each experiment with the file that it is known by, how that one begins, and what draws it.
DRAWINGS = [("unbiased", "table.csv", b"identity,family,side,", draw_unbiased),
            ("subspace", "layers.csv", b"method,", draw_subspace),
            ("moments", "table.csv", b"task,frames,", draw_moments),
            ("stability", "table.csv", b"start,scaling,", draw_stability),
            ("allocation", "layers.csv", b"method,", draw_allocation),
            ("expressivity", "table.csv", b"target,norm,", draw_expressivity),
            ("intrinsic", "table.csv", b"method,rank,", draw_intrinsic),
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
