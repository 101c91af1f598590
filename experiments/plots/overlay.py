"""Runs of compare over each other: what differs between the calls names the curves."""
import matplotlib.pyplot as plt

from plots.common import fail, legend_below, read_csv, read_json, save, style

RUN_ONLY = {"out", "config", "overwrite", "resume", "jobs", "threads", "quiet", "data", "cache",
            "best-from", "lr"}


def losses(folder, seeds):
    """Curve → validation loss at its reported rate, step × seed."""
    rows = read_csv(folder / "metrics.csv", "method optimizer split", "lr seed step loss")
    curve = ["method", "optimizer", "lr"]
    reported = rows[rows.split == "test"][curve].drop_duplicates()
    rows = rows[(rows.split == "validation") & rows.seed.isin(seeds)].merge(reported, on=curve)
    return {key: part.pivot_table(index="step", columns="seed", values="loss", dropna=False)
            for key, part in rows.groupby(["method", "optimizer"], sort=False)}


def naming(runs):
    """Per run the options in which the runs differ, as text."""
    keys = [key for key in dict.fromkeys(key for options in runs for key in options)
            if key not in RUN_ONLY and len({str(options.get(key)) for options in runs}) > 1]
    return [", ".join(f"{key} {options.get(key)}" for key in keys) for options in runs]


def draw(folders):
    options = [read_json(folder / "run.json") for folder in folders]
    seeds = [set(read_json(folder / "metadata.json").get("seeds", [])) for folder in folders]
    shared = sorted(set.intersection(*seeds))
    if not all((folder / "metrics.csv").is_file() for folder in folders) or not shared:
        fail(3, "an overlay needs run folders of compare that share seeds")
    names = naming(options)
    found = [losses(folder, shared) for folder in folders]
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.6), layout="constrained")
    axes[0].set(title=f"validation loss: mean and range of {len(shared)} seeds", xlabel="step")
    axes[1].set(title=f"less that of {names[0]}, seed by seed:\nmean and range", xlabel="step")
    axes[1].axhline(0, color="black", linewidth=1)
    looks = {}
    for run, name in zip(found, names):
        for key, curve in run.items():
            label = f"{key[0]} {key[1]}" + (f", {name}" if name else "")
            looks[label] = look = style(len(looks))
            parts = [(axes[0], curve)]
            if run is not found[0] and key in found[0]:
                parts.append((axes[1], curve - found[0][key]))
                end = (curve - found[0][key]).iloc[-1]
                print(f"{label}: {curve.iloc[-1].mean():.5f} ± {curve.iloc[-1].std():.5f} over seeds, "
                      f"difference {end.mean():+.5f} ± {end.std():.5f}")
            for ax, values in parts:
                ax.fill_between(values.index, values.min(axis=1), values.max(axis=1),
                                color=look["color"], alpha=0.18, linewidth=0)
                ax.plot(values.mean(axis=1), **look, markevery=max(1, len(values) // 10))
    legend_below(figure, looks)
    save(figure, folders[-1] / "overlay.png")
