"""The `policy` table: which reward a policy climbs, and how.

Fields that exist in Transformers, TRL or PEFT keep their names.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from policy.alarms.table import AlarmTable
from policy.rewards.graph import GraphTable
from policy.rewards.verifiable_table import OF_A_LABEL, LabelKind, VerifiableTable
from policy.rollouts.sampler_table import SamplerTable

RewardName = Literal[
    "untrained",
    "gold",
    "one_shot",
    "majority",
    "majority_live",
    "incorrect",
    "random",
    "format",
    "python",
    "no_repetition",
    "length",
    "raw",
    "rpr",
    "rpr_ordered",
    "constant",
    "length_bonus",
    "random_phrases",
    "variance_matched",
    "noise_corrected",
    "rpr_only",
    "rpr_partial",
    "graph",
]
Keep = Literal["last", "best_reward", "best_dev_gold"]
"""Which state becomes the cell (`policy.checkpoints`)."""
NEEDS_RUNG: frozenset[str] = frozenset(
    {
        "raw",
        "rpr",
        "rpr_ordered",
        "constant",
        "length_bonus",
        "random_phrases",
        "variance_matched",
        "noise_corrected",
    }
)


AlgorithmName = Literal["grpo", "dr_grpo", "rloo", "ppo"]
READ_BY: dict[str, tuple[tuple[AlgorithmName, ...], str]] = {
    "loss_type": (("grpo", "ppo"), "dr_grpo and rloo each stand for a loss of their own"),
    "scale_rewards": (
        ("grpo",),
        "only grpo scales by the spread of rewards; see normalize_advantages (rloo) and whiten_advantages (ppo)",
    ),
    "normalize_advantages": (("rloo",), "see scale_rewards (grpo) and whiten_advantages (ppo)"),
    **dict.fromkeys(
        (
            "gamma",
            "lam",
            "whiten_advantages",
            "cliprange_value",
            "critic_learning_rate",
            "critic_max_grad_norm",
            "critic_warmup_steps",
        ),
        (("ppo",), "only ppo has a critic"),
    ),
    "kl_coef": (("ppo",), "beta is the KL term of the others"),
    "missing_eos_penalty": (("ppo",), "the others compare whole completions; see mask_truncated_completions"),
}
"""Fields that not every algorithm reads: who reads them, and what to know where another is asked for."""


class PolicyTable(VerifiableTable):
    """Settings of one cell, with those of `VerifiableTable`.

    Attributes:
        reward: a row of `policy.rewards.table.REWARDS`; `untrained` answers with the base as it is.
        rung: the rung that scores, where the reward needs one.
        arm: names the cell in the place of its reward (`cell_name`), so that cells of one sweep may differ in anything;
            it changes nothing else.
        algorithm: `grpo`; `dr_grpo` (arXiv 2503.20783: no scaling by group or length); `rloo` (leave-one-out baseline);
            `ppo` (a critic). A field that an algorithm does not read is refused.
        seed: seed of the policy; the run's seed where it is not given.
        model_name_or_path: the policy to start from; the task's own base where it is not given.
        graph: the parts, weights and gates of `reward: graph` (`policy.rewards.graph`); other rewards do not read it.
        share_base: a rung that is LoRA on the policy's own base reads the policy's frozen weights.
        rung_server: address of a `rewardladder serve` that scores in the place of a rung loaded here.
        rung_server_key_env: name of the environment variable with its key.
        prompts_per_step: prompts of one rollout; times `num_generations` completions.
        num_generations: completions a prompt (G); 1 is for `ppo` alone.
        num_iterations: times a rollout is learned from (mu).
        num_mini_batches: optimizer steps a rollout is divided into. Only with more than one update a rollout
            (`num_iterations * num_mini_batches`) is anything ever clipped.
        gradient_accumulation_steps: pieces an optimizer step is cut into; packed updates need none to fit in memory.
        packed: whether updates are computed packed (`policy.updates`); `auto` where that computes the same.
        batch_tokens: most tokens of a packed line; it decides memory and speed, and no result beyond rounding.
        load_in_4bit: QLoRA (arXiv 2305.14314): the frozen body in 4 bits; needs a GPU and the extra `qlora`.
        sampler: what draws the rollouts (`policy.rollouts.sampler_table`).
        max_steps: optimizer steps.
        max_prompt_length: prompts with more tokens are left out of every split and counted, none is cut; all are kept
            where it is not given.
        max_completion_length: in tokens; the task's own limit where it is not given.
        mask_truncated_completions: completions that the limit cut teach nothing.
        bf16: computes in bfloat16; weights that are not trained are held in it, too.
        beta: weight of the KL divergence from the first policy, in the loss (`rloo`: in the reward).
        epsilon: beyond 1 - epsilon and 1 + epsilon of its old probability a token teaches no more; null: never clipped.
        epsilon_high: in the place of the upper epsilon.
        normalize_advantages: `rloo`: advantages of a rollout to mean 0 and standard deviation 1.
        kl_coef: `ppo`: weight of the log-ratio to the first policy in every token's reward, in the place of `beta`.
        gamma, lam: `ppo`: discount and trace of the advantages, each 0 to 1.
        whiten_advantages: `ppo`: advantages of a rollout's tokens to mean 0 and standard deviation 1.
        missing_eos_penalty: `ppo`: taken off the reward of a completion that the limit cut.
        cliprange_value: `ppo`: how far a value may move within a rollout; null: as far as it likes.
        critic_learning_rate: `ppo`: five times `learning_rate` where it is not given.
        critic_max_grad_norm: `ppo`: the critic's gradient is clipped alone.
        critic_warmup_steps: `ppo`: first steps, in which only the critic learns; the policy's schedule runs on.
        lora_r: rank of LoRA on all linear layers; 0 trains all weights. The critic of `ppo` is a second adapter on the
            same base, or with 0 a trained copy of it.
        dev_every: the dev prompts are answered every so many steps; 0 never.
        keep: which state becomes the cell: the `last`, or of those looked at on the dev prompts the one with
            `best_reward` (training reward of the ten steps before) or `best_dev_gold`; never by the eval prompts.
        alarms: signs of an ill run, and what is done about each (`policy.alarms.table`).
        save_steps: a checkpoint to go on from, every so many steps, rounded up to the end of a rollout's updates.
        n_eval_samples: answers an eval prompt, for the judge and for pass@k.
        eval_greedy: whether each eval prompt is also answered greedily (temperature 0), in `greedy.jsonl`.
        eval_temperature, eval_top_p, eval_top_k: how those answers are sampled.
        generation_batch_size: completions sampled at once for dev and eval; it does not change them.
        cpu_threads: threads on a CPU.
    """

    reward: RewardName = "untrained"
    rung: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,40}$")
    arm: str | None = Field(None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,39}$")
    algorithm: AlgorithmName = "grpo"
    seed: int | None = Field(None, ge=0)
    model_name_or_path: str | None = None
    graph: GraphTable | None = None
    share_base: bool = False
    rung_server: str | None = Field(None, pattern=r"^https?://[^\s/]+")
    rung_server_key_env: str | None = Field(None, min_length=1)

    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "constant_with_warmup"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    prompts_per_step: int = Field(16, ge=1)
    num_generations: int = Field(8, ge=1)
    num_iterations: int = Field(1, ge=1)
    num_mini_batches: int = Field(1, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    packed: Literal["auto"] | bool = "auto"
    batch_tokens: int = Field(16384, ge=64)
    gradient_checkpointing: bool = False
    bf16: bool = False
    load_in_4bit: bool = False
    sampler: SamplerTable = Field(default_factory=SamplerTable.model_construct)
    max_steps: int = Field(60, ge=1)
    max_prompt_length: int | None = Field(None, ge=1)
    max_completion_length: int | None = Field(None, ge=1)
    mask_truncated_completions: bool = False
    temperature: float = Field(1.0, ge=1e-3, le=100)
    beta: float = Field(0.0, ge=0)
    epsilon: float | None = Field(0.2, gt=0)
    epsilon_high: float | None = Field(None, gt=0)
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    normalize_advantages: bool = False
    kl_coef: float = Field(0.0, ge=0)
    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(1.0, ge=0, le=1)
    whiten_advantages: bool = True
    missing_eos_penalty: float = Field(0.0, ge=0)
    cliprange_value: float | None = Field(0.2, gt=0)
    critic_learning_rate: float | None = Field(None, gt=0)
    critic_max_grad_norm: float = Field(1.0, gt=0)
    critic_warmup_steps: int = Field(0, ge=0)
    lora_r: int = Field(16, ge=0)
    lora_alpha: int = Field(32, ge=1)

    dev_every: int = Field(20, ge=0)
    keep: Keep = "last"
    alarms: AlarmTable = AlarmTable()
    save_steps: int = Field(50, ge=1)
    n_eval_samples: int = Field(1, ge=1)
    eval_greedy: bool = Field(False, exclude_if=lambda asked: not asked)
    eval_temperature: float = Field(1.0, ge=0)
    eval_top_p: float = Field(1.0, gt=0, le=1)
    eval_top_k: int = Field(0, ge=0)
    generation_batch_size: int = Field(128, ge=1)
    cpu_threads: int = Field(1, ge=1, le=1024)

    @model_validator(mode="before")
    @classmethod
    def _rung_as_text(cls, data: object) -> object:
        """YAML reads `rung: 65` as a number."""
        if isinstance(data, dict) and isinstance(data.get("rung"), int):
            return {**data, "rung": str(data["rung"])}
        return data

    @model_validator(mode="after")
    def _combinations(self) -> PolicyTable:
        self._refuse_misplaced()
        self.refuse_unverifiable(self.reward)
        if self.reward in NEEDS_RUNG and self.rung is None:
            raise ValueError(f"reward {self.reward} needs a rung, for example policy.rung=65")
        if self.reward not in NEEDS_RUNG and self.rung is not None:
            raise ValueError(f"reward {self.reward} reads no reward model; remove rung {self.rung}")
        self._refuse_unread()
        completions = self.prompts_per_step * self.num_generations
        if completions % (self.gradient_accumulation_steps * self.num_mini_batches):
            raise ValueError(
                f"prompts_per_step * num_generations ({completions}) must be a multiple of gradient_accumulation_steps "
                f"* num_mini_batches ({self.gradient_accumulation_steps} * {self.num_mini_batches})"
            )
        if self.num_generations == 1 and self.algorithm != "ppo":
            raise ValueError(
                f"num_generations 1: {self.algorithm} compares the completions of a prompt; raise it to 2 or more, or "
                "use ppo"
            )
        if completions == 1:
            raise ValueError("prompts_per_step 1 with num_generations 1 is a single completion; raise one of them")
        if self.epsilon is None and self.epsilon_high is not None:
            raise ValueError("epsilon null clips nothing, and epsilon_high would; remove one of the two")
        if self.alarms.no_clipping.action != "off" and self.reward != "untrained" and not self.can_clip:
            raise ValueError(
                "alarms.no_clipping: nothing is ever clipped with epsilon null, or with one update a rollout "
                "(num_iterations * num_mini_batches); set it off, or raise num_mini_batches"
            )
        if self.kl_coef and self.beta:
            raise ValueError(
                "kl_coef and beta are the same penalty, in the reward and in the loss; set one of them to 0"
            )
        if self.algorithm == "ppo" and self.critic_warmup_steps >= self.max_steps and self.reward != "untrained":
            raise ValueError(
                f"critic_warmup_steps {self.critic_warmup_steps} leaves the policy no step (max_steps {self.max_steps})"
            )
        return self

    def _refuse_misplaced(self) -> None:
        if self.reward == "graph" and self.graph is None:
            raise ValueError("reward graph needs the table graph: name, parts and terms")
        if self.rung_server and len(self.rungs) > 1:
            raise ValueError(
                f"rung_server serves one rung, and this reward reads {len(self.rungs)}; remove rung_server"
            )
        if self.share_base and self.rung_server:
            raise ValueError("share_base is for a rung that is loaded here, and rung_server names another; remove one")
        if (self.share_base or self.load_in_4bit) and not self.lora_r:
            which = "share_base" if self.share_base else "load_in_4bit"
            raise ValueError(f"{which} needs a base that stays fixed; set lora_r above 0")
        if self.share_base and self.load_in_4bit:
            raise ValueError("share_base: a base in 4 bits cannot be read by the rung; remove one of the two")

    def _refuse_unread(self) -> None:
        for name, (algorithms, hint) in READ_BY.items():
            if name in self.model_fields_set and self.algorithm not in algorithms:
                raise ValueError(f"{name} is not read by {self.algorithm}: {hint}; remove {name}")

    @property
    def rungs(self) -> list[str]:
        """The rungs that the reward reads, each once."""
        if self.reward == "graph" and self.graph is not None:
            return self.graph.rungs
        return [] if self.rung is None else [self.rung]

    @property
    def label_kinds(self) -> set[LabelKind]:
        """The labels that the reward compares answers with."""
        if self.reward == "graph" and self.graph is not None:
            return {OF_A_LABEL[part.kind] for part in self.graph.parts.values() if part.kind in OF_A_LABEL}
        return {OF_A_LABEL[self.reward]} if self.reward in OF_A_LABEL else set()

    @property
    def value_learning_rate(self) -> float:
        """The critic's learning rate."""
        return 5 * self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps from one rollout to the next."""
        return self.num_iterations * self.num_mini_batches

    @property
    def base_is_fixed(self) -> bool:
        """Whether no weight of the base is trained. Where they are, they are float32: in bfloat16 a step of a usual
        learning rate is lost in rounding."""
        return bool(self.lora_r) or self.reward == "untrained"

    @property
    def can_clip(self) -> bool:
        """Whether a token's ratio can ever leave the range: on the first update of a rollout every ratio is 1."""
        return self.epsilon is not None and self.updates_per_rollout > 1

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what a cell holds, as plain JSON; those that its algorithm does not read are not."""
        unread = {name for name, (algorithms, _) in READ_BY.items() if self.algorithm not in algorithms}
        unread |= self.unread(self.reward, self.label_kinds)
        decided = self.model_dump(mode="json", exclude=set(DOES_NOT_DECIDE) | unread)
        alarms = self.alarms.deciding()
        return decided | ({"alarms": alarms} if alarms else {})


DOES_NOT_DECIDE = frozenset(
    {
        "save_steps",
        "generation_batch_size",
        "alarms",
        "batch_tokens",
        "share_base",
        "rung_server",
        "rung_server_key_env",
        "arm",
    }
)
"""Fields that may change without changing what a cell holds."""


def treatment_of(table: PolicyTable) -> str:
    """What a cell is called without rung, algorithm and seed: its arm, or its reward with what belongs to it."""
    if table.arm is not None:
        return table.arm
    if table.reward == "graph" and table.graph is not None:
        return f"graph_{table.graph.name}{table.label(table.reward)}"
    return table.reward if table.reward == "untrained" else f"{table.reward}{table.label(table.reward)}"


def cell_name(table: PolicyTable, run_seed: int) -> str:
    """The name of a cell's folder, from what tells cells of one experiment apart; of an untrained one only its arm."""
    treatment = treatment_of(table)
    if table.reward == "untrained":
        return treatment
    rung = f"-rung{table.rung}" if table.rung is not None else ""
    return f"{treatment}{rung}-{table.algorithm}-s{run_seed if table.seed is None else table.seed}"
