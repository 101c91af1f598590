"""Records the gradients of a model's linear layers for GradView's `replay`: see gradview/recording.py."""

from gradview.recording import Recorder, record

__all__ = ["Recorder", "record"]
