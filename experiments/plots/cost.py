"""Cost: where the time of a step goes, and what the time that LoRA saves is saved by."""
import matplotlib.pyplot as plt

from plots.common import COLOURS, read_csv, save

PARTS = {"forward": "forward", "delta": "δ", "weight_gradient": "weight gradient δᵀx",
         "project": "project", "rule": "rule", "update": "update",
         "refresh": "choice of the subspace, spread"}
LOOKS = ["#9e9e9e", "#d0d0d0", *COLOURS[:5]]  # grey: what no method changes


def stack(ax, rows, names, widths, colours):
    """Horizontal bars, one per row, each of the widths one after the other; what is negative goes left."""
    right, left = [0.0] * len(rows), [0.0] * len(rows)
    for name, colour in zip(names, colours):
        for i, row in enumerate(rows):
            width = widths(row, name)
            if not width == width:
                continue
            side = right if width >= 0 else left
            ax.barh(i, width, left=side[i], color=colour, edgecolor="white", linewidth=0.6, height=0.72)
            side[i] += width
    ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    return right


def draw_steps(ax, table, methods, title, refresh_every):
    seconds = table.set_index(["method", "part"]).median_seconds

    def milliseconds(method, part):
        spread = refresh_every if part == "refresh" else 1
        return 1e3 * seconds.get((method, part), 0.0) / spread

    ends = stack(ax, methods, PARTS, milliseconds, LOOKS)
    for i, method in enumerate(methods):
        step = table[(table.method == method) & (table.part == "step")].iloc[0]
        ax.errorbar(1e3 * step.median_seconds, i, fmt="none", ecolor="black", capsize=4, elinewidth=1.2,
                    xerr=[[1e3 * max(step.median_seconds - step.low_seconds, 0)],
                          [1e3 * max(step.high_seconds - step.median_seconds, 0)]])
    ax.set(title=title, xlabel="ms a step", xlim=(0, 1.25 * max(ends)))
    ax.set_yticks(range(len(methods)), methods)


def draw_reasons(ax, reasons, options):
    scenarios = list(dict.fromkeys(reasons.scenario))
    names = [name for name in dict.fromkeys(reasons.reason) if name != "computing"]
    share = reasons.set_index(["scenario", "reason"]).share_of_all_seconds
    colours = {**dict(zip(names, COLOURS[5:] + COLOURS)), "communication": "#555555"}
    stack(ax, scenarios, names, lambda scenario, name: 100 * share.get((scenario, name), float("nan")),
          [colours[name] for name in names])
    ax.axvline(0, color="black", linewidth=1)
    ax.set(title=f"saved from full, all layers, to lora\n({options.get('workers')} workers, "
                 f"{options.get('bandwidth'):g} Gbit/s, not overlapped)", xlabel="% of the time saved")
    ax.set_yticks(range(len(scenarios)), scenarios)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, frameon=False, fontsize=13)


def draw(folder, options, metadata):
    table = read_csv(folder / "table.csv", "scenario method compute part",
                     "median_seconds low_seconds high_seconds")
    reasons = read_csv(folder / "reasons.csv", "scenario reason", "share_of_all_seconds")
    scenarios, arithmetic = table.scenario.unique(), table.compute.unique()
    figure, axes = plt.subplots(len(arithmetic), len(scenarios) + 1, squeeze=False, layout="constrained",
                                figsize=(5.6 * (len(scenarios) + 1), 5.2 * len(arithmetic) + 0.8))
    for row, compute in zip(axes, arithmetic):
        for ax, scenario in zip(row, scenarios):
            rows = table[(table.scenario == scenario) & (table.compute == compute)]
            draw_steps(ax, rows, list(dict.fromkeys(rows.method)),
                       f"trained: {scenario}" + (f", {compute}" if len(arithmetic) > 1 else ""),
                       options.get("refresh-every", 1))
            if ax is not row[0]:
                ax.set_yticklabels([])
    for unused in axes[1:, -1]:
        unused.axis("off")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in LOOKS]
    figure.legend(handles, PARTS.values(), loc="upper center", bbox_to_anchor=(0.5, 0), ncol=len(PARTS),
                  frameon=False, fontsize=13)
    draw_reasons(axes[0, -1], reasons, options)
    save(figure, folder / "cost.png")
