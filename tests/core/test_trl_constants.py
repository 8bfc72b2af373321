"""Losses and gradients against numbers that TRL's own code gave.

They were printed by ``python tests/benchmarks/trl_parity.py --constants`` with TRL 1.16.0 and PyTorch 2.13.0; which of
its settings correspond to ours stands there. Without ``--constants`` the same script compares on random numbers.
For preferences the four samples are two pairs, chosen and rejected in turn.
"""

import pytest
import torch

from grpo import (
    ClippedImportanceSurrogate,
    ClippedSurrogate,
    Decisions,
    DPOObjective,
    Evaluation,
    GRPOObjective,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    PairLogProbs,
    RobustPreferenceLoss,
    SampleClippedSurrogate,
    Segments,
    SigmoidPreferenceLoss,
    SoftAdaptiveSurrogate,
)
from grpo.config.rollout import LossAveraging
from grpo.data.shared_segments import SharedSegments
from grpo.training._minibatches import LossWeights

LENGTHS = [3, 1, 2, 3]
LOG_PROBS = [-0.5, -1.2, -0.3, -2.0, -0.7, -1.1, -0.2, -0.9, -1.6]
OLD_LOG_PROBS = [-0.6, -0.8, -0.9, -1.7, -1.3, -1.0, -0.2, -1.5, -1.1]
REFERENCE_LOG_PROBS = [-0.9, -1.0, -0.4, -1.5, -0.8, -1.4, -0.1, -1.2, -1.3]
ADVANTAGES = [1.5, -0.5, -1.0, 0.8]

TRUNCATED = [False, False, True, False]  # where a case is masked

CLIPPED = ClippedSurrogate(clip_low=0.2, clip_high=0.28)
GSPO = SampleClippedSurrogate(clip_low=0.1, clip_high=0.12)

CASES: dict[str, tuple[GRPOObjective, LossAveraging]] = {
    "grpo": (GRPOObjective(surrogate=CLIPPED), "per_sample"),
    "bnpo": (GRPOObjective(surrogate=CLIPPED), "per_decision"),
    "dr_grpo": (GRPOObjective(surrogate=CLIPPED), 40),
    "dapo": (GRPOObjective(surrogate=CLIPPED), "per_decision"),
    "cispo": (GRPOObjective(surrogate=ClippedImportanceSurrogate(max_ratio=1.5)), "per_decision"),
    "sapo": (GRPOObjective(surrogate=SoftAdaptiveSurrogate()), "per_sample"),
    "gspo": (GRPOObjective(surrogate=GSPO), "per_sample"),
    "luspo": (GRPOObjective(surrogate=GSPO), 1),
    "two-sided clipping": (
        GRPOObjective(surrogate=ClippedSurrogate(clip_low=0.2, clip_high=0.28, dual_clip=1.6)),
        "per_sample",
    ),
    "k3": (GRPOObjective(surrogate=CLIPPED, kl_coefficient=0.3), "per_sample"),
    "k3, corrected": (
        GRPOObjective(surrogate=CLIPPED, kl_coefficient=0.3, kl_importance_correction=True),
        "per_decision",
    ),
    "gspo, k3, corrected": (
        GRPOObjective(surrogate=GSPO, kl_coefficient=0.3, kl_importance_correction=True),
        "per_sample",
    ),
    "grpo, masked": (GRPOObjective(surrogate=CLIPPED), "per_sample"),
    "dr_grpo, masked": (GRPOObjective(surrogate=CLIPPED), 40),
    "dapo, masked": (GRPOObjective(surrogate=CLIPPED), "per_decision"),
    "gspo, k3, masked": (
        GRPOObjective(surrogate=GSPO, kl_coefficient=0.3, kl_importance_correction=True),
        "per_sample",
    ),
}

TRL: dict[str, tuple[float, list[float]]] = {
    "grpo": (-0.1335022, [-0.1381464, -0.08379, 0.0, 0.0, 0.2277649, 0.1131047, -0.0666667, 0.0, -0.0404354]),
    "bnpo": (-0.4183894, [-0.1841952, -0.11172, 0.0, 0.0, 0.2024576, 0.1005375, -0.0888889, 0.0, -0.0539138]),
    "dr_grpo": (-0.0235344, [-0.010361, -0.0062843, 0.0, 0.0, 0.0113882, 0.0056552, -0.005, 0.0, -0.0030327]),
    "dapo": (-0.4183894, [-0.1841952, -0.11172, 0.0, 0.0, 0.2024576, 0.1005375, -0.0888889, 0.0, -0.0539138]),
    "cispo": (
        0.2156305,
        [-0.1841952, -0.11172, -0.25, 0.0411566, 0.1666667, 0.1005375, -0.0888889, -0.1333333, -0.0539138],
    ),
    "sapo": (
        -0.4786279,
        [-0.1377651, -0.0815539, -0.1932333, 0.0909087, 0.1900974, 0.1128228, -0.0666667, -0.1030578, -0.0389099],
    ),
    "gspo": (
        -0.1877118,
        [-0.1381464, -0.1381464, -0.1381464, 0.0, 0.1605032, 0.1605032, -0.0689263, -0.0689263, -0.0689263],
    ),
    "luspo": (
        -1.1091416,
        [-0.4144391, -0.4144391, -0.4144391, 0.0, 0.3210064, 0.3210064, -0.206779, -0.206779, -0.206779],
    ),
    "two-sided clipping": (-0.1612671, [-0.1381464, -0.08379, 0.0, 0.0, 0.0, 0.1131047, -0.0666667, 0.0, -0.0404354]),
    "k3": (
        -0.1158258,
        [-0.1299044, -0.0893251, 0.0023791, -0.0486541, 0.2313334, 0.122824, -0.0692959, 0.0064795, -0.0491818],
    ),
    "k3, corrected": (
        -0.4061698,
        [-0.1694595, -0.1161888, 0.0060737, -0.012347, 0.2085314, 0.1095859, -0.0922222, 0.0182212, -0.0599791],
    ),
    "gspo, k3, corrected": (
        -0.1721049,
        [-0.1281483, -0.1433743, -0.1346278, -0.0277807, 0.1661845, 0.1740822, -0.0708189, -0.0614014, -0.0771435],
    ),
    "grpo, masked": (-0.4743717, [-0.1381464, -0.08379, 0.0, 0.0, 0.0, 0.0, -0.0666667, 0.0, -0.0404354]),
    "dr_grpo, masked": (-0.0405779, [-0.010361, -0.0062843, 0.0, 0.0, 0.0, 0.0, -0.005, 0.0, -0.0030327]),
    "dapo, masked": (-0.9274944, [-0.2368223, -0.14364, 0.0, 0.0, 0.0, 0.0, -0.1142857, 0.0, -0.0693178]),
    "gspo, k3, masked": (
        -0.4953097,
        [-0.1281483, -0.1433743, -0.1346278, -0.0277807, 0.0, 0.0, -0.0708189, -0.0614014, -0.0771435],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(name: str) -> None:
    objective, averaging = CASES[name]
    expected_loss, expected_gradient = TRL[name]
    log_probs = torch.tensor(LOG_PROBS, dtype=torch.float64, requires_grad=True)
    samples = Segments.of_lengths(LENGTHS)
    decisions = Decisions(
        samples.expand(torch.tensor(ADVANTAGES, dtype=torch.float64)),
        torch.tensor(OLD_LOG_PROBS, dtype=torch.float64),
        torch.tensor(REFERENCE_LOG_PROBS, dtype=torch.float64),
        samples,
    )
    weights = LossWeights.of(averaging, samples, torch.float64)
    if name.endswith("masked"):
        kept = ~samples.expand(torch.tensor(TRUNCATED))
        weights = weights.where(kept, keeps_denominator=averaging != "per_decision")
    weight, _ = weights.within(SharedSegments.whole(samples.total))
    loss = torch.dot(weight, objective(Evaluation(log_probs), decisions).loss)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, abs=1e-7)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx(expected_gradient, abs=1e-7)


PREFERENCES: dict[str, DPOObjective] = {}
for beta in (0.1, 0.5):
    sigmoid = SigmoidPreferenceLoss(beta=beta)
    PREFERENCES |= {
        f"sigmoid, {beta}": DPOObjective(loss=sigmoid),
        f"hinge, {beta}": DPOObjective(loss=HingePreferenceLoss(beta=beta)),
        f"ipo, {beta}": DPOObjective(loss=IdentityPreferenceLoss(beta=beta)),
        f"robust, {beta}": DPOObjective(loss=RobustPreferenceLoss(beta=beta, label_noise=0.1)),
        f"sigmoid and sft, {beta}": DPOObjective(loss=sigmoid, sft_coefficient=0.3),
    }

TRL_PREFERENCES: dict[str, tuple[list[float], list[float]]] = {
    "sigmoid, 0.1": (
        [0.653947, 0.6684596],
        [-0.0480011, -0.0480011, -0.0480011, 0.0480011, -0.0487503, -0.0487503, 0.0487503, 0.0487503, 0.0487503],
    ),
    "hinge, 0.1": ([0.92, 0.95], [-0.1, -0.1, -0.1, 0.1, -0.1, -0.1, 0.1, 0.1, 0.1]),
    "ipo, 0.1": (
        [19.36, 22.7211111],
        [-2.9333333, -2.9333333, -2.9333333, 8.8, -4.7666667, -4.7666667, 3.1777778, 3.1777778, 3.1777778],
    ),
    "robust, 0.1": (
        [0.643947, 0.6622096],
        [-0.0605011, -0.0605011, -0.0605011, 0.0605011, -0.0612503, -0.0612503, 0.0612503, 0.0612503, 0.0612503],
    ),
    "sigmoid and sft, 0.1": (
        [0.853947, 0.9384596],
        [-0.1480011, -0.1480011, -0.1480011, 0.0480011, -0.1987503, -0.1987503, 0.0487503, 0.0487503, 0.0487503],
    ),
    "sigmoid, 0.5": (
        [0.5130153, 0.5759394],
        [-0.2006562, -0.2006562, -0.2006562, 0.2006562, -0.2189117, -0.2189117, 0.2189117, 0.2189117, 0.2189117],
    ),
    "hinge, 0.5": ([0.6, 0.75], [-0.5, -0.5, -0.5, 0.5, -0.5, -0.5, 0.5, 0.5, 0.5]),
    "ipo, 0.5": (
        [0.16, 0.5877778],
        [-0.2666667, -0.2666667, -0.2666667, 0.8, -0.7666667, -0.7666667, 0.5111111, 0.5111111, 0.5111111],
    ),
    "robust, 0.5": (
        [0.4630153, 0.5446894],
        [-0.2631562, -0.2631562, -0.2631562, 0.2631562, -0.2814117, -0.2814117, 0.2814117, 0.2814117, 0.2814117],
    ),
    "sigmoid and sft, 0.5": (
        [0.7130153, 0.8459394],
        [-0.3006562, -0.3006562, -0.3006562, 0.2006562, -0.3689117, -0.3689117, 0.2189117, 0.2189117, 0.2189117],
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_losses_of_pairs_and_their_gradients_are_trls(name: str) -> None:
    expected_losses, expected_gradient = TRL_PREFERENCES[name]
    log_probs = torch.tensor(LOG_PROBS, dtype=torch.float64, requires_grad=True)
    samples = Segments.of_lengths(LENGTHS)
    references = samples.sum(torch.tensor(REFERENCE_LOG_PROBS, dtype=torch.float64))
    per_sample = samples.sum(log_probs), references, samples.lengths
    pairs = PairLogProbs(*(own for values in per_sample for own in values.view(2, 2).unbind(1)))
    losses = PREFERENCES[name](pairs).loss
    losses.sum().backward()
    assert losses.tolist() == pytest.approx(expected_losses, abs=1e-7)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx(expected_gradient, abs=1e-7)
