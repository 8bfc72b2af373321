"""Conversations whose turns an inference engine takes."""

from __future__ import annotations

from typing import Any

from engine_server import EngineServer
from language_models import CHAT_TEMPLATE, build_model, build_policy, build_tokenizer

from grpo import GRPOConfig, GRPOTrainer, ImportanceCorrection
from grpo_adapters.huggingface import AgentSampler, Conversation, ConversationReward, SamplingConfig
from grpo_adapters.huggingface.engines import EngineSampler
from grpo_adapters.huggingface.text.conversations import Message


class Counter:
    """Counts the model's turns, for as many as the state says."""

    def reset(self, state: Any) -> list[Message]:
        self.left = state["turns"]
        return [{"role": "user", "content": "1"}]

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        self.left -= 1
        return [{"role": "user", "content": str(self.left)}], float(len(message["content"])), self.left == 0


def test_conversations_go_on_at_their_own_pace_with_the_policys_weights() -> None:
    tokenizer = build_tokenizer(chat_template=CHAT_TEMPLATE)
    policy = build_policy("llama", tokenizer=tokenizer, sampling=SamplingConfig(max_new_tokens=4))
    policy.causal_model.generation_config.eos_token_id = list(range(0, len(tokenizer), 2))
    config = GRPOConfig(group_size=3, learning_rate=1e-2)
    states = [{"prompt": "unread", "turns": 1}, {"prompt": "unread", "turns": 4}]
    with EngineServer(build_model("llama", seed=5), tokenizer) as server:
        sampler = AgentSampler(Counter, engine=EngineSampler(server.url))
        assert sampler.get_importance_correction() == ImportanceCorrection(kind="mask", per="sample", max_ratio=3.0)
        trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, ConversationReward(), sampler=sampler)
        for step in range(2):
            metrics = trainer.step(states)
            assert metrics["sampling/log_prob_gap"] < 1e-4
            assert metrics["engine/tokens_per_second"] > 0
            assert trainer.last_experience is not None
            conversations = list(trainer.last_experience.actions)
            assert all(isinstance(own, Conversation) for own in conversations)
            turns = [turn for own in conversations for turn in own.turns]
            assert {turn.completion.weights_version for turn in turns} == {step + 1}
            assert max(len(own.turns) for own in conversations[3:]) > 1
            assert [len(own.turns) for own in conversations[:3]] == [1, 1, 1]
    state = trainer.state_dict()
    elsewhere = AgentSampler(Counter, engine=EngineSampler("http://127.0.0.1:1"))
    again: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, ConversationReward(), sampler=elsewhere)
    again.load_state_dict(state)
    assert elsewhere.state_dict() == sampler.state_dict()
