"""Context: loss against position, and time per step against length."""
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from plots.common import legend_below, read_csv, save, style

LINES = ["--", ":", "-"]  # of what is not trained
WAYS = ["full fine-tuning", "LoRA", "LoRA + embeddings + norms"]


def draw_positions(ax, table, looks):
    bucket = table.position[table.position > 0].min()
    middle = bucket / 2
    untrained = {name: table[table.method == name] for name in table.method.unique() if name.startswith("no training")}
    for (name, start), line in zip(untrained.items(), LINES):
        ax.plot(start.position + middle, start.loss, color="#888888", linestyle=line)
    for attention, dashes in (("full", "-"), ("sparse", "--")):
        for way in WAYS:
            runs = table[(table.method == way) & (table.attention == attention)]
            at = runs.groupby("position").loss.agg(["mean", "min", "max"])
            look = {**looks[way], "linestyle": dashes, "markersize": 5}
            ax.plot(at.index + middle, at["mean"], **look)
    trained = table[table.method.isin(WAYS)].groupby(["method", "attention", "position"]).loss.mean()
    low = min(trained.min(), *(start.loss.min() for name, start in untrained.items() if "cut" in name))
    high = trained.max()
    ax.set(xlabel="position", ylabel="test loss, nats per byte", title="loss by position",
           ylim=(low - 0.1 * (high - low), high + 0.25 * (high - low)))
    return [Line2D([], [], label=name, linestyle=line, color="#888888") for name, line in zip(untrained, LINES)]


def draw_times(ax, times):
    each = times.assign(ratio=times.sparse_seconds / times.full_seconds).groupby("length")
    for column, label, line in (("full_seconds", "full attention", "-"), ("sparse_seconds", "sparse attention", "--")):
        middle = 1e6 * each[column].median() / each.tokens.first()
        ax.plot(middle, color="black", linestyle=line, marker="o", label=label)
    ax.set(xscale="log", yscale="log", xlabel="length of a sequence, tokens", ylabel="µs a token, forward and backward",
           title="time against length")
    ax.set_xticks(sorted(times.length.unique()), [f"{length:g}" for length in sorted(times.length.unique())])
    ax.minorticks_off()
    for length, ratio in each.ratio.median().items():
        ax.annotate(f"×{ratio:.2f}", (length, 1e6 * each.sparse_seconds.median()[length] / each.tokens.first()[length]),
                    xytext=(0, -22), textcoords="offset points", ha="center", fontsize=13)
    ax.margins(y=0.2)
    low, high = ax.get_ylim()
    ticks = [m * 10 ** e for e in range(-1, 6) for m in (1, 2, 5) if low < m * 10 ** e < high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.legend(frameon=False, loc="upper left")


def draw(folder, options, metadata):
    table = read_csv(folder / "positions.csv", "attention method seed", "position loss")
    times = read_csv(folder / "times.csv", "", "length tokens full_seconds sparse_seconds")
    if table.empty or times.empty:
        return print(f"{folder}: nothing to draw")
    looks = {way: style(i) for i, way in enumerate(WAYS)}
    figure, axes = plt.subplots(1, 2, figsize=(15, 6), layout="constrained")
    grey = draw_positions(axes[0], table, looks)
    draw_times(axes[1], times)
    seeds = table[table.method.isin(WAYS)].seed.nunique()
    figure.suptitle(f"mean of {seeds} seeds; solid: trained with full attention, dashed: with shifted sparse attention; "
                    "evaluated with full", fontsize=15)
    legend_below(figure, looks, *grey)
    save(figure, folder / "context.png")
