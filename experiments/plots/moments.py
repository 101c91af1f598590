"""Moments: loss against the refresh interval, one panel for each task, frames and rank."""
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from plots.common import CROSS, read_csv, style, legend_below, save


def draw(folder, options, metadata):
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
        ax.remove()
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
            if refused.empty:  # an empty line that is not clipped would reach to the figure's corner
                continue
            ax.plot([intervals.index(k) + nudge for k in refused.refresh_every],
                    np.full(len(refused), 0.97), color=looks[place]["color"],
                    transform=ax.get_xaxis_transform(), clip_on=False, **CROSS)
        for (_, line), dash in zip(references[references.task == task].iterrows(), ("-", "--")):
            ax.axhline(line.loss, color="black", linestyle=dash, linewidth=1.2)
        ax.set_ylim(top=min(most, ax.get_ylim()[1]))
        ax.set_xticks(range(len(intervals)), [f"{k:g}" for k in intervals])
        ax.yaxis.set_minor_formatter(NullFormatter() if ax.get_ylim()[1] > 10 * ax.get_ylim()[0]
                                     else StrMethodFormatter("{x:g}"))
    for ax in axes[:, 0]:
        ax.set_ylabel("final test loss")
    black = {"color": "black", "linewidth": 1.2}
    legend_below(figure, looks, Line2D([], [], label="full, adam", **black),
                 Line2D([], [], label="full, sgd", linestyle="--", **black),
                 Line2D([], [], label="refused: would diverge", color="#888888", **CROSS))
    figure.suptitle("where the moments live, and what becomes of them: mean, 95 % interval",
                    fontsize=16)
    save(figure, folder / "moments.png")
