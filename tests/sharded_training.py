"""Training loops on language models in parts, to compare with those of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from language_models import CHAT_TEMPLATE, build_model, build_tokenizer, random_completions
from peft import LoraConfig
from processes import process_group
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from grpo import (
    Checkpoints,
    ComputesTogether,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    Preference,
    RankError,
    ReferenceSync,
    Run,
    StateLoader,
    Until,
    World,
)
from grpo_adapters.huggingface import (
    AgentSampler,
    CausalLMActorCritic,
    CausalLMPolicy,
    Completion,
    FSDP2Config,
    SamplingConfig,
)

PROMPTS = ["1+2=", "a b a b 12+34 = ", "7", "1+2=", "b=0+9 ", "1+2="]
STATES = ["1+2=", "a b a b 12+34 = ", "7", "b=0+9 ", "3+3=", "0"]
TOKENS = [(3, 4, 5), (6,), (7, 8, 9, 10, 11, 12, 13), (1, 2), (5, 5, 5, 5), (14, 3)]


@dataclass(frozen=True)
class Case:
    """How a model is trained."""

    family: str = "gpt2"
    lora: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    shard: dict[str, Any] = field(default_factory=dict)
    mesh: tuple[int, ...] | None = None
    by_hand: bool = False
    shares: tuple[int, ...] | None = None
    rows_per_micro_batch: int = 2
    num_steps: int = 3
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    log_probs: list[float]
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]
    reference_log_probs: list[float]
    local_bytes: int


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def make_policy(case: Case, world: World | None, seed: int = 0) -> CausalLMPolicy:
    """A policy, in parts where there is a world."""
    model = build_model(case.family, dtype=case.dtype)
    torch.manual_seed(1)
    adapters = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear") if case.lora else None
    mesh = (
        None
        if world is None or case.mesh is None
        else init_device_mesh("cpu", case.mesh, mesh_dim_names=("copies", "parts"))
    )
    if world is not None and case.by_hand:
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    policy = CausalLMPolicy(
        model,
        build_tokenizer(),
        peft_config=adapters,
        sampling=SamplingConfig(max_new_tokens=8),
        shard=None if world is None or case.by_hand else FSDP2Config(mesh=mesh, **case.shard),
        seed=seed,
        **case.options,
    )
    if world is not None:
        assert isinstance(policy, ComputesTogether)
        policy.join_world(world)
    else:
        assert not isinstance(policy, ComputesTogether)
    return policy


def own_samples(case: Case, world: World | None) -> range:
    """Which samples are this process's."""
    if world is None:
        return range(len(PROMPTS))
    if case.shares is None:
        part = world.part_of(len(PROMPTS))
        return range(part.start, part.stop)
    ends = torch.tensor((0, *case.shares)).cumsum(0).tolist()
    return range(ends[world.rank], ends[world.rank + 1])


def train(case: Case, world: World | None = None) -> Outcome:
    """Some steps of AdamW on the weighted log-probs of given completions."""
    policy = make_policy(case, world)
    own = own_samples(case, world)
    together: Any = policy
    batch = None
    if len(own):
        completions = [Completion(TOKENS[index], "") for index in own]
        batch = policy.encode_actions([PROMPTS[index] for index in own], completions)
    weights = torch.linspace(-1, 2, len(PROMPTS), dtype=torch.float64)[list(own)]
    optimizer = torch.optim.AdamW(
        [each for each in policy.get_parameters().values() if each.requires_grad], lr=0.02, eps=1e-3
    )
    reference = (make_policy(case, world) if case.by_hand else policy.reference()).eval()
    log_probs = evaluated(policy, batch)
    first: dict[str, Tensor] = {}
    parts = torch.arange(len(own)).split(case.rows_per_micro_batch) if len(own) else ()
    count = len(parts) if world is None else int(world.maximum(torch.tensor([float(len(parts))])))
    for _ in range(case.num_steps):
        policy.train()
        optimizer.zero_grad()
        for place in range(count):
            if world is not None:
                together.sum_gradients(place == count - 1)
            if place < len(parts):
                assert batch is not None
                rows = parts[place]
                evaluation = policy.evaluate_actions(batch.select(rows))
                assert evaluation.entropy is not None
                expanded = batch.rows.select(rows).expand(weights[rows])
                loss = (expanded * evaluation.log_probs).sum() + 0.1 * evaluation.entropy.sum()
            else:
                loss = together.evaluate_nothing()
            loss.backward()
        named = {name: each for name, each in policy.get_parameters().items() if each.requires_grad}
        first = first or {name: full(each.grad) for name, each in named.items() if each.grad is not None}
        optimizer.step()
    return Outcome(
        log_probs,
        first,
        {name: full(each) for name, each in policy.get_parameters().items()},
        evaluated(reference, batch),
        sum(each.to_local().nbytes for each in policy.get_parameters().values() if isinstance(each, DTensor)),
    )


@torch.no_grad()
def evaluated(policy: Any, batch: Any) -> list[float]:
    """Log-probs of a batch, or of nothing."""
    policy.eval()
    if batch is None:
        policy.evaluate_nothing()
        return []
    log_probs: list[float] = policy.evaluate_actions(batch).log_probs.tolist()
    return log_probs


def train_on_rank(world: World, case: Case) -> Outcome:
    """The same, as one of several processes."""
    with process_group(world):
        return train(case, world)


def joined(outcomes: Sequence[Outcome], name: str) -> list[float]:
    """What the ranks had each for its share."""
    return [value for outcome in outcomes for value in getattr(outcome, name)]


def sample_on_rank(world: World, case: Case, num_states: tuple[int, ...]) -> Any:
    """Completions of the first so many prompts, in turn with evaluations, and what the engineless samplers make."""
    with process_group(world):
        policy = make_policy(case, world, seed=10 + world.rank)
        own = PROMPTS[: num_states[world.rank]]
        return [
            [one.token_ids for group in policy.generate_actions(own, 2) for one in group] for _ in range(2)
        ], policy.model.training


def sample_alone(case: Case, rank: int, num_states: int) -> Any:
    """The same of a whole model with the generator of a rank."""
    policy = make_policy(case, None, seed=10 + rank)
    own = PROMPTS[:num_states]
    return [[one.token_ids for group in policy.generate_actions(own, 2) for one in group] for _ in range(2)]


def give_up_half_way(world: World, case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of a step before and after another one that failed between its micro-batches, and one amid a pass."""
    with process_group(world):
        policy: Any = make_policy(case, world)
        batch = policy.encode_actions(PROMPTS[:2], [Completion(tokens, "") for tokens in TOKENS[:2]])

        def gradients() -> dict[str, Tensor]:
            for last in (False, True):
                policy.sum_gradients(last)
                policy.evaluate_actions(batch).log_probs.sum().backward()
            named = policy.get_parameters()
            found = {name: full(tensor.grad) for name, tensor in named.items()}
            drop(named)
            return found

        def drop(named: dict[str, Tensor]) -> None:
            for tensor in named.values():
                tensor.grad = None

        before = gradients()
        policy.sum_gradients(False)
        policy.evaluate_actions(batch).log_probs.sum().backward()
        drop(policy.get_parameters())  # and the rest of the step does not come
        [block, *_] = [each for each in policy.model.modules() if type(each).__name__ == "FSDPGPT2Block"]
        hook = block.mlp.register_forward_hook(fail)
        for _ in range(2):
            with suppress(ArithmeticError):
                policy.evaluate_actions(batch)
        hook.remove()
        return before, gradients()


def fail(*_: Any) -> None:
    """Fail."""
    raise ArithmeticError("of a layer")


def layers_cut() -> Any:
    """A model of whose parameters only some lie in parts."""
    model = build_model()
    for block in model.transformer.h:
        fully_shard(block)
    return model


def refusal_of_a_backend(world: World) -> str:
    """What is told where the processes cannot exchange parts of a model on this device."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        CausalLMPolicy(build_model(), build_tokenizer(), shard=FSDP2Config())
    except RuntimeError as error:
        return str(error)
    finally:
        distributed.destroy_process_group()
    return "nothing"


def refusal(world: World, make: str) -> str:
    """The message with which a policy is refused."""
    makers: dict[str, Callable[[], Any]] = {
        "cut twice": lambda: CausalLMPolicy(fully_shard(build_model()), build_tokenizer(), shard=FSDP2Config()),
        "layers cut": lambda: CausalLMPolicy(layers_cut(), build_tokenizer()),
        "reference of what was cut by hand": lambda: CausalLMPolicy(
            fully_shard(build_model()), build_tokenizer()
        ).reference(),
        "no process group": lambda: CausalLMPolicy(build_model(), build_tokenizer(), shard=FSDP2Config()),
        "other weights": lambda: CausalLMPolicy(build_model(seed=world.rank), build_tokenizer(), shard=FSDP2Config()),
        "no world": lambda: CausalLMPolicy(build_model(), build_tokenizer(), shard=FSDP2Config()).generate_actions(
            ["1"], 1, max_new_tokens=3
        ),
        "other world": lambda: CausalLMPolicy(build_model(), build_tokenizer(), shard=FSDP2Config()).join_world(
            World()
        ),
        "other device": lambda: CausalLMPolicy(build_model(), build_tokenizer(), shard=FSDP2Config()).to("meta"),
    }
    try:
        if make == "no process group":
            makers[make]()
        else:
            with process_group(world):
                makers[make]()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "nothing"


def write_and_read(world: World, case: Case, folder: str) -> Any:
    """Save a policy, and put a state back; what parameters are after it."""
    with process_group(world):
        policy: Any = make_policy(case, world)
        state = policy.state_dict()
        policy.save_pretrained(folder)
        whole = {name: full(tensor) for name, tensor in state["weights"].items()}
        for tensor in policy.get_parameters().values():
            torch.nn.init.zeros_(tensor.to_local())
        policy.load_state_dict(state)
        first = {name: full(tensor) for name, tensor in policy.state_dict()["weights"].items()}
        for tensor in policy.get_parameters().values():
            torch.nn.init.zeros_(tensor.to_local())
        policy.load_state_dict(state | {"weights": whole})
        second = {name: full(tensor) for name, tensor in policy.state_dict()["weights"].items()}
        alone = make_policy(case, None)
        try:
            alone.load_state_dict(state)
        except ValueError as error:
            return whole, first, second, str(error)
        return whole, first, second, ""


class Sevens:
    """Rewards the share of a character."""

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Completion]) -> Tensor:
        """By what a completion says, [N]."""
        return torch.tensor([action.text.count("7") / len(action) + 0.1 * len(action) for action in actions])

    def train(self) -> None: ...
    def eval(self) -> None: ...
    def to(self, device: Any) -> None: ...


class Drawn:
    """Gives completions that are known beforehand, by the prompt."""

    def sample(self, policy: Any, states: Sequence[Any], num_actions_per_state: int, **_: Any) -> Any:
        """The same on one process and on several."""
        return [random_completions(num_actions_per_state, seed=sum(map(ord, state)) + 1) for state in states]


def make_trainer(world: World, case: Case, changes: dict[str, Any]) -> GRPOTrainer[Any, Any]:
    """A trainer of a policy in parts, or of the whole where there is one process, with a reference of the same kind."""
    policy = make_policy(case, None if world.is_alone else world)
    config = GRPOConfig(
        group_size=3, batch_size=9, micro_batch_size=2, learning_rate=0.02, adam_epsilon=1e-3, kl_coefficient=0.1
    ).model_copy(update=changes)
    return GRPOTrainer(config, policy, Sevens(), policy.reference(), sampler=Drawn(), world=world)


def train_by_trainer(world: World, case: Case, changes: dict[str, Any], num_states: tuple[int, ...]) -> Any:
    """Parameters and metrics of steps of a trainer, of shares of the states."""
    own = num_states[: world.rank + 1]
    states = STATES[sum(own[:-1]) : sum(own)]
    with nullcontext() if world.is_alone else process_group(world):
        trainer = make_trainer(world, case, changes)
        metrics = [trainer.step(states) for _ in range(3)]
        return {name: full(tensor) for name, tensor in trainer.policy.get_parameters().items()}, metrics


def train_by_run(world: World, case: Case, folder: Path, steps: int) -> Any:
    """Whether a run went on from a checkpoint, and its parameters after so many steps, those before included."""
    with nullcontext() if world.is_alone else process_group(world):
        trainer = make_trainer(world, case, {})
        states = StateLoader(STATES, batch_size=4, seed=3)
        run = Run(trainer, states, folder=folder, checkpoints=Checkpoints(every=2))
        resumed = run.resume()
        run(Until(steps=steps))
        return resumed, {name: full(tensor) for name, tensor in trainer.policy.get_parameters().items()}


def talk_on_rank(world: World, case: Case) -> Any:
    """Turns of conversations, more on some ranks than on others, and none of an agent on one."""
    with process_group(world):
        policy = make_policy(case, world, seed=10 + world.rank)
        with policy.sampling_together():
            said = take_turns(policy, world.rank + 1)
        policy.tokenizer.chat_template = CHAT_TEMPLATE
        agents = AgentSampler(Echo).sample(policy, ["1+2="] * world.rank, 2)
        return said, len(agents), policy.evaluate_actions(one_sample(policy)).log_probs.tolist()


def one_sample(policy: CausalLMPolicy) -> Any:
    """A batch of one sample."""
    return policy.encode_actions(PROMPTS[:1], [Completion(TOKENS[0], "")])


def take_turns(policy: CausalLMPolicy, count: int) -> list[tuple[int, ...]]:
    """The tokens of so many turns of a conversation."""
    turns = policy.turns(policy.sampling)
    context: tuple[int, ...] = (3, 4)
    said = []
    for _ in range(count):
        [completion] = turns.complete([0], [context])
        said.append(completion.token_ids)
        context = (*context, *completion.token_ids, 5)
    return said


class Echo:
    """Answers once."""

    def reset(self, state: Any) -> None:
        return None

    def step(self, message: Any) -> tuple[list[Any], float, bool]:
        return [{"role": "user", "content": "1"}], 1.0, True


def prefer_on_rank(world: World, num_pairs: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters after two steps of DPO on shares of pairs, in micro-batches of one."""
    own = num_pairs[: world.rank + 1]
    pairs = [
        Preference(prompt, Completion(TOKENS[place], ""), Completion(TOKENS[place + 1], ""))
        for place, prompt in enumerate(PROMPTS[:4])
    ][sum(own[:-1]) : sum(own)]
    with nullcontext() if world.is_alone else process_group(world):
        policy = make_policy(Case("gpt2"), None if world.is_alone else world)
        config = DPOConfig(micro_batch_size=1, learning_rate=0.02, adam_epsilon=1e-3)
        trainer = DPOTrainer(config, policy, policy.reference(), world=world)
        for _ in range(2):
            trainer.step(pairs)
        return {name: full(tensor) for name, tensor in policy.get_parameters().items()}


def criticise_on_rank(world: World, num_states: tuple[int, ...], folder: str) -> dict[str, Tensor]:
    """Parameters after two steps of PPO of a policy with a value head, which is on all ranks as a whole."""
    own = num_states[: world.rank + 1]
    states = PROMPTS[:4][sum(own[:-1]) : sum(own)]
    with nullcontext() if world.is_alone else process_group(world):
        options: Any = {} if world.is_alone else {"shard": FSDP2Config()}
        model = build_model("gpt2", dtype=torch.float64)
        policy = CausalLMActorCritic(model, build_tokenizer(), sampling=SamplingConfig(max_new_tokens=8), **options)
        config = PPOConfig(batch_size=4, num_epochs_per_update=2, micro_batch_size=1, learning_rate=0.02)
        config = config.model_copy(update={"adam_epsilon": 1e-3})
        trainer = PPOTrainer(config, policy, Sevens(), sampler=Drawn(), world=world)
        for _ in range(2):
            trainer.step(states)
        policy.save_pretrained(folder)
        return {name: full(tensor) for name, tensor in policy.get_parameters().items()}


def evaluate_between(world: World, case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of two backward passes: right after the evaluation, and with others and samples in between."""
    found = []
    with process_group(world):
        policy: Any = make_policy(case, world)
        batch = policy.encode_actions(PROMPTS[:2], [Completion(tokens, "") for tokens in TOKENS[:2]])
        for others in (False, True):
            log_probs = policy.train().evaluate_actions(batch).log_probs
            if others:
                with torch.no_grad():
                    policy.reference().evaluate_actions(batch)
                policy.generate_actions(["1+2="], 1)
            log_probs.sum().backward()
            named = {name: tensor for name, tensor in policy.get_parameters().items() if tensor.requires_grad}
            found.append({name: full(tensor.grad) for name, tensor in named.items()})
            for tensor in named.values():
                tensor.grad = None
    return found[0], found[1]


def fail_in_turn(world: World, where: str, num_attempts: int) -> list[Any]:
    """What a step raises while one rank fails at a place, and the losses of those before and after it."""
    seen: list[Any] = []
    with process_group(world):
        policy = make_policy(Case("gpt2"), world)
        rewards = Sevens()
        config = GRPOConfig(group_size=3, micro_batch_size=2, learning_rate=0.0, kl_coefficient=0.1)
        trainer = GRPOTrainer(config, policy, rewards, policy.reference(), sampler=Drawn(), world=world)
        states = world.share(PROMPTS[:4])
        seen.append(trainer.step(states)["loss"])
        broken, method = {"rewards": (rewards, "compute_rewards"), "evaluation": (policy, "_evaluated")}[where]
        for rank in range(num_attempts):
            if world.rank == rank:
                setattr(broken, method, fail)
            try:
                trainer.step(states)
            except (ArithmeticError, RankError) as error:
                seen.append(type(error).__name__)
            if world.rank == rank:
                delattr(broken, method)
            seen.append(trainer.step(states)["loss"])
    return seen


def sync_with_a_whole(world: World) -> str:
    """What a trainer of parts says of a reference policy that is to follow them as a whole."""
    with process_group(world):
        policy, whole = make_policy(Case("gpt2"), world), make_policy(Case("gpt2"), None)
        config = GRPOConfig(reference_sync=ReferenceSync(), kl_coefficient=0.1)
        try:
            GRPOTrainer(config, policy, Sevens(), whole, world=world)
        except ValueError as error:
            return str(error)
    return "nothing"
