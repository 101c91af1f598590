"""Where: what the same budget buys at every place, and what rank does there."""
import matplotlib.pyplot as plt
import numpy as np

from plots.common import read_csv, save, style


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "kind what seed", "rank trained value low high")
    loss = options.get("measure") == "loss"
    unit = "test loss, nats" if loss else "test accuracy, %"
    sign = -0.01 if loss else 1
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5.6), layout="constrained")
    budget = table[table.kind == "budget"]
    places = list(dict.fromkeys(budget.what))
    labels = []
    for i, place in enumerate(places):
        rows = budget[budget.what == place]
        every, seeds = rows[rows.seed == "all"].iloc[0], rows[rows.seed != "all"]
        colour = style(i + 1)["color"]
        left.plot(sign * seeds.value, np.full(len(seeds), i + 0.14), "o", color=colour, alpha=0.4)
        left.errorbar(sign * every.value, i - 0.1, xerr=abs(sign) * (every.high - every.value), fmt="D", capsize=5, color=colour)
        rank = f"r = {every['rank']:.0f}" if every["rank"] > 0 else "in full"
        labels.append(f"{place}, {rank}\n{every.trained:,.0f}")
    left.set(title="where: rows with the numbers that they train", xlabel=unit, yticks=range(len(places)),
             ylim=(len(places) - 0.5, -0.5))
    left.set_yticklabels(labels, fontsize=11.5)
    ranks = table[(table.kind == "rank") & (table.seed == "all")]
    for i, place in enumerate(dict.fromkeys(ranks.what)):
        rows = ranks[ranks.what == place].sort_values("rank")
        right.errorbar(rows["rank"] * 1.04 ** (i - 1), sign * rows.value, yerr=abs(sign) * (rows.high - rows.value), capsize=4,
                       label=place, **style(i + 1))
    right.set(title="which rank: mean and 95 % interval over seeds", xlabel="rank", ylabel=unit, xscale="log")
    if len(ranks):
        right.set_xticks(sorted(set(ranks["rank"])), [f"{r:.0f}" for r in sorted(set(ranks["rank"]))])
        right.minorticks_off()
        right.legend(frameon=False)
    save(figure, folder / "where.png")
