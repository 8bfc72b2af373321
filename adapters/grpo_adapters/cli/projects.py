"""The command that begins a project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from grpo_adapters.cli.arguments import parse
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.options import explained

POLICY = '''"""A policy of one's own, the reward that it is trained on, and the trainer that brings them together."""

import torch
from torch import nn

from grpo import BestWeights, Evaluate, GRPOConfig, GRPOTrainer, PolicyEvaluation


class Thrower(nn.Module):
    """Throws a ball upwards at 45°, with a speed drawn around what a network makes of the distance of the target."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
        self.log_std = nn.Parameter(torch.zeros(()))

    def speeds(self, distances):
        return torch.distributions.Normal(10 + 5 * self.mean(distances / 10).squeeze(-1), self.log_std.exp())

    def generate_actions(self, states, num_actions_per_state, **kwargs):
        return self.speeds(states).sample((num_actions_per_state,)).T  # a group of speeds for each state

    def get_log_probabilities(self, states, actions):
        return self.speeds(states).log_prob(actions)  # one for each pair of state and action

    def get_parameters(self):
        return dict(self.named_parameters())


class LandsNear(nn.Module):
    """Minus the metres between the place where the ball lands and the target."""

    def compute_rewards(self, states, actions):
        return -(actions.square() / 9.81 - states.squeeze(-1)).abs()


def targets(step):
    """64 targets, 5 to 20 metres away, others in each step."""
    return 5 + 15 * torch.rand(64, 1, generator=torch.Generator().manual_seed(step))


def make_trainer(seed=0):
    """What `anygrpo train` trains: a trainer, its states, and callbacks."""
    torch.manual_seed(seed)
    config = GRPOConfig(group_size=16, learning_rate=0.01, max_grad_norm=10.0, seed=seed)
    trainer = GRPOTrainer(config, Thrower(), LandsNear())
    held_out = 5 + 15 * torch.rand(200, 1, generator=torch.Generator().manual_seed(2**40))
    evaluate = Evaluate(PolicyEvaluation(held_out, LandsNear()), every=25)
    return trainer, targets, [evaluate, BestWeights("evaluation/reward")]
'''

TEST = '''"""The policy is what a trainer expects, and it learns."""

import torch
from policy import LandsNear, Thrower, make_trainer, targets

from grpo import check_policy_model, check_reward_model


def test_the_policy_is_what_a_trainer_expects():
    check_policy_model(Thrower(), torch.tensor([[5.0], [20.0]]), discrete=False)


def test_the_reward_model_is_what_a_trainer_expects():
    check_reward_model(LandsNear(), targets(0), 10 + torch.rand(64))


def test_it_learns():
    trainer, states, _ = make_trainer()
    rewards = [trainer.step(states(step))["reward"] for step in range(100)]
    assert rewards[-1] > rewards[0] + 2
'''

CONFIG = """# anygrpo train --config config.toml
# Options of the command line go before what stands here; anygrpo train --help explains them.
target = "policy.py:make_trainer"
folder = "run"
until_steps = 500
checkpoint_every = 100
seed = 0
num_threads = 1
"""

IGNORED = "run*/\n__pycache__/\n"
FILES = {"policy.py": POLICY, "test_policy.py": TEST, "config.toml": CONFIG, ".gitignore": IGNORED}


@explained
class InitOptions(BaseModel, frozen=True, extra="forbid"):
    """Begin a project: a policy of your own, a reward, settings and a test, to change into what you need.

    Attributes:
        folder: of the project; nothing that is there is written over.
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]


def init(words: Sequence[str]) -> int:
    """Begin a project; the exit status."""
    folder = parse(InitOptions, words, command="init", required=("folder",)).folder
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise UsageError(f"{folder} has {', '.join(there)} already: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error}") from error
    Console().print(
        Text(f"{', '.join(FILES)} in {folder}. Now:\ncd {folder}\nanygrpo train --config config.toml\npytest"),
        soft_wrap=True,
    )
    return 0
