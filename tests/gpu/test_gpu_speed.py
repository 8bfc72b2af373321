"""Times and peaks of memory beside code as one writes it; on a CPU the same code in small, which says nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from devices import TOLERANCES, Machine
from language_models import build_tokenizer
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from grpo import GRPOConfig, GRPOTrainer
from grpo_adapters.huggingface import CausalLMPolicy, Completion, OutputHead, SamplingConfig, token_log_probs

PROMPTS = ["1+2=", "12+34=", "a b a b", "7+7=", "b=0+9", "0", "ab ab 1", "4+4+4="]
GROUP_SIZE = 8


def note(figures: dict[str, Any], name: str, found: dict[str, tuple[float, float]]) -> None:
    """Note time and memory of ours and of the plain one, and the ratios of ours to it."""
    for kind, (seconds, mebibytes) in found.items():
        figures[f"{name}, {kind}"] = {"seconds": round(seconds, 5), "MiB": round(mebibytes, 1)}
    (our_time, our_memory), (plain_time, plain_memory) = found["ours"], found["plain"]
    figures[f"{name}, ours to plain"] = {"time": round(our_time / plain_time, 3)}
    if plain_memory > 0:
        figures[f"{name}, ours to plain"]["memory"] = round(our_memory / plain_memory, 3)


def test_log_probs(machine: Machine, figures: dict[str, Any]) -> None:
    """Log-probs of a large vocabulary from hidden states with their gradients, beside all logits at once."""
    generator = torch.Generator(machine.device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": machine.device}
    hidden = torch.randn(machine.num_tokens, machine.width, **options).bfloat16().requires_grad_()
    weight = torch.randn(machine.vocabulary, machine.width, **options).mul(machine.width**-0.5).bfloat16()
    weight.requires_grad_()
    targets = torch.randint(machine.vocabulary, (machine.num_tokens,), **options)
    advantages = torch.randn(machine.num_tokens, **options)

    def gradients(log_probs: Tensor) -> list[Tensor]:
        return [log_probs.detach(), *torch.autograd.grad(-(advantages * log_probs).mean(), (hidden, weight))]

    def ours() -> list[Tensor]:
        return gradients(token_log_probs(hidden, OutputHead(weight), targets)[0])

    def plain() -> list[Tensor]:
        logits = nn.functional.linear(hidden, weight).float()
        return gradients(logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1))

    found, expected = ours(), plain()
    torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=5e-2)
    for own, other in zip(found[1:], expected[1:], strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(own, other, rtol=TOLERANCES[torch.bfloat16]["rtol"], atol=0.02 * scale)
    del found, expected, own, other
    measured = {name: machine.seconds_and_mebibytes(each) for name, each in (("ours", ours), ("plain", plain))}
    note(figures, f"log-probs, D={machine.num_tokens} V={machine.vocabulary}", measured)


class ShareOfSevens:
    """Rewards the share of one token."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def compute_rewards(self, states: Sequence[str], actions: Sequence[Completion]) -> Tensor:
        return torch.tensor([own.token_ids.count(7) / len(own) for own in actions], device=self.device)

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


def num_parameters(machine: Machine) -> int:
    return sum(value.numel() for value in make_model(machine).parameters())


def make_model(machine: Machine) -> Any:
    """A Qwen2 with random weights in bfloat16, which hardly ever ends a completion."""
    torch.manual_seed(0)
    config = Qwen2Config(
        **machine.language_model,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device(machine.device):
        return Qwen2ForCausalLM(config).bfloat16()


def plain_step_of(machine: Machine) -> Callable[[], None]:
    """Sampling by transformers, then an update by way of all logits."""
    model, length = make_model(machine), machine.completion_length
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    tokenizer = build_tokenizer()
    rows = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS for _ in range(GROUP_SIZE)]
    longest = max(map(len, rows))
    prompts = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=machine.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=machine.device)

    def step() -> None:
        model.eval()
        tokens = model.generate(
            prompts, attention_mask=mask, max_new_tokens=length, do_sample=True, top_k=0, pad_token_id=0
        )
        completions = tokens[:, -length:]
        rewards = (completions == 7).float().mean(1).view(-1, GROUP_SIZE)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        model.train()
        attended = torch.cat((mask, torch.ones_like(completions)), 1)
        logits = model(input_ids=tokens, attention_mask=attended, logits_to_keep=length + 1).logits[:, :-1]
        log_probs = logits.float().log_softmax(-1).gather(2, completions.unsqueeze(2)).squeeze(2)
        (-advantages * log_probs).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step_of(machine: Machine) -> Callable[[], dict[str, float]]:
    """The same by this library."""
    sampling = SamplingConfig(max_new_tokens=machine.completion_length)
    policy = CausalLMPolicy(make_model(machine), build_tokenizer(), sampling=sampling, with_entropy=False)
    config = GRPOConfig(group_size=GROUP_SIZE, learning_rate=1e-6)
    trainer = GRPOTrainer(config, policy, ShareOfSevens(machine.device))
    return lambda: trainer.step(PROMPTS)


def test_a_step_of_a_language_model(machine: Machine, figures: dict[str, Any]) -> None:
    """A whole GRPO step, sampling and one update, beside transformers and PyTorch alone."""
    found = {}
    for kind, build in {"plain": plain_step_of, "ours": our_step_of}.items():
        found[kind] = machine.seconds_and_mebibytes(build(machine))
        gc.collect()
    note(figures, f"language model, {num_parameters(machine):.0e} parameters", found)
