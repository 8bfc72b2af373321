"""A sampler whose actions are conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo import DiffersFromPolicy, ImportanceCorrection, JoinsWorld, ReportsMetrics, Stateful, World
from grpo_adapters.huggingface.agents.chat_template import ChatTemplate
from grpo_adapters.huggingface.agents.dialogue import Dialogue, Limits, environment_call, environment_tools
from grpo_adapters.huggingface.agents.environments import TextEnvironment, checked_opening
from grpo_adapters.huggingface.agents.history import History
from grpo_adapters.huggingface.agents.talk import dialogue_metrics, talk_in_rounds, talk_through
from grpo_adapters.huggingface.agents.tools import tools_by_name
from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.event_loop import run_together
from grpo_adapters.huggingface.models.model_setup import end_tokens, longest_prompt
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.text.chat_templates import template_options
from grpo_adapters.huggingface.text.conversations import Message
from grpo_adapters.huggingface.text.states import own_copy, prompt_of


class AgentSampler:
    """Lets a language model talk: an action is a :class:`Conversation`, a decision one of the model's own tokens.

    The model speaks in turns. A turn that calls tools is answered by them; any other one by the environment or, where
    there is none, it is the last. What is said to the model is context, and has no weight in the loss. What goes wrong
    in a call of a tool is told to the model, as ``error: ...``; what goes wrong in an environment stops the step.

    Args:
        environment: makes a partner for one conversation; None for a conversation with tools only.
        tools: functions that the model may call, beside those of the environment.
        engine: samples the turns in place of the policy itself; None for the policy.
        max_turns: of the model, in a conversation.
        max_tokens: that a conversation may have, with all that is read; None for the model's context. A conversation
            ends, cut, where ``max_new_tokens`` more would not fit.
        timeout: seconds that a tool or the environment may take to answer.
        parse: from the text of a turn, with special tokens, to a message of the assistant; None for the tokenizer's own
            parser, or :func:`parse_message` where it has none.

    Raises:
        TypeError: if a function cannot be a tool.
        ValueError: if there is neither environment nor tool, two tools have one name, or a limit is below 1.

    Example:
        >>> from grpo_adapters.huggingface import character_tokenizer
        >>> class Echo:
        ...     def reset(self, state):
        ...         return None
        ...     def step(self, message):
        ...         return [{"role": "user", "content": message["content"]}], 1.0, False
        >>> sampler = AgentSampler(Echo, max_turns=3)
    """

    def __init__(
        self,
        environment: Callable[[], TextEnvironment] | None = None,
        tools: Sequence[Callable[..., Any]] = (),
        *,
        engine: Any = None,
        max_turns: int = 8,
        max_tokens: int | None = None,
        timeout: float = 60.0,
        parse: Callable[[str], Message] | None = None,
    ) -> None:
        if environment is None and not tools:
            raise ValueError("AgentSampler was given neither an environment nor tools: give it one of them, or both")
        if environment is not None and not callable(environment):
            raise TypeError(f"environment is {environment!r:.100}, expected what makes one, a class for instance")
        if engine is not None and not callable(getattr(engine, "turns", None)):
            raise TypeError(f"engine is {engine!r:.100}, expected an EngineSampler, or another object with turns(...)")
        if parse is not None and not callable(parse):
            raise TypeError(f"parse is {parse!r:.100}, expected a function from the text of a turn to a message")
        for name, limit in (("max_turns", max_turns), ("max_tokens", max_tokens)):
            is_left_out = limit is None and name == "max_tokens"
            if not is_left_out and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                raise ValueError(f"{name} is {limit!r}, expected at least 1, an integer")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}, expected a number of seconds above 0")
        self._environment = environment
        self._tools = tools_by_name(tools)
        self._engine = engine
        self._max_turns = max_turns
        self._max_tokens = max_tokens
        self._timeout = timeout
        self._parse = parse
        self._metrics: dict[str, float] = {}

    def sample(
        self, policy: CausalLMPolicy, states: Sequence[Any], num_actions_per_state: int, **overrides: Any
    ) -> list[list[Any]]:
        """A group of conversations, each a :class:`Conversation`, for each state.

        Args:
            policy: speaks.
            states: S prompts, or whatever the environment's ``reset`` takes, which gets a copy of a row. A row may
                have columns ``tools`` (functions, or, where there are no others, JSON schemas of what the environment
                answers) and ``chat_template_kwargs`` of its own.
            num_actions_per_state: conversations of each, G.
            overrides: other values for attributes of the policy's :class:`SamplingConfig`, a turn's.

        Raises:
            TextEnvironmentError: if an environment fails.
            TypeError, ValueError: if a state has no prompt, or one that does not fit into the model's context.
        """
        sampling = policy.training_sampling(overrides)
        environments = self._make_environments(len(states) * num_actions_per_state)
        asked = [state for state in states for _ in range(num_actions_per_state)]
        try:
            dialogues = run_together(
                [
                    self._begin(policy, sampling, state, environment, index // num_actions_per_state)
                    for index, (state, environment) in enumerate(zip(asked, environments, strict=True))
                ]
            )
            if self._engine is None:
                with policy.sampling_together():
                    talk_in_rounds(policy, sampling, dialogues)
            else:
                run_together([talk_through(self._engine, policy, sampling, dialogues)])
        finally:
            closing = [each for each in environments if callable(getattr(each, "close", None))]
            run_together([environment_call(each, "close", timeout=self._timeout) for each in closing])
        self._metrics = dialogue_metrics(dialogues) if dialogues else {}
        conversations = [dialogue.conversation for dialogue in dialogues]
        size = num_actions_per_state
        return [conversations[start : start + size] for start in range(0, len(conversations), size)]

    def join_world(self, world: World) -> None:
        """Let the engine draw other completions than those of other processes do."""
        if isinstance(self._engine, JoinsWorld):
            self._engine.join_world(world)

    def get_importance_correction(self) -> ImportanceCorrection | None:
        """What the engine recommends; None where the policy samples itself."""
        return self._engine.get_importance_correction() if isinstance(self._engine, DiffersFromPolicy) else None

    def get_metrics(self) -> dict[str, float]:
        """Turns, calls of tools and tokens of the conversations that were last sampled, and the engine's own."""
        own_of_engine = self._engine.get_metrics() if isinstance(self._engine, ReportsMetrics) else {}
        return {**self._metrics, **own_of_engine}

    def get_settings(self) -> dict[str, Any]:
        """Who answers the model and samples its turns, and the limits of a conversation."""
        return {
            "environment": self._environment,
            "tools": sorted(self._tools),
            "engine": self._engine,
            "max_turns": self._max_turns,
            "max_tokens": self._max_tokens,
            "parse": self._parse,
        }

    def state_dict(self) -> dict[str, Any]:
        """The state of the engine; conversations begin anew with each call."""
        return {"engine": self._engine.state_dict() if isinstance(self._engine, Stateful) else None}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this sampler, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another sampler.
        """
        if not isinstance(state_dict, Mapping) or state_dict.keys() != {"engine"}:
            raise ValueError(f"AgentSampler.load_state_dict was given {state_dict!r:.100}, expected the key 'engine'")
        if (state_dict["engine"] is not None) != isinstance(self._engine, Stateful):
            raise ValueError(
                f"AgentSampler.load_state_dict was given the state {state_dict['engine']!r:.100} of an engine, but its "
                f"engine is {self._engine!r:.100}: construct it in the same way"
            )
        if isinstance(self._engine, Stateful):
            self._engine.load_state_dict(state_dict["engine"])

    def _make_environments(self, count: int) -> list[TextEnvironment | None]:
        environments = [self._make_environment() for _ in range(count)]
        if self._environment is not None and len({id(each) for each in environments}) < count:
            raise ValueError(
                f"environment made the same {type(environments[0]).__name__} twice, expected a new one each time: "
                f"conversations go on side by side, and the reset of one would be felt in the others"
            )
        return environments

    def _make_environment(self) -> TextEnvironment | None:
        if self._environment is None:
            return None
        environment = self._environment()
        if not isinstance(environment, TextEnvironment):
            raise TypeError(
                f"environment made a {type(environment).__name__}, expected an object with the methods reset(state) "
                f"and step(message), as grpo_adapters.huggingface.TextEnvironment documents"
            )
        return environment

    async def _begin(
        self,
        policy: CausalLMPolicy,
        sampling: SamplingConfig,
        state: Any,
        environment: TextEnvironment | None,
        index: int,
    ) -> Dialogue:
        """The conversation that is to answer a state, before the model's first turn."""
        tools, opening = self._tools, None
        if environment is not None:
            returned = await environment_call(environment, "reset", own_copy(state), timeout=self._timeout)
            opening = checked_opening(returned, type(environment).__name__)
            tools = tools_by_name([*tools.values(), *await environment_tools(environment, self._timeout)])
        prompt = prompt_of(state, index) if opening is None else opening
        options = template_options(state, f"state {index}")
        of_row = options.pop("tools", [])
        tools = tools_by_name([*tools.values(), *(tool for tool in of_row if not isinstance(tool, dict))])
        unanswered = [tool for tool in of_row if isinstance(tool, dict)]
        if unanswered and (tools or environment is None):
            raise ValueError(
                f"state {index} has the JSON schema {unanswered[0]!r:.100} in column 'tools', whose calls nobody would "
                f"answer: an environment answers those of schemas where no function is a tool, so give functions"
            )
        template = ChatTemplate(policy.tokenizer, [*(tool.schema for tool in tools.values()), *unanswered], options)
        ends = end_tokens(policy.causal_model, policy.tokenizer)
        history = History(prompt, policy.tokenizer, ends, template, f"state {index}", self._parse)
        limits = self._limits(policy, sampling)
        if limits.context is not None and len(history.context) > limits.context:
            raise ValueError(
                f"state {index} begins with {len(history.context):,} tokens, expected at most {limits.context:,}, so "
                f"that a turn of max_new_tokens={sampling.max_new_tokens} fits: shorten it, or leave it out"
            )
        return Dialogue(history, environment, tools, limits)

    def _limits(self, policy: CausalLMPolicy, sampling: SamplingConfig) -> Limits:
        context = longest_prompt(policy.causal_model, sampling.max_new_tokens)
        if self._max_tokens is not None:
            if self._max_tokens <= sampling.max_new_tokens:
                raise ValueError(
                    f"AgentSampler has max_tokens={self._max_tokens}, expected more than the policy's "
                    f"max_new_tokens={sampling.max_new_tokens}, the tokens of one turn alone: raise the one or lower "
                    f"the other"
                )
            own = self._max_tokens - sampling.max_new_tokens
            context = own if context is None else min(own, context)
        return Limits(self._max_turns, context, self._timeout)
