"""The travelling salesman by attention: tours of new maps, held against the shortest ones.

An encoder looks at a map, a pointer goes from city to city (Kool et al. 2019, arXiv:1803.08475). What the encoder makes
of a map serves all tours of its group and all of their decisions. GRPO compares those tours with each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad, scaled_dot_product_attention

from grpo import Evaluation, GRPOConfig, GRPOTrainer, LinearSchedule, PairBatch, Segments

UNITS, HEADS = 64, 4


class Traveller(nn.Sequential):
    def log_probs(self, encoded: Tensor, here: Tensor, been: Tensor) -> Tensor:
        """Of going on to each city, [N, T, cities], from ``here`` [N, T] after having ``been`` [N, T, cities]."""
        asked, keys, values, pointers = encoded.chunk(4, dim=2)
        asked = asked.gather(1, here.unsqueeze(2).expand(-1, -1, UNITS))
        heads = [own.unflatten(2, (HEADS, -1)).transpose(1, 2) for own in (asked, keys, values)]
        seen = scaled_dot_product_attention(*heads, ~been.unsqueeze(1)).transpose(1, 2).flatten(2)
        ways = 10 * (seen @ pointers.transpose(1, 2) / UNITS**0.5).tanh()
        return ways.masked_fill(been, -torch.inf).log_softmax(-1)

    def generate_actions(self, states: Tensor, num_actions_per_state: int, greedy: bool = False, **_: Any) -> Tensor:
        encoded = self(states - states[:, :1]).repeat_interleave(num_actions_per_state, dim=0)
        tours = draw_tours(encoded, lambda here, been: self.log_probs(encoded, here, been), greedy)
        return tours.unflatten(0, (len(states), num_actions_per_state))

    def encode_actions(self, states: Tensor, actions: Tensor) -> PairBatch:
        return PairBatch(states, actions, Segments(*actions.shape))

    def evaluate_actions(self, batch: PairBatch) -> Evaluation:
        maps, map_of_tour = batch.states.unique(dim=0, return_inverse=True)  # one for all tours of a group
        here = pad(batch.actions, (1, 0))[:, :-1]
        been = one_hot(here, maps.shape[1]).cumsum(1).bool()
        log_probs = self.log_probs(self(maps - maps[:, :1])[map_of_tour], here, been)
        return Evaluation(log_probs.gather(2, batch.actions.unsqueeze(2)).flatten())

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class MinusLength(nn.Module):
    def compute_rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        path = pad(actions, (1, 1)).unsqueeze(2).expand(-1, -1, 2)  # from city 0 and back to it
        return -states.gather(1, path).diff(dim=1).norm(dim=2).sum(1)


def draw_tours(maps: Tensor, scores: Any, greedy: bool) -> Tensor:
    """Tours of N maps, [N, cities - 1], by the best score of a next city, or a softmax over scores."""
    path, been = [torch.zeros(len(maps), dtype=torch.int64)], torch.zeros(maps.shape[:2], dtype=torch.bool)
    for _ in range(maps.shape[1] - 1):
        been = been.scatter(1, path[-1].unsqueeze(1), True)
        ways = scores(path[-1].unsqueeze(1), been.unsqueeze(1)).squeeze(1).masked_fill(been, -torch.inf)
        path.append(ways.argmax(1) if greedy else torch.multinomial(ways.softmax(1), 1).squeeze(1))
    return torch.stack(path[1:], dim=1)


def shortest(maps: Tensor) -> Tensor:
    """Lengths of the shortest tours, [N], by dynamic programming over sets of cities (Held and Karp 1962)."""
    ways, others = torch.cdist(maps, maps), maps.shape[1] - 1
    least = torch.full((len(maps), 2**others, others), torch.inf)  # to have been in a set of cities and be in one
    for been in range(1, 2**others):
        for last in (city for city in range(others) if been >> city & 1):
            before = least[:, been ^ 1 << last] + ways[:, 1:, last + 1]
            least[:, been, last] = before.amin(1) if been ^ 1 << last else ways[:, 0, last + 1]
    return (least[:, -1] + ways[:, 1:, 0]).amin(1)


def main(steps: int = 300, seed: int = 0, figure: Path = Path("outputs/tsp.png")) -> None:
    """Train on maps of ten cities, print how much longer than the shortest tours are, draw one.

    Args:
        steps: Steps of training, each with 8 tours of each of 64 maps.
        seed: Of the weights and of all maps.
        figure: File for the figure.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(UNITS, HEADS, 2 * UNITS, dropout=0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    policy, reward = Traveller(nn.Linear(2, UNITS), encoder, nn.Linear(UNITS, 4 * UNITS)), MinusLength()
    rate = LinearSchedule(start=2e-3, end=0.0, num_steps=steps)
    trainer = GRPOTrainer(GRPOConfig(learning_rate=rate, batch_size=256, num_epochs_per_update=2), policy, reward)
    for _ in range(steps):
        trainer.step(torch.rand(64, 10, 2))
    print("longer than the shortest tour:  learnt  nearest neighbour  random")
    for cities in (8, 9, 10):
        maps = torch.rand(500, cities, 2)
        near, least = -torch.cdist(maps, maps), shortest(maps)
        learnt = policy.generate_actions(maps, 1, greedy=True)[:, 0]
        nearest = draw_tours(maps, lambda here, _, near=near: near[torch.arange(500), here[:, 0]], greedy=True)
        tours = learnt, nearest, 1 + torch.rand(500, cities - 1).argsort(1)
        gaps = [(-reward.compute_rewards(maps, own).sum() / least.sum() - 1).item() for own in tours]
        print(f"{f'{cities} cities':30}  {gaps[0]:6.1%}  {gaps[1]:17.1%}  {gaps[2]:6.1%}")
    axes = Figure(figsize=(3.6, 2.7), layout="constrained").subplots()
    axes.plot(*maps[0, pad(nearest[0], (1, 1))].T, "o--", color="#D55E00", label="nearest neighbour")
    axes.plot(*maps[0, pad(learnt[0], (1, 1))].T, "o-", color="#0072B2", label="learnt")
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.parent.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(figure, transparent=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
