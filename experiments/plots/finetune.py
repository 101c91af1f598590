"""A fine-tuning: the loss of the batches, and loss and accuracy of the evaluations."""
import matplotlib.pyplot as plt

from plots.common import COLOURS, LARGE, read_csv, save


def draw(folder, options, metadata):
    steps = read_csv(folder / "log.csv", "", "step loss accuracy")
    if steps.empty:
        return print(f"{folder}: no steps in log.csv, nothing to draw")
    metrics = folder / "metrics.csv"
    held = read_csv(metrics, "split", "step loss accuracy") if metrics.is_file() else steps[:0]
    window = max(1, len(steps) // 50)
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for ax, quantity in zip(axes, ("loss", "accuracy")):
        mean = steps[quantity].rolling(window, min_periods=1).mean()
        if window > 1:
            ax.plot(steps.step, steps[quantity], color="0.8", linewidth=0.8)
        ax.plot(steps.step, mean, color=COLOURS[0], label=f"training, mean of {window}" if window > 1 else "training")
        if not held.empty:
            ax.plot(held.step, held[quantity], color=COLOURS[1], marker="o", label="evaluation", **LARGE)
        ax.set(xlabel="step", ylabel=quantity)
    axes[0].legend(frameon=False)
    figure.suptitle(f"{options.get('projector') or 'adapter'} under {options.get('optimizer')}, lr {options.get('lr'):g}", fontsize=16)
    save(figure, folder / "finetune.png")
