"""Trackers: where the metrics of a training go. TensorBoard, Weights & Biases, Trackio, JSON lines, or your own."""

from grpo_adapters.tracking.composite import Trackers
from grpo_adapters.tracking.factory import TrackerName, make_tracker, make_trackers
from grpo_adapters.tracking.interface import Cell, Tracker
from grpo_adapters.tracking.json_lines_tracker import JSONLinesTracker
from grpo_adapters.tracking.tensorboard_tracker import TensorBoardTracker
from grpo_adapters.tracking.trackio_tracker import TrackioTracker
from grpo_adapters.tracking.wandb_tracker import WandbTracker

__all__ = [
    "Cell",
    "JSONLinesTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackerName",
    "Trackers",
    "TrackioTracker",
    "WandbTracker",
    "make_tracker",
    "make_trackers",
]
