"""A diffusion model is fine-tuned towards a reward, a denoising step being a decision (DDPO).

It learns eight Gaussians on a circle first. Then the reward of a point is its first coordinate, less β times the
divergence of its chain from the first model's (Black et al. 2024, arXiv:2305.13301; Fan et al. 2023, arXiv:2305.16381).
What that leads to is known without training: the first model's points, weighted by exp(reward / β). Nothing can have
more reward less β KL than that.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn

from grpo import Evaluation, GRPOConfig, GRPOTrainer, KLPenalizedRewards, Segments, TensorBatch

NUM_STEPS, MODES, BETA = 20, 8, 0.5
NOISE = torch.linspace(0.004, 0.5, NUM_STEPS)  # variance that each step adds
KEPT = (1 - NOISE).cumprod(0)  # share of a point's variance that is left after it
STD = (NOISE * (1 - KEPT / (1 - NOISE)) / (1 - KEPT)).clamp(min=0.002).sqrt()  # of a step back
ANGLES = 2 * torch.pi / MODES * torch.arange(MODES)
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)


class Denoiser(nn.Sequential):  # an action is a chain [NUM_STEPS + 1, 2] from noise, which is the state, to a point
    def before(self, seen: Tensor) -> torch.distributions.Normal:
        """Where points were before the last noise came, from points and steps one-hot, [D, 2 + NUM_STEPS]."""
        noise, kept, std = (seen[:, 2:] @ torch.stack([NOISE, KEPT, STD], dim=1)).split(1, dim=1)
        mean = (seen[:, :2] - noise / (1 - kept).sqrt() * self(seen)) / (1 - noise).sqrt()
        return torch.distributions.Normal(mean, std.expand_as(mean))

    def generate_actions(self, states: Tensor, num_actions_per_state: int, **_: Any) -> Tensor:
        chain = [states.repeat_interleave(num_actions_per_state, dim=0)]
        for step in torch.eye(NUM_STEPS).flip(0):
            chain.append(self.before(torch.cat([chain[-1], step.expand(len(chain[0]), -1)], dim=1)).sample())
        return torch.stack(chain, dim=1).unflatten(0, (len(states), num_actions_per_state))

    def encode_actions(self, states: Tensor, actions: Tensor) -> TensorBatch:
        seen = torch.cat([actions[:, :-1], torch.eye(NUM_STEPS).flip(0).expand(len(actions), -1, -1)], dim=2)
        return TensorBatch(seen.flatten(0, 1), actions[:, 1:].flatten(0, 1), Segments(len(actions), NUM_STEPS))

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.before(batch.observations).log_prob(batch.actions).sum(1))

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class FirstCoordinate(nn.Module):
    def compute_rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        return actions[:, -1, 0]


def pretrain(model: Denoiser, num_updates: int) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(num_updates):
        data = CENTRES[torch.randint(MODES, (512,))] + 0.15 * torch.randn(512, 2)
        steps, noise = torch.randint(NUM_STEPS, (512,)), torch.randn(512, 2)
        kept = KEPT[steps].unsqueeze(1)
        seen = torch.cat([kept.sqrt() * data + (1 - kept).sqrt() * noise, torch.eye(NUM_STEPS)[steps]], dim=1)
        optimizer.zero_grad()
        (model(seen) - noise).square().mean().backward()
        optimizer.step()


@torch.no_grad()
def sample(model: Denoiser, first: Denoiser) -> tuple[Tensor, Tensor, Tensor]:
    """Points of a model, [N, 2], equal weights, [N], and the divergence of its chains from the first model's, nats."""
    noise = torch.randn(20_000, 2)
    chains = model.generate_actions(noise, 1).squeeze(1)
    ratios = model.get_log_probabilities(noise, chains) - first.get_log_probabilities(noise, chains)
    return chains[:, -1], torch.ones(len(chains)), ratios.mean()


def main(steps: int = 300, seed: int = 0, figure: Path = Path("outputs/denoising.png")) -> None:
    """Train twice, print what was reached beside the best possible, draw the shares of the eight Gaussians.

    Args:
        steps: Steps of fine-tuning, of 256 chains each; the training before makes ten times as many.
        seed: Of weights and noise.
        figure: File for the figure.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = Denoiser(nn.Linear(2 + NUM_STEPS, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))
    pretrain(model, 10 * steps)
    first = copy.deepcopy(model)
    credit = KLPenalizedRewards(lambda experience: experience.sample_rewards.centered, BETA)
    trainer = GRPOTrainer(GRPOConfig(group_size=256), model, FirstCoordinate(), first, advantage_estimator=credit)
    for _ in range(steps):
        trainer.step(torch.randn(1, 2))
    before = sample(first, first)
    weights = (before[0][:, 0] / BETA).softmax(0) * len(before[0])
    best = before[0], weights, (weights * weights.log()).mean()
    axes = Figure(figsize=(3.6, 2.7), layout="constrained").subplots()
    axes.set_prop_cycle(color=["#D55E00", "#009E73", "#0072B2"])
    print(f"{'':14} reward    KL  reward - β KL  percent of points at each Gaussian")
    rows = (("first model", before, "s:"), ("best possible", best, "D"), ("fine-tuned", sample(model, first), "o-"))
    for name, (own, weight, kl), look in rows:
        reward, nearest = (weight * own[:, 0]).mean(), torch.cdist(own, CENTRES).argmin(1)
        shares = 100 * torch.zeros(MODES).index_add(0, nearest, weight) / len(own)
        print(f"{name:14} {reward:6.3f} {kl:5.3f}  {reward - BETA * kl:13.3f} ", *(f"{share:4.1f}" for share in shares))
        axes.plot(ANGLES.rad2deg(), shares, look, label=name)
    axes.set(xlabel="direction of the Gaussian, degrees", ylabel="percent of points")
    axes.legend(frameon=False)
    figure.parent.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(figure, transparent=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
