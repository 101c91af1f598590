"""Trials: the best that is expected from k trials of a search, by groups of state."""
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from plots.common import read_csv, save


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
