"""Subspace: what the steps see, what ΔW spans, how it turns, and what two runs share."""
import matplotlib.pyplot as plt

from plots.common import read_csv, style, legend_below, save, in_order


def draw_series(axes, layers, looks, keys):
    for ax, (key, label) in zip(axes, keys.items()):
        for method, look in looks.items():
            rows = layers[(layers.key == key) & (layers.method == method)]
            mean = rows.groupby("step").value.mean()
            ax.plot(mean.index, mean, **look)
        ax.set(xlabel="step", ylabel=label)


def draw(folder, options, metadata):
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
