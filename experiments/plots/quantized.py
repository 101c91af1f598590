"""Quantized: the losses of W in float and in 4 bits, alone and adapted, and what the adapter gives back."""
import matplotlib.pyplot as plt
import numpy as np

from plots.common import read_csv, save, style

STATES = {"loss, nothing trained": "alone", "loss, adapted": "with the\nadapter",
          "loss, adapted then rounded": "adapted, then\nin 4 bits"}


def draw_losses(ax, table):
    """Seed by seed over the float network in the same state, so that seeds are paired."""
    wide = table[table.seed != "all"].pivot(index="seed", columns=["figure", "base"], values="value")
    bases = [base for base in dict.fromkeys(table.base) if base != "float"]
    for k, base in enumerate(bases):
        for i, figure in enumerate(STATES):
            start = "loss, adapted" if "rounded" in figure else figure
            more = wide[figure, base] - wide[start, "float"]
            ax.plot(np.full(len(more), i + 0.2 * (k - 0.5)), more, **(style(k + 1) | {"linestyle": "none"}),
                    alpha=0.8, label=base if i == 0 else None)
    ax.axhline(0, color="#444444", linewidth=1)
    ax.set(title="what 4 bits cost: every seed", ylabel="loss more than in float (test)",
           xticks=range(len(STATES)), xlim=(-0.5, len(STATES) - 0.5))
    ax.set_xticklabels(list(STATES.values()))
    ax.legend(frameon=False)


def draw_shares(ax, table):
    rows = table[table.figure.isin(["share", "share of the gap after adapting"])]
    for i, row in enumerate(rows.itertuples()):
        if np.isfinite(row.value):
            ax.errorbar(row.value, i, xerr=[[row.value - row.low], [row.high - row.value]], fmt="D", capsize=5,
                        color=style(1 + (row.base != "nf4"))["color"])
        else:
            ax.text(0.5, i, "no gap", ha="center", va="center", transform=ax.get_yaxis_transform())
    ax.axvline(1, color="#444444", linewidth=1)
    ax.set(title="share of the gap given back, 95 %", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticklabels([f"{row.base}: {'alone' if row.figure == 'share' else 'adapted,' + chr(10) + 'then in 4 bits'}"
                        for row in rows.itertuples()])


def draw_curves(ax, metrics):
    for k, (method, rows) in enumerate(metrics.groupby("method", sort=False)):
        mean = rows.groupby("step")["loss"].mean()
        ax.plot(mean, **style(k), label=method)
    ax.set(title="validation loss, mean of seeds", xlabel="step", ylabel="loss")
    ax.legend(frameon=False, fontsize=12)


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "figure base seed verdict", "value low high")
    metrics = read_csv(folder / "metrics.csv", "method split", "step seed loss")
    metrics = metrics[(metrics.split == "validation") & metrics.seed.isin(metadata["seeds"])]
    figure, axes = plt.subplots(1, 3, figsize=(19, 5.4), layout="constrained")
    draw_curves(axes[0], metrics)
    draw_losses(axes[1], table[table.figure.isin(STATES)])
    draw_shares(axes[2], table)
    save(figure, folder / "quantized.png")
